"""The entries of a store, read and written through TensorStore.

A store's matrix is three arrays of zarr v3, `X/data`, `X/indices` and `X/indptr`; the methylated reads of a
methylation store are `layers/methylated/data`, in the places of `X/data`. TensorStore decodes chunks in its own
threads, and speaks to local disks, gs://, s3:// and http:// alike. Choices and their cost:

- Reads start at once and are waited for later (`read_rows(...).result()`), so that many blocks are under way. `indptr`
  is held in memory (8 bytes a cell), read once, at the first use.
- Stores never change once they are in the manifest, so TensorStore is asked not to look again whether a cached chunk is
  still fresh: looking costs a system call a chunk and half the throughput. A corpus opened anew sees new stores.
- blosc-lz4 with byte shuffle decodes two to three times as fast as zstd and is a third larger. A checksum a chunk
  (crc32c) is worth its few per cent: a flipped bit is found, not trained on. A missing chunk is an error too, where
  zarr would read zeros.
- Fresh memory costs more than decoding into it. A caller that is done with rows before it asks for others gives
  `RowBuffers` and gets them in memory that has been used before. Several spans of cells come as one `CountRows`, so that
  what is made of them is made in one call.
"""

import functools
import itertools
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Literal

import numpy as np
import tensorstore as ts

from mofm.corpus.buffers import RowBuffers, aligned
from mofm.corpus.cache import CachedStore, ShardCache
from mofm.corpus.damage import NO_RANGES, Damage
from mofm.corpus.manifest import StoreEntry
from mofm.corpus.pending import PendingRows, Span
from mofm.corpus.places import PATIENCE_S, cause_of, join, kvstore, unreachable
from mofm.errors import InputError
from mofm.omics.rows import CountRows, join_rows

OnDamage = Literal["stop", "skip"]
_log = logging.getLogger("mofm")


def create_array(folder: Path, metadata: dict) -> ts.TensorStore:
    """A new zarr v3 array in a local folder. What goes wrong, here and in writing it, is a ValueError."""
    # A chunk of zeros is stored like any other, so that a missing one can only mean damage.
    spec = {"driver": "zarr3", "kvstore": kvstore(folder), "store_data_equal_to_fill_value": True}
    return ts.open(spec | {"metadata": metadata}, create=True).result()


HITS = "layers/methylated"
"""Where a methylation store keeps the methylated reads; their totals are X."""


class Matrix:
    """The cells by features of one dataset and modality, on disk.

    Attributes:
      name: of the dataset.
      n_cells, n_features: rows and columns.
      entry: all that the manifest says of it.
    """

    def __init__(
        self,
        root: str | Path,
        entry: StoreEntry,
        context: ts.Context,
        damaged: OnDamage = "stop",
        cache: ShardCache | None = None,
    ):
        self.entry, self._on_damage, self._cache = entry, damaged, cache
        self._lock = threading.Lock()
        self.name, self.n_cells, self.n_features = entry.name, entry.cells, entry.features
        self._root, self._context = root, context
        self._keys = {key: f"X/{key}" for key in ("data", "indices", "indptr")}
        self._keys |= {"hits": f"{HITS}/data"} if entry.modality == "methylation" else {}
        self._opening = {name: self._open(key) for name, key in self._keys.items()}
        self._read_keys = tuple(name for name in ("indices", "data", "hits") if name in self._keys)

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
            arrays = {key: opening.result(PATIENCE_S) for key, opening in self._opening.items()}
        except Exception as error:
            raise self.damaged("X", error) from error
        lengths = {key: array.size for key, array in arrays.items()}
        expected = {name: self.n_cells + 1 if name == "indptr" else self.entry.entries for name in arrays}
        if lengths != expected:
            raise self.damaged("X", f"arrays of {lengths} where the manifest says {expected}")
        return arrays

    def check(self) -> None:
        """Raises `InputError` where the store is missing or is not the one that the manifest describes."""
        _ = self._arrays, self._cached

    @functools.cached_property
    def _cached(self) -> CachedStore | None:
        if self._cache is None:
            return None
        arrays = {self._keys[name]: self._arrays[name] for name in self._read_keys}
        return CachedStore(self._cache, self._root, self.entry, arrays, self._context)

    def damaged(self, what: str, cause: Exception | str) -> InputError:
        """The error that says that a part of this store cannot be read: it is damaged, or its server does not give it."""
        where = join(self._root, self.entry.path)
        if isinstance(cause, Exception) and (refused := unreachable(where, what, cause)):
            return refused
        cause = cause if isinstance(cause, str) else cause_of(cause)
        if NO_RANGES in cause:
            return InputError(f"{where}: its web server gives no byte ranges; use one that does, or copy the corpus")
        return InputError(
            f"{where}: {what} of store {self.name!r} cannot be read: the store is damaged or incomplete ({cause}); "
            f"copy the corpus again, or ingest {self.entry.source} into a new one"
        )

    @functools.cached_property
    def _indptr(self) -> np.ndarray:
        try:
            indptr = np.asarray(self._arrays["indptr"].read().result(PATIENCE_S), np.int64)
        except InputError:
            raise
        except Exception as error:
            raise self.damaged("X/indptr", error) from error
        if indptr[0] != 0 or indptr[-1] != self.entry.entries or (np.diff(indptr) < 0).any():
            raise self.damaged("X/indptr", "it does not grow steadily")
        return indptr

    @functools.cached_property
    def _damage(self) -> Damage:
        return Damage({self._keys[name]: self._arrays[name] for name in self._read_keys}, self._indptr)

    @property
    def n_lost(self) -> int:
        """Cells that were found damaged and are left out."""
        return self._damage.n_lost if "_damage" in self.__dict__ else 0

    def read_around(self, start: int, stop: int, error: Exception) -> CountRows:
        """Cells start..stop-1, whose reading failed with `error`, without those that are damaged: read anew, waited for.

        Raises:
          InputError: damage is not to be skipped, or something else is the matter.
        """
        what = f"cells {start:,} to {stop - 1:,}"
        try:
            with self._lock:
                damage = self._damage
            found, new = damage.look(start, stop)
            lost = damage.lost(start, stop)
        except Exception as other:
            raise self.damaged(what, other) from other
        if not lost.any():  # whatever else is damaged, it is not that
            raise self.damaged(what, error) from error
        if self._on_damage == "stop":
            raise self.damaged(what, "; ".join(map(str, found))) from error
        for file in new:
            where = join(self._root, self.entry.path)
            _log.warning("%s/%s; these cells of store %r are left out", where, file, self.name)
        bounds = [0, *(np.flatnonzero(np.diff(lost)) + 1).tolist(), stop - start]
        nothing = self.read_spans([]).result()
        parts = []
        for first, last in itertools.pairwise(bounds):
            gone = nothing._replace(indptr_N=np.zeros(last - first + 1, np.int64), lost_N=np.ones(last - first, bool))
            parts.append(gone if lost[first] else self.read_rows(start + first, start + last).result())
        return join_rows(parts)

    def n_bytes(self, spans: Sequence[Span]) -> int:
        """What `read_spans` takes of its buffers. Reads `indptr` the first time."""
        entries = sum(self._indptr.item(stop) - self._indptr.item(start) for start, stop in spans)
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
        firsts, lasts = ([self._indptr.item(span[end]) for span in spans] for end in (0, 1))
        ends = list(itertools.accumulate((last - first for first, last in zip(firsts, lasts, strict=True)), initial=0))
        pointers = [
            self._indptr[start:stop] + (begin - first)
            for (start, stop), first, begin in zip(spans, firsts, ends, strict=False)
        ]
        indptr_N = np.concatenate([*pointers, ends[-1:]])
        arrays = {key: buffers.take(self._arrays[key].dtype.numpy_dtype, ends[-1]) for key in self._read_keys}
        reads = [
            [self._read_into(arrays[key][begin:end], key, first, last) for key in self._read_keys if end > begin]
            for (begin, end), first, last in zip(itertools.pairwise(ends), firsts, lasts, strict=True)
        ]
        return PendingRows(self, spans, reads, CountRows(indptr_N, *arrays.values()))

    def _read_into(self, array: np.ndarray, key: str, first: int, last: int) -> ts.Future | Future:
        if self._cached is not None:
            return self._cached.read_into(array, self._keys[key], first, last)
        return ts.array(array, context=self._context, copy=False).write(self._arrays[key][first:last])
