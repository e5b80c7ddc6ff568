"""Memory of batches, used again: pages that are fresh from the system cost as much as filling them with tokens does."""

import ctypes
import math
import weakref
from collections import defaultdict

import numpy as np

_SMALL = 2**16
"""Bytes of an array below which numpy's own allocation is as good."""


_ALIGNMENT = 64
"""jax on a CPU takes an array as its own where it begins at such a multiple, and else copies it."""


class Recycler:
    """Gives arrays, and takes their memory back once nobody holds them or a view of them. Safe to share between threads.

    It holds as much as was in use at one time of each size; sizes are rounded up by an eighth at most, so that arrays of
    nearly one size share memory. An array that jax made its own, as it does on a CPU, is held by it.
    """

    def __init__(self):
        self._spare: dict[int, list[np.ndarray]] = defaultdict(list)

    def empty(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        """An uninitialised array."""
        n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        if n_bytes < _SMALL:
            return np.empty(shape, dtype)
        unit = 1 << n_bytes.bit_length() - 4
        size = -(-n_bytes // unit) * unit
        spare = self._spare[size]
        try:
            memory = spare.pop()
        except IndexError:
            memory = _aligned(size)
        # All views of the array hold `lease`, and nothing else does.
        lease = (ctypes.c_uint8 * n_bytes).from_buffer(memory)
        weakref.finalize(lease, spare.append, memory).atexit = False
        return np.frombuffer(lease, dtype).reshape(shape)


def _aligned(n_bytes: int) -> np.ndarray:
    memory = np.empty(n_bytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + n_bytes]
