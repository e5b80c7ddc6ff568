"""Memory is used again, and never while somebody can still see it."""

import gc

import jax
import numpy as np

from mofm.batches.memory import Recycler

SHAPE = (256, 1024)


def place(array):
    return array.__array_interface__["data"][0]


def test_memory_comes_back_when_the_last_view_goes():
    memory = Recycler()
    first = memory.empty(SHAPE, np.float32)
    first[:] = 7
    where, row = place(first), first[3]
    del first
    gc.collect()
    second = memory.empty(SHAPE, np.int32)
    assert place(second) != where
    second[:] = 1
    assert (row == 7).all()
    del row
    gc.collect()
    third = memory.empty(SHAPE, np.float32)
    assert (place(third), third.shape, third.dtype, third.flags.writeable) == (where, SHAPE, np.float32, True)


def test_what_jax_holds_is_not_used_again():
    memory = Recycler()
    host = memory.empty(SHAPE, np.float32)
    host[:] = 3
    held = jax.device_put(host)
    assert held.unsafe_buffer_pointer() == place(host)
    del host
    gc.collect()
    for _ in range(4):
        memory.empty(SHAPE, np.float32)[:] = 9
    np.testing.assert_array_equal(held, 3)


def test_small_arrays_are_plain():
    array = Recycler().empty((3, 2), np.bool_)
    assert (array.base, array.shape, array.dtype) == (None, (3, 2), np.bool_)


def test_arrays_of_nearly_one_size_share_memory():
    recycler = Recycler()
    for n in range(100_000, 110_000, 100):
        recycler.empty((n,), np.float32)
    held = sum(len(memory) for spare in recycler._spare.values() for memory in spare)
    assert 4e5 <= held <= 3 * 4.4e5
