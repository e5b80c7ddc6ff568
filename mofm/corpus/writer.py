"""A store written from a stream of counts, with memory that follows the shard, not the file.

Choices and their cost:

- One pass. How wide the counts must be stored is known only when the last was seen; a pass to find out would read and
  check every file twice. So the first block's width is taken, and where a later count does not fit, the store is begun
  again one width up: rare (the highest counts are those of the same few genes in all cells), and at worst two passes
  more. The number of entries is not known before either: the arrays get their length at the end.
- Counts are the smallest of uint8, uint16 and uint32 that holds the largest, column numbers uint16 below 65,536
  features: half the bytes of float32 and int32 to move, which is what reading costs.
- A chunk, the unit of reading, is what 64 cells have in the first block, rounded to a power of two: a random block of
  128 cells decodes three. Smaller chunks decode less for nothing but cost more each: with 16 cells a chunk reading took a
  third longer, with 128 as long. (`tests/benchmarks/layout.py` holds chunks, codecs and integer types side by side.)
- A shard (a file) is 256 chunks, fewer where that would exceed 32 million entries, because a shard is held in memory to
  be written once: at most 256 MB for both arrays.
- Methylated reads are a layer, which AnnData wants to have column numbers of its own: they are written twice, and read
  once. All arrays of a store have the same chunks.
"""

import errno
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from mofm.corpus.matrix import HITS, create_array
from mofm.corpus.places import cause_of
from mofm.corpus.tables import write_obs, write_var
from mofm.omics.rows import CountRows

CHUNK_CELLS = 64
SHARD_CHUNKS = 256
MAX_SHARD_ENTRIES = 2**25
_CHUNK_ENTRIES = (2**12, 2**20)  # at least, at most
_INDPTR_CHUNK = 2**14
_ENDLESS = 2**48  # length of an array that is still being written


class Written(NamedTuple):
    """What went into a store: `entries` counts that sum to `total`, the largest `largest`; cells with none.

    `total_hits` is the sum of the methylated reads, None for stores of anything else.
    """

    entries: int
    total: int
    total_hits: int | None
    largest: int
    empty_cells: int


class _TooWide(Exception):
    def __init__(self, dtype: np.dtype):
        self.dtype = dtype


def write_store(
    folder: Path,
    obs: pd.DataFrame,
    n_features: int,
    with_hits: bool,
    blocks: Callable[[], Generator[CountRows]],
    on_cells: Callable[[int], None],
) -> Written:
    """Writes an AnnData store but for its var; `finish_store` makes it whole.

    Args:
      folder: where; must not exist.
      obs: as it is to be written, rows in the order of the cells.
      with_hits: whether the rows have methylated reads, which go to a layer.
      blocks: begins the stream of all cells; called again where the counts turn out wider than thought.
      on_cells: called with how many cells were read so far.

    Raises:
      OSError: the disk is full (ENOSPC) or fails.
    """
    dtype = np.dtype(np.uint8)
    matrices = ("X", HITS) if with_hits else ("X",)
    while True:
        write_obs(folder, obs, n_features, matrices[1:])
        places = [folder / matrix for matrix in matrices]
        try:
            with closing(blocks()) as stream:
                return _write_counts(places, dtype, len(obs), n_features, stream, on_cells)
        except _TooWide as wider:
            dtype = wider.dtype
            shutil.rmtree(folder)


def finish_store(folder: Path, var: pd.DataFrame) -> None:
    """Writes var, rows in the order of the columns, and has the whole store on disk (fsync) when it returns."""
    write_var(folder, var)
    sync(folder)


def _write_counts(
    places: list[Path],
    dtype: np.dtype,
    n_cells: int,
    n_features: int,
    blocks: Iterable[CountRows],
    on_cells: Callable[[int], None],
) -> Written:
    indptr, cells, entries, total, hits, largest = [np.zeros(1, np.int64)], 0, 0, 0, 0, 0
    writer = None
    # Nothing may still be written to a folder that is about to be deleted, whatever ended this.
    with ExitStack() as writing:
        for rows in blocks:
            largest = max(largest, int(rows.data.max(initial=0)))
            if largest > np.iinfo(dtype).max:
                wider = np.min_scalar_type(largest)
                if writer is not None:
                    raise _TooWide(wider)
                dtype = wider
            if writer is None:
                columns = np.dtype(np.uint16 if n_features < 2**16 else np.uint32)
                writer = _Entries(places, columns, dtype, len(rows.data) / max(1, rows.n_cells))
                writing.callback(writer.settle)
            both = (rows.data,) if rows.hits is None else (rows.data, rows.hits)
            writer.append(*(array for values in both for array in (rows.indices, values)))
            indptr.append(rows.indptr_N[1:] + entries)
            cells += rows.n_cells
            entries += len(rows.data)
            total += int(rows.data.sum(dtype=np.uint64))
            hits += 0 if rows.hits is None else int(rows.hits.sum(dtype=np.uint64))
            on_cells(cells)
        indptr_N = np.concatenate(indptr)
        if writer is None or cells != n_cells:
            raise ValueError(f"{cells} cells of counts for {n_cells} rows of obs")
        writer.finish()
    for place in places:
        _write_whole(place / "indptr", indptr_N)
    empty = int((np.diff(indptr_N) == 0).sum())
    return Written(entries, total, hits if len(places) > 1 else None, largest, empty)


class _Entries:
    """indices and data of one matrix, or of two with entries in the same places, written side by side, by the shard.

    One shard is encoded and written, in TensorStore's threads, while the next is filled.
    """

    def __init__(self, places: list[Path], columns: np.dtype, counts: np.dtype, entries_per_cell: float):
        power = round(np.log2(max(1.0, CHUNK_CELLS * entries_per_cell)))
        chunk = int(np.clip(2**power, *_CHUNK_ENTRIES))
        shard = chunk * min(SHARD_CHUNKS, MAX_SHARD_ENTRIES // chunk)
        parts = [(place / name, dtype) for place in places for name, dtype in (("indices", columns), ("data", counts))]
        self._arrays = [_OutArray(path, dtype, chunk, shard) for path, dtype in parts]
        self._shards, self._others = ([np.empty(shard, dtype) for _, dtype in parts] for _ in range(2))
        self._under_way: list = []
        self._filled = self._written = 0

    def append(self, *entries: np.ndarray) -> None:
        done, shard = 0, len(self._shards[0])
        while done < len(entries[0]):
            take = min(len(entries[0]) - done, shard - self._filled)
            for buffer, values in zip(self._shards, entries, strict=True):
                buffer[self._filled : self._filled + take] = values[done : done + take]
            self._filled, done = self._filled + take, done + take
            if self._filled == shard:
                self._flush()

    def _flush(self) -> None:
        """Starts writing what is filled, once the shard before is written: its memory is the next one's."""
        _wait(self._under_way)
        pairs = zip(self._arrays, self._shards, strict=True)
        self._under_way = [array.write(self._written, buffer[: self._filled]) for array, buffer in pairs]
        self._shards, self._others = self._others, self._shards
        self._written, self._filled = self._written + self._filled, 0

    def finish(self) -> None:
        if self._filled:
            self._flush()
        _wait(self._under_way)
        for array in self._arrays:
            array.finish(self._written)

    def settle(self) -> None:
        """Returns when nothing is being written any more. How it ended no one asks: all is to be thrown away."""
        for write in self._under_way:
            with suppress(ValueError):
                write.result()


class _OutArray:
    """A one-dimensional zarr v3 array that grows while it is written.

    Writes must be whole shards (but for the last): anything less is read back and written again.
    """

    def __init__(self, folder: Path, dtype: np.dtype, chunk_entries: int, shard_entries: int):
        integers = {"name": "bytes", "configuration": {"endian": "little"}}
        checksum = {"name": "crc32c"}
        lz4 = {"cname": "lz4", "clevel": 5, "shuffle": "shuffle", "typesize": dtype.itemsize, "blocksize": 0}
        shards = {
            "chunk_shape": [chunk_entries],
            "codecs": [integers, {"name": "blosc", "configuration": lz4}, checksum],
            "index_codecs": [integers, checksum],
        }
        metadata = {
            "shape": [_ENDLESS],
            "data_type": dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [shard_entries]}},
            "codecs": [{"name": "sharding_indexed", "configuration": shards}],
            "fill_value": 0,
            # What marks an array as anndata's.
            "attributes": {"encoding-type": "array", "encoding-version": "0.2.0"},
        }
        with _failures():
            self._array = create_array(folder, metadata)

    def write(self, start: int, values: np.ndarray):
        """Starts writing; `values` must stay as they are until `_wait` returns."""
        span = self._array[start : start + len(values)]
        return span.write(values, can_reference_source_data_indefinitely=True).commit

    def finish(self, length: int) -> None:
        """Sets the array's final length."""
        with _failures():
            self._array.resize(exclusive_max=[length], resize_metadata_only=True).result()


def _write_whole(folder: Path, values: np.ndarray) -> None:
    array = _OutArray(folder, values.dtype, _INDPTR_CHUNK, _INDPTR_CHUNK * SHARD_CHUNKS)
    shard = _INDPTR_CHUNK * SHARD_CHUNKS
    _wait([array.write(start, values[start : start + shard]) for start in range(0, len(values), shard)])
    array.finish(len(values))


def _wait(writes: Sequence) -> None:
    with _failures():
        for write in writes:
            write.result()


@contextmanager
def _failures() -> Iterator[None]:
    """TensorStore reports every failure as a ValueError with a status text; a failed write is an OSError."""
    try:
        yield
    except ValueError as error:
        numbers = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES)
        number = next((number for number in numbers if os.strerror(number) in str(error)), errno.EIO)
        raise OSError(number, cause_of(error)) from error


def sync(folder: Path) -> None:
    """Has every file and folder below `folder`, and itself, on disk."""
    for place, _, files in os.walk(folder):
        for name in [*files, "."]:
            descriptor = os.open(os.path.join(place, name), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
