"""Which of the judged cells the model's training saw: a score on those says what was learned by heart as well.

A run keeps the names of its data sets and where its corpus lay; the corpus keeps the cells' names and counts, and which of
them were held out follows from the seed. So where the corpus is still there it is known cell by cell: a cell is one of
the corpus's where it bears its name and has as many counts in all in every modality that both have. Names alone do not
do: barcodes come again. Where the corpus is gone, the names of its data sets are all that is known, and that is said.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from mofm.axes import Modality
from mofm.batches.labels import held_groups
from mofm.batches.order import Order
from mofm.corpus.datasets import Corpus, Dataset
from mofm.corpus.places import is_url
from mofm.corpus.store import open_corpus
from mofm.errors import InputError
from mofm.inference.model import PretrainedModel
from mofm.training import workdir as workdirs

TRAINED, HELD_OUT, NEW = "trained on", "held out of training", "not in the training corpus"
BLOCK_CELLS = 4096


class Seen(NamedTuple):
    """What is known of the judged cells.

    Attributes:
      status_N: object, one of `TRAINED`, `HELD_OUT` and `NEW` each; None where it is unknown.
      unknown: why it cannot; "" where it can.
    """

    status_N: np.ndarray | None
    unknown: str

    @property
    def is_seen_N(self) -> np.ndarray | None:
        """Which cells were trained on."""
        return None if self.status_N is None else self.status_N == TRAINED

    def counts(self, is_judged_N: np.ndarray) -> dict[str, int] | None:
        """Of the judged cells, those of each status; None where it is unknown."""
        if self.status_N is None:
            return None
        return {status: int(np.sum(self.status_N[is_judged_N] == status)) for status in (TRAINED, HELD_OUT, NEW)}

    def in_words(self, is_judged_N: np.ndarray) -> str:
        """The same for a person."""
        return self.unknown if self.status_N is None else _summary(self.status_N[is_judged_N])


def seen_cells(
    model: PretrainedModel, names: pd.Index, totals: Mapping[Modality, np.ndarray], corpus: Path | None = None
) -> Seen:
    """Which of the cells the model's training saw.

    Args:
      names: of the cells.
      totals: modality -> each cell's counts in all; NaN for one that was not measured.
      corpus: where the training corpus lies now; None for where it lay.

    Raises:
      InputError: `corpus` was given and is not the one of this model.
    """
    sets = workdirs.read_data_sets(model.workdir)
    place = model.config.data.corpus if corpus is None else corpus
    try:
        opened = _open(place, sets)
    except InputError as error:
        if corpus is not None:
            raise
        return Seen(None, _unknown(place, sets, str(error)))
    status_N = np.full(len(names), NEW, dtype=object)
    count = [int(one["cells"]) for one in sets]
    data = model.config.data
    heldout = Order(
        count,
        model.config.seed,
        holdout_fraction=data.holdout_fraction,
        holdout_stores=[number for number, one in enumerate(sets) if one["name"] in data.holdout_datasets],
        holdout_cells=held_groups(opened.datasets[: len(sets)], data.holdout_groups),
    ).heldout()
    is_heldout = np.zeros(sum(count), bool)
    is_heldout[heldout] = True
    for dataset, first in zip(opened.datasets[: len(sets)], np.cumsum([0, *count]), strict=False):
        place_N = names.get_indexer(pd.Index(dataset.cell_names()).astype(str))
        rows = np.flatnonzero(place_N >= 0)
        rows = rows[_has_these_counts(dataset, rows, place_N[rows], totals)]
        held = is_heldout[first + rows]
        # A cell that is in two data sets was seen where either of them was trained on.
        status_N[[cell for cell in place_N[rows[held]] if status_N[cell] == NEW]] = HELD_OUT
        status_N[place_N[rows[~held]]] = TRAINED
    return Seen(status_N, "")


def _open(place: str | Path, sets: list[dict]) -> Corpus:
    """The training corpus, its first data sets being those of the training."""
    if is_url(str(place)):
        raise InputError(f"{place}: lies in a bucket, which is not asked for this")
    corpus = open_corpus(place)
    there = [(one.name, one.n_cells) for one in corpus.datasets[: len(sets)]]
    if not sets or there != [(one["name"], one["cells"]) for one in sets]:
        raise InputError(f"{place}: is not the corpus that this model was trained on: its data sets are others")
    return corpus


def _has_these_counts(
    dataset: Dataset, rows: np.ndarray, cells: np.ndarray, totals: Mapping[Modality, np.ndarray]
) -> np.ndarray:
    """Whether the cells of some rows have the totals of `cells` in every modality that was measured of both, and in one."""
    agree, compared = np.ones(len(rows), bool), np.zeros(len(rows), bool)
    for modality, store in dataset.stores.items():
        if modality in totals and len(rows):
            total_N, measured = _totals(store, rows), np.isfinite(totals[modality][cells])
            agree &= ~measured | (total_N == totals[modality][cells])
            compared |= measured
    return agree & compared


def _totals(store, rows: np.ndarray) -> np.ndarray:
    """Counts in all of some rows of a store, ascending."""
    parts = []
    for start in range(int(rows[0]), int(rows[-1]) + 1, BLOCK_CELLS):
        found = store.read_rows(start, min(start + BLOCK_CELLS, store.n_cells)).result()
        cell = np.repeat(np.arange(found.n_cells), np.diff(found.indptr_N))
        parts.append(np.bincount(cell, found.data, found.n_cells))
    return np.concatenate(parts)[rows - rows[0]]


def _summary(status_N: np.ndarray) -> str:
    seen, held, new = (int(np.sum(status_N == status)) for status in (TRAINED, HELD_OUT, NEW))
    if not seen:
        how = f"{held:,} were held out of it" if held else "none is in its corpus"
        return f"None of the {len(status_N):,} judged cells was in the model's training ({how})."
    return (
        f"{seen:,} of the {len(status_N):,} judged cells were in the model's training ({held:,} were held out of it, {new:,} "
        "are not in its corpus): scores may flatter it. --split unseen judges the others alone."
    )


def _unknown(place: str | Path, sets: list[dict], why: str) -> str:
    named = ", ".join(f"{one['name']} ({one['cells']:,} cells)" for one in sets[:8])
    more = f" and {len(sets) - 8} more" if len(sets) > 8 else ""
    known = f"It was trained on {named}{more}. " if sets else ""
    return (
        f"Whether the model's training saw these cells is unknown, as its corpus cannot be asked ({why}). {known}"
        "If these cells are among them, scores flatter it."
    )
