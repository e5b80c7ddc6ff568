"""Cell types of held-out blood cells, mofm beside principal components: the 700 labelled PBMC that scanpy ships.

    python tests/benchmarks/pbmc68k.py [--steps 300] [--folds 5]

In each of five stratified folds, model and components are fitted on the training cells alone, labels unseen, and the
held-out cells are embedded; 15-NN and a linear probe learn the types from the training cells' embeddings.
"mofm, 0 steps" is the start of the run (see `mofm/training/components.py`): what training adds is the difference.
"""

import tempfile
from pathlib import Path

import anndata as ad
import numpy as np
import scanpy as sc
from common import machine, parser, pretrain, show

from mofm.evaluation import annotation, baselines
from mofm.omics.readers import Reading, open_h5ad


def main() -> None:
    """Run the folds and print the table."""
    arguments = parser(__doc__)
    arguments.add_argument("--steps", type=int, default=300)
    arguments.add_argument("--folds", type=int, default=5)
    args = arguments.parse_args()
    raw = sc.datasets.pbmc68k_reduced().raw.to_adata()
    labels = raw.obs["bulk_labels"].astype(str).to_numpy()
    fold_N = annotation.stratified_folds(labels, args.folds, seed=0)
    scores: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for fold in range(args.folds):
            paths = {}
            for side, chosen in (("train", fold_N != fold), ("test", fold_N == fold)):
                paths[side] = Path(folder) / f"{side}{fold}.h5ad"
                ad.AnnData(raw.X[chosen], obs=raw.obs[chosen][[]], var=raw.var[[]]).write_h5ad(paths[side])
            truth = labels[fold_N != fold], labels[fold_N == fold]
            for name, (train_ND, test_ND) in embeddings(paths, args.steps).items():
                readers = (annotation.knn_accuracy, annotation.linear_probe)
                both = tuple(read(train_ND, truth[0], test_ND, truth[1]).accuracy.value for read in readers)
                scores.setdefault(name, []).append(both)
    rows = []
    for name, values in scores.items():
        mean, sd = np.mean(values, axis=0), np.std(values, axis=0, ddof=1)
        rows.append(
            {"representation": name, "15-NN": f"{mean[0]:.3f} ± {sd[0]:.3f}", "probe": f"{mean[1]:.3f} ± {sd[1]:.3f}"}
        )
    print(machine())
    show(f"pbmc68k_reduced, accuracy over {args.folds} folds, mean ± sd", rows)


def embeddings(paths: dict[str, Path], steps: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(train, test) embeddings of each representation."""
    counts = {}
    for side, path in paths.items():
        with open_h5ad(path, recover_counts=True) as table:
            parts = list(table.rows())
            counts[side] = baselines.sp.vstack(
                [baselines.sp.csr_matrix((p.data, p.indices, p.indptr_N), (p.n_cells, table.n_features)) for p in parts]
            ).astype(np.float64)
    found = {}
    for components in (20, 30, 50):
        pca = baselines.pca_embedding(counts["train"], counts["test"], components)
        found[f"PCA ({components})"] = (pca.train_ND, pca.test_ND)
    size = ["encoder.width=64", "encoder.heads=2", "encoder.ffn=176", "data.tokens=192"]
    for count in (1, steps):
        schedule = [f"run.steps={count}", f"run.eval_every={max(1, count // 4)}"]
        if count == 1:
            schedule.append("optimizer.learning_rate=1e-9")
        model = pretrain([paths["train"]], size + schedule, recover_counts=True)
        sides = [
            model.embed(paths[side], Reading("rna", recover_counts=True), quiet=True).embedding_NE
            for side in ("train", "test")
        ]
        found[f"mofm, {0 if count == 1 else count} steps"] = tuple(sides)
    return found


if __name__ == "__main__":
    main()
