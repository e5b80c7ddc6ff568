"""Whether an HDF5 file is all that it says, and nothing of the server's.

HDF5 lets a file name other files: external links, external storage (raw bytes of any file as an array), virtual data
sets. In an upload each would read what lies on the server and show it to who uploaded it, so such files are refused, as
are arrays whose smallest readable part is too large to be read.
"""

import math
from pathlib import Path

import h5py

from mofm.errors import InputError
from mofm.omics.hdf5 import open_hdf5, reading

MOST_OBJECTS = 100_000
MOST_CHUNK_BYTES = 2**30


def check_contained(path: Path) -> None:
    """Look at every object of an HDF5 file, reading no array.

    Raises:
      InputError: it is no HDF5 file, damaged, names other files, or has more objects or larger chunks than any real one.
    """
    with open_hdf5(path) as file, reading(path, "the list of its contents"):
        waiting, seen = [("", file)], set()
        while waiting:
            place, group = waiting.pop()
            for name in group:
                key, link = f"{place}/{name}", group.get(name, getlink=True)
                if isinstance(link, h5py.SoftLink):
                    continue  # to a place in this file, which is looked at under its own name
                if not isinstance(link, h5py.HardLink):
                    raise InputError(f"{path}: {key} is a link to another file; put the data itself into the file")
                item = group[name]
                number = h5py.h5o.get_info(item.id).addr
                if number in seen:
                    continue
                seen.add(number)
                if len(seen) > MOST_OBJECTS:
                    raise InputError(
                        f"{path}: has more than {MOST_OBJECTS:,} objects: no file of cells has; write it again"
                    )
                if isinstance(item, h5py.Group):
                    waiting.append((key, item))
                elif isinstance(item, h5py.Dataset):
                    _check_array(path, key, item)


def _check_array(path: Path, key: str, array: h5py.Dataset) -> None:
    if array.external or array.is_virtual:
        raise InputError(f"{path}: the values of {key} lie in another file; put the data itself into the file")
    size = math.prod(array.chunks or (1,)) * array.dtype.itemsize
    if size > MOST_CHUNK_BYTES:
        raise InputError(f"{path}: {key} has chunks of {size / 2**30:,.0f} GB, too large to read one; write it again")
