"""Columns of one gene are summed as a dense matrix would sum them, however they lie, and never past what is stored."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mofm.omics.features import merge_columns
from mofm.omics.merge import ColumnMerger, CountOverflowError
from mofm.omics.rows import CountRows

DTYPES = (np.uint8, np.uint16, np.uint32)


def rows_of(dense: np.ndarray, dtype: np.dtype) -> CountRows:
    matrix = scipy.sparse.csr_array(dense)
    return CountRows(matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), matrix.data.astype(dtype))


def dense_of(rows: CountRows, n_columns: int) -> np.ndarray:
    """The rows as a dense matrix; what `CountRows` promises is asserted on the way."""
    assert rows.indptr_N.dtype == np.int64
    assert rows.indptr_N[0] == 0
    assert rows.indptr_N[-1] == len(rows.indices) == len(rows.data)
    assert (rows.data > 0).all()
    dense = np.zeros((rows.n_cells, n_columns), np.int64)
    for cell, (start, stop) in enumerate(zip(rows.indptr_N[:-1], rows.indptr_N[1:], strict=True)):
        assert (np.diff(rows.indices[start:stop].astype(np.int64)) > 0).all()
        dense[cell, rows.indices[start:stop]] = rows.data[start:stop]
    return dense


def summed(dense: np.ndarray, column_to_unique: np.ndarray, n_unique: int) -> np.ndarray:
    one_hot = np.eye(n_unique, dtype=np.int64)[column_to_unique]
    return dense @ one_hot


@st.composite
def counts_and_names(draw):
    """Counts that are mostly zero, and a gene name for each column, few names for many columns."""
    n_columns = draw(st.integers(1, 12))
    names = draw(st.lists(st.sampled_from("abcdefgh"), min_size=n_columns, max_size=n_columns))
    dtype = draw(st.sampled_from(DTYPES))
    values = st.one_of(st.just(0), st.integers(0, 3), st.integers(0, np.iinfo(dtype).max // 16))
    return draw(arrays(np.int64, (draw(st.integers(0, 6)), n_columns), elements=values)), names, dtype


@given(counts_and_names())
@example((np.zeros((3, 4), np.int64), list("abab"), np.uint8))
@example((np.array([[255, 255, 255, 255]]), list("aaaa"), np.uint8))
@example((np.array([[0, 0, 7], [0, 5, 0], [1, 0, 0]]), list("aba"), np.uint8))
@settings(max_examples=300, deadline=None)
def test_columns_are_summed_as_in_a_dense_matrix(drawn):
    dense, names, dtype = drawn
    unique, column_to_unique = merge_columns(names)
    before = rows_of(dense, dtype)
    kept = [array.copy() for array in before[:3]]
    merged = ColumnMerger(column_to_unique)(before)
    np.testing.assert_array_equal(dense_of(merged, len(unique)), summed(dense, column_to_unique, len(unique)))
    for array, copy in zip(before[:3], kept, strict=True):
        np.testing.assert_array_equal(array, copy)


@given(counts_and_names(), st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_how_cells_are_cut_into_blocks_does_not_matter(drawn, size):
    dense, names, dtype = drawn
    unique, column_to_unique = merge_columns(names)
    merge = ColumnMerger(column_to_unique)
    parts = [merge(rows_of(dense[start : start + size], dtype)) for start in range(0, len(dense), size)]
    pieces = [dense_of(part, len(unique)) for part in parts] or [np.zeros((0, len(unique)), np.int64)]
    np.testing.assert_array_equal(np.concatenate(pieces), summed(dense, column_to_unique, len(unique)))


def test_columns_that_are_all_different_are_passed_through():
    rows = rows_of(np.array([[0, 3], [2, 1]]), np.uint8)
    assert ColumnMerger(np.arange(2, dtype=np.int32))(rows) is rows


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_large_block_is_summed_like_a_dense_one(dtype):
    rng = np.random.default_rng(0)
    dense = rng.integers(0, np.iinfo(dtype).max // 64, (300, 200)) * (rng.random((300, 200)) < 0.3)
    unique, column_to_unique = merge_columns([f"gene{name}" for name in rng.integers(0, 120, 200)])
    merged = ColumnMerger(column_to_unique)(rows_of(dense, dtype))
    np.testing.assert_array_equal(dense_of(merged, len(unique)), summed(dense, column_to_unique, len(unique)))


def test_float_counts_are_summed():
    dense = np.array([[1, 0, 70_000], [0, 0, 2], [3, 4, 5]])
    merged = ColumnMerger(np.array([0, 1, 0], np.int32))(rows_of(dense, np.float32))
    np.testing.assert_array_equal(dense_of(merged, 2), [[70_001, 0], [2, 0], [8, 4]])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sum_gets_the_room_that_it_needs(dtype):
    """uint32 needs none more: see the next test."""
    most = int(np.iinfo(dtype).max) // (2 if dtype == np.uint32 else 1)
    merged = ColumnMerger(np.zeros(2, np.int32))(rows_of(np.array([[most, most]]), dtype))
    assert merged.data.tolist() == [2 * most]


def test_the_largest_count_that_is_stored_is_the_last_that_passes():
    merge = ColumnMerger(np.zeros(3, np.int32))
    assert merge(rows_of(np.array([[2**32 - 2, 1, 0]]), np.uint32)).data.tolist() == [2**32 - 1]
    for parts in ([2**32 - 2, 1, 1], [0, 2**32 - 1, 1], [2**32 - 1] * 3):
        with pytest.raises(CountOverflowError) as caught:
            merge(rows_of(np.array([[1, 0, 0], parts]), np.uint32))
        assert caught.value.total == sum(parts)
        assert f"{sum(parts):,}" in str(caught.value)


@given(counts_and_names())
@settings(max_examples=100, deadline=None)
def test_methylated_reads_are_summed_with_their_totals(drawn):
    dense, names, dtype = drawn
    unique, column_to_unique = merge_columns(names)
    rows = rows_of(dense, dtype)
    merged = ColumnMerger(column_to_unique)(rows._replace(hits=rows.data // 2))
    ones = dense_of(merged._replace(data=np.ones_like(merged.data)), len(unique))
    halves = dense_of(merged._replace(data=merged.hits.astype(np.int64) + 1), len(unique)) - ones
    np.testing.assert_array_equal(dense_of(merged, len(unique)), summed(dense, column_to_unique, len(unique)))
    np.testing.assert_array_equal(halves, summed(dense // 2, column_to_unique, len(unique)))
