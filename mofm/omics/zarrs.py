"""AnnData in zarr stores, versions 2 and 3, opened so that the code that reads HDF5 reads them too.

A zarr group and an HDF5 group are alike to h5py's and zarr's users, and anndata reads tables of both. What differs is here.
zarr reads a chunk that is missing as zeros. Of a sparse matrix every chunk must be there: a lost one would be counts of
zero. Of dense matrices, and of the tables' columns, chunks of nothing but zeros are left out by every writer, so there a
lost one cannot be noticed; but names are never empty.

annbatch's collections are groups `dataset_0`, `dataset_1` and so on, each an AnnData of some of the cells, shuffled, with
the same features: they are read as one AnnData, one part behind the other.
"""

import re
from pathlib import Path

import h5py
import numpy as np
import zarr
from zarr.storage import WrapperStore

from mofm.errors import InputError

Group = h5py.Group | zarr.Group
Array = h5py.Dataset | zarr.Array

_METADATA = ("zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata")
_DATASET = re.compile(r"dataset_(\d+)")
_BAND_BYTES = 256 * 2**20


def is_zarr(folder: Path) -> bool:
    """Whether a folder is a zarr group."""
    return any((folder / name).is_file() for name in ("zarr.json", ".zgroup"))


def open_zarr(path: Path) -> zarr.Group:
    """Opens the group at `path` for reading. Raises `InputError` where it cannot be."""
    try:
        return zarr.open_group(path, mode="r")
    # zarr reports damaged metadata by whatever its parsing raises.
    except Exception as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path}: zarr cannot open it as a group ({cause}); copy the whole folder again, or write it with "
            "AnnData.write_zarr"
        ) from error


def is_array(node: Group | Array) -> bool:
    """Whether a node of either kind of file, or of what is held in memory, is an array."""
    return isinstance(node, h5py.Dataset | zarr.Array | np.ndarray)


def parts_of(group: zarr.Group) -> dict[str, zarr.Group]:
    """The AnnDatas of annbatch's collection in the order of their numbers; none where it is something else."""
    names = [name for name in group if _DATASET.fullmatch(name)]
    return {name: group[name] for name in sorted(names, key=lambda name: int(name.split("_")[1]))}


class CompleteStore(WrapperStore):
    """A zarr store that reports a missing chunk, where zarr would make up zeros."""

    async def get(self, key: str, *args, **kwargs):
        """As of the store itself. Raises `FileNotFoundError` for a chunk that is not there."""
        value = await super().get(key, *args, **kwargs)
        if value is None and key.rpartition("/")[2] not in _METADATA:
            raise FileNotFoundError(f"{key} is missing")
        return value


def complete(array: Array) -> Array:
    """The same array; reading a chunk that was never written, or is lost, is an error (of HDF5: see `check_written`)."""
    if not isinstance(array, zarr.Array):
        return array
    return zarr.open_array(
        CompleteStore(array.store), path=array.path, mode="r", zarr_format=array.metadata.zarr_format
    )


def check_names_written(table: Group) -> None:
    """Raises `FileNotFoundError` where names of a table in zarr are lost: zarr reads them as empty."""
    names = table.get(table.attrs.get("_index", "_index"))
    if isinstance(names, zarr.Group):  # text that may be missing: values and a mask
        names = names.get("values")
    if isinstance(names, zarr.Array):
        complete(names)[:]


class BandedArray:
    """A dense zarr array that keeps the last row of chunks that it decoded: rows are asked for a few at a time."""

    def __init__(self, array: zarr.Array):
        self._array = array
        self.band = (array.shards or array.chunks)[0]
        self._keeps = self.band * array.shape[1] * array.dtype.itemsize <= _BAND_BYTES
        self._first, self._kept = 0, np.empty((0, array.shape[1]), array.dtype)

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Consecutive rows."""
        if not self._keeps or rows.stop - rows.start >= self.band:
            return self._array[rows]
        first = rows.start - rows.start % self.band
        if rows.stop > first + self.band:
            return self._array[rows]
        if self._first != first or not len(self._kept):
            self._first, self._kept = first, self._array[first : first + self.band]
        return self._kept[rows.start - first : rows.stop - first]
