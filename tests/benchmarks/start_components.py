"""How much a gene of little signal should weigh in the components that training starts from, by how many cells there are.

    MOFM_DATA=FOLDER python tests/benchmarks/start_components.py [--data simulated kang demo ...] [--cells 500 2000 8000]

A gene of signal s weighs as s / (s + FULL_CELLS / cells) (`mofm/linear/components.py`). For FULL_CELLS of 0 (all alike) to
infinity (s itself), and for principal components, what types held-out cells are of, by 15 nearest neighbours and a linear probe
that learn from the cells which the components were fitted on. No model is trained, and no step is taken.

simulated, simulated wide: 16 types, 1,000 and 4,000 genes, 1,000 cells held out. kang: control cells of Kang et al., types by
markers told from the other half of each cell's molecules, 1,500 held out. citeseq, pbmc68k: those of `cell_types.py`, 3 folds.
demo: pbmc68k beside 3,000 simulated cells in one model, 3 folds; each is judged alone, components of PCA are of each alone.
"""

from collections.abc import Iterator
from typing import NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
from batches import types_by_markers
from cell_types import citeseq, pbmc68k
from common import machine, parser, real_data, show
from scipy import sparse

from mofm.batch import LIBRARY_SCALE, depth_weight
from mofm.evaluation import annotation, baselines
from mofm.linear import components
from mofm.linear.shares import shares
from mofm.omics.simulate import SimulationConfig, simulate

FULL_CELLS = (0, 100, 300, 1_000, 3_000, 10_000, np.inf)
Split = tuple[np.ndarray, np.ndarray]
"""Places of the cells to fit on, and of those held out."""


def main() -> None:
    """Run and print a table."""
    sources = {
        "simulated": lambda: simulated(1_000, seed=12),
        "simulated wide": lambda: simulated(4_000, seed=13),
        "kang": kang,
        "citeseq": lambda: plain(*citeseq()),
        "pbmc68k": lambda: plain(*pbmc68k()),
        "demo": demo,
    }
    arguments = parser(__doc__)
    arguments.add_argument("--data", nargs="+", choices=sources, default=list(sources))
    arguments.add_argument("--cells", type=int, nargs="+", default=[500, 2_000, 8_000])
    args = arguments.parse_args()
    print(machine())
    rows = []
    for name in args.data:
        of = sources[name]()
        for told, splits in splits_of(name, of.types, args.cells):
            for dataset in np.unique(of.dataset_N):
                found = pd.DataFrame([judged(of, dataset, *split) for split in splits])
                rows.append(
                    {"data": f"{name}, {told}", "set": int(dataset)} | {method: pair(found[method]) for method in found}
                )
                print(rows[-1], flush=True)
    show("15-NN / linear probe; a weight of s / (s + FULL_CELLS / cells)", rows)


class Labelled(NamedTuple):
    """Attributes: counts, CSR of N cells x genes, float64; types, N texts; dataset_N, which data set each cell is of."""

    counts: sparse.csr_matrix
    types: np.ndarray
    dataset_N: np.ndarray


def simulated(genes: int, seed: int) -> Labelled:
    """Counts and true types."""
    return plain(
        adata := simulate(SimulationConfig(cells=9_000, genes=genes, cell_types=16, seed=seed)), adata.obs["cell_type"]
    )


def kang() -> Labelled:
    """Half of the molecules of control cells, types by the other half, of the cells of which one is told."""
    control = ad.read_h5ad(real_data("kang_pbmc_ctrl.h5ad"))
    left, types, kept = types_by_markers(sparse.csr_matrix(control.X), control.var_names, np.random.default_rng(0))
    return plain(ad.AnnData(left[kept]), types[kept])


def demo() -> Labelled:
    """What `mofm demo` trains on: two data sets that share no gene."""
    first = simulate(SimulationConfig(cells=3_000, seed=0))
    parts = plain(first, first.obs["cell_type"]), plain(*pbmc68k())
    counts = sparse.block_diag([part.counts for part in parts], format="csr")
    return Labelled(
        counts, np.concatenate([part.types for part in parts]), np.repeat([0, 1], [len(part.types) for part in parts])
    )


def plain(adata: ad.AnnData, types: np.ndarray) -> Labelled:
    """One data set."""
    types = np.asarray(types, str)
    return Labelled(sparse.csr_matrix(adata.X, dtype=np.float64), types, np.zeros(len(types), int))


def splits_of(name: str, types: np.ndarray, cells: list[int]) -> Iterator[tuple[str, list[Split]]]:
    """Three folds of few cells; of many, so many of those that are not held out."""
    if name in ("citeseq", "pbmc68k", "demo"):
        fold_N = annotation.stratified_folds(types, 3, seed=0)
        yield "3 folds", [(np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold)) for fold in range(3)]
        return
    order = np.random.default_rng(0).permutation(len(types))
    heldout, shown = np.split(order, [1_500 if name == "kang" else 1_000])
    for count in sorted({min(count, len(shown)) for count in cells}):
        yield f"{count:,} cells", [(shown[:count], heldout)]


def judged(of: Labelled, dataset: int, fit: np.ndarray, heldout: np.ndarray) -> dict[str, np.ndarray]:
    """Accuracies by neighbours and probe in one data set, of each representation."""
    mine_fit, mine_heldout = (cells[of.dataset_N[cells] == dataset] for cells in (fit, heldout))

    def read(shown_ND: np.ndarray, heldout_ND: np.ndarray) -> np.ndarray:
        readers = annotation.knn_accuracy, annotation.linear_probe
        labels = of.types[mine_fit], of.types[mine_heldout]
        return np.array([one(shown_ND, labels[0], heldout_ND, labels[1]).accuracy.value for one in readers])

    measured = np.flatnonzero(of.counts[of.dataset_N == dataset].getnnz(axis=0))
    pca = baselines.pca_embedding(of.counts[mine_fit][:, measured], of.counts[mine_heldout][:, measured], 30)
    found = {"PCA (30)": read(pca.train_ND, pca.test_ND)}
    kept = components.FULL_CELLS
    for full_cells in FULL_CELLS:
        components.FULL_CELLS = float(np.clip(full_cells, 1e-6, 1e6))  # as good as 0 and infinite
        profile_NK = profiles(of, fit)
        found[f"{full_cells:,}"] = read(profile_NK[mine_fit], profile_NK[mine_heldout])
    components.FULL_CELLS = kept
    return found


def profiles(of: Labelled, fit: np.ndarray) -> np.ndarray:
    """profile_NK of all cells by components of some, as `mofm/nn/readout.py` reads them of cells that show all they express."""
    library_N = np.asarray(of.counts.sum(axis=1)).ravel()
    values = of.counts.copy()
    values.data = np.log1p(values.data / np.repeat(library_N, np.diff(values.indptr)) * LIBRARY_SCALE)
    shown = components.Cells(values[fit], of.counts[fit], library_N[fit], of.dataset_N[fit])
    found = components.fit_components(shown, components.COMPONENTS)
    gain_G = np.exp(found.log_gain_G.astype(np.float64))
    read = shares(values, values @ gain_G, depth_weight(library_N, "rna"))
    return read.profile_NK(gain_G[:, None] * found.rows_GK, found.mean_weight_G @ found.rows_GK)


def pair(of_splits: pd.Series) -> str:
    """ "neighbours / probe", means over splits."""
    return "{:.3f} / {:.3f}".format(*np.mean(list(of_splits), axis=0))


if __name__ == "__main__":
    main()
