"""A MatrixMarket file of 10x Genomics, streamed: neither the text nor the matrix is ever held whole.

Cell Ranger, STARsolo and alevin write features x barcodes, cell after cell; others write cells x features, or gene
after gene. Which it is, the header, the other two files and one pass over the coordinates show. Where the entries come
cell after cell, they are streamed as they come; else they are regrouped through a scratch file (`transpose.py`).
Choices and their cost:

- The text is parsed by Arrow (all cores, 100 MB/s and more), and twice: a pass over the coordinates, kept for the
  life of the table, decides whether a scratch file is needed and that no entry is missing.
- The sample that counts are judged by at first is the beginning of the file, since text has no places to jump to.
"""

import contextlib
import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import scipy.sparse

from mofm.errors import InputError
from mofm.omics.matrices import MAX_BLOCK_ROWS, StoredMatrix, StoredRows
from mofm.omics.transpose import ColumnSlab, RowScratch, spans

_TEXT_BYTES = 4 * 2**20
_SAMPLE_ENTRIES = 2**19


class MtxMatrix(StoredMatrix):
    """Cells x features of a MatrixMarket file.

    Args:
      path: matrix.mtx, or that gzipped.
      n_cells, n_features: as the other two files of the folder have them.
      where: the folder, for messages.
    """

    layout = "mtx"

    def __init__(self, path: Path, n_cells: int, n_features: int, where: str):
        self._file, self._where = path, where
        self._header, kind, shape, n_entries = _header(path, where)
        if shape == (n_features, n_cells):
            self._order = ("feature", "cell")
        elif shape == (n_cells, n_features):
            self._order = ("cell", "feature")
        else:
            raise InputError(
                f"{where}: {path.name} is {shape[0]:,} x {shape[1]:,}, beside {n_features:,} features and {n_cells:,} "
                "barcodes; take the three files of one folder"
            )
        self._value = {"integer": pa.int64(), "real": pa.float64(), "pattern": None}[kind]
        super().__init__(
            where, path.name, (n_cells, n_features), np.dtype((kind == "real" and "f8") or "i8"), n_entries
        )
        self._by_cell: bool | None = None

    def rows(self, block_entries: int) -> Iterator[StoredRows]:
        """See `StoredMatrix`."""
        if self._by_cell is None:
            self._by_cell = self._look_through()
        if self._by_cell:
            yield from self._as_they_come(block_entries)
            return
        if self._scratch is None or self._scratch.block_entries != block_entries:
            self.close()
            self._scratch = RowScratch(
                lambda _: map(self._slab, self._chunks()),
                n_rows=self.shape[0],
                n_entries=self.n_stored,
                value_dtype=self.dtype,
                block_entries=block_entries,
                max_rows=MAX_BLOCK_ROWS,
            )
        for indptr_N, indices, values in self._scratch.rows():
            yield StoredRows(indptr_N, indices, values)

    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        """Columns and values of the file's first entries."""
        with contextlib.closing(self._chunks()) as chunks:
            _, columns, values = next(chunks, (None, np.empty(0, np.int32), np.empty(0, self.dtype)))
        return columns[:_SAMPLE_ENTRIES], values[:_SAMPLE_ENTRIES]

    def _look_through(self) -> bool:
        """Whether entries come cell after cell. Raises `InputError` where some are missing or out of range."""
        last, ascending, count = 0, True, 0
        for cells, columns, _ in self._chunks():
            for places, size in ((cells, self.shape[0]), (columns, self.shape[1])):
                if places.min() < 0 or places.max() >= size:
                    raise self._broken(
                        f"an entry is outside of its {self.shape[1]:,} features x {self.shape[0]:,} cells"
                    )
            ascending = ascending and cells[0] >= last and bool((np.diff(cells) >= 0).all())
            last, count = cells[-1], count + len(cells)
        if count != self.n_stored:
            raise self._broken(f"it has {count:,} entries, its header says {self.n_stored:,}: it is cut short")
        return ascending

    def _as_they_come(self, block_entries: int) -> Iterator[StoredRows]:
        first, held = 0, [(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, self.dtype))]
        for chunk in _with_end(self._chunks()):
            if chunk is not None:
                held.append(chunk)
                if sum(len(cells) for cells, _, _ in held) < block_entries:
                    continue
            cells, columns, values = (np.concatenate(parts) for parts in zip(*held, strict=True))
            # The last cell may go on in the next chunk.
            stop = self.shape[0] if chunk is None else int(cells[-1])
            end = np.searchsorted(cells, stop)
            indptr_N = np.searchsorted(cells[:end], np.arange(first, stop + 1)).astype(np.int64)
            for low, high in spans(indptr_N, block_entries, MAX_BLOCK_ROWS):
                part = slice(indptr_N[low], indptr_N[high])
                yield StoredRows(indptr_N[low : high + 1] - indptr_N[low], columns[part], values[part])
            held, first = [(cells[end:], columns[end:], values[end:])], stop

    def _slab(self, chunk: tuple[np.ndarray, np.ndarray, np.ndarray]) -> ColumnSlab:
        cells, columns, values = chunk
        by_column = scipy.sparse.coo_array((values, (cells, columns)), self.shape).tocsc()
        return ColumnSlab(0, by_column.indptr, by_column.indices, by_column.data)

    def _chunks(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(cells, columns, values), from 0, as they stand in the text; never empty."""
        types = {self._order[0]: pa.int32(), self._order[1]: pa.int32()}
        types |= {} if self._value is None else {"value": self._value}
        with self._telling(), open_text(self._file) as text:
            reader = pyarrow.csv.open_csv(
                text,
                pyarrow.csv.ReadOptions(block_size=_TEXT_BYTES, column_names=list(types), skip_rows=self._header),
                pyarrow.csv.ParseOptions(delimiter=" "),
                pyarrow.csv.ConvertOptions(column_types=types),
            )
            for batch in reader:
                if len(batch):
                    cells, columns = batch["cell"].to_numpy() - 1, batch["feature"].to_numpy() - 1
                    ones = np.ones(len(batch), np.int64)
                    yield cells, columns, ones if self._value is None else batch["value"].to_numpy()

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowInvalid, OSError) as error:
            if self.n_stored or "Empty CSV" not in str(error):
                cause = " ".join(str(error).split())[:200]
                raise self._broken(f"it is damaged or cut short ({cause})") from error

    def _broken(self, what: str) -> InputError:
        return InputError(f"{self._where}: {self._file.name}: {what}; fetch or write it again")


def read_names(path: Path, where: str) -> pd.DataFrame:
    """features.tsv, genes.tsv, barcodes.tsv or peaks.bed (gzipped or not), columns numbered from 0, all of them text."""
    try:
        with open_text(path) as text:
            return pd.read_csv(text, sep="\t", header=None, dtype=str, keep_default_na=False, quoting=3)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, OSError, UnicodeDecodeError) as error:
        cause = " ".join(str(error).split())
        raise InputError(f"{where}: {path.name} cannot be read ({cause}); fetch or write it again") from error


def open_text(path: Path) -> pa.NativeFile:
    """A text file, decompressed if it is gzipped, whatever its name says."""
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
    return pa.input_stream(str(path), compression="gzip" if zipped else None)


def _header(path: Path, where: str) -> tuple[int, str, tuple[int, int], int]:
    """(lines before the entries, "integer", "real" or "pattern", shape, number of entries)."""
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
        with (gzip.open if zipped else open)(path, "rt") as text:
            words = text.readline().lower().split()
            lines, line = 2, text.readline()
            while line.startswith("%") or not line.strip():
                if not line:
                    break
                lines, line = lines + 1, text.readline()
        sizes = [int(word) for word in line.split()]
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{where}: {path.name}: its header cannot be read ({error}); fetch it again") from error
    good = words[:3] == ["%%matrixmarket", "matrix", "coordinate"] and len(words) == 5 and len(sizes) == 3
    if not good or words[3] not in ("integer", "real", "pattern") or words[4] != "general":
        raise InputError(
            f"{where}: {path.name} begins {' '.join(words)[:60]!r}, where '%%MatrixMarket matrix coordinate integer "
            "general' is needed; write it with scipy.io.mmwrite of a sparse matrix"
        )
    return lines, words[3], (sizes[0], sizes[1]), sizes[2]


def _with_end(chunks: Iterator) -> Iterator:
    yield from chunks
    yield None
