"""Windows of cells on their way from the stores: each block is read about once an epoch, ahead of its use.

The blocks of a window (see `order.py`) are all asked for at once, read concurrently by the store, and kept while
batches are cut from them. They lie in memory that is used again: fresh memory for each nearly doubled what the process
holds. What a batch takes of one dataset is cut in one call, however many blocks it lies in: calls for each block cost
as much as decoding them.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np

from mofm.batches.order import Order, Window
from mofm.corpus.buffers import RowBuffers
from mofm.corpus.store import Span, Store
from mofm.omics.rows import CountRows


class Piece(NamedTuple):
    """Cells of a view that are of one dataset: it, rows that hold them, which of those, and their places in the view."""

    dataset: int
    read: Callable[[], CountRows]
    which: np.ndarray
    places: np.ndarray


class WindowReader:
    """The cells of one sequence in one modality, read window by window. Safe to share between threads.

    Args:
      order: the sequence.
      stores: the store of each of its datasets.
      under_way: cells of the sequence that batches in the making can ask for.
    """

    def __init__(self, order: Order, stores: Mapping[int, Store], under_way: int):
        self._order, self._stores = order, stores
        self._spare: list[RowBuffers] = []  # of this reader alone: windows of others may be of another size
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

    Those of one dataset are rows of one matrix. All lie in one memory, taken from `spare`, which goes back there when
    the last batch that is cut from the window lets go.
    """

    def __init__(self, window: Window, stores: Mapping[int, Store], spare: list[RowBuffers]):
        self.window, self._stores, self._spare = window, stores, spare
        self._lock = threading.Lock()
        self._rows: dict[int, CountRows] = {}
        self._reads, self._is_sound = {}, False  # until all are on their way
        self._row_of_block = np.zeros(len(window.stores), np.int64)
        self._spans: dict[int, list[Span]] = {}
        for dataset in np.unique(window.stores).tolist():
            mine = np.flatnonzero(window.stores == dataset)
            starts, stops = window.starts[mine], window.stops[mine]
            self._row_of_block[mine] = np.cumsum(stops - starts) - (stops - starts)
            self._spans[dataset] = list(zip(starts.tolist(), stops.tolist(), strict=True))
        try:
            self._buffers = spare.pop()
        except IndexError:
            self._buffers = RowBuffers()
        self._buffers.reserve(sum(stores[dataset].n_bytes(spans) for dataset, spans in self._spans.items()))
        self._reads = {d: stores[d].read_spans(spans, self._buffers) for d, spans in self._spans.items()}
        self._is_sound = True

    def __del__(self):
        if self._is_sound and all(read.is_done for read in self._reads.values()):  # else it may still be written to
            self._spare.append(self._buffers)

    def rows(self, dataset: int) -> CountRows:
        """The rows of a dataset's blocks, one block behind the other, waited for."""
        with self._lock:
            if dataset not in self._rows:
                self._rows[dataset] = self._arrived(dataset)
            return self._rows[dataset]

    def _arrived(self, dataset: int) -> CountRows:
        read = self._reads.pop(dataset, None) or self._stores[dataset].read_spans(self._spans[dataset])
        try:
            rows = read.result()
        except Exception:
            self._is_sound = False  # some of the read may still be under way; whoever asks again has it read anew
            raise
        self._reads[dataset] = read
        return rows

    def pieces(self, start: int, stop: int, places: np.ndarray) -> list[Piece]:
        """The cells `[start, stop)` of the window by dataset, to go to `places` of the view."""
        blocks = self.window.blocks[start:stop]
        dataset_N, row_N = self.window.stores[blocks], self._row_of_block[blocks] + self.window.rows[start:stop]
        chosen = {dataset: np.flatnonzero(dataset_N == dataset) for dataset in np.unique(dataset_N).tolist()}
        return [Piece(d, partial(self.rows, d), row_N[which], places[which]) for d, which in chosen.items()]
