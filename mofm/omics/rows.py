"""Rows of counts: the one shape in which cells travel through the host wing, from file to corpus to tokens."""

from typing import NamedTuple

import numpy as np


class CountRows(NamedTuple):
    """Consecutive cells as compressed sparse rows.

    Attributes:
      indptr_N: int64, one longer than the number of cells, first entry 0. Cell i's entries are
        `indptr_N[i]:indptr_N[i + 1]`.
      indices: integer. Column (feature) of each entry: ascending and unique in each cell.
      data: integer counts (or float32 that holds whole numbers), all > 0. Methylation: the total reads.
      hits: methylation alone: the methylated ones among the reads of each entry, 0 <= hits <= data, zeros kept. None
        for every other modality.
    """

    indptr_N: np.ndarray
    indices: np.ndarray
    data: np.ndarray
    hits: np.ndarray | None = None

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.indptr_N) - 1


def take_cells(rows: CountRows, start: int, stop: int) -> CountRows:
    """Cells `start` to `stop`: views of the same arrays, nothing is copied but the pointers."""
    first, last = rows.indptr_N[start], rows.indptr_N[stop]
    hits = None if rows.hits is None else rows.hits[first:last]
    return CountRows(rows.indptr_N[start : stop + 1] - first, rows.indices[first:last], rows.data[first:last], hits)
