"""Eight fake devices for every test that imports jax, and the folder of real data sets."""

import os
from pathlib import Path

import numpy as np
import pytest

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")


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
