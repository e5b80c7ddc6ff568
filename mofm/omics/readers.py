"""An h5ad file opened as RNA counts and streamed: whatever the file, the same checked `CountRows` come out.

Which matrix holds the counts is told (`counts_from`) or found: `layers/counts` and its usual other names, `raw/X`, `X`,
in this order, the first whose sampled values are non-negative whole numbers. A sample only chooses: every value is
checked while it streams. Log1p-normalised values can be turned back into counts (see `recover.py`); that takes a
pass over the whole matrix before the first row is given out.

Only the obs and var tables are held whole (through anndata). Where `var["feature_types"]` names several kinds, the gene
expression columns are read, and the others counted in `left_out`.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import h5py
import pandas as pd

from mofm.axes import Modality
from mofm.errors import InputError
from mofm.omics.checks import BadValue, check_cell_names, check_orientation, gene_share
from mofm.omics.choice import Candidate, choose, load_candidate, matrix_keys
from mofm.omics.counts import to_counts, to_recovered_counts
from mofm.omics.hdf5 import open_hdf5, read_table
from mofm.omics.rows import CountRows

BLOCK_ENTRIES = 4_000_000


@dataclasses.dataclass
class CountTable:
    """Counts of one modality in a file that is open for streaming. A context manager; `close` closes the file.

    Attributes:
      path: the file.
      modality: "rna".
      counts_from: the matrix read: "X", "layers/NAME" or "raw/X".
      recovered: whether its log1p-normalised values are turned back into counts.
      recovered_share: share of all entries that came within 0.05 of a whole number; None where not recovered.
      layout: how the file stores the matrix.
      obs: one row a cell, the index its names, unique.
      var: one row a feature that is read, the index its names (of raw/var where counts_from is "raw/X").
      left_out: features not read, counted by their feature type.
      n_empty: cells without any counts (they are kept); None until `rows` has come to its end.
    """

    path: Path
    modality: Modality
    counts_from: str
    recovered: bool
    recovered_share: float | None
    layout: str
    obs: pd.DataFrame
    var: pd.DataFrame
    left_out: dict[str, int]
    n_empty: int | None = None
    _candidate: Candidate | None = dataclasses.field(default=None, repr=False)
    _resources: ExitStack = dataclasses.field(default_factory=ExitStack, repr=False)

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.obs)

    @property
    def n_features(self) -> int:
        """Number of features that are read."""
        return len(self.var)

    def rows(self, block_entries: int = BLOCK_ENTRIES) -> Iterator[CountRows]:
        """Consecutive blocks of cells in file order. May be called again, one iteration at a time.

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
        convert = to_recovered_counts if self.recovered else to_counts
        first_cell = n_empty = 0
        for stored in self._candidate.rows(block_entries):
            try:
                rows = convert(stored)
            except BadValue as bad:
                raise self._blame(bad, first_cell) from bad
            n_empty += int((rows.indptr_N[1:] == rows.indptr_N[:-1]).sum())
            first_cell += rows.n_cells
            yield rows
        self.n_empty = n_empty

    def _blame(self, bad: BadValue, first_cell: int) -> InputError:
        cell = first_cell + bad.cell
        return InputError(
            f"{self.path}: {self.counts_from} holds {bad.what}, in cell {self.obs.index[cell]!r} (row {cell:,}), "
            f"feature {self.var.index[bad.column]!r}; raw counts are needed: name another matrix with --counts-from"
        )

    def close(self) -> None:
        """Closes the file and deletes scratch space."""
        self._resources.close()

    def __enter__(self) -> "CountTable":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def open_h5ad(
    path: str | Path,
    *,
    counts_from: str | None = None,
    recover_counts: bool = False,
    looks_like_genes: Callable[[Sequence[str]], float] = gene_share,
) -> CountTable:
    """Opens the RNA counts of an h5ad file for streaming.

    Args:
      path: an .h5ad file.
      counts_from: the matrix of counts: "X", "layers/NAME" or "raw/X". None finds it.
      recover_counts: where no matrix holds counts, turn log1p-normalised values back, if the whole matrix bears it out.
        Reads it once before this returns.
      looks_like_genes: share of the given names that are genes; tells a matrix of genes x cells. The default knows
        Ensembl ids of any species, and the symbols of those whose gene tables are bundled.

    Raises:
      InputError: the file cannot be used; its one line says why and what to do.
    """
    path = Path(path)
    with ExitStack() as resources:
        file = resources.enter_context(open_hdf5(path))
        matrix_keys(file, path)
        obs = read_table(file, path, "obs")
        candidate, recovery = choose(file, path, len(obs), counts_from, recover_counts, BLOCK_ENTRIES)
        resources.callback(candidate.matrix.close)
        check_orientation(path, obs.index, candidate.var.index, looks_like_genes)
        check_cell_names(path, obs.index)
        return CountTable(
            path=path,
            modality="rna",
            counts_from=candidate.matrix.name,
            recovered=recovery is not None,
            recovered_share=None if recovery is None else recovery.share,
            layout=candidate.matrix.layout,
            obs=obs,
            var=candidate.var,
            left_out=candidate.left_out,
            _candidate=candidate,
            _resources=resources.pop_all(),
        )


def describe_h5ad(path: str | Path) -> dict:
    """What an HDF5 file holds and whether it can be used, from samples: JSON-able, for `mofm inspect`.

    Keys: path, cells, obs_columns and var_columns (name -> what), matrices (name -> layout, shape, dtype, stored
    entries, kind, looks, and for log-normalised values recoverable_share: of a sample of rows, how much inverts to
    whole numbers; or error), left_out, counts_from (None where none would be taken), usable, why.

    Raises `InputError` only for a file that is missing or cannot be opened as HDF5.
    """
    path = Path(path)
    report = {
        "path": str(path), "cells": None, "obs_columns": {}, "var_columns": {}, "matrices": {}, "left_out": {},
        "counts_from": None, "usable": False, "why": "",
    }  # fmt: skip
    with open_hdf5(path) as file:
        try:
            keys = matrix_keys(file, path)
            obs = read_table(file, path, "obs")
            report["cells"], report["obs_columns"] = len(obs), _columns(obs)
            report["var_columns"] = _columns(read_table(file, path, "var"))
            for name, key in keys.items():
                report["matrices"][name] = _describe_matrix(file, path, name, key, len(obs))
        except InputError as error:
            report["why"] = str(error)
            return report
    try:
        with open_h5ad(path) as table:
            why = f"counts are in {table.counts_from}: {table.n_cells:,} cells x {table.n_features:,} genes"
            if table.left_out:
                why += f", leaving out {sum(table.left_out.values()):,} features of other kinds"
            return report | {
                "counts_from": table.counts_from, "left_out": table.left_out, "usable": True, "why": why,
            }  # fmt: skip
    except InputError as error:
        return report | {"why": str(error)}


def _describe_matrix(file: h5py.File, path: Path, name: str, key: str, n_cells: int) -> dict:
    try:
        candidate = load_candidate(file, path, name, key, n_cells)
    except InputError as error:
        return {"error": str(error)}
    matrix, look = candidate.matrix, candidate.look
    described = {
        "layout": matrix.layout, "shape": list(matrix.shape), "dtype": str(matrix.dtype), "stored": matrix.n_stored,
        "kind": look.kind, "looks": look.words,
    }  # fmt: skip
    recovery = candidate.sampled_recovery() if look.kind == "log-normalised" else None
    return described | ({"recoverable_share": recovery.share} if recovery else {})


def _columns(table: pd.DataFrame) -> dict[str, str]:
    described = {}
    for name, column in table.items():
        categories = getattr(column.dtype, "categories", None)
        if categories is None:
            described[str(name)] = str(column.dtype)
        else:
            described[str(name)] = f"{len(categories):,} {'category' if len(categories) == 1 else 'categories'}"
    return described
