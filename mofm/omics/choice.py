"""Which matrix of an h5ad file holds the counts: named by the user, or found by looking at samples of the values."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from mofm.errors import InputError, nearest_name
from mofm.omics.checks import BadValue, Look, look_at
from mofm.omics.counts import recovery_of, select_columns
from mofm.omics.hdf5 import read_table, reading
from mofm.omics.matrices import StoredMatrix, StoredRows, open_matrix
from mofm.omics.recover import SHARE_NEEDED, Recovery

USUAL_LAYERS = ("counts", "raw_counts", "count", "raw", "umi", "umis")
GENE_EXPRESSION = ("gene expression", "gex", "rna", "gene", "genes")

_FOREIGN = (
    ("mod", "a MuData (h5mu) file", "write one modality with mudata.read_h5mu(...).mod['rna'].write_h5ad(...)"),
    ("matrix/barcodes", "a 10x Genomics file", "write scanpy.read_10x_h5(..., gex_only=False) as h5ad"),
    ("row_attrs", "a loom file", "write anndata.io.read_loom(...) as h5ad"),
)


@dataclasses.dataclass
class Candidate:
    """A matrix that may hold the counts, its features, and what a sample of its values looks like.

    Attributes:
      var: table of the columns that are read (gene expression).
      new_column: for each stored column its number among those, or -1; None where all are read.
      left_out: number of columns left out, by their feature type.
    """

    matrix: StoredMatrix
    var: pd.DataFrame
    new_column: np.ndarray | None
    left_out: dict[str, int]
    look: Look

    def rows(self, block_entries: int) -> Iterator[StoredRows]:
        """All rows, in blocks, with the columns that are read."""
        for rows in self.matrix.rows(block_entries):
            yield select_columns(rows, self.new_column)

    def recovery(self, block_entries: int) -> Recovery:
        """Whether log1p-normalised values are counts underneath: a pass over the whole matrix."""
        near = entries = 0
        for rows in self.rows(block_entries):
            part = recovery_of(rows)
            near, entries = near + part.n_near, entries + part.n_entries
        return Recovery(near, entries)

    def sampled_recovery(self) -> Recovery | None:
        """The same of some rows; None where they cannot be read cheaply or are no log1p values."""
        rows = self.matrix.sample_rows()
        try:
            return None if rows is None else recovery_of(select_columns(rows, self.new_column))
        except BadValue:
            return None


def matrix_keys(file: h5py.File, path: Path) -> dict[str, str]:
    """Names of the file's matrices, in the order in which counts are looked for, and their HDF5 keys.

    Raises `InputError` for an HDF5 file that is no h5ad.
    """
    with reading(path, "the list of its contents"):
        for key, what, remedy in _FOREIGN:
            if key in file:
                raise InputError(f"{path}: is {what}, not h5ad; {remedy}")
        layers = list(file["layers"]) if isinstance(file.get("layers"), h5py.Group) else []
        usual = sorted((x for x in layers if x.lower() in USUAL_LAYERS), key=lambda x: USUAL_LAYERS.index(x.lower()))
        others = [name for name in layers if name not in usual]
        keys = {f"layers/{name}": f"layers/{name}" for name in usual}
        for name, key in (("raw/X", "raw/X"), ("raw/X", "raw.X"), ("X", "X")):
            if key in file:
                keys[name] = key
        keys |= {f"layers/{name}": f"layers/{name}" for name in others}
        keys = {name: key for name, key in keys.items() if not _is_null(file[key])}
        if not keys or not {"obs", "var"} <= set(file):
            raise InputError(
                f"{path}: an HDF5 file but not h5ad (it holds {', '.join(list(file)[:6]) or 'nothing'}; X, obs and var "
                "are needed); write it with anndata"
            )
    return keys


def is_tried(name: str) -> bool:
    """Whether counts are looked for in the matrix of this name when none is named."""
    return not name.startswith("layers/") or name.removeprefix("layers/").lower() in USUAL_LAYERS


def load_candidate(file: h5py.File, path: Path, name: str, key: str, n_cells: int) -> Candidate:
    """Opens the matrix and looks at a sample. Raises `InputError` where structure, shape or features are unsound."""
    matrix = open_matrix(file, path, key, name)
    var = read_table(file, path, "var" if name != "raw/X" else key.replace("X", "var"))
    if matrix.shape != (n_cells, len(var)):
        turned = "; it is stored genes x cells: write its transpose" if matrix.shape == (len(var), n_cells) else ""
        raise InputError(
            f"{path}: {name} is {matrix.shape[0]:,} x {matrix.shape[1]:,}, but its tables name {n_cells:,} cells and "
            f"{len(var):,} features{turned or '; write the file again with anndata'}"
        )
    for count, what in zip(matrix.shape, ("cells", "genes"), strict=True):
        if count == 0:
            raise InputError(f"{path}: {name} has no {what} (shape {matrix.shape}); was everything filtered out?")
    kept, left_out = gene_expression_columns(path, var)
    new_column = None if kept.all() else np.where(kept, np.cumsum(kept) - 1, -1).astype(np.int32)
    candidate = Candidate(matrix, var[kept], new_column, left_out, Look("empty", "all zeros"))
    columns, values = matrix.sample()
    candidate.look = look_at(values if new_column is None else values[new_column[columns] >= 0])
    if candidate.look.kind == "empty":
        candidate.look = _first_look(candidate)
    return candidate


def gene_expression_columns(path: Path, var: pd.DataFrame) -> tuple[np.ndarray, dict[str, int]]:
    """(mask of the columns to read, number of the others by feature type). A missing type counts as gene expression.

    Raises `InputError` where no column is gene expression.
    """
    if "feature_types" not in var or var["feature_types"].isna().all():
        return np.ones(len(var), bool), {}
    types = var["feature_types"].astype(object)
    kept = (types.isna() | types.astype(str).str.lower().isin(GENE_EXPRESSION)).to_numpy(bool)
    left_out = {str(name): int(count) for name, count in types[~kept].astype(str).value_counts().items()}
    if not kept.any():
        raise InputError(
            f"{path}: no gene expression among its features (var['feature_types'] has {', '.join(sorted(left_out))}); "
            "give a file with RNA"
        )
    return kept, left_out


def choose(
    file: h5py.File, path: Path, n_cells: int, counts_from: str | None, recover_counts: bool, block_entries: int
) -> tuple[Candidate, Recovery | None]:
    """The matrix to take, and the measured recovery where its values are to be turned back into counts.

    Raises `InputError` where none can be taken, saying what each looks like.
    """
    keys = matrix_keys(file, path)
    if counts_from is not None and counts_from not in keys:
        raise InputError(
            f"{path}: no matrix {counts_from!r}; the file has {', '.join(keys)}.{nearest_name(counts_from, keys)}"
        )
    tried: dict[str, Candidate] = {}
    for name in [counts_from] if counts_from else filter(is_tried, keys):
        tried[name] = load_candidate(file, path, name, keys[name], n_cells)
        if tried[name].look.kind == "counts":
            return tried[name], None
    refused: dict[str, str] = {}
    for name, candidate in tried.items():
        if recover_counts and candidate.look.kind == "log-normalised":
            recovery, refused[name] = _try_recovery(candidate, block_entries)
            if recovery is not None:
                return candidate, recovery
    looks = "; ".join(f"{name} is {candidate.look.words}{refused.get(name, '')}" for name, candidate in tried.items())
    others = {name: key for name, key in keys.items() if name not in tried}
    hint = _hint(file, path, n_cells, others, tried, recover_counts)
    raise InputError(f"{path}: no raw counts found: {looks or 'no matrix has a usual name'}; {hint}")


def _try_recovery(candidate: Candidate, block_entries: int) -> tuple[Recovery | None, str]:
    """The recovery, or None and the reason why not."""
    try:
        recovery = candidate.recovery(block_entries)
    except BadValue as bad:
        reason = f", not recoverable: it holds {bad.what}"
    else:
        if recovery.accepted:
            return recovery, ""
        reason = f", {recovery.share:.2%} of them invert to whole numbers, {SHARE_NEEDED:.0%} needed"
    candidate.matrix.close()
    return None, reason


def _hint(file, path, n_cells, others: dict[str, str], tried: dict[str, Candidate], recover_counts: bool) -> str:
    for name, key in others.items():
        try:
            if load_candidate(file, path, name, key, n_cells).look.kind == "counts":
                return f"{name} looks like counts: take it with --counts-from {name}"
        except InputError:
            continue  # an unusable matrix that nobody asked for is no answer, and no reason to hide the question
    if not recover_counts and any(candidate.look.kind == "log-normalised" for candidate in tried.values()):
        return "put raw counts in layers['counts'], or have log1p-normalised values turned back with --recover-counts"
    return "put raw counts in layers['counts'] (or X), or name their matrix with --counts-from"


def _first_look(candidate: Candidate) -> Look:
    """The look of the first block that holds anything but zeros: a sample of zeros proves nothing."""
    for rows in candidate.rows(1_000_000):
        if rows.values.any():
            return look_at(rows.values)
    return candidate.look


def _is_null(node: h5py.Group | h5py.Dataset) -> bool:
    return isinstance(node, h5py.Dataset) and node.shape is None
