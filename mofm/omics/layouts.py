"""What a file or folder is, by what is in it: a suffix decides nothing.

Known are the files that labs have: h5ad, h5mu, AnnData and MuData in zarr, annbatch's collections of AnnData in zarr, 10x
Genomics HDF5 (Cell Ranger 1 to 9), 10x matrix folders, the output folders of Cell Ranger (`count`, `multi`, ATAC, ARC),
fragment files, and experiments of TileDB-SOMA, which CELLxGENE Census is one of. Anything else is refused with what was
looked for. Of URLs only those of SOMA are read.
"""

import gzip
import zlib
from pathlib import Path
from typing import Literal, NamedTuple

import h5py

from mofm.errors import InputError
from mofm.files import Location
from mofm.omics.hdf5 import open_hdf5, reading
from mofm.omics.held import HeldGroup
from mofm.omics.soma import SomaPlace, find_soma, is_tiledb_folder
from mofm.omics.zarrs import is_zarr, open_zarr, parts_of

Kind = Literal[
    "h5ad", "h5mu", "zarr", "zarr mudata", "zarr collection", "10x h5", "10x mtx", "10x outs", "fragments", "soma",
    "AnnData", "MuData",
]  # fmt: skip
MUDATAS = ("h5mu", "zarr mudata", "MuData")
ANNDATAS = ("h5ad", "zarr", "zarr collection", "AnnData", *MUDATAS)

_MATRICES = (
    "filtered_feature_bc_matrix.h5",
    "sample_filtered_feature_bc_matrix.h5",
    "filtered_peak_bc_matrix.h5",
    "filtered_feature_bc_matrix",
    "sample_filtered_feature_bc_matrix",
    "filtered_peak_bc_matrix",
)
_FRAGMENTS = ("atac_fragments.tsv.gz", "fragments.tsv.gz")
_FEATURES = ("features.tsv", "genes.tsv", "peaks.bed")
_KNOWN = (
    "h5ad, h5mu, zarr, 10x HDF5, a 10x folder of matrix.mtx, a Cell Ranger outs folder, fragments.tsv.gz or a "
    "TileDB-SOMA experiment"
)


class Layout(NamedTuple):
    """A file or folder that can be read.

    Attributes:
      kind: what it is.
      path: as it was given.
      files: what is read of it, but for fragments. A matrix of mtx: matrix, features, barcodes.
      fragments: the fragments that are to be counted; None where there are none to count.
      soma: the experiment, whose files are not listed; None for anything else.
      held: of an AnnData or MuData in memory, its members; `path` then is no place, but names it in messages.
    """

    kind: Kind
    path: Location
    files: tuple[Path, ...]
    fragments: Path | None = None
    soma: SomaPlace | None = None
    held: HeldGroup | None = None

    @property
    def all_files(self) -> tuple[Path, ...]:
        """Every file that is read."""
        return self.files if self.fragments is None else (*self.files, self.fragments)


def layout_of(path: Location, *, with_fragments: bool = False) -> Layout:
    """What `path` is.

    Args:
      with_fragments: of a Cell Ranger folder, the fragments are wanted too.

    Raises:
      InputError: it is missing, unreadable or of no known layout.
    """
    if isinstance(path, str):
        return Layout("soma", path, (), soma=find_soma(path))
    if not path.exists():
        raise InputError(f"{path}: no such file; check the path")
    if path.is_dir():
        return _folder(path, with_fragments)
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty (0 bytes); fetch or write it again")
    if _is_hdf5(path):
        with open_hdf5(path) as file:
            return Layout(_hdf5_kind(file, path), path, (path,))
    line = _first_line(path)
    if line.startswith("%%MatrixMarket"):
        return _mtx_folder(path.parent, path, path)
    if is_fragment(line):
        return Layout("fragments", path, (), path)
    raise InputError(
        f"{path}: not an HDF5 file, and its first line {line[:40]!r} is neither a fragment's (chromosome, start, end, "
        f"barcode, count, by tabs) nor a MatrixMarket header; give {_KNOWN}"
    )


def is_fragment(line: str) -> bool:
    """Whether a line of text is that of a fragment file: chromosome, start, end, barcode and whatever follows."""
    words = line.rstrip("\r\n").split("\t")
    return len(words) >= 4 and words[1].isdigit() and words[2].isdigit() and bool(words[0]) and bool(words[3])


def is_10x_hdf5(file: h5py.Group) -> bool:
    """Whether an HDF5 file has the groups of Cell Ranger: `matrix` (3 and later), or one a genome (1 and 2)."""
    return "matrix/barcodes" in file or any(f"{name}/barcodes" in file for name in file)


def _hdf5_kind(file: h5py.File, path: Path) -> Kind:
    with reading(path, "the list of its contents"):
        if "mod" in file:
            return "h5mu"
        if is_10x_hdf5(file):
            return "10x h5"
        return "h5ad"


def _zarr_kind(path: Path) -> Kind:
    group = open_zarr(path)
    with reading(path, "the list of its contents"):
        if "mod" in group:
            return "zarr mudata"
        return "zarr collection" if parts_of(group) and "obs" not in group else "zarr"


def _is_hdf5(path: Path) -> bool:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise InputError(f"{path}: may not be read by this user; change its permissions") from error
    return bool(h5py.is_hdf5(path))


def _first_line(path: Path) -> str:
    """The first line that is no comment of a text file, gzipped or not."""
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
        with (gzip.open if zipped else open)(path, "rb") as file:
            for line in iter(lambda: file.readline(1_000_000), b""):
                if line.startswith(b"%%") or not line.startswith(b"#"):
                    return line.decode("utf-8", "replace").rstrip("\r\n")
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read as text or gzip ({error}); fetch or write it again") from error
    return ""


def _folder(path: Path, with_fragments: bool) -> Layout:
    if is_tiledb_folder(path):
        return Layout("soma", path, (), soma=find_soma(path))
    if is_zarr(path):
        return Layout(_zarr_kind(path), path, tuple(sorted(file for file in path.rglob("*") if file.is_file())))
    inside = path / "outs" if (path / "outs").is_dir() else path
    matrix = next((inside / name for name in _MATRICES if (inside / name).exists()), None)
    fragments = next((inside / name for name in _FRAGMENTS if (inside / name).exists()), None)
    if matrix is not None:
        inner = _mtx_folder(matrix, None, path) if matrix.is_dir() else layout_of(matrix)
        return Layout("10x outs", path, inner.files, fragments if with_fragments else None)
    matrices = sorted(file for file in path.iterdir() if file.name.removesuffix(".gz").endswith("matrix.mtx"))
    if matrices:
        if len(matrices) > 1:
            several = ", ".join(file.name for file in matrices[:3])
            raise InputError(f"{path}: the folder holds several matrices ({several}); name one of these files")
        return _mtx_folder(path, matrices[0], path)
    if fragments is not None:
        return Layout("fragments", path, (), fragments)
    raise InputError(
        f"{path}: a folder of no known layout (looked for {_MATRICES[0]}, {_MATRICES[2]}, a matrix.mtx and "
        f"{_FRAGMENTS[1]}, here and in outs/); give {_KNOWN}"
    )


def _mtx_folder(folder: Path, matrix: Path | None, path: Path) -> Layout:
    """A matrix with its features and barcodes, whose names may share a prefix, as GEO gives them."""
    matrix = matrix or _one_of(folder, "", ("matrix.mtx",), path)
    stem = matrix.name.removesuffix(".gz").removesuffix(".mtx")
    prefix = stem.removesuffix("matrix") if stem.endswith("matrix") else ""
    features, barcodes = (_one_of(folder, prefix, names, path) for names in (_FEATURES, ("barcodes.tsv",)))
    return Layout("10x mtx", path, (matrix, features, barcodes))


def _one_of(folder: Path, prefix: str, names: tuple[str, ...], path: Path) -> Path:
    for name in names:
        for file in (folder / f"{prefix}{name}", folder / f"{prefix}{name}.gz"):
            if file.exists():
                return file
    wanted = " or ".join(f"{prefix}{name}[.gz]" for name in names)
    raise InputError(f"{path}: a 10x matrix folder needs {wanted} beside its matrix.mtx; copy the whole folder")
