"""Counts recovered from log1p-normalised values, where the arithmetic is exact; refused where it is not.

log1p normalisation stores log(1 + count * factor / library). Within a cell, expm1 gives back counts times one unknown
number. Assumed: the smallest non-zero count of every cell is 1, as it is in nearly every UMI cell; then that number is
the cell's smallest value, and dividing by it gives the counts. Checked: over the whole file, at least 99% of entries
must come within 0.05 of a whole number. Of other matrices (corrected counts, TPM, regressed values) about one
entry in ten does. What the check cannot see: a cell whose counts all share a divisor, such as a cell with a
single entry, whose counts come out divided by it.
"""

from typing import NamedTuple

import numpy as np

from mofm.omics.checks import LARGEST_COUNT, BadValue

TOLERANCE = 0.05
SHARE_NEEDED = 0.99


class Recovery(NamedTuple):
    """How many entries came out within `TOLERANCE` of a whole number, of how many."""

    n_near: int
    n_entries: int

    @property
    def share(self) -> float:
        """0 to 1; 0 for no entries."""
        return self.n_near / max(1, self.n_entries)

    @property
    def accepted(self) -> bool:
        """Whether the values may be taken as counts."""
        return self.share >= SHARE_NEEDED


def count_ratios(indptr_N: np.ndarray, values: np.ndarray) -> np.ndarray:
    """float64 expm1 of each entry, in units of its cell's smallest. Raises `BadValue` where it is no possible count.

    Args:
      indptr_N: where each cell begins among `values`, and one more.
      values: log1p-normalised, finite, > 0.
    """
    if len(values) == 0:
        return np.empty(0)
    with np.errstate(over="ignore"):
        linear = np.expm1(values.astype(np.float64))
    lengths_N = np.diff(indptr_N)
    smallest = np.minimum.reduceat(linear, indptr_N[:-1][lengths_N > 0])
    with np.errstate(over="ignore", invalid="ignore"):
        ratios = linear / np.repeat(smallest, lengths_N[lengths_N > 0])
    possible = ratios <= LARGEST_COUNT
    if not possible.all():
        position = int(np.argmin(possible))
        raise BadValue(position, f"{values[position]:.6g}, too large beside its cell's other values to be a log1p")
    return ratios


def near_whole(ratios: np.ndarray) -> int:
    """How many ratios lie within `TOLERANCE` of a whole number."""
    return int(np.count_nonzero(np.abs(ratios - np.rint(ratios)) <= TOLERANCE))
