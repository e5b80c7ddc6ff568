"""The stream of batches: order, reading and tokens joined, so that a step's batch is a pure function of (seed, step).

A batch is made from the windows that its positions fall in (see `order.py`). A window's blocks are all asked for at
once, read concurrently by the store, and kept while batches are cut from it, so that each block is read about once an
epoch; the window to come is asked for before it is needed. Memory is that of the windows held, some three of
window_blocks x block_cells cells at 6 to 8 kB a cell of 2,000 counts, and is used again: fresh memory for each block
nearly doubled what the process holds.

A cell's tokens are drawn with a seed of its own, made from the run's seed and its position in the endless sequence:
another epoch shows other tokens, and neither the number of hosts, nor prefetching, nor a restart changes a bit. Each
host tokenises only its rows of the batch, but since a window is shuffled as a whole, it reads every window: n hosts
decode the corpus n times between them. At some 15 microseconds a cell that is cheaper than an order that depends on n.

Batches are made ahead by `prefetch` threads. They run in parallel, as neither decoding nor tokenising holds the
interpreter lock; each makes a batch of its own, so that the threads share nothing but the windows.
"""

import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import NamedTuple

import numpy as np

from mofm.batch import CellBatch, TokenBatch
from mofm.batches.collate import collate_into, empty_tokens, known_features, make_scratch
from mofm.batches.order import Order, Window, counter_hash, host_slice
from mofm.corpus.store import Corpus, PendingRows, RowBuffers, Store
from mofm.errors import InputError, check_at_least, nearest_name
from mofm.omics.rows import CountRows

_TRAIN, _HELDOUT = 101, 102  # what token seeds are for; part of their key


@dataclass(frozen=True)
class DataConfig:
    """What a batch is made of, and how cells are shuffled and held out.

    Attributes:
      corpus: path of the corpus.
      batch_size: cells in a global batch, over all hosts.
      tokens: the most tokens of a cell.
      expressed_fraction: share of expressed features among a cell's tokens, in (0, 1]; the others are zeros.
      block_cells: consecutive cells that are read together.
      window_blocks: blocks whose cells are shuffled together. Memory is proportional to it.
      prefetch: batches made ahead, each in a thread. 0: made when asked for.
      holdout_fraction: chance of a cell to be held out of training, in [0, 1).
      holdout_datasets: names of datasets that are held out whole.
    """

    corpus: str
    batch_size: int = 256
    tokens: int = 1024
    expressed_fraction: float = 0.75
    block_cells: int = 64
    window_blocks: int = 64
    prefetch: int = 2
    holdout_fraction: float = 0.1
    holdout_datasets: tuple[str, ...] = ()

    def __post_init__(self):
        check_at_least("data", self, ("batch_size", "tokens", "block_cells", "window_blocks"), 1)
        check_at_least("data", self, ("prefetch",), 0)
        if not 0 < self.expressed_fraction <= 1:
            raise InputError(f"data.expressed_fraction={self.expressed_fraction}: must be more than 0 and at most 1")
        if not 0 <= self.holdout_fraction < 1:
            raise InputError(f"data.holdout_fraction={self.holdout_fraction}: must be at least 0 and less than 1")


class Stream:
    """Batches of a corpus, for one host of several.

    Args:
      corpus: an open corpus of RNA.
      config: see `DataConfig`; its `corpus` is not looked at.
      seed: fixes the split, the order and the tokens.
      host, hosts: this host's number among how many.

    Raises:
      InputError: the corpus is not of RNA, a dataset to hold out does not exist, nothing is left to train on, or the
        batch does not divide by the hosts.
    """

    def __init__(self, corpus: Corpus, config: DataConfig, seed: int, *, host: int = 0, hosts: int = 1):
        self._corpus, self._stores, self._config, self._seed = corpus, tuple(corpus.stores), config, seed
        for store in self._stores:
            if store.modality != "rna":
                raise InputError(f"{config.corpus}: dataset {store.name!r} is {store.modality}, only rna is streamed")
        self._order = Order(
            [store.n_cells for store in self._stores],
            seed,
            holdout_fraction=config.holdout_fraction,
            holdout_stores=_named(self._stores, config.holdout_datasets),
            block_cells=config.block_cells,
            window_blocks=config.window_blocks,
        )
        if self._order.n_cells > np.iinfo(np.int32).max:
            raise InputError(f"{config.corpus}: {self._order.n_cells} cells are more than cell_B (int32) can number")
        self._slice = host_slice(config.batch_size, host, hosts)
        self._known = [known_features(store.feature_rows, f"dataset {store.name!r}") for store in self._stores]
        self._words = max(len(known.bitmap) for known in self._known)
        self._datasets = np.array([store.dataset for store in self._stores], np.int32)
        self._windows: OrderedDict[tuple[int, int], _Blocks] = OrderedDict()
        self._windows_lock = threading.Lock()
        self._spare: list[RowBuffers] = []
        under_way = (config.prefetch + 1) * config.batch_size
        self._windows_kept = 2 + -(-under_way // min(config.block_cells * config.window_blocks, self._order.n_train))

    @property
    def n_train_cells(self) -> int:
        """Cells of an epoch."""
        return self._order.n_train

    @property
    def n_heldout_cells(self) -> int:
        """Cells never trained on."""
        return self._order.n_heldout

    def heldout_cells(self) -> np.ndarray:
        """int64 global indices of the cells never trained on, ascending."""
        return self._order.heldout()

    def batch(self, step: int) -> CellBatch:
        """This host's rows of the batch of one step (0, 1, ...): a pure function of the seed and the step."""
        return self._train_batch(step, step + 1)

    def batches(self, start: int, stop: int) -> Iterator[CellBatch]:
        """`batch(start)` to `batch(stop - 1)`, made ahead in threads, which end when the generator is closed."""
        return self._made_ahead(partial(self._train_batch, stop=stop), range(start, stop))

    def heldout_batches(self, max_cells: int | None = None) -> Iterator[CellBatch]:
        """This host's rows of batches of the held-out cells, in corpus order, the same tokens each time.

        The last batch is filled up with padded rows (mask False, cell -1), so that each host gets as many batches.
        With `max_cells`, that many cells are drawn by the seed from all that are held out.
        """
        cells = self._order.heldout(max_cells)
        return self._made_ahead(partial(self._heldout_batch, cells), range(0, len(cells), self._config.batch_size))

    def cell_names(self, cell_B: np.ndarray) -> list[str]:
        """What the corpus calls these cells (global indices, as in `cell_B`), for messages; "padding" for -1."""
        return [self._corpus.cell_name(int(cell)) if cell >= 0 else "padding" for cell in cell_B]

    def _train_batch(self, step: int, stop: int) -> CellBatch:
        """The batch of a step; the window after it is asked for if a step before `stop` will need it."""
        if step < 0:
            raise ValueError(f"step {step}")
        share = self._slice.stop - self._slice.start
        first = step * self._config.batch_size + self._slice.start
        spans = list(self._order.spans(first, share))
        windows = [self._window(span.epoch, span.window) for span in spans]
        last = spans[-1]
        rest_of_window = len(windows[-1].window.cells) - last.stop
        if first + share + rest_of_window < stop * self._config.batch_size:
            self._window(*self._order.following(last))
        pieces, cells, place = [], [], 0
        for span, blocks in zip(spans, windows, strict=True):
            pieces += blocks.pieces(span.start, span.stop, place)
            cells.append(blocks.window.cells[span.start : span.stop])
            place += span.stop - span.start
        seeds = counter_hash((self._seed, _TRAIN), np.arange(first, first + share))
        return CellBatch(rna=self._tokens(pieces, np.concatenate(cells), seeds))

    def _heldout_batch(self, cells: np.ndarray, first: int) -> CellBatch:
        mine = cells[first : first + self._config.batch_size][self._slice]
        store, row = self._order.locate(mine)
        block = row // self._config.block_cells
        cuts = np.flatnonzero(np.diff(store) | np.diff(block)) + 1
        parts = [part for part in np.split(np.arange(len(mine)), cuts) if len(part)]
        reads = [self._stores[store[p[0]]].read_rows(int(row[p[0]]), int(row[p[-1]]) + 1) for p in parts]
        pieces = [
            _Piece(int(store[p[0]]), read.result, row[p] - row[p[0]], p) for p, read in zip(parts, reads, strict=True)
        ]
        return CellBatch(rna=self._tokens(pieces, mine, counter_hash((self._seed, _HELDOUT), mine)))

    def _tokens(self, pieces: "list[_Piece]", cells: np.ndarray, seeds: np.ndarray) -> TokenBatch:
        """One view of each cell; rows of the batch beyond the cells stay padding."""
        out = empty_tokens(self._slice.stop - self._slice.start, self._config.tokens)
        out.cell_B[: len(cells)] = cells
        scratch = make_scratch(self._words)
        for piece in pieces:
            known, name = self._known[piece.store], f"dataset {self._stores[piece.store].name!r}"
            out.dataset_B[piece.places] = self._datasets[piece.store]
            fraction, chosen = self._config.expressed_fraction, seeds[piece.places]
            collate_into(out, piece.places, piece.read(), piece.which, known, chosen, fraction, scratch, name)
        return out

    def _window(self, epoch: int, index: int) -> "_Blocks":
        """A window being read or read; the least recently used beyond a few are let go."""
        with self._windows_lock:
            key = (epoch, index)
            if key not in self._windows:
                self._windows[key] = _Blocks(self._order.window(epoch, index), self._stores, self._spare)
            self._windows.move_to_end(key)
            while len(self._windows) > self._windows_kept:
                self._windows.popitem(last=False)
            return self._windows[key]

    def _made_ahead(self, make: Callable[[int], CellBatch], numbers: Iterable[int]) -> Iterator[CellBatch]:
        """make(number) for each number in turn, `prefetch` of them under way in threads; their exceptions come here."""
        if not self._config.prefetch:
            yield from map(make, numbers)
            return
        threads = ThreadPoolExecutor(min(self._config.prefetch, os.cpu_count() or 1), "mofm-batches")
        try:
            left = iter(numbers)
            under_way = deque(threads.submit(make, number) for number in islice(left, self._config.prefetch))
            while under_way:
                batch = under_way.popleft().result()
                under_way.extend(threads.submit(make, number) for number in islice(left, 1))
                yield batch
        finally:
            threads.shutdown(cancel_futures=True)


class _Piece(NamedTuple):
    """Cells of a batch that lie in one block: the block's store and rows, which rows, and their places in the batch."""

    store: int
    read: Callable[[], CountRows]
    which: np.ndarray
    places: np.ndarray


class _Blocks:
    """The blocks of a window, on their way from the stores or arrived. Safe to share between threads.

    They lie in memory taken from `spare`, which goes back there when the last batch that is cut from them lets go.
    """

    def __init__(self, window: Window, stores: tuple[Store, ...], spare: list[RowBuffers]):
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
                read, self._reads[block] = (
                    self._reads[block] or self._read(block),
                    None,
                )  # one that failed is tried anew
                self._rows[block] = read.result()
            return self._rows[block]

    def _read(self, block: int) -> PendingRows:
        try:
            self._buffers[block] = self._spare.pop()
        except IndexError:
            self._buffers[block] = RowBuffers()
        store = self._stores[self.window.stores[block]]
        return store.read_rows(int(self.window.starts[block]), int(self.window.stops[block]), self._buffers[block])

    def pieces(self, start: int, stop: int, place: int) -> list[_Piece]:
        """The cells `[start, stop)` of the window by block, to go to the batch's rows from `place` on."""
        blocks = self.window.blocks[start:stop]
        by_block = np.argsort(blocks, kind="stable")
        cuts = np.flatnonzero(np.diff(blocks[by_block])) + 1
        return [
            _Piece(
                int(self.window.stores[blocks[chosen[0]]]),
                partial(self.rows, int(blocks[chosen[0]])),
                self.window.rows[start + chosen],
                place + chosen,
            )
            for chosen in np.split(by_block, cuts)
        ]


def _named(stores: tuple[Store, ...], names: tuple[str, ...]) -> list[int]:
    """Positions of the stores of these names."""
    position = {store.name: i for i, store in enumerate(stores)}
    for name in names:
        if name not in position:
            raise InputError(f"data.holdout_datasets: no dataset {name!r} in the corpus.{nearest_name(name, position)}")
    return [position[name] for name in names]
