"""A table of counts: one modality of a file that is open for streaming, whatever the file."""

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Protocol

import numpy as np
import pandas as pd

from mofm.axes import Modality
from mofm.errors import InputError
from mofm.files import Location
from mofm.omics.ahead import read_ahead
from mofm.omics.checks import BadValue
from mofm.omics.choice import Candidate
from mofm.omics.counts import to_counts, to_recovered_counts
from mofm.omics.layouts import Kind
from mofm.omics.rows import CountRows
from mofm.omics.select import SelectedMatrix

BLOCK_ENTRIES = 4_000_000


class Source(Protocol):
    """Where the rows of a table come from."""

    def blocks(self, block_entries: int) -> Iterator[CountRows]:
        """All cells in order, in blocks; raises `BadValue` with `cell` (in the block) and `column` set."""

    def take(self, wanted: np.ndarray) -> "Source":
        """The cells of these numbers, in this order."""

    def close(self) -> None:
        """Frees scratch space."""


@dataclasses.dataclass(frozen=True)
class CountSource:
    """Counts as they are stored, or turned back from log1p-normalised values."""

    candidate: Candidate
    recovered: bool = False

    def blocks(self, block_entries: int) -> Iterator[CountRows]:
        """See `Source`."""
        # Read in a thread, so that a block is checked while the next one is read.
        stored = read_ahead(self.candidate.rows(block_entries))
        yield from map(to_recovered_counts if self.recovered else to_counts, stored)

    def take(self, wanted: np.ndarray) -> "CountSource":
        """See `Source`."""
        return dataclasses.replace(self, candidate=take_rows(self.candidate, wanted))

    def close(self) -> None:
        """See `Source`."""
        self.candidate.matrix.close()


def take_rows(candidate: Candidate, wanted: np.ndarray) -> Candidate:
    """The same matrix, but for its rows."""
    return dataclasses.replace(candidate, matrix=SelectedMatrix(candidate.matrix, wanted))


@dataclasses.dataclass
class CountTable:
    """Counts of one modality in a file that is open for streaming. A context manager; `close` closes the file.

    Attributes:
      path: the file or folder, or a URL.
      kind: what that is.
      where: the table's name in messages: the path, and the modality where the file has several.
      modality: what was measured.
      counts_from: the matrix read, such as "X", "layers/NAME", "raw/X" or "matrix".
      layout: how the file stores it.
      obs: one row a cell, the index its names, unique.
      var: one row a feature that is read, the index its names (of raw/var where counts_from is "raw/X").
      hits_from: methylation: the matrix of methylated reads or of fractions. None for others.
      recovered: whether log1p-normalised values are turned back into counts.
      recovered_share: share of all entries that came within 0.05 of a whole number; None where not recovered.
      left_out: features that no table of the file reads, counted by their feature type.
      notes: what else was decided, a line each.
      n_empty: cells without any counts (they are kept); None until `rows` has come to its end.
      source: where the rows come from.
      resources: what `close` closes.
    """

    path: Location
    kind: Kind
    where: str
    modality: Modality
    counts_from: str
    layout: str
    obs: pd.DataFrame
    var: pd.DataFrame
    source: Source = dataclasses.field(repr=False)
    hits_from: str | None = None
    recovered: bool = False
    recovered_share: float | None = None
    left_out: dict[str, int] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    n_empty: int | None = None
    resources: ExitStack = dataclasses.field(default_factory=ExitStack, repr=False)

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.obs)

    @property
    def n_features(self) -> int:
        """Number of features that are read."""
        return len(self.var)

    def rows(self, block_entries: int = BLOCK_ENTRIES) -> Iterator[CountRows]:
        """Consecutive blocks of cells in order. May be called again, one iteration at a time.

        Indices are int32, ascending and unique in a cell; counts are the smallest of uint8, uint16 and uint32 that
        holds the block's, none zero. How cells are cut into blocks depends on `block_entries`; the cells do not.

        Args:
          block_entries: stored entries a block may have (a larger cell is a block of its own). Memory is about 60
            bytes an entry, whatever the file's size.

        Raises:
          InputError: a value is no count, or the file is damaged; names the cell and the feature.
        """
        if block_entries < 1:
            raise ValueError(f"block_entries must be at least 1, not {block_entries}")
        self.n_empty = None
        blocks = self.source.blocks(block_entries)
        first_cell = n_empty = 0
        while True:
            try:
                rows = next(blocks, None)
            except BadValue as bad:
                raise self._blame(bad, first_cell) from bad
            if rows is None:
                break
            n_empty += int((rows.indptr_N[1:] == rows.indptr_N[:-1]).sum())
            first_cell += rows.n_cells
            yield rows
        self.n_empty = n_empty

    def take(self, wanted: np.ndarray) -> "CountTable":
        """The cells of these numbers (int64, none twice), in this order. Valid while this table is open."""
        source = self.source.take(wanted)
        table = dataclasses.replace(self, obs=self.obs.iloc[wanted], source=source, n_empty=None, resources=ExitStack())
        table.resources.callback(source.close)
        return table

    def _blame(self, bad: BadValue, first_cell: int) -> InputError:
        cell = first_cell + bad.cell
        remedy = bad.remedy or "raw counts are needed: name another matrix with --counts-from"
        return InputError(
            f"{self.where}: {self.hits_from or self.counts_from} holds {bad.what}, in cell {self.obs.index[cell]!r} "
            f"(row {cell:,}), feature {self.var.index[bad.column]!r}; {remedy}"
        )

    def close(self) -> None:
        """Closes the file and deletes scratch space."""
        self.resources.close()

    def __enter__(self) -> "CountTable":
        return self

    def __exit__(self, *_) -> None:
        self.close()
