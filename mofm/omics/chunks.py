"""Chunks of an HDF5 array inflated by several threads, beside HDF5 and not under its lock.

HDF5 inflates with zlib, one chunk after another, while nothing else may touch it: of the time that a gzipped h5ad file
takes, more than half. Here HDF5 only hands out the chunks as they are stored; isal inflates them, three times as fast as
zlib and without Python's lock. Only what h5py and anndata write of themselves is read so: one axis, plain numbers, gzip
with or without byte shuffle. Everything else is left to HDF5.
"""

import functools
import os
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
from isal import isal_zlib

_GZIP, _SHUFFLE = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE
_LEAST_CHUNKS = 4
"""Fewer are left to HDF5, which keeps the last ones that it inflated."""


def read_inflated(dataset: h5py.Dataset, start: int, stop: int) -> np.ndarray | None:
    """`dataset[start:stop]`, in the stored byte order; None where it is for HDF5 to read.

    Raises:
      OSError: a chunk is damaged, as h5py would say it.
    """
    filters = _filters(dataset)
    if filters is None or stop - start < _LEAST_CHUNKS * dataset.chunks[0]:
        return None
    size = dataset.chunks[0]
    values = np.empty(stop - start, dataset.dtype)

    def inflate(chunks: list[tuple[int, int, bytes]]) -> None:
        for first, mask, stored in chunks:
            chunk = _decode(stored, filters, mask, dataset.dtype, size)
            low, high = max(start, first), min(stop, first + size)
            values[low - start : high - start] = chunk[low - first : high - first]

    firsts = range(start - start % size, stop, size)
    share = -(-len(firsts) // _workers())  # a chunk is too little work to wake a thread for
    under_way = []
    for begin in range(0, len(firsts), share):
        chunks = [(first, *dataset.id.read_direct_chunk((first,))) for first in firsts[begin : begin + share]]
        under_way.append(_threads().submit(inflate, chunks))
    for one in under_way:
        one.result()
    return values


def _filters(dataset: h5py.Dataset) -> tuple[int, ...] | None:
    """The filters that a chunk went through, in their order; None for arrays that are not read here."""
    if dataset.ndim != 1 or not dataset.chunks or dataset.dtype.kind not in "iuf":
        return None
    if not dataset.id.get_type().equal(h5py.h5t.py_create(dataset.dtype)):
        return None
    properties = dataset.id.get_create_plist()
    filters = tuple(properties.get_filter(place)[0] for place in range(properties.get_nfilters()))
    return filters if filters in ((_GZIP,), (_SHUFFLE, _GZIP)) else None


def _decode(stored: bytes, filters: tuple[int, ...], mask: int, dtype: np.dtype, size: int) -> np.ndarray:
    """The numbers of one chunk. Bit i of `mask` is set where the chunk did not go through filter i."""
    for place in reversed(range(len(filters))):
        if mask >> place & 1:
            continue
        if filters[place] == _GZIP:
            try:
                stored = isal_zlib.decompress(stored, bufsize=size * dtype.itemsize)
            except isal_zlib.error as error:
                raise OSError(f"a chunk does not inflate: {error}") from error
        else:
            stored = np.frombuffer(stored, np.uint8).reshape(dtype.itemsize, -1).T.tobytes()
    if len(stored) != size * dtype.itemsize:
        raise OSError(f"a chunk has {len(stored):,} bytes for {size:,} numbers")
    return np.frombuffer(stored, dtype)


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_workers(), "mofm-inflate")


def _workers() -> int:
    return min(8, os.cpu_count() or 1)
