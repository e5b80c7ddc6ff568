"""Columns of one gene summed, in rows that stay sorted.

Most files named by symbols have a few such columns, so every block of counts comes through here. Sorting the rows anew
would cost several times what reading them does. But few entries move: they are taken out, and each is added to the
entry that its row has in the new column, found by bisection, or put in where there is none.
"""

import numpy as np

from mofm.omics.rows import CountRows


class CountOverflowError(Exception):
    """A sum of counts passes 2**32 - 1. `total` is the sum."""

    def __init__(self, total: int):
        super().__init__(f"counts of one gene sum to {total:,}")
        self.total = total


class ColumnMerger:
    """Renumbers columns and sums those that get one number.

    Args:
      column_to_unique: int32, the new number of each column: numbered in the order of first appearance, as
        `merge_columns` does. Columns but the first of their number are the ones whose entries move.
    """

    def __init__(self, column_to_unique: np.ndarray):
        self._new = column_to_unique
        self._moves = np.ones(len(column_to_unique), bool)
        self._moves[np.unique(column_to_unique, return_index=True)[1]] = False
        self._any = bool(self._moves.any())

    def __call__(self, rows: CountRows) -> CountRows:
        """The rows with columns renumbered and summed. Raises `CountOverflowError`."""
        if not self._any:
            return rows
        merged = self._merge(rows)
        if rows.hits is None:
            return merged
        # Where an entry goes depends on columns alone, so the hits come out in the places of their totals.
        return merged._replace(hits=self._merge(rows._replace(data=rows.hits)).data)

    def _merge(self, rows: CountRows) -> CountRows:
        moves = self._moves[rows.indices]
        at = np.flatnonzero(moves)
        row = np.searchsorted(rows.indptr_N, at, side="right") - 1
        row, column, counts = _sum_repeats(row, self._new[rows.indices[at]], rows.data[at])
        indptr_N = rows.indptr_N - np.searchsorted(at, rows.indptr_N)
        indices, data = self._new[rows.indices[~moves]], rows.data[~moves]
        place = _bisect(indices, indptr_N[row], indptr_N[row + 1], column)
        found = place < indptr_N[row + 1]
        found[found] = indices[place[found]] == column[found]
        sums = counts.copy()
        sums[found] += data[place[found]].astype(np.uint64)
        if sums.max(initial=0) >= 2**32:
            raise CountOverflowError(int(sums.max()))
        data = data.astype(np.promote_types(data.dtype, np.min_scalar_type(sums.max(initial=0))), copy=False)
        data[place[found]] = sums[found]
        absent = ~found
        indices = np.insert(indices, place[absent], column[absent])
        data = np.insert(data, place[absent], sums[absent].astype(data.dtype))
        indptr_N = indptr_N + np.searchsorted(row[absent], np.arange(len(indptr_N)))
        return CountRows(indptr_N, indices, data)


def _sum_repeats(row: np.ndarray, column: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Entries ordered by row and column, with those of one row and column summed. Counts are uint64."""
    order = np.lexsort((column, row))
    row, column = row[order], column[order]
    first = np.flatnonzero(np.r_[True, (np.diff(row) != 0) | (np.diff(column) != 0)][: len(row)])
    sums = np.add.reduceat(counts[order].astype(np.uint64), first) if len(first) else np.zeros(0, np.uint64)
    return row[first], column[first], sums


def _bisect(values: np.ndarray, low: np.ndarray, high: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """For each of `wanted`, the first place in values[low:high] (ascending) that is not below it; `high` if none."""
    low, high = low.copy(), high.copy()
    while (open_ := low < high).any():
        middle = (low + high) // 2
        below = open_ & (values[np.where(open_, middle, 0)] < wanted)
        low = np.where(below, middle + 1, low)
        high = np.where(open_ & ~below, middle, high)
    return low
