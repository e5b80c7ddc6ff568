"""A small corpus on disk and a tiny config over it, for tests that train."""

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

from mofm.corpus.ingest import ingest
from mofm.training.config import build_config


def write_cells(path, cells: int, genes: int, seed: int) -> None:
    """Two types of cells with their own marker genes, as raw counts."""
    rng = np.random.default_rng(seed)
    rates_TG = rng.gamma(0.5, 1.0, (2, genes))
    types = rng.integers(0, 2, cells)
    counts = rng.poisson(rates_TG[types] * rng.lognormal(0, 0.3, (cells, 1))).astype(np.float32)
    adata = ad.AnnData(sparse.csr_matrix(counts))
    adata.obs_names = [f"cell{i}" for i in range(cells)]
    adata.var_names = [f"G{i}" for i in range(genes)]
    adata.obs["cell_type"] = np.array(["a", "b"])[types]
    adata.write_h5ad(path)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A corpus of two datasets, 90 and 60 cells of 50 genes."""
    folder = tmp_path_factory.mktemp("corpus")
    for name, cells in (("one", 90), ("two", 60)):
        write_cells(folder / f"{name}.h5ad", cells, genes=50, seed=cells)
    ingest([folder / "one.h5ad", folder / "two.h5ad"], folder / "corpus")
    return folder / "corpus"


@pytest.fixture(scope="session")
def tiny(corpus):
    """A function (overrides...) -> Config of a model that trains in seconds."""

    def config(*overrides: str):
        values = {
            "data": {"corpus": str(corpus), "batch_size": 16, "tokens": 24, "block_cells": 8, "window_blocks": 4},
            "encoder": {
                "width": 16,
                "blocks": 2,
                "heads": 2,
                "ffn": 24,
                "cell_width": 8,
                "bins": 6,
                "compute_dtype": "float32",
            },
            "optimizer": {"learning_rate": 1e-2, "warmup_steps": 2},
            "run": {"steps": 8, "log_every": 1, "eval_every": 4, "eval_cells": 16, "checkpoint_every": 4},
        }
        return build_config(values, list(overrides))

    return config
