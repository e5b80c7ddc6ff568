"""`mofm demo`: the main job, end to end, on data that comes with the package, as a newcomer would do it.

    simulate cells from a known regulatory network, take the labelled PBMC that scanpy ships
    -> ingest both -> pretrain -> embed -> compare held-out cells with principal components -> report

Every stage leaves a file and is passed over where that file is there, so a killed demo goes on where it was.
"""

from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from scipy import sparse

from mofm.batches.stream import Stream
from mofm.configs import demo as demo_config
from mofm.corpus.ingest import ingest
from mofm.corpus.store import Corpus, open_corpus
from mofm.evaluation import annotation, baselines, figures, integration
from mofm.evaluation.report import Figure, Table, read_metrics, write_report
from mofm.files import written_whole
from mofm.inference.model import load
from mofm.inference.output import write_embedding
from mofm.omics.readers import Reading
from mofm.omics.simulate import SimulationConfig, simulate
from mofm.printed import render_ingest
from mofm.progress import files_progress
from mofm.training.config import Config, build_config
from mofm.training.loop import train

COMPONENTS = 30


@dataclass(frozen=True)
class Dataset:
    """One of the demo's data sets: its name, and the columns of obs that hold its types and its batches (or None)."""

    name: str
    title: str
    label: str
    batch: str | None


SIMULATED = Dataset("simulated", "simulated", "cell_type", "batch")
PBMC = Dataset("pbmc68k", "PBMC (real)", "bulk_labels", None)


def demo(workdir: Path, steps: int | None = None) -> Path:
    """Run what of the demo is not there yet; returns the report's page."""
    files = make_data(workdir / "data")
    say("ingest: both files into one corpus")
    with files_progress("ingesting") as on_progress:
        # The PBMC file holds log-normalised values alone; they invert to counts exactly, and the manifest says so.
        results = ingest(list(files.values()), workdir / "corpus", recover_counts=True, on_progress=on_progress)
    render_ingest(results, workdir / "corpus")

    config = demo_config.get_config()
    config.data.corpus = str(workdir / "corpus")
    if steps is not None:
        config.run.steps = steps
    config = build_config(config)
    say(f"train: {config.run.steps} steps of {config.data.batch_size} cells, one fifth of all cells held out")
    reached = train(config, workdir / "run")
    if reached < config.run.steps:
        raise SystemExit(f"stopped at step {reached} of {config.run.steps} and saved; the same command goes on")

    say("embed: every cell of both files")
    model = load(workdir / "run")
    embedded = {name: workdir / f"{name}_embedded.h5ad" for name in files}
    for name, path in files.items():
        write_embedding(path, embedded[name], model.embed_cells(path, Reading("rna", recover_counts=True)))
    say("report: held-out cells against principal components")
    return report(workdir, config, embedded)


def say(line: str) -> None:
    """One line a stage."""
    print(f"== {line}", flush=True)


def make_data(folder: Path) -> dict[str, Path]:
    """The demo's two input files, made where absent: name -> path."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {data.name: folder / f"{data.name}.h5ad" for data in (SIMULATED, PBMC)}
    if not paths[SIMULATED.name].exists():
        say("simulate: cells driven by a known gene regulatory network")
        _write(simulate(SimulationConfig(cells=3_000, seed=0)), paths[SIMULATED.name])
    if not paths[PBMC.name].exists():
        say("take the 700 labelled blood cells that scanpy ships (pbmc68k_reduced)")
        raw = sc.datasets.pbmc68k_reduced().raw.to_adata()
        _write(ad.AnnData(raw.X, obs=raw.obs[["bulk_labels", "louvain"]], var=raw.var[[]]), paths[PBMC.name])
    return paths


def report(workdir: Path, config: Config, embedded: dict[str, Path]) -> Path:
    """Judge the held-out cells of each data set, and write the page."""
    corpus = open_corpus(config.data.corpus)
    heldout = heldout_cells(corpus, config)
    panels, tables, lines = [], [], []
    metrics = read_metrics(workdir / "run" / "metrics.jsonl")
    panels.append(
        Figure(
            "loss",
            "Negative log-likelihood of hidden counts, training and held-out cells. The line is the mean predictor, "
            "which knows every gene's rate and nothing of the cell.",
            figures.loss_curves(metrics),
        )
    )
    for place, data in enumerate((PBMC, SIMULATED)):
        adata = ad.read_h5ad(embedded[data.name])
        store = next(store for store in corpus.stores if store.name == data.name)
        is_test = heldout[store.dataset]
        frame = compare(store_counts(corpus, store.dataset), adata.obsm["X_mofm"], adata.obs, data, is_test)
        tables.append(Table(f"{data.title}: {int(is_test.sum())} held-out cells", "95% bootstrap intervals.", frame))
        panels.append(
            Figure(
                f"scores_{place}",
                f"{data.title}: how well cell types read off the embedding of cells that pretraining never saw.",
                figures.scores(frame),
            )
        )
        keys = [key for key in (data.label, data.batch) if key]
        coordinates = figures.umap_coordinates(adata.obsm["X_mofm"][is_test])
        panels.append(
            Figure(
                f"umap_{place}",
                f"{data.title}: UMAP of the held-out cells' embeddings, coloured by {' and '.join(keys)}.",
                figures.umap(coordinates, adata.obs[is_test], keys),
            )
        )
        lines.append(_headline(frame, data))
    return write_report(
        workdir / "report",
        title="mofm demo",
        lead=" ".join(lines),
        facts=_facts(corpus, metrics, config),
        figures=panels,
        tables=tables,
        command=f"mofm demo --workdir {workdir}",
    )


def heldout_cells(corpus: Corpus, config: Config) -> list[np.ndarray]:
    """For each dataset, True for the cells that training never saw."""
    stream = Stream(corpus, config.data, config.seed)
    is_heldout = [np.zeros(dataset.n_cells, bool) for dataset in corpus.datasets]
    for cell in stream.heldout_cells():
        dataset, row = corpus.locate(int(cell))
        is_heldout[dataset.number][row] = True
    return is_heldout


def store_counts(corpus: Corpus, dataset: int) -> sparse.csr_matrix:
    """The counts of a dataset, cells x its features, for the baselines."""
    store = corpus.stores[dataset]
    rows = store.read_rows(0, store.n_cells).result()
    shape = (store.n_cells, store.n_features)
    return sparse.csr_matrix((rows.data.astype(np.float64), rows.indices.astype(np.int64), rows.indptr_N), shape=shape)


def compare(
    counts: sparse.csr_matrix, embedding_NE: np.ndarray, obs: pd.DataFrame, data: Dataset, is_test: np.ndarray
) -> pd.DataFrame:
    """mofm beside principal components and the majority label: representation, metric, value, low, high."""
    labels = obs[data.label].astype(str).to_numpy()
    pca = baselines.pca_embedding(counts[~is_test], counts[is_test], COMPONENTS)
    sides = {
        "mofm": (embedding_NE[~is_test], embedding_NE[is_test]),
        f"PCA ({COMPONENTS})": (pca.train_ND, pca.test_ND),
    }
    rows = []
    for name, (train_ND, test_ND) in sides.items():
        for read in (annotation.knn_accuracy, annotation.linear_probe):
            rows += read(train_ND, labels[~is_test], test_ND, labels[is_test]).rows(name)
        if data.batch:
            batches = obs[data.batch].astype(str).to_numpy()[is_test]
            mixing = integration.batch_mixing_within(test_ND, batches, labels[is_test])
            rows.append(
                {
                    "representation": name,
                    "metric": "batch mixing within types",
                    "value": mixing.score,
                    "low": np.nan,
                    "high": np.nan,
                }
            )
    return pd.DataFrame(rows)


def _headline(frame: pd.DataFrame, data: Dataset) -> str:
    probe = frame[frame["metric"] == "linear probe accuracy"].set_index("representation")["value"]
    pca = next(value for name, value in probe.items() if name.startswith("PCA"))
    return f"{data.title}: a linear probe names {probe['mofm']:.1%} of held-out cells from mofm, {pca:.1%} from PCA."


def _facts(corpus: Corpus, metrics: pd.DataFrame, config: Config) -> dict[str, object]:
    last = metrics.dropna(subset=["heldout/loss"]).iloc[-1]
    return {
        "cells": corpus.n_cells,
        "genes": len(corpus.features),
        "training steps": config.run.steps,
        "cells a step": config.data.batch_size,
        "median cells/s": float(metrics["cells_per_s"].median()),
        "held-out nats a hidden count, from its token": float(last["heldout/rna/token_nll"]),
        "the same, from the cell embedding": float(last["heldout/rna/cell_nll"]),
        "the same, mean predictor": float(last["heldout/rna/null_nll"]),
    }


def _write(adata: ad.AnnData, path: Path) -> None:
    with written_whole(path) as temporary:
        adata.write_h5ad(temporary)
