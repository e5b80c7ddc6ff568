"""Names of cells that several datasets have. Barcodes come from one list, so two runs share some by chance.

Nothing hangs on them: a cell is identified by its dataset and its name, `dataset:name`, and cells are paired within a file
alone. But two files of the same cells look the same, which is worth a word.
"""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from mofm.corpus.datasets import Corpus


class SharedNames(NamedTuple):
    """How many new cells have a name that a cell of another dataset has, one such name, and two datasets that have it."""

    cells: int
    example: str
    datasets: tuple[str, str]


def shared_names(corpus: Corpus, new: Collection[str]) -> SharedNames | None:
    """What the datasets of the names `new` share with others, and with each other; None where there is nothing.

    Names are compared by hashes of 64 bits, which stores keep: of other datasets no name is read, and of all of them 8
    bytes a cell, one dataset at a time.
    """
    hashes_new = {dataset.number: dataset.name_hashes() for dataset in corpus.datasets if dataset.name in new}
    if not hashes_new:
        return None
    names = np.unique(np.concatenate(list(hashes_new.values())))
    count, holders = np.zeros(len(names), np.int64), []
    for dataset in corpus.datasets:
        hashes = hashes_new.get(dataset.number)
        place = _places(names, dataset.name_hashes() if hashes is None else hashes)
        count[place] += 1
        holders.append(place)
    shared = {number: count[_places(names, hashes)] > 1 for number, hashes in hashes_new.items()}
    cells = sum(int(cells.sum()) for cells in shared.values())
    if not cells:
        return None
    first = next(number for number in shared if shared[number].any())
    row = int(np.argmax(shared[first]))
    wanted = _places(names, hashes_new[first][row : row + 1])
    both = [data.name for data, place in zip(corpus.datasets, holders, strict=True) if np.isin(wanted, place).all()][:2]
    return SharedNames(cells, corpus.datasets[first].cell_name(row), tuple(both))


def _places(names: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """The place in `names` (ascending) of those of `hashes` that are there."""
    place = np.minimum(np.searchsorted(names, hashes), len(names) - 1)
    return place[names[place] == hashes]
