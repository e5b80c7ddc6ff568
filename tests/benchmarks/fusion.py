"""Does it help that the views of one cell see each other? Hidden counts, and types by the joint embedding, of held-out cells.

    MOFM_DATA=FOLDER python tests/benchmarks/fusion.py [--data simulated citeseq] [--steps 300] [--cells 1500]
        [--umis 3000] [--seeds 0]

simulated: RNA and ATAC (`mofm.omics.simulate`: --umis 3,000, and twice as many fragments). citeseq: RNA and 49 proteins of 500
PBMC, types by markers read off one half of each cell's RNA molecules, where they are clear; the model sees the other half.

Two models of configs/multiome.py at width 64 without a translator: one without fusion, one with `fusion.blocks=1`, the same
batches and the same hidden tokens. A third of the cells appear in no training; of the others a fifth are held out.
- hidden counts, nats a token, of the fifth at the last step: by the mean predictor, the model without fusion, the fused model
  from a view alone, and from views that saw each other.
- types of the third by their 15 nearest of the others and by a linear probe, and how compact types are (silhouette in [0, 1]).
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import anndata as ad
import mudata
import numpy as np
import pandas as pd
from batches import types_by_markers
from common import config_of, machine, parser, real_data, show
from scipy import sparse

from mofm.configs import multiome
from mofm.corpus.ingest import ingest
from mofm.evaluation import annotation, integration
from mofm.evaluation.report import read_metrics
from mofm.evaluation.translation_baselines import measured_of, source_components
from mofm.inference.model import load
from mofm.inference.output import rows_of_cells
from mofm.omics.simulate import (
    AtacConfig,
    MultiomicsConfig,
    SimulationConfig,
    simulate_multiomics,
    to_mudata,
    write_mudata,
)
from mofm.training.loop import train

SIZES = ("width=64", "blocks=2", "heads=4", "ffn=176", "cell_width=32", "region_rows=0")


class Task(NamedTuple):
    """Attributes: omics, of the same cells in the same order; type_N; train, test: their places."""

    omics: dict[str, ad.AnnData]
    type_N: np.ndarray
    train: np.ndarray
    test: np.ndarray


def main() -> None:
    """Run and print the tables."""
    sources = {"simulated": simulated, "citeseq": citeseq}
    arguments = parser(__doc__)
    arguments.add_argument("--data", nargs="+", choices=sources, default=list(sources))
    arguments.add_argument("--steps", type=int, default=300)
    arguments.add_argument("--cells", type=int, default=1_500, help="of the simulation")
    arguments.add_argument("--umis", type=float, default=3_000.0, help="of a cell of the simulation")
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0], help="of split, tokens and parameters")
    arguments.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="of the config, for both models")
    args = arguments.parse_args()
    print(machine())
    for name in args.data:
        counts, types = [], []
        for seed in args.seeds:
            of = task(*sources[name](args.cells, args.umis), seed)
            with tempfile.TemporaryDirectory() as folder:
                told, found = ours(of, Path(folder), args.steps, seed, args.set)
            counts += [{"seed": seed} | row for row in told]
            for method, embedding_NE in [*components(of), *found]:
                types.append({"seed": seed, "embedding": method} | judge(of, embedding_NE))
                print(name, types[-1], flush=True)
        show(f"{name}: hidden counts of held-out cells, nats a token, {args.steps} steps", counts)
        show(f"{name}: types of {len(of.test):,} of {len(of.type_N):,} cells", types)


def task(omics: dict[str, ad.AnnData], type_N: np.ndarray, seed: int) -> Task:
    """A third held out at random."""
    order = np.random.default_rng(seed).permutation(len(type_N))
    return Task(omics, type_N, np.sort(order[len(order) // 3 :]), np.sort(order[: len(order) // 3]))


def simulated(cells: int, umis: float) -> tuple[dict[str, ad.AnnData], np.ndarray]:
    """Cells of eight types."""
    config = SimulationConfig(cells=cells, genes=600, batches=1, library_size=umis, seed=5)
    omics = simulate_multiomics(MultiomicsConfig(cells=config, atac=AtacConfig(fragments=2 * umis)), ("rna", "atac"))
    return omics, omics["rna"].obs["cell_type"].to_numpy(str)


def citeseq(*_: float) -> tuple[dict[str, ad.AnnData], np.ndarray]:
    """Cells of which markers tell a type."""
    cells = mudata.read_h5mu(real_data("citeseq_pbmc_500.h5mu"))
    rna = sparse.csr_matrix(cells["rna"].X)
    left, types, kept = types_by_markers(rna, cells["rna"].var_names, np.random.default_rng(0))
    counts = {"rna": left, "adt": sparse.csr_matrix(cells["adt"].X)}
    obs = pd.DataFrame(index=cells.obs_names)[kept]
    omics = {
        name: ad.AnnData(one[kept].astype(np.float32), obs=obs.copy(), var=cells[name].var[[]].copy())
        for name, one in counts.items()
    }
    return omics, types[kept]


def ours(
    of: Task, folder: Path, steps: int, seed: int, overrides: list[str]
) -> tuple[list[dict], list[tuple[str, np.ndarray]]]:
    """Losses of the two models, and embeddings of all cells by each."""
    write_mudata(to_mudata({name: one[of.train].copy() for name, one in of.omics.items()}), folder / "train.h5mu")
    write_mudata(to_mudata({name: bare(one) for name, one in of.omics.items()}), folder / "all.h5mu")
    ingest([folder / "train.h5mu"], folder / "corpus")
    last, found = {}, []
    for blocks, name in enumerate(("without fusion", "fused")):
        chosen = [
            f"fusion.blocks={blocks}",
            f"seed={seed}",
            "translator.blocks=0",
            "data.tokens=128",
            "data.batch_size=64",
        ]
        chosen += [f"encoder.{size}" for size in SIZES]
        chosen += ["data.holdout_fraction=0.2", f"run.steps={steps}", "run.eval_cells=10000", "run.keep_best=0"]
        chosen += [f"run.{key}={max(1, steps // 3)}" for key in ("eval_every", "checkpoint_every")]
        train(config_of(folder / "corpus", chosen + overrides, multiome), folder / name, quiet=True)
        metrics = read_metrics(folder / name / "metrics.jsonl")
        heldout = metrics[[column for column in metrics if column.startswith("heldout/")]].dropna(how="all")
        last[name] = heldout.iloc[-1].rename(lambda column: column.removeprefix("heldout/"))
        print(name, last[name].to_dict(), flush=True)
        embedded = load(folder / name, step="latest").embed_cells(folder / "all.h5mu", quiet=True)
        cells = of.omics["rna"].obs_names
        if not blocks:
            found += [
                (f"mofm, {m} alone", one.embedding_NE[one.cells.get_indexer(cells)])
                for m, one in embedded.views.items()
            ]
        found.append((f"mofm {name}, joint", rows_of_cells(embedded.joint.embedding_NE, embedded.joint.cells, cells)))
    return list(losses(of, last["without fusion"], last["fused"])), found


def bare(adata: ad.AnnData) -> ad.AnnData:
    """Counts and names alone."""
    return ad.AnnData(adata.X, obs=adata.obs[[]], var=adata.var, layers=dict(adata.layers))


def losses(of: Task, without: pd.Series, fused: pd.Series) -> Iterator[dict]:
    """A row for each modality and answer."""
    for one, other in (list(of.omics), list(of.omics)[::-1]):
        for answer in ("token_nll", "cell_nll"):
            yield {
                "of": f"{one}, {'its token' if answer == 'token_nll' else 'the embedding'}",
                "mean predictor": without[f"{one}/null_nll"],
                "without fusion": without[f"{one}/{answer}"],
                "fused model, alone": fused[f"{one}_with_{other}/alone_{answer}"],
                "fused": fused[f"{one}_with_{other}/{answer}"],
            }


def components(of: Task) -> Iterator[tuple[str, np.ndarray]]:
    """Principal components of each modality, fitted on the training cells, and both side by side, each of variance 1."""
    sides = []
    for name, adata in of.omics.items():
        measured = measured_of(adata)
        parts = (type(measured)(*(None if x is None else x[rows] for x in measured)) for rows in (of.train, of.test))
        train_ND, test_ND = source_components(name, *parts)[:2]
        all_ND = np.zeros((len(of.type_N), train_ND.shape[1]))
        all_ND[of.train], all_ND[of.test] = train_ND, test_ND
        yield f"PCA, {name}", all_ND
        centred_ND = all_ND - train_ND.mean(axis=0)
        sides.append(centred_ND / np.sqrt((centred_ND[of.train] ** 2).sum(axis=1).mean()))
    yield "PCA, side by side", np.hstack(sides)


def judge(of: Task, embedding_NE: np.ndarray) -> dict[str, float]:
    """The row of one embedding."""
    told = embedding_NE[of.train], of.type_N[of.train], embedding_NE[of.test], of.type_N[of.test]
    return {
        "types, 15-NN": annotation.knn_accuracy(*told).accuracy.value,
        "types, probe": annotation.linear_probe(*told).accuracy.value,
        "silhouette": integration.silhouette(embedding_NE[of.test], of.type_N[of.test]).score,
    }


if __name__ == "__main__":
    main()
