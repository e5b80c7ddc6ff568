"""Methylated and total reads come out of every form in which labs keep them; what cannot be methylation is told."""

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from mofm.errors import InputError
from mofm.omics.readers import Reading, open_tables

N_CELLS, N_REGIONS = 37, 23
NAMES = [f"chr{1 + i % 5}:{i * 1000}-{i * 1000 + 500}" for i in range(N_REGIONS)]
AS = {
    "csr": scipy.sparse.csr_matrix,
    "csc": scipy.sparse.csc_matrix,
    "dense": np.asarray,
}


@pytest.fixture
def reads() -> tuple[np.ndarray, np.ndarray]:
    """(total, methylated): no read at most places, some read and unmethylated, a cell without any, one count of 300."""
    rng = np.random.default_rng(0)
    total = rng.poisson(3.0, (N_CELLS, N_REGIONS)) * (rng.random((N_CELLS, N_REGIONS)) < 0.5)
    total[4], total[9, 0] = 0, 300
    return total, rng.binomial(total, 0.4)


def write(path, matrix, layers=None):
    obs = pd.DataFrame(index=[f"cell-{i}" for i in range(N_CELLS)])
    adata = ad.AnnData(matrix, obs, pd.DataFrame(index=NAMES))
    for name, layer in (layers or {}).items():
        adata.layers[name] = layer
    adata.write_h5ad(path)
    return path


def fractions_of(total, methylated) -> np.ndarray:
    """NaN where there is no read."""
    with np.errstate(invalid="ignore"):
        return (methylated / total).astype(np.float32)


def sparse_fractions(fractions: np.ndarray) -> scipy.sparse.csr_matrix:
    """Stored where measured, a measured 0 as an explicit zero."""
    rows, columns = np.nonzero(~np.isnan(fractions))
    return scipy.sparse.csr_matrix((fractions[rows, columns], (rows, columns)), fractions.shape)


def refusal(path, **options) -> str:
    with pytest.raises(InputError) as caught, open_tables(path, Reading(**options)) as tables:
        list(tables[0].rows(50))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("block_entries", [20, 4_000_000])
@pytest.mark.parametrize("layouts", [("csr", "csr"), ("csc", "csr"), ("dense", "csc"), ("csr", "dense")])
@pytest.mark.parametrize("names", [("total", "methylated"), ("cov", "mc"), ("X", "methylated")])
def test_reads_in_layers(tmp_path, reads, dense_rows, names, layouts, block_entries):
    total, methylated = (AS[how](matrix.astype(np.float32)) for how, matrix in zip(layouts, reads, strict=True))
    x = total if names[0] == "X" else scipy.sparse.csr_matrix(reads[0].shape, dtype=np.float32)
    layers = {names[1]: methylated} | ({} if names[0] == "X" else {names[0]: total})
    with open_tables(write(tmp_path / "a.h5ad", x, layers)) as (table,):
        assert table.modality == "methylation"
        assert table.counts_from == (names[0] if names[0] == "X" else f"layers/{names[0]}")
        assert table.hits_from == f"layers/{names[1]}"
        counts, hits = dense_rows(table, block_entries)
        np.testing.assert_array_equal(counts, reads[0])
        np.testing.assert_array_equal(hits, reads[1])


@pytest.mark.parametrize("block_entries", [20, 4_000_000])
@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_fractions_alone(tmp_path, reads, dense_rows, form, block_entries):
    fractions = fractions_of(*reads)
    matrix = fractions if form == "dense" else sparse_fractions(fractions)
    with open_tables(write(tmp_path / "a.h5ad", matrix), Reading(modality="methylation")) as (table,):
        counts, hits = dense_rows(table, block_entries)
        np.testing.assert_array_equal(counts, 100 * (reads[0] > 0))
        np.testing.assert_array_equal(hits, np.rint(100 * np.nan_to_num(fractions)))
        assert table.notes[0].startswith("fractions without total reads: each counts as 100 reads")
        assert len(table.notes) == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8])
def test_fractions_of_0_and_1_are_one_read_each(tmp_path, reads, dense_rows, dtype):
    total, called = reads[0] > 0, reads[1] * 2 > reads[0]
    rows, columns = np.nonzero(total)
    if dtype == np.float16:
        matrix = np.where(total, called, np.nan).astype(np.float16)
    else:
        matrix = scipy.sparse.csr_matrix((called[rows, columns].astype(dtype), (rows, columns)), total.shape)
    with open_tables(write(tmp_path / "a.h5ad", matrix), Reading(modality="methylation")) as (table,):
        counts, hits = dense_rows(table)
        np.testing.assert_array_equal(counts, total)
        np.testing.assert_array_equal(hits, called & total)
        assert table.notes == ("fractions are all 0 or 1: each counts as one read",)


def test_whether_all_are_0_or_1_is_not_left_to_a_sample(tmp_path, monkeypatch):
    monkeypatch.setattr("mofm.omics.matrices._SAMPLE_PLACES", 2)
    monkeypatch.setattr("mofm.omics.matrices._SAMPLE_ENTRIES", 10)
    fractions = np.ones((N_CELLS, N_REGIONS), np.float32)
    fractions[20, 10] = 0.5
    path = write(tmp_path / "a.h5ad", scipy.sparse.csr_matrix(fractions))
    with open_tables(path, Reading(modality="methylation")) as (table,):
        assert "each counts as 100 reads" in table.notes[0]
        assert "without a stored 0" in table.notes[1]


@pytest.mark.parametrize("form", ["NaN", "0", "sparse", "sparse without zeros"])
def test_fractions_with_total_reads(tmp_path, reads, dense_rows, form):
    fractions = fractions_of(*reads)
    matrix = {
        "NaN": fractions,
        "0": np.nan_to_num(fractions),
        "sparse": sparse_fractions(fractions),
        "sparse without zeros": scipy.sparse.csr_matrix(np.nan_to_num(fractions)),
    }[form]
    path = write(tmp_path / "a.h5ad", matrix, {"coverage": scipy.sparse.csr_matrix(reads[0])})
    with open_tables(path, Reading(modality="methylation")) as (table,):
        counts, hits = dense_rows(table, 50)
        np.testing.assert_array_equal(counts, reads[0])
        np.testing.assert_array_equal(hits, reads[1])


def test_columns_in_any_order_are_sorted(tmp_path, reads, dense_rows):
    fractions = sparse_fractions(fractions_of(*reads))
    rows, order = np.repeat(np.arange(N_CELLS), np.diff(fractions.indptr)), np.random.default_rng(0)
    order = np.lexsort((order.random(fractions.nnz), rows))
    path = write(tmp_path / "a.h5ad", fractions)
    with h5py.File(path, "r+") as file:
        file["X/indices"][:] = fractions.indices[order]
        file["X/data"][:] = fractions.data[order]
    with open_tables(path, Reading(modality="methylation")) as (table,):
        _, hits = dense_rows(table)
        np.testing.assert_array_equal(hits, np.rint(100 * np.nan_to_num(fractions_of(*reads))))
    with h5py.File(path, "r+") as file:
        indices = fractions.indices.copy()
        indices[1] = indices[0]
        file["X/indices"][:] = indices
        file["X/data"][:] = fractions.data
    assert "another value in the same place" in refusal(path, modality="methylation")


# --- what is wrong is told ---


@pytest.mark.parametrize("bad", [1.5, -0.1, 73.0, np.inf])
@pytest.mark.parametrize("seen", [True, False])
def test_fractions_out_of_range(tmp_path, reads, monkeypatch, bad, seen):
    if not seen:
        monkeypatch.setattr("mofm.omics.matrices._SAMPLE_PLACES", 2)
        monkeypatch.setattr("mofm.omics.matrices._SAMPLE_ENTRIES", 5)
    fractions = fractions_of(*reads)
    fractions[20, 11] = bad
    matrix = sparse_fractions(fractions)
    line = refusal(write(tmp_path / "a.h5ad", matrix), modality="methylation")
    assert f"holds {bad:.6g}, no fraction" in line
    assert "fractions from 0 to 1" in line
    assert seen or f"cell 'cell-20' (row 20), feature '{NAMES[11]}'" in line


@pytest.mark.parametrize(("methylated", "words"), [(9, "9 methylated of 8 reads"), (1, "where no read was counted")])
def test_more_methylated_reads_than_reads(tmp_path, reads, methylated, words):
    total, hits = (matrix.astype(np.float32) for matrix in reads)
    total[20, 11], hits[20, 11] = (8 if methylated == 9 else 0), methylated
    path = write(tmp_path / "a.h5ad", scipy.sparse.csr_matrix(total), {"methylated": scipy.sparse.csr_matrix(hits)})
    line = refusal(path)
    assert words in line
    assert f"cell 'cell-20' (row 20), feature '{NAMES[11]}'" in line
    assert "check which layer is which" in line


def test_parts_that_are_missing(tmp_path, reads):
    total, hits = (scipy.sparse.csr_matrix(matrix.astype(np.float32)) for matrix in reads)
    path = write(tmp_path / "a.h5ad", None, {"methylated": hits})
    assert "layers/methylated has no total reads beside it" in refusal(path, modality="methylation")
    path = write(tmp_path / "b.h5ad", None, {"total": total})
    assert "no methylated ones beside it" in refusal(path, modality="methylation")
    fractions = np.where(np.isnan(fractions_of(*reads)), 0.5, np.nan).astype(np.float32)
    path = write(tmp_path / "c.h5ad", fractions, {"total": total})
    assert "no fraction (NaN) where reads were counted" in refusal(path, modality="methylation")
