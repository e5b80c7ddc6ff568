"""A cache on local disk of the shards of remote corpora: a file is fetched once, whole, and read from there ever after.

    CACHE_DIR/.lock                     held for moments, while room is made
    CACHE_DIR/STORE/.used               held (shared) by every process that has this store open
    CACHE_DIR/STORE/X/data/c/0          a shard, byte for byte
    CACHE_DIR/STORE/X/data/c/.0.part    one on its way, held by who fetches it

Processes of one host share it. STORE is made of the URL, the store's entry in the manifest and its arrays' metadata, so
that another corpus made at the same place is another store. Choices and their cost:

- Stores that some process has open are never evicted, so no read can lose its file. A shard for which there is no room
  beside them is not fetched: its rows are read from the bucket, in ranges, as without a cache. A store is read in random
  order again and again, so evicting one shard for the next would fetch 100 MB for each block of 128 cells; this way a
  cache of half a corpus saves half of the traffic. Of closed stores the shards go first that were opened longest ago.
- Room is asked for before a shard is fetched, as if it could not be compressed: about the last 200 MB stay unused.
- A file is fetched when the first of its cells is asked for: the first window of a run waits for whole shards.
- What was damaged on this disk fails its checksum, like any chunk; the shard is fetched again, once. What fails then is
  read in the bucket: so only damage there is an error, and is reported of the file there.
"""

import dataclasses
import fcntl
import hashlib
import json
import math
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tensorstore as ts

from mofm.corpus.manifest import StoreEntry
from mofm.corpus.places import PATIENCE_S, kvstore, open_files
from mofm.errors import InputError

_READERS = 32
"""Reads under way at once; each waits in a thread."""
_FETCHES = 4
"""Shards fetched at once, each held in memory until it is on disk."""


class ShardCache:
    """A folder of shards, never larger than it may be. Safe to share between threads and processes.

    Args:
      folder: made where it is not there.
      limit_bytes: of all files in it.

    Raises:
      InputError: the folder cannot be written to.
    """

    def __init__(self, folder: str | Path, limit_bytes: int):
        self.folder, self.limit_bytes = Path(folder).absolute(), limit_bytes
        self.threads = ThreadPoolExecutor(_READERS, "mofm-cache")
        self.fetches = threading.Semaphore(_FETCHES)
        self.too_large = math.inf
        """Bytes of the smallest shard for which there was no room: none so large is asked for again."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._locked():
                pass
        except OSError as error:
            raise InputError(
                f"data.cache_dir={folder}: cannot be written ({error.strerror or error}); name another folder"
            ) from error

    def has_room(self, part: Path, n_bytes: int) -> bool:
        """Makes `part` a file of so many bytes, where there is or can be made room for it.

        Where not, it is false of no fewer bytes ever after, without looking.
        """
        if n_bytes >= self.too_large:
            return False
        with self._locked():
            files = self._files(but=part)
            over = sum(size for _, size, _ in files) + n_bytes - self.limit_bytes
            for _, size, path in sorted(files):
                if over > 0 and path.name != ".used" and self._is_closed(path):
                    path.unlink(missing_ok=True)
                    over -= size
            if over > 0:
                self.too_large = min(self.too_large, n_bytes)
                return False
            os.truncate(part, n_bytes)
        return True

    def _files(self, but: Path) -> list[tuple[float, int, Path]]:
        """Time, size and path of every file in the cache but one."""
        files = []
        for path in self.folder.rglob("*"):
            with suppress(FileNotFoundError):  # a shard arrived, and is no part any more
                stat = path.stat()
                files += [(stat.st_mtime, stat.st_size, path)] if path != but and path.is_file() else []
        return files

    def _is_closed(self, path: Path) -> bool:
        """Whether no process has the store of this file open."""
        used = self.folder / path.relative_to(self.folder).parts[0] / ".used"
        with suppress(OSError), used.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / ".lock").open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


class CachedStore:
    """The shards of one store, each from the cache where it is there or there is room for it.

    Args:
      cache: where.
      root, entry: which store.
      arrays: path in the store -> its array in the bucket.
      context: of the arrays.
    """

    def __init__(
        self,
        cache: ShardCache,
        root: str | Path,
        entry: StoreEntry,
        arrays: dict[str, ts.TensorStore],
        context: ts.Context,
    ):
        self._cache, self._root, self._path, self._there = cache, root, entry.path, arrays
        metadata = {key: array.spec().to_json()["metadata"] for key, array in arrays.items()}
        what = json.dumps([str(root), dataclasses.asdict(entry), metadata], sort_keys=True)
        name = f"{entry.name}.{entry.modality}-{hashlib.blake2b(what.encode(), digest_size=12).hexdigest()}"
        self._folder = cache.folder / name
        self._files = open_files(root, entry.path)
        self._lock, self._arrived, self._again = threading.Lock(), {}, set()
        try:
            with cache._locked():  # nobody may find the store closed between its being made and its being held
                self._folder.mkdir(exist_ok=True)
                self._used = (self._folder / ".used").open("ab")
                fcntl.flock(self._used, fcntl.LOCK_SH)
        except OSError as error:
            raise InputError(
                f"{self._folder}: cannot be held open ({error.strerror or error}): the cache opens a file for each store; "
                "raise `ulimit -n` above their number, free the disk, or leave data.cache_dir out"
            ) from error
        self._here = {
            key: ts.open(
                {"driver": "zarr3", "kvstore": kvstore(self._folder, *key.split("/")), "metadata": metadata[key]}
                | {"recheck_cached_data": False, "recheck_cached_metadata": False, "fill_missing_data_reads": False},
                open=True, read=True, assume_metadata=True, context=context,
            ).result()
            for key in arrays
        }  # fmt: skip

    def read_into(self, out: np.ndarray, key: str, first: int, last: int) -> Future:
        """Starts reading entries first..last-1 of an array."""
        return self._cache.threads.submit(self._read, out, key, first, last)

    def _read(self, out: np.ndarray, key: str, first: int, last: int) -> None:
        shard = self._there[key].chunk_layout.write_chunk.shape[0]
        for number in range(first // shard, -(-last // shard)):
            begin, end = max(first, number * shard), min(last, (number + 1) * shard)
            self._read_part(out[begin - first : end - first], key, number, slice(begin, end))

    def _read_part(self, out: np.ndarray, key: str, number: int, entries: slice) -> None:
        """Of one shard."""
        if self._shard(key, number):
            with suppress(ValueError):
                self._copy_here(out, key, entries)
                return
            if self._fetch_again(key, number):
                with suppress(ValueError):
                    self._copy_here(out, key, entries)
                    return
        _copy(out, self._there[key][entries])

    def _copy_here(self, out: np.ndarray, key: str, entries: slice) -> None:
        """By memory of its own: a read that fails goes on for a while, and `out` may be another's by then."""
        out[...] = self._here[key][entries].read().result(PATIENCE_S)

    def _shard(self, key: str, number: int) -> bool:
        """Whether a shard is here, fetched if need be."""
        with self._lock:
            arrived = self._arrived.get((key, number))
            if mine := arrived is None:
                arrived = self._arrived[key, number] = Future()
        if mine:
            try:
                arrived.set_result(self._bring(key, number))
            except BaseException as error:
                with self._lock:
                    del self._arrived[key, number]
                arrived.set_exception(error)
        return arrived.result()

    def _fetch_again(self, key: str, number: int) -> bool:
        """Fetches a shard anew, unless that was done before; whether it was, by whoever."""
        with self._lock:
            if (key, number) not in self._again:
                self._again.add((key, number))
                self._path_of(key, number).unlink(missing_ok=True)
                self._arrived.pop((key, number), None)
        return self._shard(key, number)

    def _bring(self, key: str, number: int) -> bool:
        path = self._path_of(key, number)
        if path.exists():
            with suppress(OSError):
                os.utime(path)  # opened now
            return True
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{number}.part")
        while not path.exists():
            with self._cache.fetches, part.open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # another process may be fetching it
                if not _is_at(file, part):
                    continue  # it was, and the file that this one waited for has gone or become the shard
                try:
                    if not path.exists() and not self._fetch(key, number, file, part):
                        return False
                finally:
                    if _is_at(file, part):
                        part.unlink()
        return True

    def _fetch(self, key: str, number: int, file: BinaryIO, part: Path) -> bool:
        """Fetches a shard to `part`, open as `file`, and renames that into place; false where there is no room."""
        try:
            if not self._cache.has_room(part, self._most_bytes(key, number)):
                return False
            read = self._files.read(f"{key}/c/{number}").result(PATIENCE_S)
            if read.state == "missing":
                return False  # reported by who reads it in the bucket
            file.truncate(0)
            file.write(read.value)
            file.flush()
            os.replace(part, self._path_of(key, number))
        except TimeoutError:
            return False  # the bucket is slow today
        except OSError:
            self._cache.too_large = 0  # the disk itself has no room
            return False
        return True

    def _path_of(self, key: str, number: int) -> Path:
        return self._folder / key / "c" / str(number)

    def _most_bytes(self, key: str, number: int) -> int:
        """The bytes of a shard if its chunks were not to be compressed, with their checksums and their index."""
        array = self._there[key]
        shard, chunk = (getattr(array.chunk_layout, f"{kind}_chunk").shape[0] for kind in ("write", "read"))
        entries = min(shard, array.size - number * shard)
        return -(-entries // chunk) * (chunk * array.dtype.numpy_dtype.itemsize + 20) + 16 * (shard // chunk) + 4


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Whether an open file is the one that is at `path`."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def _copy(out: np.ndarray, source: ts.TensorStore) -> None:
    ts.array(out, copy=False).write(source).result(PATIENCE_S)
