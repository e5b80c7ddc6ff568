"""Which cells are served at which step, apart from how they are read: a pure function of (seed, position).

The training sequence is endless: epoch after epoch of all training cells, each of them exactly once an epoch. The
shuffle has two levels, because reading single cells at random costs a decoded chunk for each. *Blocks* of consecutive
rows of a store are permuted anew in every epoch; then the cells of a *window* of consecutive blocks of that order are
shuffled together. A window is what a reader holds in memory: the more blocks in it, the nearer the order comes to an
independent draw, at the price of that memory. With 64 blocks of 64 cells, two neighbours in the sequence come from the
same block about once in 64 times.

There is no state to save. Any position is found from the seed alone, so a run resumes from its step, and hosts agree
on the order without speaking. Permutations sort raw Philox bits rather than call `Generator.permutation`, whose
algorithm numpy reserves the right to change.

A *store* here is all that is stored of a dataset: a cell of which several modalities were measured is one cell, on one
side of the split with all of them. Cells are held out by a hash of (seed, store, row), so that appending stores to a
corpus moves no cell from one side of the split to the other. The share held out is therefore the fraction asked for
only up to chance. Another seed is another split: compare runs under one seed, or hold out whole stores, or the cells of
some donors.
"""

import copy
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from mofm.errors import InputError

_SPLIT, _SUBSET, _BLOCKS, _ROWS = range(4)  # what a random stream is for; part of its key
_HASHED_AT_ONCE = 1 << 20


def mix64(state: np.ndarray) -> np.ndarray:
    """The output function of splitmix64 (Steele et al. 2014): uint64 in, well mixed uint64 out, same shape."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def counter_hash(key: Sequence[int], counters: np.ndarray) -> np.ndarray:
    """Independent random uint64 for each counter (non-negative integers, any shape) under a key of small integers."""
    base = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return mix64(base + (counters.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))


def host_slice(batch_size: int, host: int, hosts: int) -> slice:
    """The rows of the global batch that belong to one host: equal, consecutive shares.

    Raises:
      InputError: the batch does not divide by the number of hosts.
    """
    if not 0 <= host < hosts:
        raise ValueError(f"host {host} of {hosts}")
    if batch_size % hosts:
        raise InputError(
            f"data.batch_size={batch_size} does not divide by the {hosts} hosts; take a multiple of {hosts}, "
            f"such as {max(1, round(batch_size / hosts)) * hosts}"
        )
    share = batch_size // hosts
    return slice(host * share, (host + 1) * share)


class Window(NamedTuple):
    """The cells that are shuffled together, in the order served, and the blocks that hold them.

    Attributes:
      stores, starts, stops: int64, one a block: its store, and its rows in that store.
      cells: int64, one a training cell: its global index.
      blocks: int64, one a training cell: which of the window's blocks holds it.
      rows: int64, one a training cell: its row counted from the start of its block.
    """

    stores: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    cells: np.ndarray
    blocks: np.ndarray
    rows: np.ndarray


class Span(NamedTuple):
    """A run of consecutive positions in one window: `[start, stop)` of the window's cells."""

    epoch: int
    window: int
    start: int
    stop: int


class _Epoch(NamedTuple):
    blocks: np.ndarray  # int64, the permuted blocks
    window_ends: np.ndarray  # int64, training cells up to the end of each window


class Order:
    """The order of a corpus's cells: endless for training, fixed for held-out cells.

    A cell is its global index: the rows of all stores, counted through in the order of the stores.

    Args:
      store_sizes: cells of each store.
      seed: fixes the split and the order. Not negative.
      holdout_fraction: chance of a cell to be held out, in [0, 1).
      holdout_stores: positions of stores that are held out whole.
      holdout_cells: bool over all cells: others that are held out. None: no others.
      block_cells: consecutive rows that stay together when blocks are permuted.
      window_blocks: blocks whose cells are shuffled together.

    Raises:
      InputError: a value out of its range, or no cell left to train on.
    """

    def __init__(
        self,
        store_sizes: Sequence[int],
        seed: int,
        *,
        holdout_fraction: float = 0.0,
        holdout_stores: Collection[int] = (),
        holdout_cells: np.ndarray | None = None,
        block_cells: int = 64,
        window_blocks: int = 64,
    ):
        if seed < 0:
            raise InputError(f"seed={seed}: must not be negative")
        if not 0 <= holdout_fraction < 1:
            raise InputError(f"data.holdout_fraction={holdout_fraction}: must be at least 0 and less than 1")
        for name, value in (("block_cells", block_cells), ("window_blocks", window_blocks)):
            if value < 1:
                raise InputError(f"data.{name}={value}: must be at least 1")
        self.seed, self._block_cells = seed, block_cells
        self.offsets = np.concatenate([[0], np.cumsum(np.asarray(store_sizes, np.int64), dtype=np.int64)])
        self._is_heldout = self._split(holdout_fraction, frozenset(holdout_stores))
        if holdout_cells is not None:
            self._is_heldout |= holdout_cells
        self._serve(range(len(store_sizes)), window_blocks, ())
        if not self.n_train:
            raise InputError(
                f"no cells to train on: {self.n_heldout} of {self.n_cells} cells are held out "
                f"({len(holdout_stores)} of {len(store_sizes)} datasets whole); ingest more or hold out less"
            )

    def among(self, stores: Sequence[int], key: tuple[int, ...], window_blocks: int) -> "Order":
        """The endless sequence of some of the stores alone, at least one of their cells in training.

        It has the same global indices and the same split, in the same memory. `key`, small integers above 0, makes its
        shuffle another than that of other sequences.
        """
        order = copy.copy(self)
        order._serve(stores, window_blocks, key)
        return order

    def _serve(self, stores: Sequence[int], window_blocks: int, key: tuple[int, ...]) -> None:
        self._stores, self.window_blocks, self._key = tuple(stores), window_blocks, key
        bounds = self._bounds(self._stores)
        self.n_cells = sum(stop - start for start, stop in bounds)
        self.n_heldout = sum(int(np.count_nonzero(self._is_heldout[start:stop])) for start, stop in bounds)
        self.n_train = self.n_cells - self.n_heldout
        self._make_blocks(bounds)
        self._epoch = lru_cache(maxsize=4)(self._make_epoch)
        self._window = lru_cache(maxsize=8)(self._make_window)

    @property
    def window_cells(self) -> int:
        """Cells of a whole window, those held out among them."""
        return self._block_cells * self.window_blocks

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Training and held-out cells of each store of the corpus; int64 both."""
        bounds = self._bounds(range(len(self.offsets) - 1))
        heldout = np.array([np.count_nonzero(self._is_heldout[start:stop]) for start, stop in bounds], np.int64)
        return np.diff(self.offsets) - heldout, heldout

    def cells(self, position: int, count: int) -> np.ndarray:
        """Global indices (int64, `count` of them) of the training sequence from `position` on. Random access."""
        spans = self.spans(position, count)
        parts = [self.window(epoch, window).cells[start:stop] for epoch, window, start, stop in spans]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def heldout(self, max_cells: int | None = None, stores: Sequence[int] | None = None) -> np.ndarray:
        """Global indices (int64, ascending) of the held-out cells, or of `max_cells` of them drawn by the seed.

        Args:
          stores: ascending; the cells of these alone. All that the sequence serves where None.
        """
        bounds = self._bounds(self._stores if stores is None else stores)
        parts = [start + np.flatnonzero(self._is_heldout[start:stop]) for start, stop in bounds]
        cells = np.concatenate([np.empty(0, np.int64), *parts])
        if max_cells is None or max_cells >= len(cells):
            return cells
        store, row = self.locate(cells)
        drawn = counter_hash((self.seed, _SUBSET), row ^ (store << 40))
        return np.sort(cells[np.argsort(drawn, kind="stable")[:max_cells]])

    def locate(self, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The store and the row in it of each global index; int64 both."""
        store = np.searchsorted(self.offsets, cells, side="right") - 1
        return store, cells - self.offsets[store]

    def spans(self, position: int, count: int) -> Iterator[Span]:
        """The consecutive runs of windows that make up `[position, position + count)` of the training sequence."""
        if position < 0:
            raise ValueError(f"position {position} of the training sequence")
        while count > 0:
            epoch, inside = divmod(position, self.n_train)
            ends = self._epoch(epoch).window_ends
            window = int(np.searchsorted(ends, inside, side="right"))
            before = int(ends[window - 1]) if window else 0
            taken = min(count, int(ends[window]) - inside)
            yield Span(epoch, window, inside - before, inside - before + taken)
            position, count = position + taken, count - taken

    def after(self, epoch: int, index: int) -> tuple[int, int]:
        """Epoch and number of the window after another."""
        last = index + 1 == len(self._epoch(epoch).window_ends)
        return (epoch + 1, 0) if last else (epoch, index + 1)

    def first(self, epoch: int, index: int) -> int:
        """Position of the first cell of a window in the training sequence."""
        return epoch * self.n_train + (int(self._epoch(epoch).window_ends[index - 1]) if index else 0)

    def window(self, epoch: int, index: int) -> Window:
        """One window of an epoch; the last few asked for are kept."""
        return self._window(epoch, index)

    def _split(self, fraction: float, whole: frozenset[int]) -> np.ndarray:
        """Which cells are held out: bool over all cells."""
        heldout = np.zeros(self.offsets[-1], bool)
        for store, (start, stop) in enumerate(zip(self.offsets[:-1], self.offsets[1:], strict=True)):
            if store in whole:
                heldout[start:stop] = True
            elif fraction:
                for first in range(0, stop - start, _HASHED_AT_ONCE):
                    rows = np.arange(first, min(first + _HASHED_AT_ONCE, stop - start))
                    uniform = (counter_hash((self.seed, _SPLIT, store), rows) >> np.uint64(11)) * 2.0**-53
                    heldout[start + first : start + first + len(rows)] = uniform < fraction
        return heldout

    def _bounds(self, stores: Sequence[int]) -> list[tuple[int, int]]:
        """Global index of the first cell of each store, and of the first beyond."""
        return [(int(self.offsets[store]), int(self.offsets[store + 1])) for store in stores]

    def _make_blocks(self, bounds: list[tuple[int, int]]) -> None:
        """Cut stores into blocks. The last of a store is short, and held-out cells make the others uneven."""
        blocks = [np.empty((3, 0), np.int64)]
        for start, stop in bounds:
            starts = np.arange(start, stop, self._block_cells)
            if len(starts):
                sizes = np.add.reduceat(~self._is_heldout[start:stop], starts - start, dtype=np.int64)
                blocks.append(np.stack([starts, np.append(starts[1:], stop), sizes]))
        blocks = np.concatenate(blocks, axis=1)
        self._starts, self._stops, self._sizes = blocks[:, blocks[2] > 0]

    def _make_epoch(self, epoch: int) -> _Epoch:
        blocks = _permutation((self.seed, _BLOCKS, epoch, *self._key), len(self._sizes))
        ends = np.cumsum(np.add.reduceat(self._sizes[blocks], np.arange(0, len(blocks), self.window_blocks)))
        return _Epoch(blocks, ends)

    def _make_window(self, epoch: int, index: int) -> Window:
        chosen = self._epoch(epoch).blocks[index * self.window_blocks : (index + 1) * self.window_blocks]
        starts, lengths = self._starts[chosen], self._stops[chosen] - self._starts[chosen]
        blocks = np.repeat(np.arange(len(chosen)), lengths)
        rows = np.arange(len(blocks)) - (np.cumsum(lengths) - lengths)[blocks]
        cells = starts[blocks] + rows
        served = np.flatnonzero(~self._is_heldout[cells])
        served = served[_permutation((self.seed, _ROWS, epoch, index, *self._key), len(served))]
        stores, in_store = self.locate(starts)
        return Window(stores, in_store, in_store + lengths, cells[served], blocks[served], rows[served])


def _permutation(key: tuple[int, ...], n: int) -> np.ndarray:
    """A uniform permutation of n (int64), the same under every version of numpy."""
    return np.argsort(np.random.Philox(np.random.SeedSequence(key)).random_raw(n), kind="stable")
