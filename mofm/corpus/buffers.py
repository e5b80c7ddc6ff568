"""Memory that rows are read into, used again: fresh memory costs more than decoding into it."""

import numpy as np

_ALIGNED = 64
"""Bytes between the beginnings of two arrays in one memory: a cache line."""


class RowBuffers:
    """Memory for the entries of some rows, used again after each `reserve`."""

    def __init__(self):
        self._bytes, self._taken = np.empty(0, np.uint8), 0

    def reserve(self, n_bytes: int) -> None:
        """Forget what was taken, and hold at least so many bytes."""
        if len(self._bytes) < n_bytes:
            self._bytes = np.empty(n_bytes + n_bytes // 8, np.uint8)
        self._taken = 0

    def take(self, dtype: np.dtype, length: int) -> np.ndarray:
        """The next uninitialised array of what was reserved."""
        array = self._bytes[self._taken :][: length * dtype.itemsize].view(dtype)
        self._taken += aligned(length * dtype.itemsize)
        return array


def aligned(n_bytes: int) -> int:
    """What an array of so many bytes takes of a memory."""
    return -(-n_bytes // _ALIGNED) * _ALIGNED
