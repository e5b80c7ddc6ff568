"""How much it says that a region is open: the inverse document frequency that weighs ATAC values (see `collate.py`).

    idf = (1 + cells looked at) / (1 + cells in which it is open)

over all stores that measure the region: 1 for one open everywhere, as many as there are cells for one open nowhere. It
is taken of some thousand cells of each store, in blocks spread evenly over it, so that a corpus of any size takes
seconds, and one atlas does not speak for all. Held-out cells count like others: it is a scale, of no label, and that of
regions that a model has not seen is taken of the very file that it is given.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from mofm.corpus.store import Store
from mofm.errors import InputError
from mofm.omics.rows import CountRows

CELLS = 4096
"""Cells looked at in a store: a region open in 1% of cells is weighed to about 15%, before its logarithm is taken."""
_BLOCK, _AT_ONCE = 64, 16
"""Cells read together, and blocks on their way at once."""


def corpus_idf(stores: Sequence[Store], feature_rows: Sequence[np.ndarray], n_features: int) -> np.ndarray:
    """idf of each region of a corpus, float32; 1 for those that no store has.

    Args:
      stores: of ATAC.
      feature_rows: for each store, its columns' rows among the `n_features` regions of the corpus.

    Raises:
      InputError: a store is damaged.
    """
    cells, opened = np.zeros(n_features, np.int64), np.zeros(n_features, np.int64)
    for store, rows in zip(stores, feature_rows, strict=True):
        looked_at, in_store = count_open(_sampled(store), len(rows), f"dataset {store.name!r}")
        cells[rows] += looked_at
        opened[rows] += in_store
    return idf(cells, opened)


def count_open(blocks: Iterable[CountRows], n_features: int, where: str) -> tuple[int, np.ndarray]:
    """Number of cells in the blocks, and (int64) in how many of them each feature has an entry. `where` is for errors.

    Raises:
      InputError: an entry is in a column that does not exist.
    """
    cells, opened = 0, np.zeros(n_features, np.int64)
    for rows in blocks:
        in_block = np.bincount(rows.indices, minlength=n_features)
        if len(in_block) > n_features:
            raise InputError(
                f"{where}: an entry is in column {len(in_block) - 1}, but there are {n_features} columns; "
                "the store is damaged, ingest its file again"
            )
        lost = 0 if rows.lost_N is None else int(rows.lost_N.sum())
        cells, opened = cells + rows.n_cells - lost, opened + in_block
    return cells, opened


def idf(cells: int | np.ndarray, opened: np.ndarray) -> np.ndarray:
    """The formula above, float32."""
    return ((1.0 + cells) / (1.0 + opened)).astype(np.float32)


def _sampled(store: Store) -> Iterator[CountRows]:
    """Blocks spread evenly over a store, of `CELLS` cells together; all of a smaller one."""
    blocks = -(-store.n_cells // _BLOCK)
    chosen = np.unique(np.linspace(0, blocks - 1, min(blocks, CELLS // _BLOCK)).round().astype(int))
    starts = (chosen * _BLOCK).tolist()
    for first in range(0, len(starts), _AT_ONCE):
        several = starts[first : first + _AT_ONCE]
        reads = [store.read_rows(start, min(start + _BLOCK, store.n_cells)) for start in several]
        yield from (read.result() for read in reads)
