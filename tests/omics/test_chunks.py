"""Arrays that are inflated beside HDF5 are what HDF5 reads, damage included; others are left to it."""

import zlib

import h5py
import numpy as np
import pytest

from mofm.errors import InputError
from mofm.omics.chunks import read_inflated
from mofm.omics.hdf5 import read_slice

VALUES = {
    "float32": np.random.default_rng(0).poisson(3.0, 1000).astype(np.float32),
    "int64": np.random.default_rng(1).integers(-(2**40), 2**40, 1000),
    "big endian": np.random.default_rng(2).integers(0, 2**15, 1000).astype(">i4"),
}


@pytest.fixture
def file(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        yield file


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("start", "stop"), [(0, 1000), (3, 997), (64, 640), (500, 1000)])
def test_slices_are_those_of_hdf5(file, values, shuffle, start, stop):
    dataset = file.create_dataset("x", data=values, chunks=(64,), compression="gzip", shuffle=shuffle)
    read = read_inflated(dataset, start, stop)
    assert read.dtype == values.dtype
    np.testing.assert_array_equal(read, values[start:stop])
    assert read_slice(dataset, "a.h5", "x", start, stop).dtype.isnative


def test_a_chunk_that_was_stored_as_it_is_is_read(file):
    values, how = VALUES["float32"][:640], {"chunks": (64,), "compression": "gzip", "shuffle": True}
    dataset = file.create_dataset("x", (640,), np.float32, **how)
    whole = file.create_dataset("whole", data=values, **how)
    file.flush()
    for first in range(0, 640, 64):
        mask, stored = whole.id.read_direct_chunk((first,))
        as_it_is = first == 128
        dataset.id.write_direct_chunk(
            (first,), values[first : first + 64].tobytes() if as_it_is else stored, 0b11 if as_it_is else mask
        )
    assert dataset.id.read_direct_chunk((128,))[0] == 0b11
    np.testing.assert_array_equal(read_inflated(dataset, 0, 640), values)


@pytest.mark.parametrize(
    "how",
    [{}, {"chunks": (64,)}, {"chunks": (64,), "compression": "lzf"}, {"compression": "gzip", "chunks": (1000,)}],
    ids=["contiguous", "not compressed", "lzf", "one chunk"],
)
def test_what_is_stored_otherwise_is_left_to_hdf5(file, how):
    dataset = file.create_dataset("x", data=VALUES["float32"], **how)
    assert read_inflated(dataset, 0, 1000) is None
    np.testing.assert_array_equal(read_slice(dataset, "a.h5", "x", 5, 990), VALUES["float32"][5:990])


@pytest.mark.parametrize("stored", [b"no gzip", zlib.compress(b"four")], ids=["garbage", "too few"])
def test_a_damaged_chunk_is_told_in_a_line(file, stored):
    dataset = file.create_dataset("x", data=VALUES["float32"], chunks=(64,), compression="gzip")
    dataset.id.write_direct_chunk((128,), stored)
    with pytest.raises(InputError, match=r"a\.h5: X/data cannot be read, the file is damaged") as caught:
        read_slice(dataset, "a.h5", "X/data", 0, 1000)
    assert "\n" not in str(caught.value)
