"""Rows out of a CSC matrix of any size, in bounded memory: an external transposition through one scratch file.

A column-compressed matrix has each cell's counts strewn over the whole file. They are regrouped in two passes:

1. `indices` alone is read, and entries are counted for each row. Rows are then cut into bands of at most
   `block_entries` entries, and each band gets its place in the scratch file, sized exactly.
2. Slabs of `block_entries` entries are read, sorted by row in memory, and each band's part appended to its place.
   Bands are then read back one by one, sorted by row (stable, so that columns stay in order), and given out.

The cost: `indices` is read twice and `data` once; the scratch file in the temporary folder (TMPDIR) takes 8 bytes and
a value for each entry (48 GB for 4 billion float32 entries), and is written and read once for each block size;
memory is about 60 bytes an entry of a block plus 16 bytes a cell, whatever the number of entries.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import scipy.sparse

from mofm.errors import InputError


class ColumnSlab(NamedTuple):
    """Consecutive entries of a CSC matrix; its first and last column may be parts of columns.

    Attributes:
      first_column: column of the first entry.
      indptr: where each of the slab's columns begins in it, and one more.
      rows: row of each entry, in range.
      values: the numbers, or None where only rows are asked for.
    """

    first_column: int
    indptr: np.ndarray
    rows: np.ndarray
    values: np.ndarray | None


def spans(indptr_N: np.ndarray, block_entries: int, max_rows: int | None = None) -> Iterator[tuple[int, int]]:
    """Cuts rows into runs [first, last) of at most `block_entries` entries and `max_rows` rows, never less than one."""
    n_rows, first = len(indptr_N) - 1, 0
    while first < n_rows:
        last = int(np.searchsorted(indptr_N, indptr_N[first] + block_entries, side="right")) - 1
        last = min(max(last, first + 1), n_rows, first + (max_rows or n_rows))
        yield first, last
        first = last


class RowScratch:
    """The entries of a CSC matrix regrouped by bands of rows in a temporary file, which `close` deletes.

    Args:
      slabs: gives all slabs in order, with values or without; called twice.
      n_rows, n_entries: of the whole matrix.
      value_dtype: of the slabs' values.
      block_entries: entries a band may hold (a longer row is a band of its own).
      max_rows: rows a band may hold.

    Raises:
      InputError: the temporary folder has no room.
    """

    def __init__(
        self,
        slabs: Callable[[bool], Iterable[ColumnSlab]],
        n_rows: int,
        n_entries: int,
        value_dtype: np.dtype,
        block_entries: int,
        max_rows: int,
    ):
        self.block_entries = block_entries
        self._entry = np.dtype([("row", np.uint32), ("column", np.uint32), ("value", value_dtype)])
        lengths_N = np.zeros(n_rows, np.int64)
        for slab in slabs(False):
            lengths_N += np.bincount(slab.rows, minlength=n_rows)
        self._indptr_N = np.concatenate([[0], np.cumsum(lengths_N)])
        self._bands = list(spans(self._indptr_N, block_entries, max_rows))
        _check_room(n_entries * self._entry.itemsize)
        self._file = tempfile.TemporaryFile(prefix="mofm-transpose-")  # noqa: SIM115 (it lives until `close`)
        try:
            self._fill(slabs)
        except BaseException:
            self.close()
            raise

    def _fill(self, slabs: Callable[[bool], Iterable[ColumnSlab]]) -> None:
        edges = np.array([first for first, _ in self._bands] + [len(self._indptr_N) - 1])
        filled = self._indptr_N[edges[:-1]].copy()
        for slab in slabs(True):
            entries, band_ptr = self._sorted_by_row(slab, edges)
            for band in np.flatnonzero(np.diff(band_ptr)):
                part = entries[band_ptr[band] : band_ptr[band + 1]]
                self._write(int(filled[band]), part)
                filled[band] += len(part)

    def _sorted_by_row(self, slab: ColumnSlab, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A slab's entries in the order of rows, and where each band begins among them."""
        shape = (len(self._indptr_N) - 1, len(slab.indptr) - 1)
        by_row = scipy.sparse.csc_array((slab.values, slab.rows, slab.indptr), shape=shape).tocsr()
        entries = np.empty(by_row.nnz, self._entry)
        entries["row"] = np.repeat(np.arange(shape[0], dtype=np.uint32), np.diff(by_row.indptr))
        entries["column"] = by_row.indices
        entries["column"] += np.uint32(slab.first_column)
        entries["value"] = by_row.data
        return entries, by_row.indptr[edges]

    def _write(self, place: int, entries: np.ndarray) -> None:
        try:
            self._file.seek(place * self._entry.itemsize)
            self._file.write(entries.view(np.uint8).data)
        except OSError as error:
            raise InputError(
                f"the scratch file of a CSC matrix cannot be written in {tempfile.gettempdir()} ({error}); "
                "set TMPDIR to a folder with more room"
            ) from error

    def rows(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(indptr int64 from 0, column of each entry, values) of each band in the order of rows."""
        for first, last in self._bands:
            indptr_N = self._indptr_N[first : last + 1]
            count = int(indptr_N[-1] - indptr_N[0])
            self._file.seek(int(indptr_N[0]) * self._entry.itemsize)
            entries = np.frombuffer(self._file.read(count * self._entry.itemsize), self._entry)
            order = _stable_order(entries["row"] - np.uint32(first), last - first)
            yield indptr_N - indptr_N[0], entries["column"][order].astype(np.int32), entries["value"][order]

    def close(self) -> None:
        """Deletes the scratch file."""
        self._file.close()


def _stable_order(rows: np.ndarray, n_rows: int) -> np.ndarray:
    """Stable argsort of small whole numbers in linear time: scipy's compiled CSC -> CSR is a counting sort."""
    positions = np.arange(len(rows) + 1, dtype=np.int32)
    one_a_column = scipy.sparse.csc_array((positions[:-1], rows.astype(np.int32), positions), (n_rows, len(rows)))
    return one_a_column.tocsr().indices


def _check_room(n_bytes: int) -> None:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise InputError(
            f"a CSC matrix needs {n_bytes / 1e9:,.1f} GB of scratch space in {folder}, which has {free / 1e9:,.1f} GB; "
            "set TMPDIR to a larger folder, or save the file as CSR with adata.X = adata.X.tocsr()"
        )
