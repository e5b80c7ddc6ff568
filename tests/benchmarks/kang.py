"""Control cells pretrain, stimulated cells are embedded: the PBMC of Kang et al. 2018 (GSE96583), beside PCA.

    MOFM_DATA=FOLDER python tests/benchmarks/kang.py [--steps 400]

Both representations are fitted on the control cells alone. Three questions, 5-fold cross-validated:
- clusters: which Leiden cluster is a stimulated cell in? Counts are split in two by a fair coin for each molecule; the
  clusters come from one half (normalised, log1p, 2,000 variable genes, 30 components, resolution 1), the embeddings
  from the other. Clusters of the very counts that are embedded would favour whoever is most like the clustering.
- condition: is a cell control or stimulated?
- mixing: how well do the conditions mix among 30 nearest neighbours (0: apart, 1: as if shuffled)? Within clusters of
  both conditions' first halves. Neither side was told the condition.
"""

import tempfile
from pathlib import Path

import anndata as ad
import numpy as np
import scanpy as sc
from common import machine, parser, pretrain, real_data, schedule, show
from scipy import sparse

from mofm.evaluation import annotation, baselines, integration

EVALUATED = 1_000
"""Cells of each condition that are embedded and judged, drawn once."""


def main() -> None:
    """Run and print the table."""
    arguments = parser(__doc__)
    arguments.add_argument("--steps", type=int, default=400)
    args = arguments.parse_args()
    rng = np.random.default_rng(0)
    halves = {name: split(ad.read_h5ad(real_data(f"kang_pbmc_{name}.h5ad")), rng) for name in ("ctrl", "stim")}
    chosen = {name: np.sort(rng.choice(one.n_obs, EVALUATED, replace=False)) for name, (one, _) in halves.items()}
    clusters = leiden(ad.concat({name: halves[name][0] for name in halves}, label="condition", index_unique="-"))
    n_control = halves["ctrl"][0].n_obs
    cluster_of = {"ctrl": clusters[:n_control][chosen["ctrl"]], "stim": clusters[n_control:][chosen["stim"]]}
    rows = []
    for name, found in embeddings({key: half for key, (_, half) in halves.items()}, chosen, args.steps).items():
        stim_ND, both_ND = found["stim"], np.concatenate([found["ctrl"], found["stim"]])
        condition = np.repeat(["ctrl", "stim"], EVALUATED)
        by_cluster = annotation.cross_validated(stim_ND, cluster_of["stim"])
        by_condition = annotation.cross_validated(both_ND, condition)
        both_clusters = np.concatenate([cluster_of["ctrl"], cluster_of["stim"]])
        rows.append(
            {
                "representation": name,
                "clusters, 15-NN": pm(by_cluster.knn_accuracy),
                "clusters, probe": pm(by_cluster.probe_accuracy),
                "condition, 15-NN": pm(by_condition.knn_accuracy),
                "condition, probe": pm(by_condition.probe_accuracy),
                "mixing within clusters": float(
                    integration.batch_mixing_within(both_ND, condition, both_clusters).score
                ),
            }
        )
    print(machine())
    show(f"Kang PBMC, {EVALUATED} cells of each condition, 5 folds, mean ± sd", rows)


def split(adata: ad.AnnData, rng: np.random.Generator) -> tuple[ad.AnnData, ad.AnnData]:
    """Two halves of the counts: each molecule goes to either with even chance."""
    counts = sparse.csr_matrix(adata.X).astype(np.int64)
    one = counts.copy()
    one.data = rng.binomial(counts.data, 0.5)
    other = counts - one
    for half in (one, other):
        half.eliminate_zeros()
    return tuple(ad.AnnData(half.astype(np.float32), obs=adata.obs[[]], var=adata.var[[]]) for half in (one, other))


def leiden(adata: ad.AnnData) -> np.ndarray:
    """Names of the clusters; variable genes and scaling within each condition, so that condition does not lead."""
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=2000, batch_key="condition")
    adata = adata[:, adata.var["highly_variable"]].copy()
    adata.X = adata.X.toarray()
    for name in adata.obs["condition"].unique():
        part = np.flatnonzero(adata.obs["condition"] == name)
        values = adata.X[part]
        adata.X[part] = np.clip((values - values.mean(axis=0)) / (values.std(axis=0) + 1e-6), -10, 10)
    sc.tl.pca(adata, n_comps=30)
    sc.pp.neighbors(adata, transformer="sklearn")  # exact, and alike on every machine
    sc.tl.leiden(adata, flavor="igraph", n_iterations=2, resolution=1.0)
    return adata.obs["leiden"].astype(str).to_numpy()


def embeddings(
    halves: dict[str, ad.AnnData], chosen: dict[str, np.ndarray], steps: int
) -> dict[str, dict[str, np.ndarray]]:
    """representation -> condition -> embedding of the chosen cells."""
    found = {}
    control = sparse.csr_matrix(halves["ctrl"].X, dtype=np.float64)
    for components in (20, 30, 50):
        sides = {}
        for name, half in halves.items():
            counts = sparse.csr_matrix(half.X, dtype=np.float64)[chosen[name]]
            sides[name] = baselines.pca_embedding(control, counts, components).test_ND
        found[f"PCA ({components})"] = sides
    size = ["encoder.width=64", "encoder.heads=2", "encoder.ffn=176", "data.tokens=256"]
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}.h5ad" for name in halves}
        for name, half in halves.items():
            half[chosen[name]].write_h5ad(paths[name])
        halves["ctrl"].write_h5ad(Path(folder) / "all.h5ad")
        for count in (0, steps):
            model = pretrain([Path(folder) / "all.h5ad"], [*size, *schedule(count), "run.eval_cells=512"], Path(folder))
            found[f"mofm, {count} steps"] = {
                side: model.embed(path, quiet=True).embedding_NE for side, path in paths.items()
            }
    return found


def pm(spread: annotation.Spread) -> str:
    """mean ± sd."""
    return f"{spread.mean:.3f} ± {spread.sd:.3f}"


if __name__ == "__main__":
    main()
