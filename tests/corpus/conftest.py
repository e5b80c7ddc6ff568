"""h5ad files of random counts whose truth is known, and what a corpus on disk consists of."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from mofm.omics.genome import gene_table


@pytest.fixture(scope="session")
def gene_ids():
    """The first 500 Ensembl ids of the human gene table."""
    return gene_table("human").gene_ids[:500]


@pytest.fixture(scope="session")
def draw_counts():
    """A function (cells, genes, seed, largest) -> dense counts with an empty cell, an empty gene and a full cell."""

    def draw(cells: int, genes: int, seed: int = 0, largest: int = 300) -> np.ndarray:
        rng = np.random.default_rng(seed)
        counts = rng.poisson(2.0, (cells, genes)) * (rng.random((cells, genes)) < 0.3)
        counts[cells // 2], counts[:, 1] = 0, 0
        counts[cells // 3] += 1
        counts[-1, 0] = largest
        return counts

    return draw


@pytest.fixture(scope="session")
def write_h5ad():
    """A function (path, dense counts, gene names, prefix of the cell names) -> path."""

    def write(path, counts, names, prefix: str = "cell"):
        n_cells = len(counts)
        obs = pd.DataFrame(
            {"label": pd.Categorical(["T cell", "B cell"] * n_cells)[:n_cells], "score": np.linspace(0, 1, n_cells)},
            index=[f"{prefix}-{i}" for i in range(n_cells)],
        )
        var = pd.DataFrame(index=list(names))
        anndata.AnnData(scipy.sparse.csr_matrix(counts.astype(np.float32)), obs, var).write_h5ad(path)
        return path

    return write


@pytest.fixture(scope="session")
def content():
    """A function (folder) -> path in the folder of every file and folder below it, and the files' bytes."""

    def read(folder) -> dict[str, bytes | None]:
        paths = sorted(folder.rglob("*"))
        return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}

    return read
