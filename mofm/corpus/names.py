"""Names of cells that several datasets have. Barcodes come from one list, so two runs share some by chance.

Nothing hangs on them: a cell is told by its dataset and its name, `dataset:name`, and cells are paired within a file
alone. But two files of the same cells look the same, which is worth a word.
"""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import pandas as pd

from mofm.corpus.datasets import Corpus


class SharedNames(NamedTuple):
    """How many new cells have a name that a cell of another dataset has, one such name, and two datasets that have it."""

    cells: int
    example: str
    datasets: tuple[str, str]


def shared_names(corpus: Corpus, new: Collection[str]) -> SharedNames | None:
    """What the datasets of the names `new` share with others, and with each other; None where there is nothing.

    Names are compared by hashes of 64 bits, 8 bytes a cell in memory.
    """
    hashes = [pd.util.hash_array(np.asarray(dataset.cell_names(), object)) for dataset in corpus.datasets]
    if not hashes:
        return None
    every = np.concatenate(hashes)
    dataset_N = np.repeat(np.arange(len(hashes)), [len(some) for some in hashes])
    _, which, count = np.unique(every, return_inverse=True, return_counts=True)
    is_new = np.isin(dataset_N, [dataset.number for dataset in corpus.datasets if dataset.name in new])
    shared = np.flatnonzero(is_new & (count[which] > 1))
    if not len(shared):
        return None
    cell = int(shared[0])
    both = dataset_N[which == which[cell]][:2]
    example = str(corpus.cell_name(cell)).partition(":")[2]
    return SharedNames(len(shared), example, tuple(corpus.datasets[number].name for number in both))
