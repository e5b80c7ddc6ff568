"""How much a gene of little signal should weigh in the components that training starts from, by how many cells there are.

    MOFM_DATA=FOLDER python tests/benchmarks/start_components.py [--data simulated kang citeseq pbmc68k] [--cells 500 2000 8000]

A gene of signal s weighs s / (s + FULL_CELLS / cells) (`mofm/training/components.py`). For FULL_CELLS of 0 (all genes alike) to
infinity (s itself), and for principal components, what types held-out cells are of, by 15 nearest neighbours and a linear probe
that learn from the cells which the components were fitted on. No model is trained, and no step is taken.

simulated, simulated wide: 16 types, 1,000 and 4,000 genes, 1,000 cells held out. kang: control cells of Kang et al., types by
markers told from the other half of each cell's molecules, 1,500 held out. citeseq, pbmc68k: those of `cell_types.py`, 3 folds.
"""

from collections.abc import Iterator

import anndata as ad
import numpy as np
import pandas as pd
from batches import types_by_markers
from cell_types import citeseq, pbmc68k
from common import machine, parser, real_data, show
from scipy import sparse

from mofm.batch import LIBRARY_SCALE
from mofm.evaluation import annotation, baselines
from mofm.omics.simulate import SimulationConfig, simulate
from mofm.training import components

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
    }
    arguments = parser(__doc__)
    arguments.add_argument("--data", nargs="+", choices=sources, default=list(sources))
    arguments.add_argument("--cells", type=int, nargs="+", default=[500, 2_000, 8_000])
    args = arguments.parse_args()
    print(machine())
    rows = []
    for name in args.data:
        counts, types = sources[name]()
        for told, splits in splits_of(name, types, args.cells):
            found = pd.DataFrame([judged(counts, types, *split) for split in splits])
            rows.append({"data": f"{name}, {told}"} | {method: pair(found[method]) for method in found})
            print(rows[-1], flush=True)
    show("15-NN / linear probe; a weight of s / (s + FULL_CELLS / cells)", rows)


def simulated(genes: int, seed: int) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Counts and true types."""
    return plain(
        adata := simulate(SimulationConfig(cells=9_000, genes=genes, cell_types=16, seed=seed)), adata.obs["cell_type"]
    )


def kang() -> tuple[sparse.csr_matrix, np.ndarray]:
    """Half of the molecules of control cells, types by the other half, of the cells of which one is told."""
    control = ad.read_h5ad(real_data("kang_pbmc_ctrl.h5ad"))
    left, types, kept = types_by_markers(sparse.csr_matrix(control.X), control.var_names, np.random.default_rng(0))
    return sparse.csr_matrix(left[kept], dtype=np.float64), types[kept]


def plain(adata: ad.AnnData, types: np.ndarray) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Counts, float64, and types."""
    return sparse.csr_matrix(adata.X, dtype=np.float64), np.asarray(types, str)


def splits_of(name: str, types: np.ndarray, cells: list[int]) -> Iterator[tuple[str, list[Split]]]:
    """Three folds of few cells; of many, so many of those that are not held out."""
    if name in ("citeseq", "pbmc68k"):
        fold_N = annotation.stratified_folds(types, 3, seed=0)
        yield "3 folds", [(np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold)) for fold in range(3)]
        return
    order = np.random.default_rng(0).permutation(len(types))
    heldout, shown = np.split(order, [1_500 if name == "kang" else 1_000])
    for count in sorted({min(count, len(shown)) for count in cells}):
        yield f"{count:,} cells", [(shown[:count], heldout)]


def judged(counts: sparse.csr_matrix, types: np.ndarray, fit: np.ndarray, heldout: np.ndarray) -> dict[str, np.ndarray]:
    """Accuracies by neighbours and probe, of each representation."""

    def read(shown_ND: np.ndarray, heldout_ND: np.ndarray) -> np.ndarray:
        readers = annotation.knn_accuracy, annotation.linear_probe
        return np.array([one(shown_ND, types[fit], heldout_ND, types[heldout]).accuracy.value for one in readers])

    pca = baselines.pca_embedding(counts[fit], counts[heldout], 30)
    found = {"PCA (30)": read(pca.train_ND, pca.test_ND)}
    kept = components.FULL_CELLS
    for full_cells in FULL_CELLS:
        components.FULL_CELLS = float(np.clip(full_cells, 1e-6, 1e6))  # as good as 0 and infinite
        profile_NK = profiles(counts, fit)
        found[f"{full_cells:,}"] = read(profile_NK[fit], profile_NK[heldout])
    components.FULL_CELLS = kept
    return found


def profiles(counts: sparse.csr_matrix, fit: np.ndarray) -> np.ndarray:
    """profile_NK of all cells by components of some, as `mofm/nn/readout.py` reads them of cells that show all they express."""
    library_N = np.asarray(counts.sum(axis=1)).ravel()
    values = counts.copy()
    values.data = np.log1p(values.data / np.repeat(library_N, np.diff(values.indptr)) * LIBRARY_SCALE)
    of = components.Cells(values[fit], counts[fit], library_N[fit], np.zeros(len(fit), int))
    found = components.fit_components(of, components.COMPONENTS, expressed_fraction=1.0)
    share_N = np.sqrt(library_N / LIBRARY_SCALE) / np.maximum(np.diff(values.indptr), 1)
    return sparse.diags(share_N) @ values @ (np.exp(found.log_gain_G.astype(np.float64))[:, None] * found.rows_GK)


def pair(of_splits: pd.Series) -> str:
    """ "neighbours / probe", means over splits."""
    return "{:.3f} / {:.3f}".format(*np.mean(list(of_splits), axis=0))


if __name__ == "__main__":
    main()
