"""What a task of `mofm evaluate` gives back, and what it is asked with."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from mofm.axes import Modality
from mofm.errors import InputError
from mofm.evaluation.resample import Estimate
from mofm.evaluation.subject import Cells, Settings, View
from mofm.inference.model import PretrainedModel

OURS = "mofm"
Kind = Literal["mofm", "peer", "linear", "trivial"]
KINDS = {
    "mofm": "the model",
    "peer": "an embedding that the file brought along",
    "linear": "a baseline that is fitted to the judged file",
    "trivial": "knows nothing of a cell",
}


class Score(NamedTuple):
    """One method by one metric.

    Attributes:
      of: what was judged: a modality, a direction ("rna to adt") or a pair ("rna and adt").
      metric, method: names.
      kind: of the method.
      estimate: the score and its draws; of one `of` and metric all are of the same draws.
      cells: that were judged.
      features: that were judged; None where features are not.
      lower_is_better: of the metric.
    """

    of: str
    metric: str
    method: str
    kind: Kind
    estimate: Estimate
    cells: int
    features: int | None = None
    lower_is_better: bool = False


class Judged(NamedTuple):
    """Attributes: scores, in the order shown; notes, what a person should know besides, a line each."""

    scores: list[Score]
    notes: list[str]


class Situation(NamedTuple):
    """What is known before any work is done.

    Attributes:
      model: that is judged.
      shown: modality -> names of its cells, for those that both the data and the model have.
      settings: what is asked for.
      columns: "labels", "batches", "conditions", "groups" -> what obs says of the judged cells; None where not asked for.
    """

    model: PretrainedModel
    shown: Mapping[Modality, Any]
    settings: Settings
    columns: Mapping[str, np.ndarray | None]


class Subject(NamedTuple):
    """What a task is given.

    Attributes:
      model, settings: as in `Situation`.
      cells: that are judged.
      views: by modality.
      options: of `inference.model.Options`.
    """

    model: PretrainedModel
    settings: Settings
    cells: Cells
    views: Mapping[Modality, View]
    options: Mapping[str, Any]


def pairs_of(shown: Mapping[Modality, Any]) -> list[tuple[Modality, Modality]]:
    """Pairs of modalities that share cells (enough to judge), the first of them RNA where it is there."""
    names = list(shown)
    both = [(one, other) for place, one in enumerate(names) for other in names[place + 1 :]]
    return [(one, other) for one, other in both if len(shown[one].intersection(shown[other])) >= 10]


def need_labels(situation: Situation) -> None:
    """Raises `InputError` where no label was named."""
    if situation.settings.label_key is None:
        raise InputError("needs labels of the cells: name their obs column with --label-key, such as cell_type")


def rows_by_name(*views: View) -> list[np.ndarray]:
    """The rows of each view that hold the cells which all have, in one order."""
    shared = views[0].place_N
    for view in views[1:]:
        shared = np.intersect1d(shared, view.place_N)
    return [np.argsort(view.place_N)[np.searchsorted(np.sort(view.place_N), shared)] for view in views]
