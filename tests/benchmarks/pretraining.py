"""Is a pretrained model worth more than the same model from scratch, on few cells: a curve over how many there are.

    MOFM_DATA=FOLDER python tests/benchmarks/pretraining.py [--data blood simulated] [--cells 50 100 200 400] [--steps 100]
        [--draws 3] [--rows FILE.jsonl]

blood: pretrained on 14,000 control cells of Kang et al. 2018; the few cells are of pbmc68k_reduced, ten types, another
laboratory's. simulated: pretrained on 6,000 cells of a network, the few are others of it, read a quarter as deep.

Of so many cells types are known; 300 others are judged, by a linear probe and by 15 neighbours among the few:
- pretrained: never saw the few cells
- finetuned: the same, trained further on the few cells without their types (`configs/finetune.py`, at most --steps)
- scratch: the same config trained on the few cells alone, its linear start too
- PCA: 30 components of the few cells (fewer where there are not so many)
Rows are appended to --rows as they are found; those that are there are not computed again.
"""

import argparse
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
from cell_types import pbmc68k
from common import Rows, config_of, machine, parser, real_data, schedule, show

from mofm.cli import main as mofm
from mofm.corpus.ingest import ingest
from mofm.evaluation import annotation, baselines
from mofm.inference.model import load
from mofm.omics.simulate import SimulationConfig, simulate
from mofm.training.loop import train

SIZE = ("encoder.width=64", "encoder.heads=2", "encoder.ffn=176", "data.tokens=256", "run.eval_cells=512")
JUDGED = 300


class Given(NamedTuple):
    """Attributes: source, a file to pretrain on; few, the target's cells; type_N, their types."""

    source: Path
    few: ad.AnnData
    type_N: np.ndarray


def main() -> None:
    """Train and judge what is missing, and print a table for each data set."""
    sources: dict[str, Callable[[Path], Given]] = {"blood": blood, "simulated": simulated}
    arguments = parser(__doc__)
    arguments.add_argument("--data", nargs="+", choices=sources, default=list(sources))
    arguments.add_argument("--cells", type=int, nargs="+", default=[50, 100, 200, 400])
    arguments.add_argument("--steps", type=int, default=100)
    arguments.add_argument("--draws", type=int, default=3)
    arguments.add_argument("--rows", type=Path, help="a file of JSON lines, where an interrupted benchmark goes on")
    args = arguments.parse_args()
    print(machine(), flush=True)
    rows = Rows(args.rows)
    for name in args.data:
        with tempfile.TemporaryDirectory() as folder:
            for row in curve(name, sources[name](Path(folder)), args, rows, Path(folder)):
                rows.keep(row)
        table = pd.DataFrame([row for row in rows if row["data"] == name])
        show(f"{name}, {args.steps} steps, {table['draw'].nunique()} draws, mean ± sd", summary(table))


def blood(folder: Path) -> Given:
    """Two laboratories' blood cells."""
    return Given(real_data("kang_pbmc_ctrl.h5ad"), *pbmc68k())


def simulated(folder: Path) -> Given:
    """Two parts of one simulation."""
    known = simulate(SimulationConfig(cells=6_000, cell_types=12, seed=21))
    ad.AnnData(known.X, known.obs[[]], known.var[[]]).write_h5ad(folder / "source.h5ad")
    depth = SimulationConfig().library_size / 4
    few = simulate(SimulationConfig(cells=900, cell_types=12, seed=21, part=1, library_size=depth))
    return Given(folder / "source.h5ad", few, few.obs["cell_type"].astype(str).to_numpy())


def curve(name: str, of: Given, args: argparse.Namespace, rows: Rows, folder: Path):
    """Rows that `rows` lacks; the model is pretrained once, where one of them needs it."""
    wanted = itertools.product(range(args.draws), args.cells)
    missing = [(draw, cells) for draw, cells in wanted if not rows.has(data=name, draw=draw, cells=cells)]
    if not missing:
        return
    pretrain(of.source, folder / "pretrained", args.steps)
    for draw, cells in missing:
        order = np.random.default_rng(draw).permutation(of.few.n_obs)
        known, asked = order[:cells], order[-JUDGED:]
        with tempfile.TemporaryDirectory(dir=folder) as place:
            for method, (known_ND, asked_ND) in embeddings(of, known, asked, args.steps, folder, Path(place)).items():
                told = known_ND, of.type_N[known], asked_ND, of.type_N[asked]
                row = {"data": name, "draw": draw, "cells": cells, "method": method}
                yield row | {
                    "probe": annotation.linear_probe(*told).accuracy.value,
                    "15-NN": annotation.knn_accuracy(*told).accuracy.value,
                }


def pretrain(source: Path, folder: Path, steps: int) -> None:
    """The corpus and the run of a model, in `folder`."""
    ingest([source], folder / "corpus")
    train(config_of(folder / "corpus", [*SIZE, *schedule(steps)]), folder / "run", quiet=True)


def embeddings(
    of: Given, known: np.ndarray, asked: np.ndarray, steps: int, folder: Path, place: Path
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(known, asked) cells by each method."""
    parts = [ad.AnnData(of.few.X[some], of.few.obs.iloc[some][[]], of.few.var[[]]) for some in (known, asked)]
    parts[0].write_h5ad(place / "few.h5ad")
    pretrain(place / "few.h5ad", place / "scratch", steps)
    keys = {
        "data.corpus": place / "scratch" / "corpus",
        "run.steps": steps,
        "run.eval_every": max(1, steps // 4),
        "run.checkpoint_every": max(1, steps // 4),
        "optimizer.warmup_steps": max(1, steps // 10),
    }
    words = ["finetune", str(folder / "pretrained" / "run"), "--config", "finetune", "--workdir", str(place / "run")]
    if mofm([*words, "--quiet", *(f"--config.{key}={value}" for key, value in keys.items())]):
        raise SystemExit("mofm finetune failed")
    runs = {
        "pretrained": folder / "pretrained" / "run",
        "finetuned": place / "run",
        "scratch": place / "scratch" / "run",
    }
    found = {}
    for method, run in runs.items():
        model = load(run)
        found[method] = tuple(model.embed(part, quiet=True).embedding_NE for part in parts)
    width = min(30, len(known) - 1)
    pca = baselines.pca_embedding(parts[0].X, parts[1].X, width)
    return found | {"PCA": (pca.train_ND, pca.test_ND)}


def summary(table: pd.DataFrame) -> list[dict[str, object]]:
    """A row a number of cells and a column a method and measure: means over draws."""
    rows = []
    for cells, some in table.groupby("cells"):
        row = {"cells": cells}
        for measure in ("probe", "15-NN"):
            for method, values in some.groupby("method", sort=False)[measure]:
                spread = f" ± {values.std():.3f}" if len(values) > 1 else ""
                row[f"{method}, {measure}"] = f"{values.mean():.3f}{spread}"
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
