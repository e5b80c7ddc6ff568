"""Which cells of a file were measured in which modalities: by their names, and by nothing else.

Cells that share a set of modalities form a part: they are stored together, in one order, and drawn together in training.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from mofm.axes import MODALITIES, Modality
from mofm.errors import InputError
from mofm.omics.table import CountTable


class Part(NamedTuple):
    """The cells of a file that were measured in the same modalities.

    Attributes:
      modalities: these, in the order of `MODALITIES`.
      rows: for each of them, int64: the row of its table that each cell is. Cells are in the order of the first table.
    """

    modalities: tuple[Modality, ...]
    rows: dict[Modality, np.ndarray]

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.rows[self.modalities[0]])


def pair(tables: Sequence[CountTable], *, unpaired: bool = False) -> list[Part]:
    """The parts of a file: cells with all modalities first, then those with fewer, in the order of `MODALITIES`.

    Args:
      tables: of one file, one a modality.
      unpaired: whether modalities that share no cell are taken as of different cells.

    Raises:
      InputError: a modality shares no cell name with any other, and `unpaired` was not said.
    """
    names = {table.modality: table.obs.index for table in tables}
    measured = pd.DataFrame({modality: pd.Series(True, index=index) for modality, index in names.items()})
    measured = measured.reindex(columns=[modality for modality in MODALITIES if modality in names]).notna()
    if len(tables) > 1 and not unpaired:
        _check_shared(tables, measured)
    parts = []
    for key in sorted(set(map(tuple, measured.to_numpy())), key=lambda key: (-sum(key), [not has for has in key])):
        here = measured.index[(measured.to_numpy() == key).all(axis=1)]
        modalities = tuple(modality for modality, has in zip(measured.columns, key, strict=True) if has)
        first = names[modalities[0]]
        cells = first[first.isin(here)]
        parts.append(Part(modalities, {modality: names[modality].get_indexer(cells) for modality in modalities}))
    return parts


def part_name(name: str, part: Part, tables: Sequence[CountTable]) -> str:
    """The dataset of a part of the input `name`: that name for cells with everything, else NAME-rna-only."""
    return name if len(part.modalities) == len(tables) else f"{name}-{'-'.join(part.modalities)}-only"


def _check_shared(tables: Sequence[CountTable], measured: pd.DataFrame) -> None:
    together = measured.to_numpy().sum(axis=1) > 1
    for table in tables:
        if not (measured[table.modality].to_numpy() & together).any():
            other = next(other for other in tables if other is not table)
            raise InputError(
                f"{table.path}: {table.modality} shares no cell name with {other.modality} ({table.modality} has "
                f"{table.obs.index[0]!r}, {other.modality} has {other.obs.index[0]!r}); give cells the same names in "
                "every modality, or say --unpaired if they are different cells"
            )
