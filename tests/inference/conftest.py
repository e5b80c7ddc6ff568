"""One small model with a network, trained on simulated cells whose true network is known."""

from pathlib import Path
from typing import NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import pytest

SMALL = Path(__file__).parent.parent.parent / "configs" / "small.py"


class Regulated(NamedTuple):
    """The file of cells, the table of the true network, the run, and the cells with their truth."""

    source: Path
    table: Path
    workdir: Path
    cells: ad.AnnData


@pytest.fixture(scope="session")
def regulated(made_once) -> Regulated:
    """400 cells of 4 types, 150 genes, 20 TFs; 40 steps; a fifth of the edges held out. Leave its files as they are."""
    from mofm.cli import main
    from mofm.omics.simulate import SimulationConfig, simulate

    adata = simulate(SimulationConfig(cells=400, genes=150, tfs=20, cell_types=4, library_size=5000.0, seed=1))
    adata.obs["group"] = adata.obs["cell_type"].astype(object)
    adata.obs.loc[adata.obs_names[:7], "group"] = None
    adata.obs.loc[adata.obs_names[7:10], "group"] = "few"
    grn, names = adata.varp["grn"].tocoo(), adata.var_names
    edges = pd.DataFrame({"tf": names[grn.row], "target": names[grn.col], "sign": np.sign(grn.data).astype(int)})

    def fill(folder: Path) -> None:
        adata.write_h5ad(folder / "cells.h5ad")
        edges[edges["tf"] != edges["target"]].to_csv(folder / "truth.tsv", sep="\t", index=False)
        assert main(["ingest", str(folder / "cells.h5ad"), str(folder / "corpus")]) == 0
        overrides = {
            **{
                "data.corpus": folder / "corpus",
                "data.batch_size": 32,
                "data.tokens": 64,
                "data.holdout_fraction": 0.1,
            },
            **{"encoder.width": 32, "encoder.blocks": 1, "encoder.heads": 2, "encoder.ffn": 48},
            **{"encoder.cell_width": 16, "network.tables": [str(folder / "truth.tsv")]},
            **{"network.held_out_edges": 0.2, "grn.width": 16},
            **{"run.steps": 40, "run.eval_every": 40, "run.eval_cells": 20, "run.checkpoint_every": 40},
        }
        words = [f"--config.{key}={value}" for key, value in overrides.items()]
        assert main(["train", "--config", str(SMALL), "--workdir", str(folder / "run"), "--quiet", *words]) == 0

    folder = made_once("regulated", fill)
    return Regulated(folder / "cells.h5ad", folder / "truth.tsv", folder / "run", adata)


@pytest.fixture(scope="session")
def regulated_model(regulated):
    from mofm.inference.model import load

    return load(regulated.workdir)
