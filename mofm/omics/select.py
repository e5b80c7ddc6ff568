"""Some rows of a stored matrix, in any order, streamed in bounded memory.

The modalities of a paired file need not list their cells in one order, and a corpus needs them to. Rows that are
wanted in the order of the file are picked out while it streams. Any other order goes through a scratch file on disk
(`transpose.py` has its cost), and the matrix is then read twice.
"""

from collections.abc import Iterator

import numpy as np
import scipy.sparse

from mofm.omics.hdf5 import dtype_read
from mofm.omics.matrices import MAX_BLOCK_ROWS, StoredMatrix, StoredRows
from mofm.omics.transpose import ColumnSlab, RowScratch


class SelectedMatrix(StoredMatrix):
    """Rows of another matrix. Closing it leaves the other open.

    Args:
      matrix: where the rows are.
      wanted: int64, the row of `matrix` that each row of this one is; none twice.
    """

    def __init__(self, matrix: StoredMatrix, wanted: np.ndarray):
        super().__init__(matrix.path, matrix.name, (len(wanted), matrix.shape[1]), matrix.dtype, matrix.n_stored)
        self.layout, self._matrix, self._wanted = matrix.layout, matrix, wanted

    def rows(self, block_entries: int) -> Iterator[StoredRows]:
        """The rows in the order wanted."""
        if (np.diff(self._wanted) > 0).all():
            yield from self._in_order(block_entries)
        else:
            yield from self._in_any_order(block_entries)

    def _in_order(self, block_entries: int) -> Iterator[StoredRows]:
        first = 0
        for rows in self._matrix.rows(block_entries):
            last = first + len(rows.indptr_N) - 1
            low, high = np.searchsorted(self._wanted, [first, last])
            if high > low:
                yield pick(rows, self._wanted[low:high] - first)
            first = last

    def _in_any_order(self, block_entries: int) -> Iterator[StoredRows]:
        if self._scratch is None or self._scratch.block_entries != block_entries:
            self.close()
            self._scratch = RowScratch(
                lambda with_values: self._slabs(block_entries, with_values),
                n_rows=len(self._wanted),
                n_entries=self.n_stored,
                value_dtype=dtype_read(self.dtype),
                block_entries=block_entries,
                max_rows=MAX_BLOCK_ROWS,
            )
        for indptr_N, indices, values in self._scratch.rows():
            yield StoredRows(indptr_N, indices, values)

    def _slabs(self, block_entries: int, with_values: bool) -> Iterator[ColumnSlab]:
        place_N = np.full(self._matrix.shape[0], -1)
        place_N[self._wanted] = np.arange(len(self._wanted))
        first = 0
        for rows in self._matrix.rows(block_entries):
            n_rows = len(rows.indptr_N) - 1
            place = place_N[first : first + n_rows]
            kept = np.flatnonzero(place >= 0)
            rows, first = pick(rows, kept), first + n_rows
            matrix = scipy.sparse.csr_array((rows.values, rows.indices, rows.indptr_N), (len(kept), self.shape[1]))
            by_column = matrix.tocsc()
            values = by_column.data if with_values else None
            yield ColumnSlab(0, by_column.indptr, place[kept][by_column.indices], values)

    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        """As of the whole matrix."""
        return self._matrix.sample()


def pick(rows: StoredRows, which: np.ndarray) -> StoredRows:
    """The rows of these numbers, ascending."""
    if len(which) == len(rows.indptr_N) - 1:
        return rows
    lengths = np.diff(rows.indptr_N)
    kept = np.zeros(len(lengths), bool)
    kept[which] = True
    entries = np.repeat(kept, lengths)
    indptr_N = np.concatenate([[0], np.cumsum(lengths[which])]).astype(np.int64)
    return StoredRows(indptr_N, rows.indices[entries], rows.values[entries])


def in_step(left: Iterator[StoredRows], right: Iterator[StoredRows]) -> Iterator[tuple[StoredRows, StoredRows]]:
    """Blocks of two matrices of equally many rows, cut again so that each pair holds the same rows."""
    left, right = iter(left), iter(right)
    held: list[StoredRows | None] = [None, None]
    while True:
        for side, blocks in enumerate((left, right)):
            while held[side] is None or len(held[side].indptr_N) == 1:
                held[side] = next(blocks, None)
                if held[side] is None:
                    return
        count = min(len(rows.indptr_N) - 1 for rows in held)
        yield tuple(_cut(rows, 0, count) for rows in held)
        held = [_cut(rows, count, len(rows.indptr_N) - 1) for rows in held]


def _cut(rows: StoredRows, start: int, stop: int) -> StoredRows:
    first, last = int(rows.indptr_N[start]), int(rows.indptr_N[stop])
    return StoredRows(rows.indptr_N[start : stop + 1] - first, rows.indices[first:last], rows.values[first:last])
