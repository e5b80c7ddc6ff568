"""Windows of cells on their way from the stores: each block is read about once an epoch, ahead of its use.

The blocks of a window (see `order.py`) are all asked for at once, read concurrently by the store, and kept while
batches are cut from them. They lie in memory that is used again: fresh memory for each block nearly doubled what the
process holds.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np

from mofm.batches.order import Order, Window
from mofm.corpus.store import PendingRows, RowBuffers, Store
from mofm.omics.rows import CountRows


class Piece(NamedTuple):
    """Cells of a view that lie in one block: their dataset, the block's rows, which rows, and their places in the view."""

    dataset: int
    read: Callable[[], CountRows]
    which: np.ndarray
    places: np.ndarray


class WindowReader:
    """The cells of one sequence in one modality, read window by window. Safe to share between threads.

    Args:
      order: the sequence.
      stores: the store of each of its datasets.
      spare: memory that is free, shared by readers of blocks of about one size.
      under_way: cells of the sequence that batches in the making can ask for.
    """

    def __init__(self, order: Order, stores: Mapping[int, Store], spare: list[RowBuffers], under_way: int):
        self._order, self._stores, self._spare = order, stores, spare
        self._kept = 2 + -(-under_way // min(order.window_cells, order.n_train))
        self._windows: OrderedDict[tuple[int, int], _Blocks] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Windows held."""
        return len(self._windows)

    def pieces(self, first: int, places: np.ndarray, until: int) -> tuple[np.ndarray, list[Piece]]:
        """Global indices of the cells from position `first` of the sequence on, one for each of `places`, and the
        pieces that put them there. The window after them is asked for if a position before `until` will need it."""
        spans = list(self._order.spans(first, len(places)))
        windows = [self._window(span.epoch, span.window) for span in spans]
        last = spans[-1]
        rest_of_window = len(windows[-1].window.cells) - last.stop
        if first + len(places) + rest_of_window < until:
            self._window(*self._order.following(last))
        pieces, cells, done = [], [], 0
        for span, blocks in zip(spans, windows, strict=True):
            taken = span.stop - span.start
            pieces += blocks.pieces(span.start, span.stop, places[done : done + taken])
            cells.append(blocks.window.cells[span.start : span.stop])
            done += taken
        return np.concatenate(cells), pieces

    def _window(self, epoch: int, index: int) -> "_Blocks":
        """A window being read or read; the least recently used beyond a few are let go."""
        with self._lock:
            key = (epoch, index)
            if key not in self._windows:
                self._windows[key] = _Blocks(self._order.window(epoch, index), self._stores, self._spare)
            self._windows.move_to_end(key)
            while len(self._windows) > self._kept:
                self._windows.popitem(last=False)
            return self._windows[key]


class _Blocks:
    """The blocks of a window, on their way from the stores or arrived. Safe to share between threads.

    They lie in memory taken from `spare`, which goes back there when the last batch that is cut from them lets go.
    """

    def __init__(self, window: Window, stores: Mapping[int, Store], spare: list[RowBuffers]):
        self.window, self._stores, self._spare = window, stores, spare
        self._buffers: list[RowBuffers | None] = [None] * len(window.stores)
        self._rows: list[CountRows | None] = [None] * len(window.stores)
        self._reads = [self._read(block) for block in range(len(window.stores))]
        self._lock = threading.Lock()

    def __del__(self):
        arrived = zip(self._buffers, self._rows, strict=True)  # the memory of other blocks may still be written to
        self._spare.extend(buffers for buffers, rows in arrived if rows is not None)

    def rows(self, block: int) -> CountRows:
        """The rows of a block, waited for."""
        with self._lock:
            if self._rows[block] is None:
                read = self._reads[block] or self._read(block)
                self._reads[block] = None  # one that fails is tried anew
                self._rows[block] = read.result()
            return self._rows[block]

    def _read(self, block: int) -> PendingRows:
        try:
            self._buffers[block] = self._spare.pop()
        except IndexError:
            self._buffers[block] = RowBuffers()
        store = self._stores[self.window.stores[block]]
        return store.read_rows(int(self.window.starts[block]), int(self.window.stops[block]), self._buffers[block])

    def pieces(self, start: int, stop: int, places: np.ndarray) -> list[Piece]:
        """The cells `[start, stop)` of the window by block, to go to `places` of the view."""
        blocks = self.window.blocks[start:stop]
        by_block = np.argsort(blocks, kind="stable")
        cuts = np.flatnonzero(np.diff(blocks[by_block])) + 1
        return [
            Piece(
                int(self.window.stores[blocks[chosen[0]]]),
                partial(self.rows, int(blocks[chosen[0]])),
                self.window.rows[start + chosen],
                places[chosen],
            )
            for chosen in np.split(by_block, cuts)
        ]
