"""The groups that a user has of the cells: a column of obs."""

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mofm.errors import InputError, nearest_name
from mofm.omics.table import CountTable


@dataclass(frozen=True, eq=False)
class Groups:
    """Who is in which group.

    Attributes:
      names: of the groups that are large enough, as text, in the order that people count in (type_2 before type_10).
      code_N: int64, each cell's group; -1 for one that has no label, or whose group is too small.
      sizes: cells of each group.
      unlabelled: cells without a label.
      too_small: groups that are left out, and their cells.
    """

    names: tuple[str, ...]
    code_N: np.ndarray
    sizes: np.ndarray
    unlabelled: int
    too_small: dict[str, int]

    def means(self, values_NT: np.ndarray) -> np.ndarray:
        """mean_CT of each group's cells."""
        total_CT = np.zeros((len(self.names), values_NT.shape[1]))
        inside = self.code_N >= 0
        np.add.at(total_CT, self.code_N[inside], values_NT[inside])
        return total_CT / self.sizes[:, None]


def read_groups(table: CountTable, column: str, min_cells: int = 1) -> Groups:
    """The groups of a table's cells.

    Args:
      column: of obs; numbers are taken as labels.
      min_cells: groups of fewer cells are left out.

    Raises:
      InputError: no such column, no label in it, no group that is large enough, or `min_cells` below 1.
    """
    if min_cells < 1:
        raise InputError(f"min cells {min_cells}: must be at least 1")
    if column not in table.obs:
        known = [str(name) for name in table.obs.columns]
        some = f"it has {', '.join(known[:12])}" if known else "it has no columns"
        raise InputError(f"{table.where}: obs has no column {column!r}; {some}.{nearest_name(column, known)}")
    labels = pd.Series(table.obs[column].to_numpy(object), dtype=object)
    labels = labels.map(str, na_action="ignore")
    if labels.isna().all():
        raise InputError(
            f"{table.where}: obs[{column!r}] labels none of its {len(labels):,} cells; give another column"
        )
    counts = labels.value_counts()
    kept = sorted(counts.index[counts >= min_cells], key=_counting)
    if not kept:
        raise InputError(
            f"{table.where}: none of the {len(counts):,} groups of obs[{column!r}] has {min_cells:,} cells (the largest "
            f"has {counts.max():,}); lower --min-cells or give a coarser column"
        )
    return Groups(
        tuple(kept),
        pd.Index(kept).get_indexer(labels),
        counts[kept].to_numpy(np.int64),
        int(labels.isna().sum()),
        {name: int(counts[name]) for name in sorted(counts.index[counts < min_cells], key=_counting)},
    )


def _counting(name: str) -> tuple:
    """A key by which numbers in names are in order."""
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)), name
