"""Which matrix of an AnnData holds the counts: named by the user, or found by looking at samples of the values.

An AnnData is an h5ad file, a zarr store, or a modality of an h5mu file. `where` names either in messages.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from mofm.axes import FEATURES, Modality
from mofm.errors import InputError, nearest_name
from mofm.omics.chained import chain
from mofm.omics.checks import BadValue, Look, look_at
from mofm.omics.counts import recovery_of, select_columns
from mofm.omics.hdf5 import read_table, reading
from mofm.omics.matrices import StoredMatrix, StoredRows, open_matrix
from mofm.omics.modalities import columns_of, feature_kinds
from mofm.omics.recover import SHARE_NEEDED, Recovery
from mofm.omics.zarrs import Array, Group, is_array

USUAL_LAYERS = ("counts", "raw_counts", "count", "raw", "umi", "umis")


class Wanted(NamedTuple):
    """What is to be read of a matrix: the features of `modality`; those of `others` are read by other tables."""

    modality: Modality
    others: Sequence[Modality] = ()


@dataclasses.dataclass
class Candidate:
    """A matrix that may hold the counts, its features, and what a sample of its values looks like.

    Attributes:
      var: table of the columns that are read.
      new_column: for each stored column its number among those, or -1; None where all are read.
      left_out: number of columns that no table of the file reads, by their feature type.
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


@dataclasses.dataclass(frozen=True)
class Place:
    """An AnnData in an open file, and what is wanted of it.

    Attributes:
      groups: an h5ad file, a zarr store, or a modality of an h5mu file; the parts of a collection.
      where: its name in messages.
      n_cells: rows of its obs.
    """

    groups: tuple[Group, ...]
    where: str
    n_cells: int
    wanted: Wanted

    @property
    def group(self) -> Group:
        """The first, whose features and matrices are those of all."""
        return self.groups[0]


def matrix_keys(group: Group, where: str) -> dict[str, str]:
    """Names of the matrices of an AnnData, in the order in which counts are looked for, and their keys in the file.

    Raises `InputError` for anything but an AnnData.
    """
    with reading(where, "the list of its contents"):
        if "row_attrs" in group:
            raise InputError(f"{where}: is a loom file, not h5ad; write anndata.io.read_loom(...) as h5ad")
        layers = list(group["layers"]) if "layers" in group and not is_array(group["layers"]) else []
        usual = sorted((x for x in layers if x.lower() in USUAL_LAYERS), key=lambda x: USUAL_LAYERS.index(x.lower()))
        others = [name for name in layers if name not in usual]
        keys = {f"layers/{name}": f"layers/{name}" for name in usual}
        for name, key in (("raw/X", "raw/X"), ("raw/X", "raw.X"), ("X", "X")):
            if key in group:
                keys[name] = key
        keys |= {f"layers/{name}": f"layers/{name}" for name in others}
        keys = {name: key for name, key in keys.items() if not _is_null(group[key])}
        if not keys or not {"obs", "var"} <= set(group):
            raise InputError(
                f"{where}: neither h5ad nor AnnData in zarr (it holds {', '.join(list(group)[:6]) or 'nothing'}; X, obs and "
                "var are needed); write it with anndata"
            )
    return keys


def is_tried(name: str) -> bool:
    """Whether counts are looked for in the matrix of this name when none is named."""
    return not name.startswith("layers/") or name.removeprefix("layers/").lower() in USUAL_LAYERS


def load_candidate(place: Place, name: str, key: str) -> Candidate:
    """Opens the matrix and looks at a sample. Raises `InputError` where structure, shape or features are unsound."""
    matrix = chain([open_matrix(group, place.where, key, name) for group in place.groups])
    table = "var" if name != "raw/X" else key.replace("X", "var")
    var = read_table(place.group, place.where, table)
    for group in place.groups[1:]:
        if not read_table(group, place.where, table).index.equals(var.index):
            raise InputError(
                f"{place.where}: {group.name} has other features than {place.group.name}; give each as an input of its own"
            )
    if matrix.shape != (place.n_cells, len(var)):
        turned = matrix.shape == (len(var), place.n_cells)
        raise InputError(
            f"{place.where}: {name} is {matrix.shape[0]:,} x {matrix.shape[1]:,}, but its tables name "
            f"{place.n_cells:,} cells and {len(var):,} features; "
            + ("it is stored genes x cells: write its transpose" if turned else "write the file again with anndata")
        )
    return make_candidate(place.where, matrix, var, place.wanted)


def make_candidate(where: str, matrix: StoredMatrix, var: pd.DataFrame, wanted: Wanted) -> Candidate:
    """The wanted features of a matrix, and a look at a sample. Raises `InputError` where there is nothing to read."""
    for count, what in zip(matrix.shape, ("cells", "genes" if wanted.modality == "rna" else "features"), strict=True):
        if count == 0:
            raise InputError(
                f"{where}: {matrix.name} has no {what} (shape {matrix.shape}); was everything filtered out?"
            )
    kept, left_out = columns_of(var, *wanted)
    if not kept.any():
        kinds = ", ".join(sorted(feature_kinds(var, wanted.modality).unique()))
        raise InputError(
            f"{where}: no {FEATURES[wanted.modality]} among what it measures (var['feature_types'] has {kinds}); "
            "give a file that has some"
        )
    new_column = None if kept.all() else np.where(kept, np.cumsum(kept) - 1, -1).astype(np.int32)
    candidate = Candidate(matrix, var[kept], new_column, left_out, Look("empty", "all zeros"))
    columns, values = matrix.sample()
    candidate.look = look_at(values if new_column is None else values[new_column[columns] >= 0])
    if candidate.look.kind == "empty":
        candidate.look = _first_look(candidate)
    return candidate


def choose(
    place: Place, counts_from: str | None, recover_counts: bool, block_entries: int
) -> tuple[Candidate, Recovery | None]:
    """The matrix to take, and the measured recovery where its values are to be turned back into counts.

    Raises `InputError` where none can be taken, saying what each looks like.
    """
    keys = matrix_keys(place.group, place.where)
    if counts_from is not None:
        check_named(place.where, keys, counts_from)
    tried: dict[str, Candidate] = {}
    for name in [counts_from] if counts_from else filter(is_tried, keys):
        tried[name] = load_candidate(place, name, keys[name])
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
    hint = _hint(place, others, tried, recover_counts)
    raise InputError(f"{place.where}: no raw counts found: {looks or 'no matrix has a usual name'}; {hint}")


def check_named(where: str, keys: dict[str, str], name: str) -> None:
    """Raises `InputError` where there is no matrix of this name."""
    if name not in keys:
        raise InputError(f"{where}: no matrix {name!r}; the file has {', '.join(keys)}.{nearest_name(name, keys)}")


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


def _hint(place: Place, others: dict[str, str], tried: dict[str, Candidate], recover_counts: bool) -> str:
    for name, key in others.items():
        try:
            if load_candidate(place, name, key).look.kind == "counts":
                return f"{name} looks like counts: take it with --counts-from {name}"
        except InputError:
            continue  # an unusable matrix that nobody asked for is no answer, and no reason to hide the question
    if not recover_counts and any(candidate.look.kind == "log-normalised" for candidate in tried.values()):
        return "put raw counts in layers['counts'], or have log1p-normalised values turned back with --recover-counts"
    if any(_are_fractions(candidate) for candidate in tried.values()):
        return "if these are methylation fractions, say --modality methylation; else put raw counts in layers['counts']"
    return "put raw counts in layers['counts'] (or X), or name their matrix with --counts-from"


def _are_fractions(candidate: Candidate) -> bool:
    """Whether a sample of the values lies between 0 and 1, but for those that are missing."""
    values = candidate.matrix.sample()[1]
    values = values[np.isfinite(values)]
    return bool(values.size) and values.min() >= 0 and values.max() <= 1 and bool((values % 1).any())


def _first_look(candidate: Candidate) -> Look:
    """The look of the first block that holds anything but zeros: a sample of zeros proves nothing."""
    for rows in candidate.rows(1_000_000):
        if rows.values.any():
            return look_at(rows.values)
    return candidate.look


def _is_null(node: Group | Array) -> bool:
    if isinstance(node, np.ndarray):
        return False  # what AnnData has in memory is there
    return is_array(node) and (node.shape is None or node.attrs.get("encoding-type") == "null")
