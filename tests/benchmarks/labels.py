"""Labels of blood cells that no reader saw: mofm's head and vote beside logistic regression and neighbours on components.

    MOFM_DATA=FOLDER python tests/benchmarks/labels.py [--steps 60] [--parts few terms unknown tune]
    python tests/benchmarks/labels.py --no-model --parts few terms unknown
    python tests/benchmarks/labels.py --no-model --parts few unknown --data simulated

The model is of width 64 and trained on the control cells of Kang et al. 2018 alone; the cells are the 700 of pbmc68k_reduced,
ten types (cell_types.py reads their counts). Components are fitted on all 700, without labels, which the model never saw.
With --no-model nothing is trained: mofm's head and vote read the components. --data simulated is of 1,500 cells, eight types of
`mofm simulate`, and no ontology.

- few: with 20, 100 and 400 labelled cells, three draws, all others judged. The head is that of `--tune probe`. Accuracy and
  macro-F1 are of the likeliest label; calibration error and what is told are of the rest.
- terms: with 400, what the ontology below adds at a confidence of 0.8: of the cells, how many are told at a label and at a
  broader term, and how often that is right (the true label is a kind of it).
- unknown: with 400 less those of one type, each in turn: AUROC with which its cells are found among the others of the judged
  cells, by low confidence and by distance; what is called "unknown" of it and of the others; and with the ontology at 0.8
  how much of it is told at a term that is right, and is "unknown" still.
- tune: `mofm finetune --task annotation:cell_type --tune probe, lora, full` on 400 labelled cells of the first draw, lora and
  full at several learning rates.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import networkx
import numpy as np
import pandas as pd
from cell_types import pbmc68k, plain
from common import config_of, machine, parser, real_data, show
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score
from threadpoolctl import threadpool_limits

from mofm.cli import main as mofm
from mofm.corpus.ingest import ingest
from mofm.errors import InputError
from mofm.evaluation.baselines import pca_embedding
from mofm.inference.annotate import label_by_head
from mofm.inference.calibration import reliability
from mofm.inference.head import fit_head, names_by_head
from mofm.inference.model import load
from mofm.inference.naming import UNKNOWN, Lineage, Names, lineage_of, name_cells
from mofm.inference.vote import electorate
from mofm.omics.ontology import Ontology, read_ontology
from mofm.omics.readers import Reading
from mofm.omics.simulate import SimulationConfig, simulate
from mofm.training.loop import train

SIZE = ("encoder.width=64", "encoder.heads=2", "encoder.ffn=176", "data.tokens=256")
LABELLED = (20, 100, 400)
SURE = 0.8
# id, name, what it is a kind of, what pbmc68k calls it; ids of the Cell Ontology
TERMS = """
CL:0000988 | hematopoietic cell                             |            |
CL:0008001 | hematopoietic precursor cell                   | CL:0000988 | CD34+
CL:0000738 | leukocyte                                      | CL:0000988 |
CL:0000451 | dendritic cell                                 | CL:0000738 | Dendritic
CL:0000576 | monocyte                                       | CL:0000738 |
CL:0001054 | CD14-positive monocyte                         | CL:0000576 | CD14+ Monocyte
CL:0000542 | lymphocyte                                     | CL:0000738 |
CL:0000236 | B cell                                         | CL:0000542 | CD19+ B
CL:0000623 | natural killer cell                            | CL:0000542 | CD56+ NK
CL:0000084 | T cell                                         | CL:0000542 |
CL:0000624 | CD4-positive, alpha-beta T cell                | CL:0000084 |
CL:0000792 | CD4-positive, CD25-positive regulatory T cell  | CL:0000624 | CD4+/CD25 T Reg
CL:0000895 | naive CD4-positive, alpha-beta T cell          | CL:0000624 | CD4+/CD45RA+/CD25- Naive T
CL:0000897 | CD4-positive, alpha-beta memory T cell         | CL:0000624 | CD4+/CD45RO+ Memory
CL:0000625 | CD8-positive, alpha-beta T cell                | CL:0000084 |
CL:0000794 | CD8-positive, alpha-beta cytotoxic T cell      | CL:0000625 | CD8+ Cytotoxic T
CL:0000900 | naive CD8-positive, alpha-beta T cell          | CL:0000625 | CD8+/CD45RA+ Naive Cytotoxic
"""


def main() -> None:
    """Run the parts and print their tables."""
    parts = {"few": few, "terms": terms, "unknown": unknown, "tune": tune}
    arguments = parser(__doc__)
    arguments.add_argument("--data", choices=SOURCES, default="pbmc68k")
    arguments.add_argument("--steps", type=int, default=60)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--tune-steps", type=int, default=200)
    arguments.add_argument("--tune-rates", type=float, nargs="+", default=[1e-4, 1e-3], help="of lora and full")
    arguments.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    arguments.add_argument("--no-model", action="store_true")
    args = arguments.parse_args()
    if args.no_model and "tune" in args.parts:
        arguments.error("--no-model leaves no model to tune; name the other --parts")
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        cells = Cells(Path(folder), args)
        for part in args.parts:
            parts[part](cells)


def simulated() -> tuple[ad.AnnData, np.ndarray]:
    """Counts and true types."""
    cells = simulate(SimulationConfig(cells=1_500, genes=300, tfs=30, cell_types=8, library_size=1_000.0, seed=3))
    return plain(cells), cells.obs["cell_type"].astype(str).to_numpy()


SOURCES = {"pbmc68k": pbmc68k, "simulated": simulated}


class Cells:
    """The 700 cells in both representations, their labels, and the model.

    Attributes:
      counts: AnnData with obs["cell_type"].
      labels: of the cells.
      components_NE: of the cells.
      embedding_NE: the model's, or the components; `kind` says which.
      folder: holds the model in "run".
      ontology: TERMS.
    """

    def __init__(self, folder: Path, args):
        self.folder, self.args = folder, args
        self.counts, self.labels = SOURCES[args.data]()
        self.counts.obs["cell_type"] = self.labels
        self.components_NE = pca_embedding(self.counts.X, self.counts.X, 30).test_ND
        self.kind, self.embedding_NE = "PCA (30)", self.components_NE
        if not args.no_model:
            self.kind, self.embedding_NE = f"mofm, {args.steps} steps", self.embedded()
        (folder / "ontology.obo").write_text(obo(), encoding="utf-8")
        self.ontology = read_ontology(folder / "ontology.obo") if args.data == "pbmc68k" else None

    def embedded(self) -> np.ndarray:
        """The cells' embedding by a model of Kang's control cells."""
        ingest([real_data("kang_pbmc_ctrl.h5ad")], self.folder / "kang")
        steps = self.args.steps
        schedule = [f"run.steps={steps}", f"run.eval_every={steps}", "run.eval_cells=512"]
        train(config_of(self.folder / "kang", [*SIZE, *schedule]), self.folder / "run", quiet=True)
        return load(self.folder / "run").embed(self.counts, Reading("rna"), quiet=True).embedding_NE

    def draws(self, labelled: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """(labelled, judged) cells of each draw; of fewer labelled ones they are the first of those of more."""
        orders = [np.random.default_rng(seed).permutation(len(self.labels)) for seed in range(self.args.seeds)]
        return [(order[:labelled], order[max(LABELLED) :]) for order in orders]

    def lineage(self, labels) -> Lineage:
        """Of labels, by the ontology above."""
        return lineage_of(list(labels), self.ontology)


def obo() -> str:
    """TERMS as a file in OBO."""
    lines = ["ontology: blood"]
    for line in TERMS.strip().splitlines():
        term, name, parent, label = (word.strip() for word in line.split("|"))
        lines += ["", "[Term]", f"id: {term}", f"name: {name}"]
        lines += [f'synonym: "{label}" EXACT []'] if label else []
        lines += [f"is_a: {parent}"] if parent else []
    return "\n".join(lines) + "\n"


Reader = Callable[..., Names]
"""(embeddings of cells to be named, the confidence asked for or None, a lineage of labels or None) -> names."""


def head(x_NE: np.ndarray, labels: np.ndarray) -> Reader:
    """A head, as `mofm finetune --tune probe` has it."""
    fitted = fit_head(x_NE, labels.astype(object), None)
    return lambda asked_NE, least=None, lineage=None: names_by_head(
        fitted, asked_NE, least, lineage and lineage(fitted.labels)
    )


def vote(x_NE: np.ndarray, labels: np.ndarray) -> Reader:
    """A vote, as `mofm annotate --reference` has it."""
    voting = electorate(x_NE, pd.Series(labels, name="cell_type"))
    if (worth := voting.judge()) is None:
        return share(x_NE, labels)

    def read(asked_NE: np.ndarray, least=None, lineage=None) -> Names:
        votes = voting.ask(asked_NE)
        least, lineage = worth.threshold if least is None else least, lineage and lineage(voting.labels)
        more = {"likeliest_N": votes.likeliest_N, "is_strange_N": voting.distance(asked_NE) > worth.far}
        return name_cells(worth.chances(votes.voices_NC), voting.labels, least, lineage, **more)

    return read


def share(x_NE: np.ndarray, labels: np.ndarray) -> Reader:
    """A vote whose share is taken for a chance."""
    voting = electorate(x_NE, pd.Series(labels, name="cell_type"))

    def read(asked_NE: np.ndarray) -> Names:
        votes = voting.ask(asked_NE)
        chance_NC = votes.voices_NC / votes.voices_NC.sum(axis=1, keepdims=True)
        return name_cells(chance_NC, voting.labels, 0.0, likeliest_N=votes.likeliest_N)

    return read


def regression(x_NE: np.ndarray, labels: np.ndarray) -> Reader:
    """Plain logistic regression, as sklearn has it."""
    centre_E = x_NE.mean(axis=0)
    size = np.sqrt(np.mean((x_NE - centre_E) ** 2))
    with threadpool_limits(1, user_api="blas"):
        fitted = LogisticRegression(max_iter=2_000).fit((x_NE - centre_E) / size, labels)
    return lambda asked_NE: name_cells(fitted.predict_proba((asked_NE - centre_E) / size), fitted.classes_, 0.0)


def few(cells: Cells) -> None:
    """Few and many labels."""
    readers = {
        f"{kind}, {fit.__name__}": (fit, x_NE)
        for kind, x_NE in {cells.kind: cells.embedding_NE, "PCA (30)": cells.components_NE}.items()
        for fit in (head, vote, share, regression)
    }
    rows = []
    for labelled in LABELLED:
        for name, (fit, x_NE) in readers.items():
            try:
                found = [
                    scores(fit(x_NE[known], cells.labels[known])(x_NE[asked]), cells.labels[asked])
                    for known, asked in cells.draws(labelled)
                ]
            except InputError as error:
                print(f"{labelled} labelled cells, {name}: {error}")
                continue
            rows.append({"labelled": labelled, "reader": name} | spread(found))
    show(f"{len(cells.labels) - max(LABELLED)} judged cells, mean ± sd of {cells.args.seeds} draws", rows)


def scores(names: Names, truth: np.ndarray) -> dict[str, float]:
    """Of the likeliest label, and of what is told."""
    right, known = names.likeliest == truth, names.labels != UNKNOWN
    found = {
        "accuracy": right.mean(),
        "macro-F1": f1_score(truth, names.likeliest.astype(str), average="macro", labels=np.unique(truth)),
        "calibration error": reliability(names.confidence_N, right),
        "unknown": 1 - known.mean(),
        "right of the told": right[known].mean(),
    }
    return {name: float(value) for name, value in found.items()}


def spread(found: list[dict[str, float]]) -> dict[str, str]:
    """mean ± sd of each score."""
    frame = pd.DataFrame(found)
    return {name: f"{frame[name].mean():.3f} ± {frame[name].std(ddof=1):.3f}" for name in frame}


def is_right(names: Names, truth: np.ndarray, ontology: Ontology) -> np.ndarray:
    """Whether the true label is what is told, or a kind of it."""
    if names.terms is None:
        return names.labels == truth
    term_of = {label: ontology.terms(label)[0] for label in np.unique(truth)}
    above = {label: {term} | networkx.descendants(ontology.is_a, term) for label, term in term_of.items()}
    return np.array([term in above[true] for term, true in zip(names.terms, truth, strict=True)])


def terms(cells: Cells) -> None:
    """What an ontology adds, with 400 labelled cells."""
    rows = []
    for name, fit in (("head", head), ("vote", vote)):
        found: dict[str, list[dict[str, float]]] = {f"{name}, labels alone": [], f"{name}, ontology": []}
        for known, asked in cells.draws(max(LABELLED)):
            read = fit(cells.embedding_NE[known], cells.labels[known])
            for how, lineage in zip(found, (None, cells.lineage), strict=True):
                names = read(cells.embedding_NE[asked], SURE, lineage)
                right, broad = is_right(names, cells.labels[asked], cells.ontology), names.is_broader_N
                by_label = ~broad & (names.labels != UNKNOWN)
                told = {"told a label": by_label.mean(), "right": right[by_label].mean()}
                if lineage:
                    told |= {"told a broader term": broad.mean(), "of these right": right[broad].mean()}
                    told |= {"their mean confidence": names.confidence_N[broad].mean()}
                found[how].append(told | {"unknown": (names.labels == UNKNOWN).mean()})
        rows += [{"reader": how} | spread(told) for how, told in found.items()]
    show(
        f"{cells.kind}: what is told at a confidence of {SURE}, {max(LABELLED)} labelled cells",
        pd.DataFrame(rows).fillna("").to_dict("records"),
    )


def unknown(cells: Cells) -> None:
    """Each type held out in turn, with 400 labelled cells less its own."""
    rows = []
    for kind in np.unique(cells.labels):
        found = pd.DataFrame([_without(cells, kind, *draw) for draw in cells.draws(max(LABELLED))]).mean()
        rows.append({"held out": kind, "cells": int((cells.labels == kind).sum())} | found.to_dict())
    mean = pd.DataFrame(rows).drop(columns=["held out", "cells"]).mean().to_dict()
    show(f"{cells.kind}: one type held out", [*rows, {"held out": "mean", "cells": ""} | mean])


def _without(cells: Cells, kind: str, known: np.ndarray, asked: np.ndarray) -> dict[str, float]:
    """How cells of a type that no labelled cell has are told from the others, and what is told of them."""
    known, new = known[cells.labels[known] != kind], cells.labels[asked] == kind
    told, asked_NE = {}, cells.embedding_NE[asked]
    for name, fit in (("head", head), ("vote", vote)):
        read = fit(cells.embedding_NE[known], cells.labels[known])
        names = read(asked_NE)
        strange = names.labels == UNKNOWN
        told[f"AUROC, {name}"] = roc_auc_score(new, -names.confidence_N)
        told[f"unknown, {name}"], told[f"of others, {name}"] = strange[new].mean(), strange[~new].mean()
        if cells.ontology is not None:
            names = read(asked_NE, SURE, cells.lineage)
            right = is_right(names, cells.labels[asked], cells.ontology)
            told[f"at {SURE}, a right term, {name}"] = right[new].mean()
            told[f"unknown, {name}, too"] = (names.labels == UNKNOWN)[new].mean()
    voting = electorate(cells.embedding_NE[known], pd.Series(cells.labels[known], name="cell_type"))
    return told | {"AUROC, distance": roc_auc_score(new, voting.distance(asked_NE))}


def tune(cells: Cells) -> None:
    """Labels that move the encoder, by the command, on the first draw."""
    (known, asked), *_ = cells.draws(max(LABELLED))
    cells.counts[known].write_h5ad(cells.folder / "known.h5ad")
    ingest([cells.folder / "known.h5ad"], cells.folder / "corpus")
    steps, rates = cells.args.tune_steps, cells.args.tune_rates
    keys = {
        "data.corpus": cells.folder / "corpus", "data.holdout_fraction": 0.25, "data.tokens": 256, "run.steps": steps,
        "run.eval_every": max(1, steps // 10), "run.checkpoint_every": max(1, steps // 10), "optimizer.warmup_steps": 10,
    }  # fmt: skip
    rows = []
    for how, rate in [("probe", rates[0]), *((how, rate) for how in ("lora", "full") for rate in rates)]:
        place = cells.folder / f"tuned-{how}-{rate:g}"
        words = ["finetune", str(cells.folder / "run"), "--config", "finetune", "--task", "annotation:cell_type"]
        words += ["--tune", how, "--workdir", str(place), "--quiet", f"--config.optimizer.learning_rate={rate:g}"]
        if mofm([*words, *(f"--config.{key}={value}" for key, value in keys.items())]):
            raise SystemExit(f"--tune {how} failed")
        model = load(place)
        found = label_by_head(model, cells.counts[asked].copy(), Reading("rna"), quiet=True)
        told = {
            name.removeprefix("mofm_label").strip("_"): np.asarray(column) for name, column in found.columns.items()
        }
        names = Names(told[""], told["likeliest"], told["confidence"], None, np.zeros(len(asked), bool))
        rows.append({"--tune": how, "learning rate": f"{rate:g}", "best step": model.step})
        rows[-1] |= scores(names, cells.labels[asked])
        print(rows[-1], flush=True)
    show(f"{len(asked)} judged cells, {len(known)} labelled ones, one draw", rows)


if __name__ == "__main__":
    main()
