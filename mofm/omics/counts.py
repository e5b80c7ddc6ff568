"""From rows as a file holds them to rows of counts: columns chosen, order made canonical, every value checked."""

from collections.abc import Callable

import numpy as np
import scipy.sparse

from mofm.omics.checks import LARGEST_COUNT, BadValue, finite_and_not_negative, smallest_unsigned, whole_counts
from mofm.omics.matrices import StoredRows
from mofm.omics.recover import Recovery, count_ratios, near_whole
from mofm.omics.rows import CountRows


def select_columns(rows: StoredRows, new_column: np.ndarray | None) -> StoredRows:
    """The entries whose column is kept, under its new number.

    Args:
      new_column: int32, one for each stored column: its new number, or -1 for a column left out. None keeps all.
    """
    if new_column is None:
        return rows
    indices = new_column[rows.indices]
    return keep_entries(rows._replace(indices=indices), indices >= 0)


def to_counts(rows: StoredRows) -> CountRows:
    """Rows of counts out of stored counts. Raises `BadValue` with `cell` and `column` set."""
    counts = located(rows, whole_counts)
    indptr_N, indices, counts = canonical(rows._replace(values=counts))
    return CountRows(indptr_N, indices, smallest_unsigned(counts))


def to_recovered_counts(rows: StoredRows) -> CountRows:
    """Rows of counts out of log1p-normalised values. Raises `BadValue` with `cell` and `column` set."""
    indptr_N, indices, ratios = _ratios(rows)
    return CountRows(indptr_N, indices, smallest_unsigned(np.rint(ratios).astype(np.uint32)))


def recovery_of(rows: StoredRows) -> Recovery:
    """How near to counts the log1p-normalised values of these rows come. Raises `BadValue` as above."""
    ratios = _ratios(rows).values
    return Recovery(near_whole(ratios), len(ratios))


def canonical(rows: StoredRows) -> StoredRows:
    """The same rows with columns ascending, repeated entries summed and zeros dropped. int32 indices.

    Raises `BadValue` (with `cell` and `column` set) where a sum of repeated counts passes 2**32 - 1.
    """
    rows = rows._replace(indices=rows.indices.astype(np.int32, copy=False))
    if not _ascending(rows.indptr_N, rows.indices):
        exact = rows.values.astype(np.uint64 if rows.values.dtype.kind == "u" else np.float64)
        width = int(rows.indices.max()) + 1
        summed = scipy.sparse.csr_array((exact, rows.indices.copy(), rows.indptr_N), (len(rows.indptr_N) - 1, width))
        summed.sum_duplicates()
        rows = StoredRows(summed.indptr.astype(np.int64), summed.indices.astype(np.int32, copy=False), summed.data)
        located(rows, _fits)
    zero = rows.values == 0
    return keep_entries(rows, ~zero) if zero.any() else rows


def _ratios(rows: StoredRows) -> StoredRows:
    located(rows, finite_and_not_negative)
    rows = canonical(rows)
    return rows._replace(values=located(rows, lambda values: count_ratios(rows.indptr_N, values)))


def _fits(values: np.ndarray) -> None:
    if values.max(initial=0) > LARGEST_COUNT:
        position = int(np.argmax(values))
        raise BadValue(position, f"{values[position]} (the sum of repeated entries), above {LARGEST_COUNT:,}")


def sort_columns(rows: StoredRows) -> StoredRows:
    """The same rows with columns ascending, zeros kept. Raises `BadValue` where a column is there twice in a row."""
    rows = rows._replace(indices=rows.indices.astype(np.int32, copy=False))
    if _ascending(rows.indptr_N, rows.indices):
        return rows
    row = np.repeat(np.arange(len(rows.indptr_N) - 1), np.diff(rows.indptr_N))
    order = np.lexsort((rows.indices, row))
    rows = StoredRows(rows.indptr_N, rows.indices[order], rows.values[order])
    twice = (np.diff(row) == 0) & (np.diff(rows.indices) == 0)
    if twice.any():
        located(rows, lambda values: _refuse(int(np.argmax(twice)), values))
    return rows


def _refuse(position: int, values: np.ndarray) -> None:
    raise BadValue(position, f"{values[position]:.6g} and another value in the same place", "write the file again")


def located(rows: StoredRows, check: Callable[[np.ndarray], np.ndarray | None]):
    """`check(rows.values)`, its `BadValue` saying which cell and column of `rows` it concerns."""
    try:
        return check(rows.values)
    except BadValue as bad:
        bad.cell = int(np.searchsorted(rows.indptr_N, bad.position, side="right")) - 1
        bad.column = int(rows.indices[bad.position])
        raise


def _ascending(indptr_N: np.ndarray, indices: np.ndarray) -> bool:
    rising = indices[1:] > indices[:-1]
    starts = indptr_N[1:-1]
    rising[starts[(starts > 0) & (starts < len(indices))] - 1] = True
    return bool(rising.all())


def keep_entries(rows: StoredRows, kept: np.ndarray) -> StoredRows:
    """The rows with only the entries where `kept` (bool) is true."""
    before = np.concatenate([[0], np.cumsum(kept, dtype=np.int64)])
    return StoredRows(before[rows.indptr_N], rows.indices[kept], rows.values[kept])
