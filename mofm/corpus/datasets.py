"""An open corpus: its datasets, each the stores of one name, and the number that each cell has in all of them."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mofm.axes import MODALITIES, Modality
from mofm.corpus.manifest import Manifest

if TYPE_CHECKING:  # store.py imports this file
    from mofm.corpus.store import Store


class Dataset:
    """The stores of one name: one a modality, all of the same cells in the same order.

    Attributes:
      name: unique in the corpus.
      number: its position in `Corpus.datasets`.
      stores: modality -> its store, in the order of `mofm.axes.MODALITIES`.
      n_cells: rows of each of them.
    """

    def __init__(self, name: str, number: int, stores: dict[Modality, "Store"]):
        self.name, self.number, self.stores = name, number, stores
        self.n_cells = next(iter(stores.values())).n_cells

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What was measured in its cells: the stratum that they belong to."""
        return tuple(self.stores)

    def cell_names(self) -> np.ndarray:
        """Of all cells, in their files. Read anew at every call."""
        return next(iter(self.stores.values())).cell_names()

    def name_hashes(self) -> np.ndarray:
        """uint64, a hash of each cell's name. Read anew at every call."""
        return next(iter(self.stores.values())).name_hashes()

    def cell_name(self, row: int) -> str:
        """The name of a cell in its file. Reads all names at the first call."""
        return next(iter(self.stores.values())).cell_name(row)


class Corpus:
    """An open corpus.

    Attributes:
      path: where it is.
      manifest: its table of contents.
      stores: in the order of `manifest.stores`.
      datasets: in the order of their first stores.
      features: id, symbol, modality; the row number is the feature's identity in a model.
      offsets: int64, one longer than the number of datasets: the global index of each dataset's first cell. A cell
        counts once, however many modalities were measured in it.
    """

    def __init__(self, path: str | Path, manifest: Manifest, stores: tuple["Store", ...], features: pd.DataFrame):
        self.path, self.manifest, self.stores, self.features = path, manifest, stores, features
        self.datasets = _datasets_of(stores)
        self.offsets = np.concatenate([[0], np.cumsum([data.n_cells for data in self.datasets])]).astype(np.int64)

    @property
    def n_cells(self) -> int:
        """Cells of all datasets."""
        return int(self.offsets[-1])

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What was measured in some of its cells."""
        return tuple(modality for modality in MODALITIES if any(modality in data.stores for data in self.datasets))

    @property
    def n_lost(self) -> int:
        """Rows of stores that were found damaged and are left out; a cell counts once a modality."""
        return sum(store.n_lost for store in self.stores)

    @property
    def digest(self) -> str:
        """Names what the corpus holds: the same for the same files ingested in the same order with the same options."""
        return hashlib.blake2b(self.manifest.to_json(), digest_size=16).hexdigest()

    def locate(self, cell: int) -> tuple[Dataset, int]:
        """The dataset of a global cell index, and the cell's row in its stores."""
        if not 0 <= cell < self.n_cells:
            raise IndexError(f"cell {cell} of a corpus of {self.n_cells}")
        number = int(np.searchsorted(self.offsets, cell, side="right")) - 1
        return self.datasets[number], int(cell - self.offsets[number])

    def cell_name(self, cell: int) -> str:
        """ "dataset:name" of a global cell index, for messages."""
        dataset, row = self.locate(cell)
        return f"{dataset.name}:{dataset.cell_name(row)}"


def _datasets_of(stores: tuple["Store", ...]) -> tuple[Dataset, ...]:
    by_name: dict[str, list[Store]] = {}
    for store in stores:
        by_name.setdefault(store.name, []).append(store)
    ordered = {name: sorted(some, key=lambda store: MODALITIES.index(store.modality)) for name, some in by_name.items()}
    return tuple(
        Dataset(name, number, {store.modality: store for store in some})
        for number, (name, some) in enumerate(ordered.items())
    )
