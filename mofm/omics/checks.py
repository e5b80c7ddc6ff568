"""What makes a table of counts unusable, said in one line; and what a matrix of numbers looks like.

Values: counts are finite, non-negative, whole. A corrected or normalised matrix that is taken for counts trains a
model on noise without any error, so every value is checked, in the pass that reads it anyway.
Names: cells must be distinguishable, and be cells: a genes x cells matrix is a common mistake that nothing else notices.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from mofm.errors import InputError
from mofm.omics.features import species_of
from mofm.sampling import evenly

Kind = Literal["counts", "empty", "not finite", "scaled", "negative", "log-normalised", "fractional"]

LARGEST_COUNT = 2**32 - 1
_LARGEST_LOG = 16.0  # log1p of nine million: beyond counts per million of a cell with a single gene
_NAMES_SAMPLED = 1000
_GENE_ID = re.compile(r"ENS[A-Z]{0,6}G\d{11}(\.\d+)?$")
_BARCODE = re.compile(r"[ACGT]{10,}")


class Look(NamedTuple):
    """What sampled values look like: `kind` for code, `words` for people."""

    kind: Kind
    words: str


class BadValue(Exception):
    """A value that is no count. `position` is its place in the array that was checked, `remedy` what to do about it."""

    def __init__(self, position: int, what: str, remedy: str = ""):
        super().__init__(what)
        self.position, self.what, self.remedy = position, what, remedy


def look_at(values: np.ndarray) -> Look:
    """What `values` (any numbers, of any shape) look like."""
    if not values.any():
        return Look("empty", "all zeros")
    finite = np.isfinite(values)
    if not finite.all():
        share = np.count_nonzero(~finite) / values.size
        return Look("not finite", f"NaN or infinite values ({share:.2%} of those sampled)")
    low, high = values.min(), values.max()
    whole = values.dtype.kind in "iub" or bool((values == np.trunc(values)).all())
    if low < 0 and not whole:
        return Look("scaled", f"scaled or centred (values from {low:.4g} to {high:.4g})")
    if low < 0:
        return Look("negative", f"whole numbers, but negative ones among them (down to {low:.4g})")
    if whole:
        return Look("counts", f"counts (whole numbers up to {high:.4g})")
    if high <= _LARGEST_LOG:
        return Look("log-normalised", f"log-normalised (fractions up to {high:.4g})")
    return Look("fractional", f"normalised or corrected, not counts (fractions up to {high:.4g})")


def whole_counts(values: np.ndarray) -> np.ndarray:
    """The same values as the smallest of uint8, uint16 and uint32 that holds them. Raises `BadValue` at the first that is
    no count."""
    largest = values.max(initial=0).item()
    in_range = largest <= LARGEST_COUNT  # not, where it is NaN
    with np.errstate(invalid="ignore"):
        counts = values.astype(np.min_scalar_type(int(largest)) if in_range else np.uint32)
    # In range, whole numbers alone come back as they went. (What a negative or fractional one becomes on the way depends
    # on the processor, but is never itself.) numpy would compare float32 with integers as float64, at thrice the cost.
    same = (counts.astype(values.dtype) if in_range and values.dtype.kind == "f" else counts) == values
    if not same.all():
        position = int(np.argmin(same))
        raise BadValue(position, _what_is_wrong(values[position]))
    return counts


def finite_and_not_negative(values: np.ndarray) -> None:
    """Raises `BadValue` at the first value that is NaN, infinite or negative."""
    good = np.isfinite(values) & (values >= 0)
    if not good.all():
        position = int(np.argmin(good))
        raise BadValue(position, _what_is_wrong(values[position]))


def _what_is_wrong(value) -> str:
    if not np.isfinite(value):
        return f"{value}, not a finite number"
    if value < 0:
        return f"{value:.6g}, a negative number"
    if value != np.trunc(value):
        return f"{value:.6g}, not a whole number"
    return f"{value:.6g}, above the largest count that is stored ({LARGEST_COUNT:,})"


def smallest_unsigned(counts: np.ndarray) -> np.ndarray:
    """Counts as the smallest of uint8, uint16 and uint32 that holds them. They must fit uint32."""
    largest = int(counts.max(initial=0))
    return counts.astype(np.uint8 if largest < 2**8 else np.uint16 if largest < 2**16 else np.uint32, copy=False)


def check_cell_names(path: Path | str, names: pd.Index) -> None:
    """Raises `InputError` where cell names are repeated."""
    repeated = names.duplicated()
    if repeated.any():
        raise InputError(
            f"{path}: {int(repeated.sum()):,} of {len(names):,} cell names repeat an earlier one (first: "
            f"{names[int(np.argmax(repeated))]!r}); run adata.obs_names_make_unique() and write the file again"
        )


def check_orientation(
    path: Path | str, cells: Sequence[str], features: Sequence[str], looks_like_genes: Callable[[Sequence[str]], float]
) -> None:
    """Raises `InputError` where the rows look like genes, or the columns like cell barcodes.

    Args:
      looks_like_genes: gives the share (0 to 1) of names that are genes; asked about at most 1,000 of each axis.
    """
    cells, features = _some(cells), _some(features)
    barcodes = sum(bool(_BARCODE.search(name)) for name in features) / max(1, len(features))
    genes_in_cells, genes_in_features = looks_like_genes(cells), looks_like_genes(features)
    if barcodes > 0.5 or (genes_in_cells > 0.5 and genes_in_cells > 2 * genes_in_features):
        raise InputError(
            f"{path}: the matrix looks like genes x cells (rows such as {cells[0]!r}, columns such as "
            f"{features[0]!r}); cells must be rows: write adata.T"
        )


def gene_share(names: Sequence[str]) -> float:
    """Share of names that are Ensembl gene ids of any species, or ids and symbols of a bundled one."""
    gene_ids = sum(bool(_GENE_ID.match(name)) for name in names) / max(1, len(names))
    return max(gene_ids, *species_of(names).values())


def _some(names: Sequence[str]) -> list[str]:
    return [str(names[place]) for place in evenly(len(names), _NAMES_SAMPLED)]
