"""Windows of cells on their way from the stores: each block is read once an epoch, ahead of its use, by whom it concerns.

The blocks of a window (see `order.py`) are all asked for at once, read concurrently by the store, and kept while
batches are cut from them. They lie in memory that is used again: fresh memory for each nearly doubled what the process
holds. Once they have arrived, a record of each cell says where it lies (see `entries.py`), and what a batch takes of
them is a choice of records, however many blocks and datasets it lies in.

What a batch takes of a window is laid block by block, so that a host's part of it is of few blocks. Which those are over
all batches of the window follows from the order, and only they are read. A batch takes of each block as many cells as
chance will have it, so hosts share the blocks at the borders of their parts: of windows of 64 blocks and batches of
1,024 cells, each of 4 hosts reads some 18 blocks rather than 16, each of 16 hosts 6 rather than 4.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from mofm.batches.entries import CELL, NO_CELL, cells_of
from mofm.batches.order import Order, Window
from mofm.batches.order import Span as OrderSpan
from mofm.batches.turns import Seat, Seats
from mofm.corpus.buffers import RowBuffers
from mofm.corpus.pending import Span
from mofm.corpus.store import Store
from mofm.omics.rows import CountRows


class Cells(NamedTuple):
    """Cells for some rows of a view.

    Attributes:
      index_B: int64, their global indices; -1 where there is no cell.
      cells_B: `entries.CELL`, where they lie.
      held: what they lie in.
    """

    index_B: np.ndarray
    cells_B: np.ndarray
    held: list


NEVER = np.iinfo(np.int64).max
"""A position that no sequence comes to."""


class Current(NamedTuple):
    """A window from which cells are served.

    Attributes:
      first: position of its first cell in the sequence.
      due: the reader has to be asked for cells up to this position or a later one: windows are to be let go or asked for.
      blocks: what it is made of, waited for if any of its cells is this host's.
    """

    first: int
    due: int
    blocks: "Blocks"


class WindowReader:
    """The cells of one sequence in one modality, read window by window. Safe to share between threads.

    Args:
      order: the sequence.
      stores: the store of each of its datasets.
      under_way: cells of the sequence that batches in the making can ask for.
      seats: this host's rows of the sequence's stratum.
      number: of the sequence among those of the stratum.
    """

    def __init__(self, order: Order, stores: Mapping[int, Store], under_way: int, seats: Seats, number: int):
        self._order, self._stores, self._seats, self._number = order, stores, seats, number
        self._under_way = under_way
        self._spare: list[RowBuffers] = []  # of this reader alone: windows of others may be of another size
        self._kept = 2 + -(-under_way // min(order.window_cells, order.n_train))
        self._windows: OrderedDict[tuple[int, int], Blocks] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Windows held."""
        return len(self._windows)

    def fill(self, out: Cells, place: int, seat: Seat, until: int) -> "Current":
        """Put the cells of a seat, waited for, into `out` from row `place` on. The window after them is asked for if a
        position before `until` will need it, once half of theirs has been served: it takes less time to read than to serve,
        and earlier there is the one before in memory.

        Returns:
          The window of the last of them.
        """
        self._let_go_before(seat.first - self._under_way)
        for span, rows, places in self._laid(seat):
            if len(places):
                blocks = self._window(span.epoch, span.window)
                out.index_B[place + places] = blocks.window.cells[rows]
                out.cells_B[place + places] = blocks.cells()[rows]
                out.held.append(blocks)
        blocks, first = self._window(span.epoch, span.window), self._order.first(span.epoch, span.window)
        following, half = self._order.after(span.epoch, span.window), -(-len(blocks.window.cells) // 2)
        if is_asked := span.stop >= half and self._order.first(*following) < until:
            self._window(*following)
        is_alone = seat.first - self._under_way >= first
        due = min(NEVER if is_asked else first + half, NEVER if is_alone else first + self._under_way)
        return Current(first, due, blocks)

    def _laid(self, seat: Seat) -> list[tuple[OrderSpan, np.ndarray, np.ndarray]]:
        """For each window that has cells of a seat: a span of it, which of the window's cells, and their rows in the seat."""
        spans = list(self._order.spans(seat.first, seat.count))
        windows = [self._order.window(span.epoch, span.window) for span in spans]
        if len(spans) == 1:
            mine = windows[0].blocks[spans[0].start : spans[0].stop].argsort(kind="stable")[seat.start : seat.stop]
            return [(spans[0], spans[0].start + mine, np.arange(len(mine)))]
        # Where a batch lies in two windows, both lay their first blocks first.
        keys = [w.blocks[span.start : span.stop] / len(w.stores) for w, span in zip(windows, spans, strict=True)]
        mine = np.argsort(np.concatenate(keys), kind="stable")[seat.start : seat.stop]
        laid, before = [], 0
        for span in spans:
            places = np.flatnonzero((mine >= before) & (mine < before + span.stop - span.start))
            laid.append((span, span.start + mine[places] - before, places))
            before += span.stop - span.start
        return laid

    def _needed(self, epoch: int, index: int) -> np.ndarray:
        """The blocks of a window that this host's rows are of; bool, one a block."""
        window = self._order.window(epoch, index)
        if self._seats.has_all:
            return np.ones(len(window.stores), bool)
        needed, first = np.zeros(len(window.stores), bool), self._order.first(epoch, index)
        for seat in self._seats.within(self._number, first, first + len(window.cells)):
            for span, rows, _ in self._laid(seat):
                if (span.epoch, span.window) == (epoch, index):
                    needed[window.blocks[rows]] = True
        return needed

    def _let_go_before(self, position: int) -> None:
        """Forget the windows that end before a position of the sequence."""
        with self._lock:
            for key in list(self._windows):
                if self._order.first(*self._order.after(*key)) <= position:
                    del self._windows[key]

    def _window(self, epoch: int, index: int) -> "Blocks":
        """A window being read or read; the least recently used beyond a few are let go."""
        with self._lock:
            key = (epoch, index)
            if key not in self._windows:
                window, needed = self._order.window(epoch, index), self._needed(epoch, index)
                self._windows[key] = Blocks(window, needed, self._stores, self._spare)
            self._windows.move_to_end(key)
            while len(self._windows) > self._kept:
                self._windows.popitem(last=False)
            return self._windows[key]


class Blocks:
    """The blocks of a window that are `needed`, on their way from the stores or arrived. Safe to share between threads.

    Those of one dataset are rows of one matrix. All lie in one memory, taken from `spare`, which goes back there when
    the last batch that is cut from the window lets go.
    """

    def __init__(self, window: Window, needed: np.ndarray, stores: Mapping[int, Store], spare: list[RowBuffers]):
        self.window, self._needed, self._stores, self._spare = window, needed, stores, spare
        self._lock = threading.Lock()
        self._cells: np.ndarray | None = None
        self._rows: dict[int, CountRows] = {}
        self._reads, self._is_sound = {}, False  # until all are on their way
        self._row_of_block = np.zeros(len(window.stores), np.int64)
        self._spans: dict[int, list[Span]] = {}
        begin = 0
        for dataset in np.unique(window.stores[needed]).tolist():
            mine = np.flatnonzero((window.stores == dataset) & needed)
            starts, stops = window.starts[mine], window.stops[mine]
            ends = begin + np.cumsum(stops - starts)
            self._row_of_block[mine], begin = ends - (stops - starts), int(ends[-1])
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

    def cells(self) -> np.ndarray:
        """`entries.CELL` of each of the window's cells, in the order served, all waited for; `NO_CELL` of those in blocks that
        are not needed."""
        with self._lock:
            if self._cells is None:
                for dataset in self._spans.keys() - self._rows.keys():
                    self._rows[dataset] = self._arrived(dataset)
                cells_N, end = np.empty(sum(rows.n_cells for rows in self._rows.values()), CELL), 0
                for dataset in self._spans:
                    begin, end = end, end + self._rows[dataset].n_cells
                    cells_N[begin:end] = cells_of(self._rows[dataset], dataset)
                is_here = self._needed[self.window.blocks]
                row_N = self._row_of_block[self.window.blocks[is_here]] + self.window.rows[is_here]
                self._cells = np.full(len(is_here), NO_CELL)
                self._cells[is_here] = cells_N[row_N]
            return self._cells

    def _arrived(self, dataset: int) -> CountRows:
        read = self._reads.pop(dataset, None) or self._stores[dataset].read_spans(self._spans[dataset])
        try:
            rows = read.result()
        except Exception:
            self._is_sound = False  # some of the read may still be under way; whoever asks again has it read anew
            raise
        self._reads[dataset] = read
        return rows
