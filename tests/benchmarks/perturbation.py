"""The response to a treatment, told of cell types whose treated cells were not shown: mofm beside simple baselines.

    MOFM_DATA=FOLDER python tests/benchmarks/perturbation.py [--data kang] [--steps 30]

kang: PBMC of Kang et al. 2018 (GSE96583), control and with interferon beta. The file names no types: the Leiden clusters of
each condition by itself are named by marker genes of seven types. The model is trained on the control cells alone.
simulated: ten types of `omics/simulate.py` in two conditions; 20 genes rise by one nat in every type, 60 others change by where
the type lies on the two first axes of the types' profiles: by construction, types that are alike respond alike.

Judged by `mofm evaluate --tasks perturbation`: each cluster of 30 cells of both conditions is held out in turn.
"""

import tempfile
from pathlib import Path

import anndata as ad
import numpy as np
from common import machine, parser, pretrain, real_data, show
from kang import leiden
from scipy import sparse

from mofm.evaluation.evaluate import Settings, evaluate
from mofm.evaluation.evaluation_page import rows_of
from mofm.inference.model import PretrainedModel
from mofm.omics.simulate import SimulationConfig, simulate

MARKERS = {
    "CD4 T": ("IL7R", "CD3D", "LDHB"),
    "CD8 T or NK": ("CCL5", "NKG7", "PRF1"),
    "B": ("CD79A", "MS4A1", "CD79B"),
    "CD14 mono": ("CD14", "S100A8", "S100A9"),
    "FCGR3A mono": ("FCGR3A", "MS4A7", "VMO1"),
    "DC": ("FCER1A", "HLA-DQA1", "CD1C"),
    "Mk": ("PPBP", "PF4", "GNG11"),
}
"""Few of them answer to interferon; clusters are compared within a condition in any case."""
SIZE = ("encoder.width=64", "encoder.heads=2", "encoder.ffn=176", "data.tokens=256")


def main() -> None:
    """Run and print the tables."""
    arguments = parser(__doc__)
    arguments.add_argument("--data", nargs="+", choices=("kang", "simulated"), default=("kang", "simulated"))
    arguments.add_argument("--steps", type=int, default=30)
    arguments.add_argument("--cells", type=int, default=150, help="of a type and condition, the most that are taken")
    arguments.add_argument("--bootstrap", type=int, default=1000)
    args = arguments.parse_args()
    print(machine())
    for name in args.data:
        adata = few(kang() if name == "kang" else simulated(), args.cells)
        settings = Settings(
            tasks=("perturbation",),
            label_key="group",
            condition_key="condition",
            control="ctrl",
            bootstrap=args.bootstrap,
            umap=False,
        )
        with tempfile.TemporaryDirectory() as folder:  # of the run too, whose corpus says which cells it saw
            found = evaluate(pretrained(adata, args.steps, Path(folder)), adata, settings, quiet=True)
        show(f"{name}, {adata.n_obs:,} cells, {args.steps} steps", [_row(row) for row in rows_of(found)])
        for note in found.judged["perturbation"].notes:
            print(f"- {note}", flush=True)


def _row(row) -> dict[str, object]:
    less = (
        ""
        if row.difference is None
        else f"{row.difference:+.3f} ({row.difference_low:+.3f} to {row.difference_high:+.3f})"
    )
    said = f"{row.value:.3f} ({row.low:.3f} to {row.high:.3f})"
    return {"metric": row.metric, "method": row.method, "value": said, "mofm less it": less}


def kang() -> ad.AnnData:
    """Counts of both conditions, obs["condition"] and obs["group"], the cluster."""
    both = {name: ad.read_h5ad(real_data(f"kang_pbmc_{name}.h5ad")) for name in ("ctrl", "stim")}
    both = {name: ad.AnnData(sparse.csr_matrix(one.X), one.obs[[]], one.var[[]]) for name, one in both.items()}
    adata = ad.concat(both, label="condition", index_unique="-")
    adata.obs["group"] = np.concatenate([types(adata[adata.obs["condition"] == name].copy()) for name in both])
    return adata


def types(adata: ad.AnnData) -> np.ndarray:
    """The type of each cell of one condition: of its cluster, that whose markers stand out most among the clusters."""
    cluster = leiden(adata)
    found = adata.to_df().groupby(cluster).mean()  # log1p of counts per 10,000, by `leiden`
    standing = (found - found.mean()) / found.std()
    standing_CT = np.stack([standing[list(genes)].mean(axis=1) for genes in MARKERS.values()], axis=1)
    name_of = dict(zip(found.index, np.array(list(MARKERS))[standing_CT.argmax(axis=1)], strict=True))
    return np.array([name_of[one] for one in cluster])


def few(adata: ad.AnnData, cells: int) -> ad.AnnData:
    """At most so many cells of each type and condition, by lot."""
    shuffled = adata.obs.iloc[np.random.default_rng(0).permutation(adata.n_obs)]
    chosen = shuffled.groupby(["group", "condition"], observed=True).head(cells).index
    return adata[adata.obs_names.isin(chosen)].copy()


def simulated(cells: int = 4_000) -> ad.AnnData:
    """Cells of ten types; half of them are treated: 20 genes rise in all types, and 60 as the type's own programs say."""
    adata = simulate(SimulationConfig(cells=cells, genes=600, tfs=40, cell_types=10, library_size=4000.0, seed=3))
    rng = np.random.default_rng(0)
    types = adata.obs["cell_type"].astype(str).to_numpy()
    counts = adata.X.toarray()
    logs = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
    names = np.unique(types)
    profile_KG = np.stack([logs[types == name].mean(axis=0) for name in names])
    axes_KD = np.linalg.svd(profile_KG - profile_KG.mean(axis=0), full_matrices=False)[0][:, :2] * np.sqrt(len(names))
    nats_KG = np.zeros_like(profile_KG)
    common, own = np.split(rng.permutation(adata.n_vars)[:80], [20])
    nats_KG[:, common] = 1.0
    nats_KG[:, own] = axes_KD @ rng.normal(scale=0.7, size=(2, len(own)))
    is_treated = rng.random(cells) < 0.5
    fold_NG = np.where(is_treated[:, None], np.exp(nats_KG[np.searchsorted(names, types)]), 1)
    adata.X = sparse.csr_matrix(rng.poisson(counts * fold_NG).astype(np.float32))
    adata.obs["condition"], adata.obs["group"] = np.where(is_treated, "treated", "ctrl"), types
    return adata


def pretrained(adata: ad.AnnData, steps: int, folder: Path) -> PretrainedModel:
    """A small model of the control cells."""
    schedule = [f"run.steps={steps}", f"run.eval_every={max(1, steps // 2)}", "run.eval_cells=512"]
    control = adata[(adata.obs["condition"] == "ctrl").to_numpy()]
    ad.AnnData(control.X, control.obs[[]], control.var[[]]).write_h5ad(folder / "control.h5ad")
    return pretrain([folder / "control.h5ad"], [*SIZE, *schedule], folder)


if __name__ == "__main__":
    main()
