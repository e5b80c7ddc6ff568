"""Translation between omics and alignment of them, beside what is simple and what is published.

    MOFM_DATA=FOLDER python tests/benchmarks/translation.py [--tasks citeseq a549 simulated] [--settings paired]
        [--folds 5] [--mofm --config.run.steps=400] [--peers PEERS/bin/python]

Tasks and settings: `translation_tasks.py`. Translations are judged per feature across test cells, mean over features
and then over folds (± sd of folds): Pearson, or AUROC for peaks. `judged` is the number of features that could be, in
the mean fold: those with one value among the test cells are left out.
- mean, ridge, 15-NN: `mofm/evaluation/translation_baselines.py`, fitted on the training cells that are known to have
  both. Where no pair is known there is nothing but the mean.
- mofm: `configs/multiome.py`, `mosaic.py` and `unpaired.py`, a setting each, with the overrides given; its best
  checkpoint by held-out loss among its training cells (`translation_models.py`).
- peers: `peer_methods.py` in an environment of its own.
Alignment is judged by embeddings of the test cells in both modalities, in the setting `unpaired`, each centred on its
own mean: FOSCTTM (0 is perfect, 0.5 chance), the matching score (share whose nearest is the match) and its chance, and
labels of RNA cells transferred to the other modality's by 15 neighbours. `gene activity`: peaks or proteins counted for
the genes they speak of, log1p CP10k, each side scaled gene by gene, on 30 principal components of the RNA.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from common import machine, parser, show
from translation_models import Models
from translation_peers import Peers
from translation_tasks import (
    METRICS,
    NAMES,
    SETTINGS,
    Direction,
    Embeddings,
    Split,
    Task,
    judge,
    pairs,
    split,
    task,
)

from mofm.batches import spaces
from mofm.evaluation import annotation, baselines, pairing
from mofm.evaluation.translation_baselines import baseline_translations, measured_of, target_values
from mofm.linear.components import link_matrix
from mofm.omics.features import resolve_genes
from mofm.omics.genome import gene_table
from mofm.omics.regions import resolve_regions, with_build


def main() -> None:
    """Run and print the tables."""
    arguments = parser(__doc__)
    arguments.add_argument("--tasks", nargs="+", choices=NAMES, default=NAMES)
    arguments.add_argument("--settings", nargs="+", choices=SETTINGS, default=SETTINGS)
    arguments.add_argument("--folds", type=int, default=5, help="of each task at most")
    arguments.add_argument("--cells", type=int, default=4_000, help="simulated")
    arguments.add_argument("--genes", type=int, default=1_000, help="simulated")
    arguments.add_argument("--peers", metavar="PYTHON", help="of an environment that has what peer_methods.py imports")
    arguments.add_argument("--epochs", nargs="*", default=[], metavar="METHOD=N", help="limits of the peers")
    arguments.add_argument("--mofm", action="store_true", help="train mofm; --config.KEY=VALUE overrides its configs")
    args, overrides = arguments.parse_known_args()
    if wrong := [word for word in overrides if not word.startswith("--config.")]:
        arguments.error(f"not known: {' '.join(wrong)}")
    translators, aligners = [baseline], [gene_activity]
    if args.mofm:
        models = Models(tuple(word.removeprefix("--config.") for word in overrides))
        translators.append(models.translate)
        aligners.append(models.align)
    if args.peers:
        limits = {name: int(most) for name, _, most in (told.partition("=") for told in args.epochs)}
        peers = Peers(args.peers, limits)
        translators.append(peers.translate)
        aligners.append(peers.align)
    translated, aligned = [], []
    for name in args.tasks:
        of = task(name, args.cells, args.genes)
        for setting in args.settings:
            splits = [split(of, setting, fold) for fold in range(min(args.folds, of.folds))]
            with tempfile.TemporaryDirectory() as folder:
                translated += translation_rows(of, setting, splits, translators, Path(folder))
                if setting == "unpaired":
                    aligned += alignment_rows(of, splits, aligners, Path(folder))
    columns = list(dict.fromkeys(column for row in translated for column in row))
    print(machine())
    translated = [{column: row.get(column, "-") for column in columns} for row in translated]
    show("Translation, per feature across test cells", translated)
    if aligned:
        show("Alignment of test cells, pairing unknown", aligned)


def translation_rows(of: Task, setting: str, splits: list[Split], translators, folder: Path) -> list[dict[str, object]]:
    """A row a direction and a column a method."""
    found = {direction: {} for direction in of.directions}
    judged = {direction: [] for direction in of.directions}
    for one in splits:
        for translate in translators:
            for method, direction, predicted_NF in translate(of, one, folder):
                score = judge(of, one, direction[1], predicted_NF)
                found[direction].setdefault(method, []).append(score.mean)
                judged[direction].append(score.scored)
    methods = list(dict.fromkeys(method for scores in found.values() for method in scores))
    return [
        {
            "task": of.name,
            "setting": setting,
            "direction": f"{direction[0]} to {direction[1]}",
            "metric": METRICS[direction[1]],
            "judged": round(float(np.mean(judged[direction]))),
            **{method: spread(scores.get(method, [])) for method in methods},
        }
        for direction, scores in found.items()
    ]


def alignment_rows(of: Task, splits: list[Split], aligners, folder: Path) -> list[dict[str, object]]:
    """A row a method and a pair of modalities."""
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for one in splits:
        for align in aligners:
            for method, embeddings in align(of, one, folder):
                scores = alignment(of, one, embeddings)
                found.setdefault((method, " and ".join(embeddings)), []).append(scores)
    return [
        {"task": of.name, "modalities": modalities, "method": method}
        | {name: spread([one[name] for one in scores if name in one]) for name in ALIGNMENT}
        for (method, modalities), scores in found.items()
    ]


ALIGNMENT = ("FOSCTTM", "matching score", "chance", "labels, RNA to other", "majority label")


def alignment(of: Task, one: Split, embeddings: Embeddings) -> dict[str, float]:
    """Scores of the test cells' embeddings in two modalities."""
    rna_ND, other_ND = (found_ND - found_ND.mean(axis=0) for found_ND in embeddings.values())
    matching = pairing.matching_score(rna_ND, other_ND)
    scores = {
        "FOSCTTM": pairing.foscttm(rna_ND, other_ND),
        "matching score": matching.score,
        "chance": matching.chance,
    }
    if of.label:
        labels = one.test["rna"].obs[of.label].astype(str).to_numpy()
        read = annotation.knn_accuracy(rna_ND, labels, other_ND, labels)
        majority = baselines.majority(labels, labels)
        scores |= {"labels, RNA to other": read.accuracy.value, "majority label": majority.accuracy.value}
    return scores


def baseline(of: Task, one: Split, folder: Path) -> Iterator[tuple[str, Direction, np.ndarray]]:
    """The mean, ridge and nearest neighbours; the mean alone where no pair is known."""
    for source, target in of.directions:
        shown, answer = pairs(one, source, target)
        if shown.n_obs < 2:
            values_NF = target_values(target, measured_of(one.train[target]))
            cells_F = np.sum(~np.isnan(values_NF), axis=0)
            mean_F = np.nansum(values_NF, axis=0) / np.maximum(cells_F, 1)
            yield "mean", (source, target), np.tile(mean_F, (one.test[source].n_obs, 1))
            continue
        answers_NF = target_values(target, measured_of(answer))
        found = baseline_translations(source, measured_of(shown), measured_of(one.test[source]), answers_NF)
        for method, predicted_NF in zip(("mean", "ridge", "15-NN"), found, strict=True):
            yield method, (source, target), predicted_NF


def gene_activity(of: Task, one: Split, folder: Path) -> Iterator[tuple[str, Embeddings]]:
    """The linear baseline of alignment."""
    table = gene_table("human")
    rna = {side: sp.csr_matrix(cells["rna"].X) for side, cells in (("train", one.train), ("test", one.test))}
    ids = resolve_genes(list(one.test["rna"].var_names), table).ids
    row_of = {gene: row for row, gene in reversed(list(enumerate(ids)))}
    fitted = baselines.pca_embedding(rna["train"], rna["test"], 30)
    rna_NG = _scaled(rna["train"], rna["test"], fitted.genes)
    axes_GD = np.linalg.lstsq(rna_NG, fitted.test_ND, rcond=None)[0]
    for other in ("atac", "adt"):
        if other in of.omics:
            names = list(one.test[other].var_names)
            names = with_build(resolve_regions(names), of.build) if other == "atac" else names
            space = spaces.make_space(spaces.identities(other, names, table), row_of)
            links_FG = link_matrix(space, len(ids))
            sides = (sp.csr_matrix(side[other].X @ links_FG) for side in (one.train, one.test))
            yield "gene activity", {"rna": rna_NG @ axes_GD, other: _scaled(*sides, fitted.genes) @ axes_GD}


def _scaled(train: sp.csr_matrix, test: sp.csr_matrix, genes: np.ndarray) -> np.ndarray:
    """Test cells' log1p CP10k of some genes, each less its mean and by its deviation among the training cells."""
    train_NG, test_NG = (baselines.log_normalised(x)[:, genes].toarray() for x in (train, test))
    return np.clip((test_NG - train_NG.mean(axis=0)) / (train_NG.std(axis=0) + 1e-3), -10, 10)


def spread(values: list[float]) -> str:
    """mean ± sd over folds; the value alone where there is one, and a dash where there is none."""
    if not values:
        return "-"
    return f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
