"""What is known of cells beside their counts, as numbers: labels (cell types) and technical batches, from columns of obs.

A column is read once, when a stream begins: an int32 for each cell of the corpus, 40 MB for ten million, on every host,
so that the numbers of a batch's cells are one look-up and all hosts number alike. Choices and their cost:

- A value is its text without blanks around it; 1.0 is "1", as a column with gaps is often stored as floats. Two data
  sets that write one type differently ("T cell", "T cells") have two labels: nothing is guessed.
- Not known (-1) is what is missing, empty, "nan" or "unknown", in any letter case, and all cells of a data set without
  the column. How many, and which data sets, is reported once. Other ways of not knowing ("unassigned") are labels.
- A cell of several modalities has the value of the first of its stores, in the order of `MODALITIES`, that knows it. Where
  two stores know different ones, that is reported and RNA's counts: a corpus cannot be edited, and two vocabularies for the
  same cells are common where each omics was annotated by itself.
- A technical batch belongs to the file that it came in: "donor1" of two files are two batches. A file whose modalities
  share only some cells gives several data sets, whose batches of one name are one.
- Names are numbered in the order of their text. A data set more in the corpus may number them anew, but so is the run.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from mofm.corpus.datasets import Dataset
from mofm.errors import InputError, nearest_name

NOT_KNOWN = ("", "nan", "unknown")
"""Values that say that a cell's is not known, in lower case."""

_NAMED = 5
_log = logging.getLogger("mofm")


class CellNumbers(NamedTuple):
    """One number for each of the N cells of a corpus.

    Attributes:
      names: what the numbers stand for, ascending.
      number_N: int32. Place in `names` of the cell with this global index; -1 where it is not known.
    """

    names: tuple[str, ...]
    number_N: np.ndarray

    def of(self, cell_B: np.ndarray) -> np.ndarray:
        """int32, the numbers of some cells (global indices); -1 for the cell -1."""
        return np.where(cell_B >= 0, self.number_N[cell_B], np.int32(-1))


def read_numbers(datasets: Sequence[Dataset], column: str, option: str, *, by_file: bool = False) -> CellNumbers:
    """The numbers of all cells of a corpus by a column of obs.

    Args:
      datasets: all of the corpus.
      column: its name.
      option: the key of the config that names it, for messages.
      by_file: values of different files are different things even where they are written alike; their names are then
        "FILE:VALUE".

    Raises:
      InputError: no data set has the column, it says nothing of any cell, or it holds numbers that name nothing; a store
        is damaged.
    """
    number_N = np.full(sum(dataset.n_cells for dataset in datasets), -1, np.int32)
    number_of: dict[str, int] = {}
    without, differing, there, end = [], 0, [], 0
    for dataset in datasets:
        mine, end = number_N[end : end + dataset.n_cells], end + dataset.n_cells
        differs = np.zeros(dataset.n_cells, bool)
        columns = {modality: store.obs_columns() for modality, store in dataset.stores.items()}
        there += [name for some in columns.values() for name in some]
        stores = [store for modality, store in dataset.stores.items() if column in columns[modality]]
        for store in stores:
            codes, texts = _values(store.obs_column(column), f"{option}={column!r}: dataset {dataset.name!r}")
            names = [f"{store.entry.input}:{text}" for text in texts] if by_file else texts
            of_code = np.array([*(number_of.setdefault(name, len(number_of)) for name in names), -1], np.int32)
            said = of_code[codes]
            differs |= (mine >= 0) & (said >= 0) & (mine != said)
            np.copyto(mine, said, where=mine < 0)
        differing += int(np.count_nonzero(differs))
        without += [] if stores else [dataset]
    if len(without) == len(datasets):
        known = sorted(set(there))
        raise InputError(
            f"{option}={column!r}: no dataset has such a column in obs; there {_are(known)}.{nearest_name(column, known)}"
        )
    used = np.bincount(number_N[number_N >= 0], minlength=len(number_of)) > 0  # a categorical may have others
    names = sorted(name for name, number in number_of.items() if used[number])
    if not names:
        raise InputError(f"{option}={column!r}: this column of obs says nothing of any cell; name another")
    _tell(f"{option}={column!r}", number_N, without, differing)
    order = np.full(len(number_of) + 1, -1, np.int32)
    order[[number_of[name] for name in names]] = np.arange(len(names))
    return CellNumbers(tuple(names), order[number_N])


def held_groups(datasets: Sequence[Dataset], groups: Mapping[str, Sequence[str]]) -> np.ndarray | None:
    """bool over all cells of a corpus: those with one of the values that `groups` names of a column. None where it names none.

    Raises:
      InputError: as `read_numbers`; or no cell has a value that is named.
    """
    if not groups:
        return None
    is_held_N = np.zeros(sum(dataset.n_cells for dataset in datasets), bool)
    for column, wanted in groups.items():
        numbers = read_numbers(datasets, column, "data.holdout_groups")
        for name in wanted:
            if name not in numbers.names:
                near = nearest_name(name, numbers.names)
                raise InputError(f"data.holdout_groups: no cell has {name!r} in {column!r} of obs.{near}")
        is_held_N |= np.isin(numbers.number_N, [numbers.names.index(name) for name in wanted])
    return is_held_N


def _values(values: object, where: str) -> tuple[np.ndarray, list[str]]:
    """The code of each cell, -1 where it is not known, and the text of each code."""
    if not isinstance(values, pd.Categorical):
        is_float = pd.api.types.is_float_dtype(values)
        values = pd.Categorical(values)
        odd = [value for value in values.categories if is_float and not float(value).is_integer()]
        if odd:
            raise InputError(
                f"{where} has numbers such as {odd[0]:g} in it, which name nothing; name another column, or make it text"
            )
    texts = [_text(value) for value in values.categories]
    kept = list(dict.fromkeys(text for text in texts if text.lower() not in NOT_KNOWN))
    place = {text: number for number, text in enumerate(kept)}
    of_code = np.array([*(place.get(text, -1) for text in texts), -1], np.int32)
    return of_code[values.codes], kept


def _text(value: object) -> str:
    whole = isinstance(value, float | np.floating) and float(value).is_integer()
    return str(int(value)) if whole else str(value).strip()


def _tell(what: str, number_N: np.ndarray, without: Sequence[Dataset], differing: int) -> None:
    """A line for the cells of which nothing is known, and one for those of which two things are."""
    unknown = int(np.count_nonzero(number_N < 0))
    if unknown:
        lacking = sum(dataset.n_cells for dataset in without)
        names = ", ".join(dataset.name for dataset in without[:_NAMED]) + (", ..." if len(without) > _NAMED else "")
        parts = [f"{lacking:,} in {len(without)} datasets without that column ({names})"] if without else []
        parts += [f"{unknown - lacking:,} with a value that is missing or unknown"] if unknown > lacking else []
        _log.warning(
            "%s: not known of %s of %s cells: %s", what, f"{unknown:,}", f"{len(number_N):,}", ", ".join(parts)
        )
    if differing:
        _log.warning(
            "%s: %s cells have another value in another modality's obs; the first of RNA, ATAC, ADT, methylation counts",
            what,
            f"{differing:,}",
        )


def _are(columns: Sequence[str]) -> str:
    return f"are {', '.join(columns)}" if columns else "are none at all"
