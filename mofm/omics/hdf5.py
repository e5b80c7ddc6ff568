"""HDF5 files opened and read so that whatever is wrong with one is said in a line.

HDF5 reports damage as OSError, KeyError, RuntimeError or ValueError with the text of a C stack. Here each becomes an
`InputError` that names the file and the key. Two kinds of damage make no error of their own and are looked for: a
file that ends before its header says, and arrays whose blocks were never written, which HDF5 reads as zeros.
"""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd

from mofm.errors import InputError
from mofm.omics.chunks import read_inflated
from mofm.omics.zarrs import Array, Group, check_names_written, is_array

RESAVE = "open it with anndata.read_h5ad(...) or read_zarr(...), write it again and use the new file"


@contextlib.contextmanager
def reading(path: Path | str, key: str) -> Iterator[None]:
    """Turns what h5py raises while `key` of `path` is read into an `InputError`."""
    try:
        yield
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        cause = _one_line(error)
        if "filter" in cause and ("not registered" in cause or "not available" in cause):
            raise InputError(
                f"{path}: {key} is compressed with a filter that this h5py lacks ({cause}); re-save the file with gzip"
            ) from error
        raise InputError(
            f"{path}: {key} cannot be read, the file is damaged ({cause}); fetch or write the file again"
        ) from error


def open_hdf5(path: Path) -> h5py.File:
    """Opens `path` for reading. Raises `InputError` for a missing, foreign, truncated or locked file."""
    if not path.exists():
        raise InputError(f"{path}: no such file; check the path")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, an h5ad file is needed; name the file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty (0 bytes); fetch or write it again")
    try:
        # `is_hdf5` answers False for a file that may not be opened at all, so that is asked first.
        with path.open("rb"):
            pass
        if not h5py.is_hdf5(path):
            raise InputError(f"{path}: not an HDF5 file, so not an h5ad file; give an .h5ad written by anndata")
        return h5py.File(path, "r")
    except PermissionError as error:
        raise InputError(f"{path}: may not be read by this user; change its permissions") from error
    except OSError as error:
        cause = _one_line(error)
        if "truncated" in cause:
            raise InputError(
                f"{path}: the file is cut short ({path.stat().st_size:,} bytes are there, its header says more); "
                "fetch or write it again"
            ) from error
        if "lock" in cause:
            raise InputError(
                f"{path}: another program has it open for writing; close that program, or, where the disk has no "
                "locks, set HDF5_USE_FILE_LOCKING=FALSE"
            ) from error
        raise InputError(f"{path}: HDF5 cannot open it ({cause}); fetch or write the file again") from error


def read_table(file: Group, path: Path | str, key: str) -> pd.DataFrame:
    """The obs or var table at `key`, whole, with names as strings. Raises `InputError` where it cannot be read."""
    if key not in file:
        raise InputError(f"{path}: {key} is missing, so this is not a complete AnnData; write it again with anndata")
    with reading(path, key):
        node = file[key]
        if is_array(node):
            raise InputError(f"{path}: {key} is in the format of anndata before 0.7; {RESAVE}")
    try:
        if isinstance(node, pd.DataFrame):  # of an AnnData in memory
            table = node.copy(deep=False)
        else:
            table = anndata.io.read_elem(node)
            check_names_written(node)
    # Foreign encodings and damage end in any exception at all; each of them means the same to the user.
    except Exception as error:
        raise InputError(f"{path}: {key} cannot be read as a table ({_one_line(error)}); {RESAVE}") from error
    if not isinstance(table, pd.DataFrame):
        raise InputError(f"{path}: {key} is not a table but a {type(table).__name__}; {RESAVE}")
    table.index = table.index.astype(str)
    return table


def read_slice(dataset: Array, path: Path | str, key: str, start: int, stop: int) -> np.ndarray:
    """`dataset[start:stop]` in native byte order; bool becomes uint8, float16 float32 (scipy has neither)."""
    with reading(path, key):
        values = read_inflated(dataset, start, stop) if isinstance(dataset, h5py.Dataset) else None
        if values is None:
            values = dataset[start:stop]
    return values.astype(dtype_read(values.dtype), copy=False)


def dtype_read(stored: np.dtype) -> np.dtype:
    """The dtype in which values of a stored one are read."""
    narrow = {np.dtype(bool): np.dtype(np.uint8), np.dtype(np.float16): np.dtype(np.float32)}
    native = np.dtype(stored).newbyteorder("=")
    return narrow.get(native, native)


def check_written(dataset: Array, path: Path | str, key: str) -> None:
    """Raises `InputError` where blocks of `dataset` were never written: HDF5 would read them as zeros, silently.

    Of zarr see `zarrs.complete`.
    """
    if dataset.size == 0 or not isinstance(dataset, h5py.Dataset):
        return
    with reading(path, key):
        if dataset.chunks is None:
            missing = int(dataset.id.get_storage_size() == 0 and dataset.external is None and not dataset.is_virtual)
        else:
            expected = math.prod(-(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True))
            missing = expected - dataset.id.get_num_chunks()
    if missing:
        raise InputError(
            f"{path}: {missing} blocks of {key} were never written (was the writer killed?); write the file again"
        )


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip("'\"") if lines else type(error).__name__
