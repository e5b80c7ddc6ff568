"""Cell types of held-out cells, mofm beside principal components.

    MOFM_DATA=FOLDER python tests/benchmarks/cell_types.py [--data pbmc68k citeseq simulated] [--steps 300] [--folds 5]

pbmc68k: the 700 labelled PBMC that scanpy ships, bulk labels. citeseq: the RNA of 500 PBMC (MOFM_DATA), types by what
RNA does not show: Leiden clusters of their proteins' centred log-ratios. simulated: `mofm simulate`, seed 31.

In each of the stratified folds, model (`configs/demo.py`) and components are fitted on the training cells alone, labels
unseen, and the held-out cells are embedded; 15-NN and a linear probe learn the types from the training cells'
embeddings. "mofm, 0 steps" is the start of the run (see `mofm/linear/components.py`): what training adds is the
difference. "to PCA (30)" is the mean difference over folds and its standard error, as the folds are the same.
"""

import tempfile
from pathlib import Path

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import scanpy as sc
from common import machine, parser, pretrain, real_data, schedule, show
from scipy import sparse

from mofm.configs import demo
from mofm.evaluation import annotation, baselines
from mofm.omics.readers import open_h5ad
from mofm.omics.simulate import SimulationConfig, simulate

BASELINE = "PCA (30)"


def main() -> None:
    """Run the folds and print a table for each data set."""
    sources = {"pbmc68k": pbmc68k, "citeseq": citeseq, "simulated": simulated}
    arguments = parser(__doc__)
    arguments.add_argument("--data", nargs="+", choices=sources, default=list(sources))
    arguments.add_argument("--steps", type=int, default=300)
    arguments.add_argument("--folds", type=int, default=5)
    args = arguments.parse_args()
    print(machine())
    for name in args.data:
        adata, labels = sources[name]()
        show(
            f"{name}, {adata.n_obs} cells, accuracy over {args.folds} folds, mean ± sd",
            rows_of(folds_of(adata, labels, args.folds, args.steps)),
        )


def pbmc68k() -> tuple[ad.AnnData, np.ndarray]:
    """Counts, recovered from log-normalised values, and labels."""
    raw = sc.datasets.pbmc68k_reduced().raw.to_adata()
    with tempfile.TemporaryDirectory() as folder:
        ad.AnnData(raw.X, obs=raw.obs[[]], var=raw.var[[]]).write_h5ad(Path(folder) / "raw.h5ad")
        with open_h5ad(Path(folder) / "raw.h5ad", recover_counts=True) as table:
            parts = [
                sparse.csr_matrix((p.data, p.indices, p.indptr_N), (p.n_cells, table.n_features)) for p in table.rows()
            ]
    counts = sparse.vstack(parts).astype(np.float32).tocsr()
    return ad.AnnData(counts, obs=raw.obs[[]], var=raw.var[[]]), raw.obs["bulk_labels"].astype(str).to_numpy()


def citeseq() -> tuple[ad.AnnData, np.ndarray]:
    """Counts of RNA, and clusters of the same cells' proteins."""
    both = mudata.read_h5mu(real_data("citeseq_pbmc_500.h5mu"))
    rna, proteins = both["rna"], both["adt" if "adt" in both.mod else "prot"]
    logs = np.log1p(sparse.csr_matrix(proteins.X).toarray().astype(np.float64))
    clusters = ad.AnnData((logs - logs.mean(axis=1, keepdims=True)).astype(np.float32))
    sc.pp.scale(clusters)
    sc.pp.pca(clusters, 20)
    sc.pp.neighbors(clusters, n_neighbors=15)
    sc.tl.leiden(clusters, resolution=0.8, flavor="igraph", n_iterations=2)
    return plain(rna), clusters.obs["leiden"].astype(str).to_numpy()


def simulated() -> tuple[ad.AnnData, np.ndarray]:
    """Counts and true types."""
    adata = simulate(SimulationConfig(seed=31))
    return plain(adata), adata.obs["cell_type"].astype(str).to_numpy()


def plain(adata: ad.AnnData) -> ad.AnnData:
    """The counts and the names alone."""
    obs, var = (pd.DataFrame(index=names.astype(str)) for names in (adata.obs_names, adata.var_names))
    return ad.AnnData(sparse.csr_matrix(adata.X).astype(np.float32), obs=obs, var=var)


def folds_of(adata: ad.AnnData, labels: np.ndarray, folds: int, steps: int) -> dict[str, list[tuple[float, float]]]:
    """(15-NN, probe) accuracy of each representation in each fold."""
    fold_N = annotation.stratified_folds(labels, folds, seed=0)
    readers, scores = (annotation.knn_accuracy, annotation.linear_probe), {}
    for fold in range(folds):
        train, test = np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold)
        for name, (train_ND, test_ND) in embeddings(adata, train, test, steps).items():
            both = tuple(read(train_ND, labels[train], test_ND, labels[test]).accuracy.value for read in readers)
            scores.setdefault(name, []).append(both)
    return scores


def embeddings(
    adata: ad.AnnData, train: np.ndarray, test: np.ndarray, steps: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(train, test) embeddings of each representation."""
    found = {}
    for components in (20, 30, 50):
        pca = baselines.pca_embedding(adata.X[train], adata.X[test], components)
        found[f"PCA ({components})"] = (pca.train_ND, pca.test_ND)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / "train.h5ad", Path(folder) / "all.h5ad"]
        adata[train].copy().write_h5ad(paths[0])
        adata.write_h5ad(paths[1])
        for count in (0, steps):
            model = pretrain(paths[:1], ["data.holdout_fraction=0.1", *schedule(count)], Path(folder), parent=demo)
            embedding_NE = model.embed(paths[1], quiet=True).embedding_NE
            found[f"mofm, {count} steps"] = (embedding_NE[train], embedding_NE[test])
    return found


def rows_of(scores: dict[str, list[tuple[float, float]]]) -> list[dict[str, str]]:
    """The table."""
    rows = []
    for name, values in scores.items():
        values, difference = np.array(values), np.array(values) - np.array(scores[BASELINE])
        mean, sd = values.mean(axis=0), values.std(axis=0, ddof=1)
        delta, error = difference.mean(axis=0), difference.std(axis=0, ddof=1) / np.sqrt(len(values))
        row = {"representation": name}
        for place, reader in enumerate(("15-NN", "probe")):
            row[reader] = f"{mean[place]:.3f} ± {sd[place]:.3f}"
            row[f"{reader}, to {BASELINE}"] = f"{delta[place]:+.3f} ± {error[place]:.3f}"
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
