"""Rows of counts: the one shape in which cells travel through the host wing, from file to corpus to tokens."""

from collections.abc import Sequence
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
      lost_N: bool. Cells that a damaged corpus no longer has (see `mofm.corpus.store.open_corpus`); their rows are empty.
        None where all are there, as in every file.
    """

    indptr_N: np.ndarray
    indices: np.ndarray
    data: np.ndarray
    hits: np.ndarray | None = None
    lost_N: np.ndarray | None = None

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.indptr_N) - 1


def take_cells(rows: CountRows, start: int, stop: int) -> CountRows:
    """Cells `start` to `stop`: views of the same arrays, nothing is copied but the pointers."""
    first, last = rows.indptr_N[start], rows.indptr_N[stop]
    hits = None if rows.hits is None else rows.hits[first:last]
    lost_N = None if rows.lost_N is None else rows.lost_N[start:stop]
    indptr_N = rows.indptr_N[start : stop + 1] - first
    return CountRows(indptr_N, rows.indices[first:last], rows.data[first:last], hits, lost_N)


def join_rows(parts: Sequence[CountRows]) -> CountRows:
    """The cells of several rows of one store, one behind the other: copied. At least one."""
    counts = np.concatenate([np.diff(part.indptr_N) for part in parts])
    lost = [np.zeros(part.n_cells, bool) if part.lost_N is None else part.lost_N for part in parts]
    return CountRows(
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        np.concatenate([part.indices for part in parts]),
        np.concatenate([part.data for part in parts]),
        None if parts[0].hits is None else np.concatenate([part.hits for part in parts]),
        np.concatenate(lost) if any(part.lost_N is not None for part in parts) else None,
    )
