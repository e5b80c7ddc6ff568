"""Batches mixed and types kept apart, of held-out cells: mofm with and without `data.batch_key`, beside what is published.

    MOFM_DATA=FOLDER python tests/benchmarks/batches.py [--data simulated four kang] [--steps 200]
        [--peers PEERS/bin/python] [--epochs scvi=100] [--measures hsic:10 adversary:10 mmd:10]

simulated: 3,000 cells in two batches of effect .3 (log factors on each gene), types spread unevenly over them. four: four
batches of effect .5. kang: 2,500 control and 2,500 stimulated PBMC; the condition is the batch. Types by
markers: the set of `MARKERS` that scores highest, of cells where it is ahead by half a deviation. They are read off one half of
each cell's molecules (a fair coin for each), the embeddings off the other.

A third of the cells is held out and judged: mixing of batches within types (0: apart, 1: as if shuffled), types by 15-NN and a
linear probe that learn from the other cells, how compact types are (silhouette in [0, 1]), and scIB's figures, by which papers
compare (`mofm/evaluation/scib.py`; needs `mofm[scib]`). Who was shown what:
- PCA, mofm: the training cells. mofm learns their batches where it says so (by `data.batch_key` from the first step on, or once
  it is trained by `mofm finetune --task integration:batch --tune probe`), and is told no cell's batch when it embeds.
- scVI: the training cells and their batches; of the held-out cells it is told the batch when it embeds.
- Harmony: all cells and their batches, the held-out ones among them: it has no model of new cells.

--measures: which `objectives.alignment.batch_by`, at which `batch_weight`, takes batches out of a model that has them: that
of the training cells, no batch known, is trained as many steps more by each with `mofm finetune`, judged at the last, and
by none; these alone are run then.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from common import machine, parser, real_data, run_of, schedule, show
from scipy import sparse
from translation_peers import run_peer

from mofm.cli import main as mofm
from mofm.configs import demo
from mofm.evaluation import annotation, baselines, integration
from mofm.evaluation.scib import PREFIX, scib_scores
from mofm.inference.model import load
from mofm.omics.simulate import SimulationConfig, simulate

MARKERS = {
    "CD4 T": ("CD3D", "IL7R", "CCR7", "LDHB", "SELL"),
    "CD8 T": ("CD8A", "CD8B", "CCL5", "GZMH"),
    "NK": ("GNLY", "NKG7", "KLRD1", "PRF1"),
    "B": ("MS4A1", "CD79A", "CD79B", "BANK1"),
    "CD14 monocyte": ("CD14", "LYZ", "S100A9", "FCN1", "VCAN"),
    "FCGR3A monocyte": ("FCGR3A", "MS4A7", "VMO1"),
    "dendritic": ("FCER1A", "CLEC10A", "HLA-DQA1"),
    "megakaryocyte": ("PPBP", "PF4"),
}
EACH = 2_500
"""Cells of each condition that are taken, drawn once."""


class Task(NamedTuple):
    """Attributes: cells, counts with obs `batch`; type_N; test, the places of those held out, and train of the others."""

    cells: ad.AnnData
    type_N: np.ndarray
    train: np.ndarray
    test: np.ndarray


def main() -> None:
    """Run and print a table for each data set."""
    sources = {"simulated": simulated, "four": four, "kang": kang}
    arguments = parser(__doc__)
    arguments.add_argument("--data", nargs="+", choices=sources, default=list(sources))
    arguments.add_argument("--steps", type=int, default=200, help="0: the start of a run alone")
    arguments.add_argument("--peers", metavar="PYTHON", help="of an environment that has what peer_methods.py imports")
    arguments.add_argument("--epochs", nargs="*", default=[], metavar="METHOD=N", help="limits of the peers")
    arguments.add_argument("--measures", nargs="*", default=[], metavar="NAME:WEIGHT")
    args = arguments.parse_args()
    options = {name: ("--epochs", most) for name, most in (told.split("=") for told in args.epochs)}
    print(machine())
    for name in args.data:
        of = task(*sources[name]())
        rows, ((_, before_ND),) = [], components(of)
        with tempfile.TemporaryDirectory() as folder:
            if args.measures:
                found = by_measures(of, Path(folder), args.steps, args.measures)
            else:
                found = chain(components(of), ours(of, Path(folder), args.steps))
                found = chain(found, peers(of, Path(folder), args.peers, options)) if args.peers else found
            for method, embedding_NE in found:
                found_of = judge(of, embedding_NE) | scib(of, before_ND, embedding_NE)
                rows.append({"representation": method} | found_of)
                print(name, rows[-1], flush=True)  # a method may take half an hour, and the next may fail
        batches = of.cells.obs["batch"].nunique()
        show(f"{name}, {len(of.test):,} of {of.cells.n_obs:,} cells judged, {batches} batches", rows)


def task(counts: sparse.csr_matrix, names: pd.Index, batches: np.ndarray, types: np.ndarray) -> Task:
    """A third held out at random."""
    obs = pd.DataFrame({"batch": pd.Categorical(batches)}, index=[f"cell{i}" for i in range(len(types))])
    cells = ad.AnnData(sparse.csr_matrix(counts, dtype=np.float32), obs=obs, var=pd.DataFrame(index=names))
    order = np.random.default_rng(0).permutation(cells.n_obs)
    return Task(cells, types, np.sort(order[cells.n_obs // 3 :]), np.sort(order[: cells.n_obs // 3]))


def simulated() -> tuple:
    """Two batches."""
    return _simulated(SimulationConfig(cells=3_000, seed=0))


def four() -> tuple:
    """Four batches that differ more."""
    return _simulated(SimulationConfig(cells=3_000, seed=1, batches=4, batch_effect=0.5))


def _simulated(config: SimulationConfig) -> tuple:
    adata = simulate(config)
    return adata.X, adata.var_names, adata.obs["batch"].astype(str).to_numpy(), adata.obs["cell_type"].to_numpy(str)


def kang() -> tuple:
    """Control and stimulated cells of which a type is told."""
    rng = np.random.default_rng(0)
    parts = {name: ad.read_h5ad(real_data(f"kang_pbmc_{name}.h5ad")) for name in ("ctrl", "stim")}
    parts = {name: one[np.sort(rng.choice(one.n_obs, EACH, replace=False))].copy() for name, one in parts.items()}
    both = ad.concat(parts, label="batch", index_unique="-")
    left, types, kept = types_by_markers(sparse.csr_matrix(both.X), both.var_names, rng)
    return left[kept], both.var_names, both.obs["batch"].to_numpy(str)[kept], types[kept]


def types_by_markers(
    counts: sparse.csr_matrix, genes: pd.Index, rng: np.random.Generator
) -> tuple[sparse.csr_matrix, np.ndarray, np.ndarray]:
    """The half of the molecules that types are not read off, the types by the other half, and of which cells one is told."""
    counts = counts.astype(np.int64)
    told = counts.copy()
    told.data = rng.binomial(counts.data, 0.5)
    marked = ad.AnnData(told.astype(np.float32), var=pd.DataFrame(index=genes))
    sc.pp.normalize_total(marked, target_sum=1e4)
    sc.pp.log1p(marked)
    for name, markers in MARKERS.items():
        sc.tl.score_genes(marked, list(markers), score_name=name)
    score_NT = marked.obs[list(MARKERS)].to_numpy()
    score_NT = (score_NT - score_NT.mean(axis=0)) / score_NT.std(axis=0)
    second_N, first_N = np.sort(score_NT, axis=1)[:, -2:].T
    return counts - told, np.array(list(MARKERS))[score_NT.argmax(axis=1)], first_N - second_N > 0.5


def components(of: Task) -> Iterator[tuple[str, np.ndarray]]:
    """PCA of the training cells."""
    found = baselines.pca_embedding(of.cells.X[of.train], of.cells.X[of.test], 30)
    yield "PCA (30)", in_place(of, found.train_ND, found.test_ND)


def in_place(of: Task, train_ND: np.ndarray, test_ND: np.ndarray) -> np.ndarray:
    """The embeddings of all cells in their order."""
    embedding_ND = np.zeros((of.cells.n_obs, train_ND.shape[1]))
    embedding_ND[of.train], embedding_ND[of.test] = train_ND, test_ND
    return embedding_ND


def ours(of: Task, folder: Path, steps: int) -> Iterator[tuple[str, np.ndarray]]:
    """mofm, with and without the training cells' batches, at the start of a run and at its end."""
    settings = {
        "mofm": [],
        "mofm, data.batch_key": ["data.batch_key=batch"],
        "mofm, data.batch_key, batch_weight 1": ["data.batch_key=batch", "objectives.alignment.batch_weight=1.0"],
    }
    for name, overrides in settings.items():
        for count in sorted({0, steps}):
            if not count and "batch_weight" in name:
                continue  # it has the start of the one before
            run = trained(of, folder, overrides, count)
            yield f"{name}, {count} steps", embedded(folder, run)
            if not overrides:
                yield f"{name}, {count} steps, then --task integration", embedded(folder, without_batches(run))


def by_measures(of: Task, folder: Path, steps: int, measures: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """A model of no batches, and what each measure makes of it, at the last step of each."""
    run = trained(of, folder, [], steps)
    for name, weight in [("hsic", "0"), *(measure.split(":") for measure in measures)]:
        into = run.with_name(f"{name}-{weight}")
        own = [f"data.corpus={run.with_name('corpus')}", "data.batch_key=batch", *schedule(steps), "data.batch_size=64"]
        own += [f"objectives.alignment.batch_by={name}", f"objectives.alignment.batch_weight={weight}"]
        own += ["optimizer.learning_rate=0.001", "optimizer.warmup_steps=10"]
        words = ["finetune", str(run), "--config", "finetune", "--workdir", str(into), "--quiet"]
        if mofm([*words, *(f"--config.{one}" for one in own)]):
            raise SystemExit("mofm finetune failed")
        model = load(into, step="latest")
        yield f"{name}, weight {weight}", model.embed(folder / "all.h5ad", quiet=True).embedding_NE


def trained(of: Task, folder: Path, overrides: Sequence[str], steps: int) -> Path:
    """The run of a model of the training cells."""
    of.cells[of.train].copy().write_h5ad(folder / "train.h5ad")
    ad.AnnData(of.cells.X, obs=of.cells.obs[[]], var=of.cells.var).write_h5ad(folder / "all.h5ad")
    chosen = ["data.holdout_fraction=0.1", *overrides, *schedule(steps)]
    return run_of([folder / "train.h5ad"], chosen, folder, parent=demo)


def without_batches(run: Path) -> Path:
    """The run that `mofm finetune --task integration` makes of another, with the cells that it was trained on; no step."""
    words = ["finetune", str(run), "--config", "finetune", f"--config.data.corpus={run.with_name('corpus')}", "--quiet"]
    if mofm([*words, "--task", "integration:batch", "--tune", "probe", "--workdir", str(run.with_name("off"))]):
        raise SystemExit("mofm finetune failed")
    return run.with_name("off")


def embedded(folder: Path, run: Path) -> np.ndarray:
    """embedding_NE of all cells."""
    return load(run).embed(folder / "all.h5ad", quiet=True).embedding_NE


def peers(
    of: Task, folder: Path, python: str, options: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, np.ndarray]]:
    """scVI and Harmony, with the options of `peer_methods.py` of either."""
    given = of.cells.copy()
    given.obs["shown"] = np.isin(np.arange(given.n_obs), of.train)
    for name, method in (("Harmony, all cells", "harmony"), ("scVI", "scvi")):
        yield name, run_peer(python, method, {"rna": given}, folder, options.get(method, ()))["embedding"]


def judge(of: Task, embedding_NE: np.ndarray) -> dict[str, float]:
    """The row of one representation."""
    train, test, type_N, batches = of.train, of.test, of.type_N, of.cells.obs["batch"].to_numpy(str)
    told = embedding_NE[train], type_N[train], embedding_NE[test], type_N[test]
    return {
        "mixing within types": integration.batch_mixing_within(embedding_NE[test], batches[test], type_N[test]).score,
        "types, 15-NN": annotation.knn_accuracy(*told).accuracy.value,
        "types, probe": annotation.linear_probe(*told).accuracy.value,
        "silhouette of types": integration.silhouette(embedding_NE[test], type_N[test]).score,
    }


def scib(of: Task, before_ND: np.ndarray, embedding_NE: np.ndarray) -> dict[str, float]:
    """scIB's three sums, beside components of which nothing was taken out."""
    both = {"before": before_ND[of.test], "it": embedding_NE[of.test]}
    found = scib_scores(both, "before", of.type_N[of.test], of.cells.obs["batch"].to_numpy(str)[of.test])["it"]
    return {
        name: float(found[name])
        for name in (f"{PREFIX}Batch correction", f"{PREFIX}Bio conservation", f"{PREFIX}Total")
    }


if __name__ == "__main__":
    main()
