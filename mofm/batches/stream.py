"""The stream of batches: order, reading and tokens joined, so that a step's batch is a pure function of (seed, step).

A batch has a view of each modality of the corpus: so many rows of each stratum (see `mixture.py`) at every step. A
stratum's rows are the next of its endless sequence of cells, or of the sequences of its datasets in turn. Two views of
one cell are made apart from the same position, so they agree without speaking.

Views are cut from windows of blocks (see `order.py`, `windows.py`), of which each sequence holds two. The window
of a corpus that is one sequence is window_blocks x block_cells cells, at 6 to 8 kB for a cell of 2,000 counts. Where
there are several sequences they share that between them in proportion to their rows, but none has less than `LEAST_BLOCKS`
blocks; a cell of several modalities costs each of them.

A cell's tokens are drawn with a seed of its own, made from the run's seed and its place in the endless row of views:
another epoch shows other tokens, and neither the number of hosts, nor prefetching, nor a restart changes a bit. Each
host reads and tokenises only its rows of the batch, which are laid so that they lie in few blocks (see `turns.py`).

Batches are made ahead by `prefetch` threads. They run in parallel, as neither decoding nor tokenising holds the
interpreter lock; each makes a batch of its own, so that the threads share nothing but the windows.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from mofm.axes import MODALITIES, Modality
from mofm.batch import CellBatch, TokenBatch
from mofm.batches.ahead import made_ahead
from mofm.batches.budget import LEAST_BLOCKS, blocks_within, check_memory
from mofm.batches.collate import collate_into, empty_tokens
from mofm.batches.config import DataConfig
from mofm.batches.entries import CELL, NO_CELL, cells_of
from mofm.batches.gather import CountBatch, gather
from mofm.batches.labels import held_groups, read_numbers
from mofm.batches.memory import Recycler
from mofm.batches.mixture import Stratum, host_part, make_strata, paired_rows, rows_of_views, shares_of
from mofm.batches.order import Order, counter_hash
from mofm.batches.panels import Panels
from mofm.batches.sequences import Sequences
from mofm.batches.turns import Seats, Turns
from mofm.batches.windows import Cells, WindowReader
from mofm.corpus.datasets import Dataset
from mofm.corpus.store import Corpus
from mofm.errors import InputError, nearest_name

_TRAIN, _HELDOUT = 101, 102  # what token seeds are for; part of their key


class Stream:
    """Batches of a corpus, for one host of several.

    Attributes:
      strata: what every training batch is made of. A view holds those that have its modality, in this order, each
        as many rows as its quota; `mixture.view_rows` says which.
      rows: modality -> rows of its global view in a training batch, for those of the strata.
      features: modality -> how many features the corpus has of it, those that `TokenBatch.features_BL` counts.
      tokens: modality -> tokens of a cell.
      idf: float32, one for each ATAC region of the corpus (see `idf.py`).
      labels, technical_batches: what `TokenBatch.label_B` and `batch_B` number; empty where `config` asks for none.

    Args:
      corpus: an open corpus.
      config: see `DataConfig`; its `corpus` is not looked at.
      seed: fixes the split, the order and the tokens.
      host, hosts: this host's number among how many.

    Raises:
      InputError: a dataset or a group to hold out does not exist, nothing is left to train on, the batch is too small for the
        strata, a view does not divide by the hosts, `memory_gb` is too little, a store is damaged, or no dataset has an
        obs column that is asked for.
    """

    def __init__(self, corpus: Corpus, config: DataConfig, seed: int, *, host: int = 0, hosts: int = 1):
        self._corpus, self._config, self._seed, self._host, self._hosts = corpus, config, seed, host, hosts
        self._datasets: tuple[Dataset, ...] = tuple(corpus.datasets)
        self._order = Order(
            [dataset.n_cells for dataset in self._datasets],
            seed,
            holdout_fraction=config.holdout_fraction,
            holdout_stores=_named(self._datasets, config.holdout_datasets),
            holdout_cells=held_groups(self._datasets, config.holdout_groups),
            block_cells=config.block_cells,
            window_blocks=blocks_within(config, self._datasets),
        )
        if self._order.offsets[-1] > np.iinfo(np.int32).max:
            raise InputError(f"{config.corpus}: {self._order.n_cells} cells are more than cell_B (int32) can number")
        train_D, heldout_D = self._order.counts()
        self.strata, self._heldout_strata = self._strata(train_D), self._strata(heldout_D)
        self.rows, self._parts = rows_of_views(self.strata), self._host_parts(self.strata)
        self.pairs, self.heldout_pairs = paired_rows(self.strata), paired_rows(self._heldout_strata)
        self._heldout_parts = self._host_parts(self._heldout_strata)
        self._panels = Panels(corpus)
        self.features, self.idf = self._panels.features, self._panels.idf
        own = {"rna": config.tokens, "atac": config.atac_tokens, "adt": config.adt_tokens}
        self.tokens = self._panels.tokens(config.tokens, own | {"methylation": config.methylation_tokens})
        asked = {"label_B": ("label_key", config.label_key), "batch_B": ("batch_key", config.batch_key)}
        self._numbers = {
            leaf: read_numbers(self._datasets, column, f"data.{option}", by_file=leaf == "batch_B")
            for leaf, (option, column) in asked.items()
            if column is not None
        }
        self.labels, self.technical_batches = (
            self._numbers[leaf].names if leaf in self._numbers else () for leaf in asked
        )
        self._memory = Recycler()
        self._begin_sequences(train_D)

    def _strata(self, cells_D: np.ndarray) -> tuple[Stratum, ...]:
        config = self._config
        return make_strata(
            [dataset.modalities for dataset in self._datasets],
            cells_D.tolist(),
            batch_size=config.batch_size,
            quotas=config.quotas,
            temperature=config.temperature,
            multiple=config.quota_multiple,
        )

    def _host_parts(self, strata: Sequence[Stratum]) -> dict[Modality, slice]:
        """This host's rows of the global view of each modality that the strata have."""
        return {modality: host_part(strata, modality, self._host, self._hosts) for modality in rows_of_views(strata)}

    def _begin_sequences(self, train_D: np.ndarray) -> None:
        """For each stratum this host's rows in each modality, and a reader of each of its sequences."""
        config = self._config
        self._sequences: dict[tuple[int, Modality], Sequences] = {}
        self._readers: dict[tuple[int, int, Modality], WindowReader] = {}
        orders = []
        for position, stratum in enumerate(self.strata):
            together = config.temperature == 1 or len(stratum.datasets) == 1
            groups = [stratum.datasets] if together else [(dataset,) for dataset in stratum.datasets]
            weights = [1.0] if together else [train_D[d] ** config.temperature for d in stratum.datasets]
            turns = Turns(weights)
            seats = {
                modality: Seats(turns, stratum.quota, share.start, share.stop)
                for modality, part in self._parts.items()
                for share in shares_of(self.strata, modality, part)
                if share.stratum == position
            }
            for number, (datasets, weight) in enumerate(zip(groups, weights, strict=True)):
                rows = stratum.quota * weight / sum(weights)
                blocks = max(round(self._order.window_blocks * rows / config.batch_size), LEAST_BLOCKS)
                order = self._order
                if rows < config.batch_size:
                    order = order.among(datasets, (datasets[0] + 1,), min(blocks, order.window_blocks))
                under_way = (config.prefetch + 1) * int(np.ceil(rows))
                orders.append((order, datasets, under_way))
                for modality, mine in seats.items():
                    stores = {d: self._datasets[d].stores[modality] for d in datasets}
                    self._readers[position, number, modality] = WindowReader(order, stores, under_way, mine, number)
            for modality, mine in seats.items():
                readers = [self._readers[position, number, modality] for number in range(len(groups))]
                self._sequences[position, modality] = Sequences(readers, mine)
        check_memory(config, self._datasets, orders)

    @property
    def n_train_cells(self) -> int:
        """Cells of an epoch."""
        return self._order.n_train

    @property
    def n_heldout_cells(self) -> int:
        """Cells never trained on."""
        return self._order.n_heldout

    @property
    def n_lost(self) -> int:
        """Rows of stores found damaged so far and left out (see `DataConfig.damaged`)."""
        return self._corpus.n_lost

    def measured(self, dataset: int, modality: Modality) -> np.ndarray:
        """Which of the corpus's features of a modality a dataset measures, bool; none after the last one known."""
        return self._panels.measured(dataset, modality)

    def heldout_cells(self) -> np.ndarray:
        """int64 global indices of the cells never trained on, ascending."""
        return self._order.heldout()

    def label_counts(self, modality: Modality) -> np.ndarray:
        """int64, for each of `labels` how many training cells have it, of those in which the modality was measured."""
        number_N = self._numbers["label_B"].number_N.copy()
        number_N[self._order.heldout()] = -1
        for dataset, start in zip(self._datasets, self._order.offsets, strict=False):
            if modality not in dataset.stores:
                number_N[start : start + dataset.n_cells] = -1
        return np.bincount(number_N[number_N >= 0], minlength=len(self.labels))

    def technical_batch(self, cell_N: np.ndarray) -> np.ndarray:
        """int32, for cells by their global indices which of `technical_batches` they are of; -1 where it is not known."""
        return self._numbers["batch_B"].of(cell_N)

    def batch(self, step: int) -> CellBatch:
        """This host's rows of the batch of one step (0, 1, ...): a pure function of the seed and the step."""
        return self._train_batch(step, step + 1)

    def batches(self, start: int, stop: int) -> Iterator[CellBatch]:
        """`batch(start)` to `batch(stop - 1)`, made ahead in threads, which end when the generator is closed."""
        return made_ahead(partial(self._train_batch, stop=stop), range(start, stop), self._config.prefetch)

    def count_batch(self, step: int) -> dict[Modality, CountBatch]:
        """The same cells as in `batch(step)`, with all their counts and no tokens, for models other than mofm's."""
        return self._count_batch(step, step + 1)

    def count_batches(self, start: int, stop: int) -> Iterator[dict[Modality, CountBatch]]:
        """`count_batch(start)` to `count_batch(stop - 1)`, made ahead as `batches` are."""
        return made_ahead(partial(self._count_batch, stop=stop), range(start, stop), self._config.prefetch)

    def heldout_batches(self, max_cells: int | None = None) -> Iterator[CellBatch]:
        """This host's rows of batches of the held-out cells, in corpus order, the same tokens each time.

        Each stratum has its rows, as in training, but shared out by held-out cells, so that one which is held out whole
        has some too. A stratum that comes to its end is filled up with padded rows (mask False, cell -1), so that each
        host gets as many batches. With `max_cells`, about that many cells are drawn by the seed from all that are held
        out, of each stratum as many as its rows, or all that it has; exactly that many where there is one stratum.
        """
        if not self.n_heldout_cells:
            return iter(())
        strata, size = self._heldout_strata, self._config.batch_size
        limits = [max_cells and max(1, round(max_cells * stratum.quota / size)) for stratum in strata]
        cells = [self._order.heldout(n, stratum.datasets) for n, stratum in zip(limits, strata, strict=True)]
        batches = max(-(-len(some) // stratum.quota) for some, stratum in zip(cells, strata, strict=True))
        return made_ahead(partial(self._heldout_batch, cells), range(batches), self._config.prefetch)

    def cell_names(self, cell_B: np.ndarray) -> list[str]:
        """What the corpus calls these cells (global indices, as in `cell_B`), for messages; "padding" for -1."""
        return [self._corpus.cell_name(int(cell)) if cell >= 0 else "padding" for cell in cell_B]

    def _train_batch(self, step: int, stop: int) -> CellBatch:
        """The batch of a step; windows after it are asked for if a step before `stop` will need them."""
        if step < 0:
            raise ValueError(f"step {step}")
        return CellBatch(**{modality: self._train_view(modality, step, stop) for modality in self._parts})

    def _count_batch(self, step: int, stop: int) -> dict[Modality, CountBatch]:
        if step < 0:
            raise ValueError(f"step {step}")
        batch = {}
        for modality in self._parts:
            cells = self._train_cells(modality, step, stop)
            batch[modality] = gather(cells.cells_B, self._panels.known[modality], cells.index_B, self._memory.empty)
        return batch

    def _train_view(self, modality: Modality, step: int, stop: int) -> TokenBatch:
        part = self._parts[modality]
        numbers = step * self.rows[modality] + np.arange(part.start, part.stop)
        return self._tokens(modality, self._train_cells(modality, step, stop), self._seeds(_TRAIN, modality, numbers))

    def _train_cells(self, modality: Modality, step: int, stop: int) -> Cells:
        """This host's cells of a view."""
        part = self._parts[modality]
        found = Cells(np.empty(part.stop - part.start, np.int64), np.empty(part.stop - part.start, CELL), [])
        for share in shares_of(self.strata, modality, part):
            self._sequences[share.stratum, modality].fill(found, share.place - share.start, step, stop)
        return found

    def _heldout_batch(self, cells_S: list[np.ndarray], index: int) -> CellBatch:
        views = {}
        for modality, part in self._heldout_parts.items():
            cells = np.full(part.stop - part.start, -1, np.int64)
            for share in shares_of(self._heldout_strata, modality, part):
                first = index * self._heldout_strata[share.stratum].quota
                mine = cells_S[share.stratum][first + share.start : first + share.stop]
                cells[share.place : share.place + len(mine)] = mine
            seeds = self._seeds(_HELDOUT, modality, cells)
            views[modality] = self._tokens(modality, self._heldout_cells(modality, cells), seeds)
        return CellBatch(**views)

    def _heldout_cells(self, modality: Modality, index_B: np.ndarray) -> Cells:
        """Cells of which those in one block are read together; -1 is none."""
        found, under_way = Cells(index_B, np.full(len(index_B), NO_CELL), []), []
        places = np.flatnonzero(index_B >= 0)
        dataset, row = self._order.locate(index_B[places])
        for d in np.unique(dataset).tolist():
            mine = row[dataset == d]
            first = np.flatnonzero(np.diff(mine // self._config.block_cells, prepend=-1))
            starts, stops = mine[first], mine[np.append(first[1:], len(mine)) - 1] + 1
            before = np.cumsum(stops - starts) - stops  # rows read before each span, less its first
            which = mine + np.repeat(before, np.diff(first, append=len(mine)))
            spans = list(zip(starts.tolist(), stops.tolist(), strict=True))
            under_way.append((d, which, self._datasets[d].stores[modality].read_spans(spans)))
        for d, which, read in under_way:
            found.held.append(read.result())
            found.cells_B[places[dataset == d]] = cells_of(found.held[-1], d)[which]
        return found

    def _seeds(self, purpose: int, modality: Modality, counters: np.ndarray) -> np.ndarray:
        """uint64 token seeds. A modality has draws of its own; those of RNA are as they were before there were others."""
        number = MODALITIES.index(modality)
        return counter_hash((self._seed, purpose, number) if number else (self._seed, purpose), counters)

    def _tokens(self, modality: Modality, cells: Cells, seeds_B: np.ndarray) -> TokenBatch:
        """One view of each cell; where there is none, or a damaged corpus no longer has it, padding."""
        index_B, cells_B, _ = cells
        out = empty_tokens(len(index_B), self.tokens[modality], modality, self._memory.empty)
        out.dataset_B[:] = cells_B["dataset"]
        out.cell_B[:] = np.where(out.dataset_B < 0, -1, index_B)
        collate_into(out, cells_B, self._panels.known[modality], seeds_B, self._config.expressed_fraction)
        return out._replace(**{leaf: numbers.of(out.cell_B) for leaf, numbers in self._numbers.items()})


def _named(datasets: tuple[Dataset, ...], names: tuple[str, ...]) -> list[int]:
    """Positions of the datasets of these names."""
    position = {dataset.name: i for i, dataset in enumerate(datasets)}
    for name in names:
        if name not in position:
            raise InputError(f"data.holdout_datasets: no dataset {name!r} in the corpus.{nearest_name(name, position)}")
    return [position[name] for name in names]
