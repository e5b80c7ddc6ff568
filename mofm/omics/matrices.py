"""A matrix of an h5ad file or zarr store, read as consecutive blocks of rows exactly as stored: CSR, CSC or dense.

Nothing is checked here but the structure that reading needs (pointers that only grow, indices in range, arrays of
one length): values are judged in `checks.py`. Choices and their cost:

- Blocks are cut by stored entries, not by cells, so memory follows `block_entries`. A cell that is larger than a
  block is a block of its own. `indptr` is read in pieces too.
- CSR is read once, in file order. Dense is read in whole rows of chunks where they fit; where they do not, HDF5's
  chunk cache holds one row of chunks (up to 256 MB), so that each chunk is still decompressed once.
- CSC has no rows to read. `transpose.py` regroups it through a temporary file: the cost is said there.
"""

import abc
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import h5py
import numpy as np
import zarr

from mofm.errors import InputError
from mofm.omics.hdf5 import RESAVE, check_written, read_slice, reading
from mofm.omics.transpose import ColumnSlab, RowScratch, spans
from mofm.omics.zarrs import BandedArray, Group, complete, is_array

MAX_BLOCK_ROWS = 65_536
_SAMPLE_PLACES = 16
_SAMPLE_ENTRIES = 32_768  # at each place
_CHUNK_CACHE_BYTES = 256 * 2**20


class StoredRows(NamedTuple):
    """Consecutive rows as the file holds them: values unchecked, columns in any order, zeros and repeats allowed.

    Attributes:
      indptr_N: int64, one longer than the number of rows, first entry 0.
      indices: column of each entry, in range.
      values: the numbers, in the file's dtype.
    """

    indptr_N: np.ndarray
    indices: np.ndarray
    values: np.ndarray


class StoredMatrix(abc.ABC):
    """A matrix of cells x features in an open file. `rows` may be called again; `close` frees scratch space.

    Attributes:
      path, name: the file, and the key in it that messages use.
      shape: cells, features.
      dtype: of the stored values.
      n_stored: entries that the file holds (all of them for a dense matrix).
      layout: how the file stores it.
      keep_zeros: whether the zeros of a dense matrix are entries, as of fractions, where NaN is what was not measured.
    """

    layout: Literal["csr", "csc", "dense", "mtx", "fragments", "soma"]
    keep_zeros = False

    def __init__(self, path: Path | str, name: str, shape: tuple[int, int], dtype: np.dtype, n_stored: int):
        self.path, self.name, self.shape, self.dtype, self.n_stored = path, name, shape, dtype, n_stored
        self._scratch: RowScratch | None = None
        if dtype.kind not in "iufb":
            raise InputError(f"{path}: {name} holds {dtype}, not numbers; name another matrix with --counts-from")

    @abc.abstractmethod
    def rows(self, block_entries: int) -> Iterator[StoredRows]:
        """All rows in file order, in blocks of at most `block_entries` entries (or one row)."""

    @abc.abstractmethod
    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        """Columns and values of up to half a million entries, from 16 places evenly spread over the matrix."""

    def sample_rows(self) -> StoredRows | None:
        """Some whole rows from the middle of the matrix; None where whole rows are dear to read (CSC)."""
        return None

    def close(self) -> None:
        """Frees what `rows` keeps on disk."""
        if self._scratch is not None:
            self._scratch.close()
            self._scratch = None


def open_matrix(file: Group, path: Path | str, key: str, name: str) -> StoredMatrix:
    """The matrix at `key`, called `name` in messages. Raises `InputError` where its structure is not sound."""
    with reading(path, name):
        node = file[key]
        if is_array(node):
            check_written(node, path, name)
            if node.ndim != 2:
                raise InputError(f"{path}: {name} has {node.ndim} axes, cells x features are needed; {RESAVE}")
            if isinstance(node, np.ndarray):
                return DenseMatrix(path, name, node.shape, node.dtype, node, 1)
            shape, dtype, chunks = node.shape, node.dtype, node.chunks
            if isinstance(node, zarr.Array):
                bands = BandedArray(node)
                return DenseMatrix(path, name, shape, dtype, bands, bands.band)
            # HDF5 gives a dataset its chunk cache at the first of its open handles: this one must be closed.
            file, key = node.file, node.name
            del node
            dataset = _open_with_cache(file, key, shape, dtype, chunks)
            return DenseMatrix(path, name, shape, dtype, dataset, chunks[0] if chunks else 1)
        encoding = node.attrs.get("encoding-type", node.attrs.get("h5sparse_format", ""))
        encoding = encoding.decode() if isinstance(encoding, bytes) else str(encoding)
        shape = node.attrs.get("shape", node.attrs.get("h5sparse_shape"))
        if not {"data", "indices", "indptr"} <= set(node) or shape is None or encoding[:3] not in ("csr", "csc"):
            raise InputError(
                f"{path}: {name} is neither dense nor a CSR or CSC matrix (encoding {encoding!r}); {RESAVE}"
            )
        shape = (int(shape[0]), int(shape[1]))
        return (CsrMatrix if encoding.startswith("csr") else CscMatrix)(path, name, node, shape)


class _SparseMatrix(StoredMatrix):
    """What CSR and CSC share: three arrays and the checks that they belong together."""

    def __init__(self, path: Path | str, name: str, group: Group, shape: tuple[int, int]):
        self._values, self._indices, self._indptr = (complete(group[key]) for key in ("data", "indices", "indptr"))
        super().__init__(path, name, shape, self._values.dtype, self._indices.size)
        self._n_major, self._n_minor = shape if self.layout == "csr" else shape[::-1]
        for array in (self._values, self._indices, self._indptr):
            if array.ndim != 1 or (array is not self._values and array.dtype.kind not in "iu"):
                self._broken(f"{array.name} is not a list of indices")
            check_written(array, path, name)
        if self._indptr.size != self._n_major + 1:
            self._broken(f"indptr has {self._indptr.size:,} entries, its shape needs {self._n_major + 1:,}")
        first, last = int(self._indptr[0]), int(self._indptr[-1])
        if first != 0 or last != self.n_stored or self._values.size != self.n_stored:
            self._broken(
                f"indptr runs from {first:,} to {last:,} for {self.n_stored:,} indices, {self._values.size:,} values"
            )

    def _broken(self, what: str) -> None:
        raise InputError(
            f"{self.path}: {self.name} is a damaged {self.layout.upper()} matrix: {what}; write the file again"
        )

    def _read_indptr(self, start: int, stop: int) -> np.ndarray:
        """indptr of major rows start..stop, one longer than their number, checked to grow within the arrays."""
        indptr = read_slice(self._indptr, self.path, f"{self.name}/indptr", start, stop + 1).astype(np.int64)
        if indptr[0] < 0 or indptr[-1] > self.n_stored or (np.diff(indptr) < 0).any():
            self._broken(f"indptr does not grow steadily between rows {start:,} and {stop:,}")
        return indptr

    def _read_indices(self, start: int, stop: int) -> np.ndarray:
        indices = read_slice(self._indices, self.path, f"{self.name}/indices", start, stop)
        # Below 0 is beyond any axis without a sign: one pass over them rather than two.
        if len(indices) and indices.view(f"u{indices.itemsize}").max() >= self._n_minor:
            self._broken(f"indices reach from {indices.min()} to {indices.max()}, the axis is {self._n_minor:,} long")
        return indices

    def _read_values(self, start: int, stop: int) -> np.ndarray:
        return read_slice(self._values, self.path, f"{self.name}/data", start, stop)

    def _sample_places(self) -> list[tuple[int, int]]:
        starts = np.linspace(0, max(0, self.n_stored - _SAMPLE_ENTRIES), _SAMPLE_PLACES).astype(np.int64)
        if self.n_stored <= _SAMPLE_PLACES * _SAMPLE_ENTRIES:
            return [(0, self.n_stored)]
        return [(int(start), int(start) + _SAMPLE_ENTRIES) for start in starts]


class CsrMatrix(_SparseMatrix):
    """Cells are the compressed axis: read straight through."""

    layout = "csr"

    def rows(self, block_entries: int) -> Iterator[StoredRows]:
        for start in range(0, self.shape[0], MAX_BLOCK_ROWS):
            indptr = self._read_indptr(start, min(start + MAX_BLOCK_ROWS, self.shape[0]))
            for first, last in spans(indptr, block_entries):
                yield self._read(indptr[first : last + 1])

    def _read(self, indptr_N: np.ndarray) -> StoredRows:
        start, stop = int(indptr_N[0]), int(indptr_N[-1])
        return StoredRows(indptr_N - start, self._read_indices(start, stop), self._read_values(start, stop))

    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        places = self._sample_places()
        columns = np.concatenate([self._read_indices(*place) for place in places])
        return columns, np.concatenate([self._read_values(*place) for place in places])

    def sample_rows(self) -> StoredRows | None:
        start = max(0, self.shape[0] // 2 - 64)
        return self._read(self._read_indptr(start, min(start + 128, self.shape[0])))


class CscMatrix(_SparseMatrix):
    """Features are the compressed axis: rows come from a scratch file, kept until `close`."""

    layout = "csc"

    def rows(self, block_entries: int) -> Iterator[StoredRows]:
        if self._scratch is None or self._scratch.block_entries != block_entries:
            self.close()
            dtype = self._read_values(0, 0).dtype
            self._scratch = RowScratch(
                lambda with_values: self._slabs(block_entries, with_values),
                n_rows=self.shape[0],
                n_entries=self.n_stored,
                value_dtype=dtype,
                block_entries=block_entries,
                max_rows=MAX_BLOCK_ROWS,
            )
        for indptr_N, indices, values in self._scratch.rows():
            yield StoredRows(indptr_N, indices, values)

    def _slabs(self, block_entries: int, with_values: bool) -> Iterator[ColumnSlab]:
        """Runs of `block_entries` entries, cut anywhere: the column of a ubiquitous gene may be larger than a block."""
        indptr = self._read_indptr(0, self._n_major)
        for start in range(0, self.n_stored, block_entries):
            stop = min(start + block_entries, self.n_stored)
            values = self._read_values(start, stop) if with_values else None
            yield self._slab(indptr, start, stop, self._read_indices(start, stop), values)

    @staticmethod
    def _slab(indptr: np.ndarray, start: int, stop: int, rows: np.ndarray, values: np.ndarray | None) -> ColumnSlab:
        first = int(np.searchsorted(indptr, start, side="right")) - 1
        last = int(np.searchsorted(indptr, stop, side="left"))
        return ColumnSlab(first, np.clip(indptr[first : last + 1], start, stop) - start, rows, values)

    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        indptr = self._read_indptr(0, self._n_major)
        columns, values = [], []
        for start, stop in self._sample_places():
            columns.append(np.searchsorted(indptr, np.arange(start, stop), side="right") - 1)
            values.append(self._read_values(start, stop))
        return np.concatenate(columns), np.concatenate(values)


class DenseMatrix(StoredMatrix):
    """Every value is stored; blocks follow the chunks of the file."""

    layout = "dense"

    def __init__(self, path, name, shape, dtype, dataset: h5py.Dataset | BandedArray, band: int):
        super().__init__(path, name, shape, dtype, shape[0] * shape[1])
        self._dataset, self._band = dataset, band

    def rows(self, block_entries: int) -> Iterator[StoredRows]:
        fit = min(MAX_BLOCK_ROWS, max(1, block_entries // max(1, self.shape[1])))
        start = 0
        while start < self.shape[0]:
            if fit >= self._band:
                stop = start + fit - fit % self._band
            else:
                stop = min(start + fit, start - start % self._band + self._band)
            yield self._read(start, min(stop, self.shape[0]))
            start = stop

    def _read(self, start: int, stop: int) -> StoredRows:
        values = read_slice(self._dataset, self.path, self.name, start, stop)
        present = np.ones(values.shape, bool) if self.keep_zeros else values != 0
        lengths_N = np.count_nonzero(present, axis=1)
        indptr_N = np.concatenate([[0], np.cumsum(lengths_N)]).astype(np.int64)
        # Places in the flattened block, less where each row begins: several times faster than a two-axis nonzero.
        places = np.flatnonzero(present)
        columns = places - np.repeat(np.arange(stop - start) * self.shape[1], lengths_N)
        return StoredRows(indptr_N, columns.astype(np.int32), values.ravel()[places])

    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        count = max(1, min(32, 8 * _SAMPLE_ENTRIES // max(1, self.shape[1])))
        starts = np.unique(np.linspace(0, max(0, self.shape[0] - count), _SAMPLE_PLACES).astype(np.int64))
        if self.shape[0] <= _SAMPLE_PLACES * count:
            starts, count = np.array([0]), self.shape[0]
        blocks = [self._read(int(start), min(int(start) + count, self.shape[0])) for start in starts]
        return np.concatenate([block.indices for block in blocks]), np.concatenate([block.values for block in blocks])

    def sample_rows(self) -> StoredRows | None:
        start = max(0, self.shape[0] // 2 - 64)
        return self._read(start, min(start + 128, self.shape[0]))


def _open_with_cache(file: h5py.Group, key: str, shape, dtype, chunks) -> h5py.Dataset:
    """The dense dataset, its chunk cache wide enough for one row of chunks."""
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    if chunks:
        across = -(-shape[1] // chunks[1])
        band_bytes = across * chunks[0] * chunks[1] * dtype.itemsize
        # Many more slots than chunks: two chunks that hash to one slot push each other out.
        access.set_chunk_cache(100 * across + 1, max(2**20, min(band_bytes, _CHUNK_CACHE_BYTES)), 1.0)
    return h5py.Dataset(h5py.h5d.open(file.id, key.encode(), access))
