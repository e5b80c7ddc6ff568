"""From rows of counts to a batch of rows of counts: whole cells for models that want no tokens, such as linear ones.

A batch is CSR in the model's features of a modality, so datasets with different columns stand in one matrix. The entries
of a cell are in the order of its file. The copying is compiled and holds no interpreter lock, as tokenising does.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numba
import numpy as np

from mofm.batches.kernel import SOUND, compiled
from mofm.errors import InputError
from mofm.omics.rows import CountRows


class CountBatch(NamedTuple):
    """Whole cells of one modality.

    Attributes:
      indptr_B: int64, B + 1. The entries of cell i are those from indptr_B[i] to indptr_B[i + 1].
      features: int32, one an entry: its row among the model's features of the modality, as in `TokenBatch.features_BL`.
      counts: one an entry, uint8, uint16 or uint32: the widest that a store of the batch has. Methylation: reads.
      hits: the methylated ones of them, of the same type; None for other modalities.
      cell_B, dataset_B: int32, as in `TokenBatch`. -1 where there is no cell.
    """

    indptr_B: np.ndarray
    features: np.ndarray
    counts: np.ndarray
    hits: np.ndarray | None
    cell_B: np.ndarray
    dataset_B: np.ndarray


class Part(NamedTuple):
    """Cells `which` of `rows`, to be rows `places` of the batch; `rows_G` is the feature of each of their columns."""

    rows: CountRows
    which: np.ndarray
    places: np.ndarray
    rows_G: np.ndarray
    dataset: int
    where: str


def gather(parts: Sequence[Part], cell_B: np.ndarray, make: Callable[..., np.ndarray] = np.empty) -> CountBatch:
    """A batch of cells that lie in several matrices of one modality.

    Args:
      cell_B: integer, their global indices.
      make: gives an array of a shape and a dtype.

    Raises:
      InputError: an entry is in a column that its dataset does not have.
    """
    cells = len(cell_B)
    lengths_B, dataset_B = np.zeros(cells, np.int64), np.full(cells, -1, np.int32)
    for part in parts:
        lengths_B[part.places] = part.rows.indptr_N[part.which + 1] - part.rows.indptr_N[part.which]
        dataset_B[part.places] = part.dataset
    indptr_B = np.concatenate([[0], np.cumsum(lengths_B)])
    dtype = np.result_type(np.uint8, *{part.rows.data.dtype for part in parts})
    has_hits = any(part.rows.hits is not None for part in parts)
    features, counts = make((int(indptr_B[-1]),), np.int32), make((int(indptr_B[-1]),), dtype)
    hits = make((int(indptr_B[-1]),), dtype) if has_hits else counts
    for part in parts:
        rows = part.rows
        of_rows = rows.indptr_N, rows.indices, rows.data, rows.data if rows.hits is None else rows.hits
        bad = _copy(*of_rows, part.which, part.rows_G, has_hits, indptr_B, part.places, features, counts, hits)
        if bad != SOUND:
            raise InputError(
                f"{part.where}: an entry is in column {bad}, of {len(part.rows_G)}; the store is damaged, ingest its file again"
            )
    cell_B = np.where(dataset_B < 0, -1, cell_B).astype(np.int32)
    return CountBatch(indptr_B, features, counts, hits if has_hits else None, cell_B, dataset_B)


@compiled
def _copy(indptr, indices, data, hits, which, rows_G, has_hits, indptr_B, places, features, counts, hits_out):
    """Returns SOUND, or a column that does not exist."""
    n_columns = len(rows_G)
    for i in range(len(which)):
        first, last, to = indptr[which[i]], indptr[which[i] + 1], indptr_B[places[i]]
        columns, worst = indices[first:last], numba.int64(0)
        for entry in range(len(columns)):
            worst = max(worst, numba.int64(columns[entry]))
        if worst >= n_columns:
            return worst
        for entry in range(len(columns)):
            features[to + entry] = rows_G[columns[entry]]
            counts[to + entry] = data[first + entry]
        if has_hits:
            for entry in range(len(columns)):
                hits_out[to + entry] = hits[first + entry]
    return SOUND
