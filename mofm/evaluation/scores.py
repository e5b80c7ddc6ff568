"""Accuracy and macro-F1 of named labels, each with a bootstrap interval.

Intervals resample the test cells only: they say how sure the score of this model on this split is, not how much another
training run would change it. Resampling n cells with replacement is one multinomial draw of their table of (label,
name given), which is what is done: the cost does not grow with the cells.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

BOOTSTRAP_DRAWS = 1000


class Interval(NamedTuple):
    """A score of the test cells and the ends of its 95% bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Readout:
    """What one reader made of one embedding.

    Attributes:
      reader: "15-NN", "linear probe (C=0.1)", ...
      accuracy: share of test cells whose label was named.
      macro_f1: mean over the types that test cells have of F1 = 2 tp / (2 tp + fp + fn); each type weighs the same.
      predicted: str, one a labelled test cell, in their order.
      n_train, n_test: labelled cells.
      unseen: test cells of each type that no training cell has; they count as errors.
      unlabelled: cells, of both sides, left out because their label is missing.
    """

    reader: str
    accuracy: Interval
    macro_f1: Interval
    predicted: np.ndarray
    n_train: int
    n_test: int
    unseen: dict[str, int]
    unlabelled: int

    def rows(self, representation: str) -> list[dict[str, str | float]]:
        """Rows for `figures.scores`: representation, metric, value, low, high."""
        name = self.reader.partition(" (")[0]
        return [
            {"representation": representation, "metric": f"{name} {metric}", **interval._asdict()}
            for metric, interval in (("accuracy", self.accuracy), ("macro-F1", self.macro_f1))
        ]


def score(
    reader: str, train_names: np.ndarray, test_names: np.ndarray, predicted: np.ndarray, unlabelled: int, seed: int
) -> Readout:
    """Judge `predicted` against `test_names`, all str. A type that a draw happens to lack has no F1 in that draw."""
    types, codes = np.unique(np.concatenate([test_names, predicted]), return_inverse=True)
    n, width = len(test_names), len(types)
    pairs, counts = np.unique(codes[:n] * width + codes[n:], return_counts=True)
    draws = np.random.default_rng(seed).multinomial(n, counts / n, size=BOOTSTRAP_DRAWS)
    tables = np.concatenate([counts[None], draws]).astype(np.float64)  # row 0 is what was observed

    is_true, is_called = (np.eye(width)[types_of_pair] for types_of_pair in np.divmod(pairs, width))
    true, called, correct = tables @ is_true, tables @ is_called, tables @ (is_true * is_called)
    f1 = 2 * correct / np.maximum(true + called, 1)
    present = true > 0
    accuracy = _interval(correct.sum(axis=1) / n)
    macro_f1 = _interval((f1 * present).sum(axis=1) / present.sum(axis=1))

    lost, cells = np.unique(test_names[~np.isin(test_names, train_names)], return_counts=True)
    unseen = dict(zip(lost.tolist(), cells.tolist(), strict=True))
    return Readout(reader, accuracy, macro_f1, predicted, len(train_names), n, unseen, unlabelled)


def _interval(values: np.ndarray) -> Interval:
    low, high = np.quantile(values[1:], (0.025, 0.975))
    return Interval(float(values[0]), float(low), float(high))
