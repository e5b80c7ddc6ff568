"""Damage in a store's matrix: which chunks of which file cannot be decoded, and which cells had entries in them.

Every chunk has a checksum, so that damage is found where it is read. Then the whole file (a shard) is looked through
once, so that it is reported in one line, the same whichever cell was asked for first. Only damage counts: a server that does
not answer, or forbids, says nothing of what a file holds.
"""

import threading
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import tensorstore as ts

from mofm.corpus.places import PATIENCE_S, cause_of, status_of

_DAMAGE = ("DATA_LOSS", "FAILED_PRECONDITION", "INVALID_ARGUMENT", "NOT_FOUND", "OUT_OF_RANGE")
NO_RANGES = "ignored by server"
"""Part of the message where a web server gives whole files alone: no damage."""


class DamagedFile(NamedTuple):
    """A file of which chunks cannot be decoded.

    Attributes:
      name: in the store, such as "X/data/c/1".
      chunks: their numbers in the file, ascending.
      cells: which cells had entries in them, ascending.
      cause: what is wrong with the first.
    """

    name: str
    chunks: np.ndarray
    cells: np.ndarray
    cause: str

    def __str__(self) -> str:
        return f"{self.name}: chunks {spans_of(self.chunks)}, which hold cells {spans_of(self.cells)} ({self.cause})"


class Damage:
    """What is known to be damaged in a store. Safe to share between threads.

    Args:
      arrays: path in the store -> array of all entries; they are equally long and have the same chunks.
      indptr: int64, of the cells.
    """

    def __init__(self, arrays: Mapping[str, ts.TensorStore], indptr: np.ndarray):
        self._arrays, self._indptr = arrays, indptr
        self._lost = np.zeros(len(indptr) - 1, bool)
        self._files: dict[tuple[str, int], DamagedFile | None] = {}
        self._lock = threading.Lock()

    @property
    def n_lost(self) -> int:
        """Cells found so far that cannot be read."""
        return int(self._lost.sum())

    def look(self, start: int, stop: int) -> tuple[list[DamagedFile], list[DamagedFile]]:
        """The damaged files in which the cells start..stop-1 have entries, and which of them were not known before.

        Raises:
          ValueError: a chunk cannot be read for another reason.
        """
        first, last = int(self._indptr[start]), int(self._indptr[stop])
        found, new = [], []
        with self._lock:
            for key, array in self._arrays.items():
                shard = array.chunk_layout.write_chunk.shape[0]
                for number in range(first // shard, -(-last // shard)):
                    is_new = (key, number) not in self._files
                    if is_new:
                        self._files[key, number] = self._look_through(key, number)
                    if (file := self._files[key, number]) is not None:
                        found.append(file)
                        new += [file] if is_new else []
        return found, new

    def lost(self, start: int, stop: int) -> np.ndarray:
        """bool, for the cells start..stop-1: known not to be readable."""
        return self._lost[start:stop].copy()

    def _look_through(self, key: str, number: int) -> DamagedFile | None:
        array = self._arrays[key]
        shard, chunk = (getattr(array.chunk_layout, f"{kind}_chunk").shape[0] for kind in ("write", "read"))
        begins = np.arange(number * shard, min((number + 1) * shard, array.size), chunk)
        reads = [array[begin : min(begin + chunk, array.size)].read() for begin in begins.tolist()]
        bad, cause = [], ""
        for place, read in enumerate(reads):
            try:
                read.result(PATIENCE_S)
            except ValueError as error:
                if status_of(error) not in _DAMAGE or NO_RANGES in str(error):
                    raise
                bad.append(place)
                cause = cause or cause_of(error)
        if not bad:
            return None
        is_lost = np.zeros_like(self._lost)
        for begin in begins[bad]:
            # Cells without entries are not lost: their row is empty wherever it lies.
            is_lost |= (self._indptr[:-1] < begin + chunk) & (self._indptr[1:] > begin)
        is_lost &= np.diff(self._indptr) > 0
        self._lost |= is_lost
        return DamagedFile(f"{key}/c/{number}", np.array(bad), np.flatnonzero(is_lost), cause)


def spans_of(numbers: Iterable[int]) -> str:
    """Ascending numbers for people: "3 to 7, 12"."""
    numbers = np.asarray(numbers)
    parts = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return ", ".join(f"{part[0]:,}" if len(part) == 1 else f"{part[0]:,} to {part[-1]:,}" for part in parts)
