"""Rows of a store that are being read: asked for at once, waited for later."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mofm.corpus.places import PATIENCE_S
from mofm.omics.rows import CountRows, join_rows, take_cells

if TYPE_CHECKING:  # matrix.py imports this file
    from mofm.corpus.matrix import Matrix

Span = tuple[int, int]
"""The first of some consecutive cells, and the one behind the last."""


class PendingRows:
    """Rows on their way. `result()` waits for them."""

    def __init__(self, matrix: "Matrix", spans: Sequence[Span], reads: list, rows: CountRows):
        self._matrix, self._spans, self._reads, self._rows = matrix, spans, reads, rows
        self._is_damaged = False

    @property
    def is_done(self) -> bool:
        """Whether nothing is being written to their memory any more, nor may be: a read that failed does not say."""
        return not self._is_damaged and all(read.done() for reads in self._reads for read in reads)

    def result(self) -> CountRows:
        """The rows. Of a corpus that skips damage, they say which cells are lost.

        Raises:
          InputError: a chunk is damaged or missing: it names the store, the cells, the file and the chunk.
        """
        parts, row = [], 0
        for (start, stop), reads in zip(self._spans, self._reads, strict=True):
            try:
                for read in reads:
                    read.result(PATIENCE_S)
                parts.append((self._rows, row, row + stop - start))
            except Exception as error:
                self._is_damaged = True
                parts.append((self._matrix.read_around(start, stop, error), 0, stop - start))
            row += stop - start
        if self._is_damaged:
            self._rows = join_rows([take_cells(*part) for part in parts])
        self._reads = [()] * len(self._spans)
        return self._rows
