"""Stores, read and written through TensorStore: the only file that imports it.

A store's matrix is three arrays of zarr v3, `X/data`, `X/indices` and `X/indptr`; the methylated reads of a
methylation store are `layers/methylated/data`, in the places of `X/data`. TensorStore decodes chunks in its own
threads, and speaks to local disks, gs://, s3:// and http:// alike. Choices and their cost:

- Reads start at once and are waited for later (`read_rows(...).result()`), so that many blocks are under way. `indptr`
  is held in memory (8 bytes a cell), read once, at the first use.
- Stores never change once they are in the manifest, so TensorStore is told not to look again whether a cached chunk is
  still fresh: looking costs a system call a chunk and half the throughput. A corpus opened anew sees new stores.
- blosc-lz4 with byte shuffle decodes two to three times as fast as zstd and is a third larger. A checksum a chunk
  (crc32c) is worth its few per cent: a flipped bit is found, not trained on. A missing chunk is an error too, where
  zarr would read zeros.
- Fresh memory costs more than decoding into it. A caller that is done with rows before it asks for others gives
  `RowBuffers` and gets them in memory that has been used before. Several spans of cells come as one `CountRows`, so that
  what is made of them is made in one call.
"""

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import tensorstore as ts

from mofm.axes import Modality
from mofm.corpus.buffers import RowBuffers, aligned
from mofm.corpus.datasets import Corpus
from mofm.corpus.features import features_from_bytes, with_builds
from mofm.corpus.manifest import FEATURES, GENE_TABLE, MANIFEST, Manifest, StoreEntry
from mofm.corpus.tables import read_index, read_name_hashes, read_table
from mofm.errors import InputError
from mofm.omics.genome import GeneTable, bundled_species, gene_table, read_gene_table
from mofm.omics.rows import CountRows

T = TypeVar("T")

CACHE_BYTES = 64 * 2**20

Span = tuple[int, int]
"""The first of some consecutive cells, and the one behind the last."""


def kvstore(root: str | Path, *parts: str) -> str | dict:
    """TensorStore's spec of the folder `parts` of `root`, a local path or a URL (gs://, s3://, http://, file://)."""
    if "://" in str(root):
        return "/".join([str(root).rstrip("/"), *parts, ""])
    return {"driver": "file", "path": os.path.join(os.path.abspath(root), *parts, "")}


def read_file(root: str | Path, name: str) -> bytes | None:
    """The bytes of the file `name` in `root`, None where there is none. Raises `InputError` where it cannot be read."""
    try:
        read = ts.KvStore.open(kvstore(root)).result().read(name).result()
    except Exception as error:
        raise InputError(
            f"{root}: {name} cannot be read ({cause_of(error)}); check the path and its permissions"
        ) from error
    return None if read.state == "missing" else read.value


def create_array(folder: Path, metadata: dict) -> ts.TensorStore:
    """A new zarr v3 array in a local folder. What goes wrong, here and in writing it, is a ValueError."""
    # A chunk of zeros is stored like any other, so that a missing one can only mean damage.
    spec = {"driver": "zarr3", "kvstore": kvstore(folder), "store_data_equal_to_fill_value": True}
    return ts.open(spec | {"metadata": metadata}, create=True).result()


class PendingRows:
    """Rows on their way. `result()` waits for them."""

    def __init__(self, store: "Store", spans: Sequence[Span], reads: list, rows: CountRows):
        self._store, self._spans, self._reads, self._rows = store, spans, reads, rows

    @property
    def is_done(self) -> bool:
        """Whether nothing is being written to their memory any more."""
        return all(read.done() for reads in self._reads for read in reads)

    def result(self) -> CountRows:
        """The rows. Raises `InputError` naming the store and the cells where a chunk is damaged or missing."""
        for (start, stop), reads in zip(self._spans, self._reads, strict=True):
            try:
                for read in reads:
                    read.result()
            except Exception as error:
                raise self._store.damaged(f"cells {start:,} to {stop - 1:,}", error) from error
        self._reads = [()] * len(self._spans)
        return self._rows


HITS = "layers/methylated"
"""Where a methylation store keeps the methylated reads; their totals are X."""


class Store:
    """The cells of one dataset and modality.

    Attributes:
      name: of the dataset.
      modality: what was measured.
      dataset: number of the dataset, the position of its name among those of the manifest.
      n_cells, n_features: rows and columns of its matrix.
      entry: all that the manifest says of it.
    """

    def __init__(self, root: str | Path, entry: StoreEntry, dataset: int, context: ts.Context):
        self.entry, self.dataset = entry, dataset
        self.name, self.modality = entry.name, entry.modality
        self.n_cells, self.n_features = entry.cells, entry.features
        self._root, self._context = root, context
        keys = {key: f"X/{key}" for key in ("data", "indices", "indptr")}
        keys |= {"hits": f"{HITS}/data"} if entry.modality == "methylation" else {}
        self._opening = {name: self._open(key) for name, key in keys.items()}
        self._read_keys = tuple(name for name in ("indices", "data", "hits") if name in keys)

    def _open(self, key: str) -> ts.Future:
        spec = {
            "driver": "zarr3",
            "kvstore": kvstore(self._root, self.entry.path, *key.split("/")),
            "recheck_cached_data": False,
            "recheck_cached_metadata": False,
            "fill_missing_data_reads": False,
        }
        return ts.open(spec, open=True, read=True, context=self._context)

    @functools.cached_property
    def _arrays(self) -> dict[str, ts.TensorStore]:
        try:
            arrays = {key: opening.result() for key, opening in self._opening.items()}
        except Exception as error:
            raise self.damaged("X", error) from error
        lengths = {key: array.size for key, array in arrays.items()}
        expected = {name: self.n_cells + 1 if name == "indptr" else self.entry.entries for name in arrays}
        if lengths != expected:
            raise self.damaged("X", f"arrays of {lengths} where the manifest says {expected}")
        return arrays

    def check(self) -> None:
        """Raises `InputError` where the store is missing or is not the one that the manifest describes."""
        _ = self._arrays

    def damaged(self, what: str, cause: Exception | str) -> InputError:
        """The error that says that a part of this store cannot be read."""
        where = "/".join([str(self._root).rstrip("/"), self.entry.path])
        cause = cause if isinstance(cause, str) else cause_of(cause)
        if "ignored by server" in cause:
            return InputError(f"{where}: its web server gives no byte ranges; use one that does, or copy the corpus")
        return InputError(
            f"{where}: {what} of store {self.name!r} cannot be read: the store is damaged or incomplete ({cause}); "
            f"copy the corpus again, or ingest {self.entry.source} into a new one"
        )

    @functools.cached_property
    def _indptr(self) -> np.ndarray:
        try:
            indptr = np.asarray(self._arrays["indptr"].read().result(), np.int64)
        except InputError:
            raise
        except Exception as error:
            raise self.damaged("X/indptr", error) from error
        if indptr[0] != 0 or indptr[-1] != self.entry.entries or (np.diff(indptr) < 0).any():
            raise self.damaged("X/indptr", "it does not grow steadily")
        return indptr

    @functools.cached_property
    def feature_rows(self) -> np.ndarray:
        """int32, one for each column: its row of the corpus's feature table. Read once."""
        try:
            rows = np.asarray(self._open("var/feature_row").result().read().result())
        except Exception as error:
            raise self.damaged("var/feature_row", error) from error
        if rows.shape != (self.n_features,) or rows.dtype != np.int32:
            raise self.damaged("var/feature_row", f"{rows.dtype}{rows.shape} for {self.n_features:,} features")
        return rows

    def n_bytes(self, spans: Sequence[Span]) -> int:
        """What `read_spans` takes of its buffers. Reads `indptr` the first time."""
        entries = sum(int(self._indptr[stop] - self._indptr[start]) for start, stop in spans)
        return sum(aligned(entries * self._arrays[key].dtype.numpy_dtype.itemsize) for key in self._read_keys)

    def read_rows(self, start: int, stop: int, buffers: RowBuffers | None = None) -> PendingRows:
        """Starts reading cells start..stop-1, into all of `buffers` where they are given; see `read_spans`."""
        if not 0 <= start <= stop <= self.n_cells:
            raise ValueError(f"cells {start}:{stop} of a store of {self.n_cells}")
        if buffers is not None:
            buffers.reserve(self.n_bytes([(start, stop)]))
        return self.read_spans([(start, stop)], buffers)

    def read_spans(self, spans: Sequence[Span], buffers: RowBuffers | None = None) -> PendingRows:
        """Starts reading the cells of some spans, one span behind the other; does not wait.

        Args:
          spans: first cell and the one behind the last, of each.
          buffers: of which `n_bytes` are reserved. The rows live until it is next reserved. None: memory of their own.

        Returns:
          What gives the `CountRows` at `.result()`: indices are uint16 (uint32 from 65,536 features on) columns of the
          store, data the store's uint8, uint16 or uint32, and so are the hits of a methylation store.
        """
        if buffers is None:
            buffers = RowBuffers()
            buffers.reserve(self.n_bytes(spans))
        firsts = np.array([self._indptr[start] for start, _ in spans], np.int64)
        lasts = np.array([self._indptr[stop] for _, stop in spans], np.int64)
        ends = np.cumsum(lasts - firsts)
        begins = ends - (lasts - firsts)
        pointers = [
            self._indptr[start:stop] - first + begin
            for (start, stop), first, begin in zip(spans, firsts, begins, strict=True)
        ]
        indptr_N = np.concatenate([*pointers, ends[-1:] if len(spans) else [0]]).astype(np.int64)
        arrays = {key: buffers.take(self._arrays[key].dtype.numpy_dtype, int(indptr_N[-1])) for key in self._read_keys}
        reads = [
            [self._read_into(arrays[key][begin:end], key, first, last) for key in self._read_keys if end > begin]
            for begin, end, first, last in zip(*(x.tolist() for x in (begins, ends, firsts, lasts)), strict=True)
        ]
        return PendingRows(self, spans, reads, CountRows(indptr_N, *arrays.values()))

    def _read_into(self, array: np.ndarray, key: str, first: int, last: int) -> ts.Future:
        return ts.array(array, context=self._context, copy=False).write(self._arrays[key][first:last])

    def obs(self) -> pd.DataFrame:
        """The cells' annotations, the index their names."""
        return self._read(read_table, "obs")

    def var(self) -> pd.DataFrame:
        """The columns: the index their identities; symbol, name_in_file (joined by ";"), resolved, feature_row."""
        return self._read(read_table, "var")

    def _read(self, read: Callable[[str, str], T], key: str) -> T:
        try:
            return read(os.path.join(self._root, self.entry.path), key)
        except Exception as error:
            raise self.damaged(key, error) from error

    def cell_names(self) -> np.ndarray:
        """The names of all cells, in their file; object."""
        return self._read(read_index, "obs")

    def name_hashes(self) -> np.ndarray:
        """uint64, a hash of each cell's name: the same in every store. Read anew at every call."""
        return self._read(lambda folder, _: read_name_hashes(folder), "uns/name_hashes")

    @functools.cached_property
    def _cell_names(self) -> np.ndarray:
        return self.cell_names()

    def cell_name(self, row: int) -> str:
        """The name of a cell in its file. Reads all names at the first call."""
        return str(self._cell_names[row])


def read_manifest(path: str | Path) -> Manifest | None:
    """The manifest of the corpus at `path`; None where there is none."""
    content = read_file(path, MANIFEST)
    return None if content is None else Manifest.from_json(content, f"{str(path).rstrip('/')}/{MANIFEST}")


def read_features(path: str | Path, manifest: Manifest) -> pd.DataFrame:
    """The feature table of the corpus at `path`, as long as its manifest says, and as the newest format has it."""
    where = f"{str(path).rstrip('/')}/{FEATURES}"
    features = features_from_bytes(read_file(path, FEATURES), manifest.n_features, where)
    return with_builds(features, manifest, str(path))


def read_gene_table_of(path: str | Path, manifest: Manifest) -> GeneTable:
    """The gene table of the corpus at `path`: its own copy, or else the one that mofm ships of its species.

    Raises:
      InputError: the copy is damaged, or is missing and mofm ships none.
    """
    where, content = f"{str(path).rstrip('/')}/{GENE_TABLE}", read_file(path, GENE_TABLE)
    if content is not None:
        return read_gene_table(where, content)
    if manifest.species not in bundled_species():
        raise InputError(
            f"{where}: the gene table of its species {manifest.species!r} is missing; copy the corpus again"
        )
    return gene_table(manifest.species)


def open_corpus(
    path: str | Path,
    expect_modality: Modality | None = None,
    *,
    cache_bytes: int = CACHE_BYTES,
    copy_threads: int | None = None,
) -> Corpus:
    """Opens a corpus for reading.

    Args:
      path: a local path or a URL (gs://, s3://, http://, file://).
      expect_modality: refuse a corpus that holds another.
      cache_bytes: memory for decoded chunks, shared by all stores. A chunk is about 64 cells.
      copy_threads: threads that decode and copy; None is one for each core.

    Raises:
      InputError: not a corpus, a damaged one, one of a newer format, or one of another modality.
    """
    manifest = read_manifest(path)
    if manifest is None:
        raise InputError(f"{path}: not a corpus ({MANIFEST} is missing); give a folder made by mofm ingest")
    other = [entry for entry in manifest.stores if expect_modality not in (None, entry.modality)]
    if other:
        raise InputError(f"{path}: store {other[0].name!r} holds {other[0].modality}, {expect_modality} is needed")
    features = read_features(path, manifest)
    threads = {} if copy_threads is None else {"limit": copy_threads}
    context = ts.Context({"cache_pool": {"total_bytes_limit": cache_bytes}, "data_copy_concurrency": threads})
    number = {name: place for place, name in enumerate(dict.fromkeys(entry.name for entry in manifest.stores))}
    stores = tuple(Store(path, entry, number[entry.name], context) for entry in manifest.stores)
    for store in stores:
        store.check()
    return Corpus(path, manifest, stores, features)


def cause_of(error: Exception) -> str:
    """An exception's message on one line, without TensorStore's copy of the whole spec."""
    return " ".join(str(error).split(" [tensorstore_spec")[0].split()) or type(error).__name__
