"""Eight fake devices for every test that imports jax, the folder of real data sets, and one tiny trained model."""

import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests train the same few models again and again: each program is compiled once a session.
_compiled = tempfile.TemporaryDirectory(prefix="mofm-tests-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _compiled.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


@pytest.fixture
def real_data():
    """A function (file name) -> path in MOFM_DATA; skips the test, by name, where the file is absent."""

    def path(name: str) -> Path:
        folder = os.environ.get("MOFM_DATA")
        if not folder or not (Path(folder) / name).exists():
            pytest.skip(f"real data set {name} is not there: set MOFM_DATA to the folder that holds it")
        return Path(folder) / name

    return path


@pytest.fixture
def make_view():
    """A function (cells, tokens, genes, seed) -> TokenBatch of random counts, the last tokens of odd cells padding."""
    from mofm.batch import LIBRARY_SCALE, TokenBatch

    def view(cells: int = 4, tokens: int = 12, genes: int = 40, seed: int = 0) -> TokenBatch:
        rng = np.random.default_rng(seed)
        features_BL = np.stack([rng.permutation(genes)[:tokens] for _ in range(cells)]).astype(np.int32)
        counts_BL = rng.poisson(2.0, (cells, tokens)).astype(np.float32)
        mask_BL = np.ones((cells, tokens), bool)
        mask_BL[1::2, -3:] = False
        library_B = (counts_BL.sum(axis=1) * 3 + 50).astype(np.float32)
        values_BL = np.log1p(counts_BL / library_B[:, None] * LIBRARY_SCALE).astype(np.float32)
        features_BL, counts_BL, values_BL = features_BL * mask_BL, counts_BL * mask_BL, values_BL * mask_BL
        ids_B = np.arange(cells, dtype=np.int32)
        return TokenBatch(features_BL, values_BL, counts_BL, mask_BL, library_B, ids_B, np.zeros_like(ids_B))

    return view


@pytest.fixture(scope="session")
def make_cells():
    """A function (cells, seed, genes) -> AnnData of raw counts of real human genes.

    Names are symbols, ids are in var["gene_ids"]. Two cell types in two batches.
    """
    import anndata as ad
    from scipy import sparse

    from mofm.omics.genome import gene_table

    table = gene_table("human")
    frame = table.frame[table.frame["biotype"] == "protein_coding"]
    frame = frame[~frame["symbol"].isin(table.ambiguous_symbols) & (frame["symbol"] != frame["gene_id"])]

    def cells(cells: int = 60, seed: int = 0, genes: slice = slice(0, 300)) -> ad.AnnData:
        chosen = frame.iloc[::50].iloc[genes]
        rng = np.random.default_rng(seed)
        rates_TG = np.random.default_rng(99).gamma(0.3, 1.0, (2, len(chosen)))
        types = rng.integers(0, 2, cells)
        counts = rng.poisson(rates_TG[types] * rng.lognormal(0, 0.3, (cells, 1))).astype(np.float32)
        counts[0] += 1
        adata = ad.AnnData(sparse.csr_matrix(counts))
        adata.obs_names = [f"cell{i}" for i in range(cells)]
        adata.var_names = chosen["symbol"].tolist()
        adata.var["gene_ids"] = chosen["gene_id"].tolist()
        adata.obs["cell_type"] = np.array(["a", "b"])[types]
        adata.obs["batch"] = np.array(["one", "two"])[rng.integers(0, 2, cells)]
        return adata

    return cells


class Trained(NamedTuple):
    """One tiny trained model: its file of cells, its corpus, its config, and the run's directory."""

    source: Path
    corpus: Path
    config: "Config"  # noqa: F821
    workdir: Path


@pytest.fixture(scope="session")
def trained(make_cells, tmp_path_factory) -> Trained:
    """A model of width 16 trained for 6 steps on 96 cells of 300 genes; once a session. Leave its files as they are."""
    from mofm.corpus.ingest import ingest
    from mofm.training.config import build_config
    from mofm.training.loop import train

    folder = tmp_path_factory.mktemp("trained")
    make_cells(96).write_h5ad(folder / "cells.h5ad")
    ingest([folder / "cells.h5ad"], folder / "corpus")
    data = {"corpus": str(folder / "corpus"), "batch_size": 16, "tokens": 64, "block_cells": 8, "window_blocks": 4}
    encoder = {"width": 16, "blocks": 1, "heads": 2, "ffn": 24, "cell_width": 8, "bins": 6, "compute_dtype": "float32"}
    run = {"steps": 6, "log_every": 1, "eval_every": 3, "eval_cells": 8, "checkpoint_every": 3}
    optimizer = {"learning_rate": 1e-2, "warmup_steps": 2}
    config = build_config({"data": data, "encoder": encoder, "run": run, "optimizer": optimizer})
    train(config, folder / "run", quiet=True)
    return Trained(folder / "cells.h5ad", folder / "corpus", config, folder / "run")


@pytest.fixture
def snapshot():
    """A function (folder) -> {path: bytes, or None for a folder} of all below it, to see that nothing was written."""

    def everything(folder: Path) -> dict[Path, bytes | None]:
        return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}

    return everything
