"""Cells of a SOMA experiment as a table of counts, streamed by soma_joinid in bounded memory.

Choices and their cost:

- Columns are the genes that the dataset measures, where a Census says (feature_dataset_presence_matrix): to the Census
  those with a count in any of the dataset's cells. A gene that a dataset lacks is so no measured zero; one that it
  measured and never saw is taken to be lacking too. Without that matrix all genes are taken as measured, and it is said.
- TileDB is asked for blocks of cells in the order in which it has them, and the block is put in order here: asking it
  for rows in order took seven times as long. As TileDB gives it, an entry is 20
  bytes, more than twice those of other files: so blocks are half as large.
- Cells that lie close together are asked for as one range, and what was not wanted in it is dropped; others one by one:
  a few cells spread over a dataset take about as long as the whole of it.
- obs of the selected cells is held whole: categorical columns of 1 to 4 bytes a cell, names of some 100 bytes.
- The Census has no barcodes: a cell is named dataset_id/soma_joinid. Elsewhere it has its name in obs_id, where unique.
"""

from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pandas as pd
import pyarrow as pa
import scipy.sparse

from mofm.axes import Modality
from mofm.errors import InputError
from mofm.omics.checks import check_cell_names, check_orientation, gene_share
from mofm.omics.choice import USUAL_LAYERS, Wanted, check_named, make_candidate
from mofm.omics.matrices import MAX_BLOCK_ROWS, StoredMatrix, StoredRows
from mofm.omics.modalities import modality_of
from mofm.omics.soma import SomaPlace, first_line, load_library, opened
from mofm.omics.soma_cells import DATASET, ID, SomaCells
from mofm.omics.table import CountSource, CountTable
from mofm.omics.transpose import spans

PRESENCE = "feature_dataset_presence_matrix"
_FEATURE_NAMES, _CELL_NAMES = ("feature_id", "var_id", "gene_id", "feature_name"), ("obs_id", "barcode")
_SAMPLED_CELLS = 128
_DENSE_ENOUGH = 2  # a range of so many times the wanted cells is read whole


def open_soma(
    cells: SomaCells, modality: Modality | None = None, counts_from: str | None = None, looks_like_genes=gene_share
) -> CountTable:
    """The counts of these cells. Closing the table closes the experiment.

    Args:
      modality: the measurement of this one; RNA where None.
      counts_from: "X/NAME"; where None the layer raw, or counts, or any other that looks like counts.
      looks_like_genes: as in `open_tables`.

    Raises:
      InputError: there is no such measurement or layer, none holds counts, or names are wrong.
    """
    place, modality = cells.place, modality or "rna"
    with ExitStack() as resources:
        ms = resources.enter_context(opened(place, place.experiment, "ms"))
        name, left_out = _measurement(ms, modality, place)
        measurement = ms[name]
        whole = measurement.var.read().concat().to_pandas()
        columns, notes = _measured(measurement, cells, whole)
        var = _named(whole, _FEATURE_NAMES).iloc[columns]
        obs, entries_N = _obs(resources.enter_context(opened(place, place.experiment, "obs")), cells)
        layers = _layers(measurement, cells.where)
        if counts_from is not None:
            check_named(cells.where, {layer: layer for layer in layers}, counts_from)
        candidate, looks = None, {}
        for layer in [counts_from] if counts_from else layers:
            matrix = SomaMatrix(
                cells, layer, measurement.X[layer.removeprefix("X/")], whole, columns, obs.index, entries_N
            )
            candidate = make_candidate(cells.where, matrix, var, Wanted(modality))
            if candidate.look.kind == "counts":
                break
            looks[layer], candidate = candidate.look.words, None
        if candidate is None:
            looks_like = "; ".join(f"{layer} is {words}" for layer, words in looks.items())
            raise InputError(f"{cells.where}: no raw counts found: {looks_like}; write them as a layer of X of {name}")
        check_orientation(cells.where, obs.index, candidate.var.index, looks_like_genes)
        check_cell_names(cells.where, obs.index)
        return CountTable(
            place.given, "soma", cells.where, modality, candidate.matrix.name, "soma", obs, candidate.var,
            CountSource(candidate), left_out=left_out | candidate.left_out, notes=tuple(notes),
            resources=resources.pop_all(),
        )  # fmt: skip


class SomaMatrix(StoredMatrix):
    """Rows and columns of a layer of X.

    Args:
      cells: the rows.
      name: "X/NAME".
      array: the layer, open.
      var: all of its features.
      columns: rows of `var` that are the columns of this matrix.
      names: of the cells.
      entries_N: how many entries each cell has; blocks are cut by them. None takes the mean of the layer for each.
    """

    layout = "soma"

    def __init__(self, cells: SomaCells, name: str, array, var: pd.DataFrame, columns, names: pd.Index, entries_N=None):
        ids = var[ID].to_numpy()
        dtype = np.dtype(array.schema.field("soma_data").type.to_pandas_dtype())
        if entries_N is None:
            entries_N = np.full(len(cells.ids_N), max(1, array.nnz // max(1, array.shape[0])))
        super().__init__(cells.where, name, (len(cells.ids_N), len(columns)), dtype, int(entries_N.sum()))
        self._ids_N, self._array, self._names, self._entries_N = cells.ids_N, array, names, entries_N
        self._column = np.full(int(ids.max(initial=-1)) + 1, -1, np.int32)
        self._column[ids[columns]] = np.arange(len(columns), dtype=np.int32)

    def rows(self, block_entries: int) -> Iterator[StoredRows]:
        """The cells in the order of their ids."""
        for start in range(0, self.shape[0], MAX_BLOCK_ROWS):
            stop = min(start + MAX_BLOCK_ROWS, self.shape[0])
            indptr = np.concatenate([[0], np.cumsum(self._entries_N[start:stop])])
            for first, last in spans(indptr, max(1, block_entries // 2)):
                yield self._read(start + first, start + last)

    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        """The first cells, and as many from the middle."""
        n_cells = self.shape[0]
        parts = [self._read(start, min(start + _SAMPLED_CELLS, n_cells)) for start in sorted({0, n_cells // 2})]
        return np.concatenate([part.indices for part in parts]), np.concatenate([part.values for part in parts])

    def _read(self, first: int, last: int) -> StoredRows:
        ids = self._ids_N[first:last]
        lowest, width = int(ids[0]), int(ids[-1] - ids[0]) + 1
        is_range = width <= _DENSE_ENOUGH * len(ids)
        place = np.full(width if is_range else 0, -1, np.int32)
        if is_range:
            place[ids - lowest] = np.arange(len(ids), dtype=np.int32)
        rows, columns, values = [], [], []
        for table in self._tables(slice(lowest, int(ids[-1])) if is_range else ids):
            cell, feature, value = (table[f"soma_{name}"].to_numpy() for name in ("dim_0", "dim_1", "data"))
            row = place[cell - lowest] if is_range else np.searchsorted(ids, cell).astype(np.int32)
            if (unwanted := row < 0).any():
                row, feature, value = row[~unwanted], feature[~unwanted], value[~unwanted]
            rows.append(row)
            columns.append(self._columns_of(feature, row, first))
            values.append(value)
        if not rows:
            return StoredRows(np.zeros(last - first + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, self.dtype))
        entries = (_joined(values), (_joined(rows), _joined(columns)))
        block = scipy.sparse.coo_array(entries, (last - first, self.shape[1])).tocsr()
        return StoredRows(block.indptr.astype(np.int64), block.indices, block.data)

    def _tables(self, wanted: slice | np.ndarray) -> Iterator[pa.Table]:
        try:
            yield from self._array.read(coords=(wanted,)).tables()
        except (load_library(self.path).SOMAError, RuntimeError) as error:
            raise InputError(
                f"{self.path}: TileDB cannot read {self.name} ({first_line(error)}); run this again, or fetch it again"
            ) from error

    def _columns_of(self, ids: np.ndarray, rows: np.ndarray, first: int) -> np.ndarray:
        """The columns of features. Raises `InputError` where one is not among those that the dataset measures."""
        beyond = ids >= len(self._column)
        columns = self._column[np.where(beyond, 0, ids) if beyond.any() else ids]
        lost = np.flatnonzero(beyond | (columns < 0))
        if len(lost):
            cell, feature = self._names[first + rows[lost[0]]], int(ids[lost[0]])
            raise InputError(
                f"{self.path}: {self.name} has a count of feature {feature} in cell {cell!r}, which its var or {PRESENCE} "
                "does not have; the experiment is damaged: fetch or write it again"
            )
        return columns


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """One array of some; of one, itself."""
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def _measurement(ms, modality: Modality, place: SomaPlace) -> tuple[str, dict[str, int]]:
    """The measurement of a modality, and the number of features of each of the others."""
    names = sorted(ms)
    meant = [name for name in names if modality_of(name) == modality]
    if len(meant) != 1:
        problem = f"no measurement is {modality}" if not meant else f"{' and '.join(meant)} are both {modality}"
        raise InputError(f"{place.given}: {problem}; it has {', '.join(names) or 'none'}: name one with --modality")
    return meant[0], {name: ms[name].var.count for name in names if name != meant[0]}


def _layers(measurement, where: str) -> list[str]:
    """The layers of X, those that usually hold counts first."""
    names = sorted(measurement.X) if "X" in measurement else []
    if not names:
        raise InputError(f"{where}: its measurement has no layer of X; write the counts again")
    order = ("raw", *USUAL_LAYERS)
    usual = sorted((name for name in names if name.lower() in order), key=lambda name: order.index(name.lower()))
    return [f"X/{name}" for name in (*usual, *(name for name in names if name not in usual))]


def _measured(measurement, cells: SomaCells, var: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    """Rows of `var` that the dataset measures, and what is to be said of that."""
    everything = np.arange(len(var))
    notes = [cells.about] if cells.about else []
    if PRESENCE not in measurement or cells.number is None:
        lone = cells.dataset is None
        note = f"nothing says which genes dataset {cells.dataset} measures: all are taken as measured"
        return everything, notes if lone else [*notes, note]
    present = [table["soma_dim_1"].to_numpy()[table["soma_data"].to_numpy().astype(bool)]
               for table in measurement[PRESENCE].read(coords=(cells.number,)).tables()]  # fmt: skip
    columns = np.flatnonzero(np.isin(var[ID].to_numpy(), np.concatenate([np.zeros(0, np.int64), *present])))
    if not len(columns):
        raise InputError(f"{cells.where}: {PRESENCE} has no gene of it; the Census is damaged: fetch it again")
    return columns, [*notes, f"{len(columns):,} of {len(var):,} genes are measured in it, as the Census says"]


def _obs(obs, cells: SomaCells) -> tuple[pd.DataFrame, np.ndarray | None]:
    """The annotations of the cells, named, and how many entries each has, where the Census says."""
    if ID not in obs.index_column_names:
        raise InputError(f"{cells.place.given}: obs is not indexed by {ID}; write it again so that it is")
    ids = cells.ids_N
    whole = slice(int(ids[0]), int(ids[-1])) if ids[-1] - ids[0] + 1 == len(ids) else ids
    table = obs.read(coords=tuple(whole if name == ID else slice(None) for name in obs.index_column_names)).concat()
    frame = table.to_pandas().sort_values(ID, kind="stable", ignore_index=True)
    if not np.array_equal(frame[ID].to_numpy(), ids):
        raise InputError(f"{cells.where}: obs changed while it was read; run this again")
    for name, column in frame.items():
        if isinstance(column.dtype, pd.CategoricalDtype):
            frame[name] = column.cat.remove_unused_categories()
    entries_N = frame["nnz"].to_numpy(np.int64) if cells.number is not None and "nnz" in frame else None
    if DATASET in frame and not any(name in frame for name in _CELL_NAMES):
        frame.index = pd.Index([f"{cells.dataset}/{one}" for one in ids], dtype=object)
        return frame, entries_N
    return _named(frame, _CELL_NAMES), entries_N


def _named(table: pd.DataFrame, names: tuple[str, ...]) -> pd.DataFrame:
    """The table, its index the first of these columns that it has; else its ids."""
    column = next((name for name in names if name in table), ID)
    return table.set_index(pd.Index(table[column].astype(str).to_list(), dtype=object))
