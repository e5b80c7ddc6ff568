"""From rows of counts to a batch of rows of counts: whole cells for models that want no tokens, such as linear ones.

A batch is CSR in the model's features of a modality, so datasets with different columns stand in one matrix. The entries
of a cell are in the order of its file. The copying is compiled and holds no interpreter lock, as tokenising does.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mofm.batches.collate import KnownFeatures
from mofm.batches.entries import widen
from mofm.batches.kernel import SOUND, compiled


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


def gather(
    cells_B: np.ndarray, known: KnownFeatures, index_B: np.ndarray, make: Callable[..., np.ndarray] = np.empty
) -> CountBatch:
    """A batch of cells that lie anywhere.

    Args:
      cells_B: `entries.CELL`. What they point into is held meanwhile.
      known: the features of their datasets.
      index_B: integer, their global indices.
      make: gives an array of a shape and a dtype.

    Raises:
      InputError: an entry is in a column that its dataset does not have.
    """
    indptr_B = np.concatenate([[0], np.cumsum(cells_B["length"], dtype=np.int64)])
    entries, width = int(indptr_B[-1]), cells_B["data_bytes"].max(initial=1, where=cells_B["length"] > 0)
    features, counts = make((entries,), np.int32), make((entries,), np.dtype(f"u{width}"))
    has_hits = known.modality == "methylation"
    hits = make((entries,), counts.dtype) if has_hits else counts
    place, bad = _copy(cells_B, known.panels_D, known.rows_C, indptr_B, features, counts, hits, has_hits)
    if bad != SOUND:
        raise known.unsound(cells_B["dataset"][place], bad)
    dataset_B = np.ascontiguousarray(cells_B["dataset"])
    cell_B = np.where(dataset_B < 0, -1, index_B).astype(np.int32)
    return CountBatch(indptr_B, features, counts, hits if has_hits else None, cell_B, dataset_B)


# numba's cache looks at this file only: who changes widen touches it too.
@compiled
def _copy(cells_B, panels_D, rows_C, indptr_B, features, counts, hits, has_hits):
    """All entries of each cell, behind one another. Returns 0 and SOUND, or the row of a cell with a column that does
    not exist, and that column."""
    for i in range(len(cells_B)):
        cell = cells_B[i]
        if cell.length == 0:
            continue
        panel, first, last = panels_D[cell.dataset], indptr_B[i], indptr_B[i + 1]
        rows_G, columns, worst = rows_C[panel.column : panel.column + panel.columns], features[first:last], np.uint32(0)
        widen(cell.indices, cell.index_bytes, columns)
        for entry in range(len(columns)):
            worst = max(worst, np.uint32(columns[entry]))
        if worst >= panel.columns:
            return i, np.int64(worst)
        if not panel.is_same:
            for entry in range(len(columns)):
                columns[entry] = rows_G[np.uint32(columns[entry])]
        widen(cell.data, cell.data_bytes, counts[first:last])
        if has_hits:
            widen(cell.hits, cell.data_bytes, hits[first:last])
    return 0, SOUND
