"""How well cell labels read off an embedding of cells that were not learned from.

Two readers, the same for every representation: the vote of the nearest training cells (what neighbours mean) and a
multinomial logistic regression (what is linearly there). Choices, and what they cost:

- Both see the embedding centred on the training cells. The vote compares directions (cosine); the probe divides by one
  number, the training cells' root mean square. So neither depends on a rotation, a shift or the overall scale of the
  embedding, which say nothing of biology, and none is favoured by how it happened to be laid out. Standardising each
  column instead made the weakest principal components as loud as the strongest: on pbmc68k_reduced it cost PCA, the
  baseline to beat, half a point to a point of accuracy.
- The probe's penalty is chosen from `PROBE_GRID` by 3-fold cross-validation inside the training cells; ties go to
  the strongest penalty. 19 fits: under a second for 700 cells of 50 columns, minutes for 100,000 of 256.
- A type that only test cells have cannot be right: its cells stay in as errors and are counted in `unseen`. Cells
  without a label are left out and counted in `unlabelled`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from mofm.errors import InputError
from mofm.evaluation.scores import Readout, score

PROBE_GRID = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
"""Inverse strengths C of the probe's L2 penalty, in sklearn's sense, strongest penalty first."""
INNER_FOLDS = 3


class Spread(NamedTuple):
    """A score over folds: mean, sample standard deviation, and each fold's own."""

    mean: float
    sd: float
    per_fold: tuple[float, ...]


@dataclass(frozen=True)
class CrossValidation:
    """Scores over stratified folds; `left_out` counts the cells of types with fewer cells than folds."""

    knn_accuracy: Spread
    knn_macro_f1: Spread
    probe_accuracy: Spread
    probe_macro_f1: Spread
    n_cells: int
    left_out: dict[str, int]
    unlabelled: int

    def rows(self, representation: str) -> list[dict[str, str | float]]:
        """Rows for `figures.scores`; low and high are one standard deviation over folds either side."""
        named = {
            "k-NN accuracy": self.knn_accuracy,
            "k-NN macro-F1": self.knn_macro_f1,
            "linear probe accuracy": self.probe_accuracy,
            "linear probe macro-F1": self.probe_macro_f1,
        }
        return [
            {
                "representation": representation,
                "metric": metric,
                "value": s.mean,
                "low": s.mean - s.sd,
                "high": s.mean + s.sd,
            }
            for metric, s in named.items()
        ]


def knn_accuracy(
    train_ND: np.ndarray, train_labels: Sequence, test_ND: np.ndarray, test_labels: Sequence, k: int = 15, seed: int = 0
) -> Readout:
    """The majority vote of each test cell's k nearest training cells, in cosine distance from the training mean.

    Args:
      train_ND, test_ND: embeddings, finite, of the same width.
      train_labels, test_labels: one a cell; missing ones (None, NaN, NA) are left out and counted.
      k: voters; lowered to the number of training cells where there are fewer. A tie goes to the name that sorts first.
      seed: of the bootstrap.

    Raises:
      InputError: shapes that do not fit, values that are not finite, or no labelled cell on a side.
    """
    data = _labelled(train_ND, train_labels, test_ND, test_labels)
    voters = min(k, len(data.train_ND))
    train_ND, test_ND = (_unit_rows(x_ND) for x_ND in _centred(data.train_ND, data.test_ND))
    model = KNeighborsClassifier(voters, algorithm="brute").fit(train_ND, data.train_N)
    return score(
        f"{voters}-NN", data.train_names, data.test_names, data.types[model.predict(test_ND)], data.unlabelled, seed
    )


def linear_probe(
    train_ND: np.ndarray, train_labels: Sequence, test_ND: np.ndarray, test_labels: Sequence, seed: int = 0
) -> Readout:
    """L2-penalised multinomial logistic regression, its penalty chosen inside the training cells.

    Args and raises as `knn_accuracy`. `seed` deals the inner folds and draws the bootstrap.
    """
    data = _labelled(train_ND, train_labels, test_ND, test_labels)
    train_ND, test_ND = _centred(data.train_ND, data.test_ND)
    size = np.sqrt(np.mean(train_ND**2)) or 1.0
    train_ND, test_ND = train_ND / size, test_ND / size
    strength = _choose_strength(train_ND, data.train_N, seed)
    predicted = data.types[_fit_predict(train_ND, data.train_N, test_ND, strength)]
    reader = f"linear probe (C={strength:g})"
    return score(reader, data.train_names, data.test_names, predicted, data.unlabelled, seed)


def cross_validated(X_ND: np.ndarray, labels: Sequence, folds: int = 5, seed: int = 0, k: int = 15) -> CrossValidation:
    """Both readers over stratified folds of one fixed embedding; `cross_validated_fit` is for one fitted in each."""
    X_ND = np.asarray(X_ND)
    if len(X_ND) != len(labels):
        raise InputError(
            f"an embedding of {len(X_ND)} cells came with {len(labels)} labels: they must be of the same cells"
        )
    return cross_validated_fit(lambda train, test: (X_ND[train], X_ND[test]), labels, folds, seed, k)


def cross_validated_fit(
    embed: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    labels: Sequence,
    folds: int = 5,
    seed: int = 0,
    k: int = 15,
) -> CrossValidation:
    """Both readers over stratified folds, the embedding fitted anew in each.

    Args:
      embed: (training rows, test rows) -> their embeddings, fitted on the training rows alone.
      labels: one a cell. Types with fewer cells than `folds` cannot be in every fold: left out, counted in `left_out`.
      folds: number of folds, >= 2.
      seed: deals the cells to folds. The same seed deals the same cells for every representation.

    Raises:
      InputError: no type has `folds` cells.
    """
    names, known = _names(labels)
    types, counts = np.unique(names[known], return_counts=True)
    rare = counts < folds
    rows = np.flatnonzero(known & ~np.isin(names, types[rare]))
    if len(rows) == 0:
        raise InputError(f"no label is borne by as many as {folds} cells: ask for fewer folds or label more cells")
    fold_N = stratified_folds(names[rows], folds, seed)
    results = []
    for fold in range(folds):
        train, test = rows[fold_N != fold], rows[fold_N == fold]
        train_ND, test_ND = embed(train, test)
        arguments = (train_ND, names[train], test_ND, names[test])
        results.append((knn_accuracy(*arguments, k=k, seed=seed), linear_probe(*arguments, seed=seed)))

    def spread(reader: int, metric: str) -> Spread:
        values = tuple(getattr(pair[reader], metric).value for pair in results)
        return Spread(float(np.mean(values)), float(np.std(values, ddof=1)), values)

    return CrossValidation(
        *(spread(reader, metric) for reader in (0, 1) for metric in ("accuracy", "macro_f1")),
        n_cells=len(rows),
        left_out=dict(zip(types[rare].tolist(), counts[rare].tolist(), strict=True)),
        unlabelled=int(np.sum(~known)),
    )


def stratified_folds(labels: Sequence, folds: int, seed: int) -> np.ndarray:
    """The fold of each cell: int64, shuffled within each label, then dealt round.

    Folds differ by at most one cell, in all and of each label; a label with fewer cells than folds is in some of them.
    """
    labels = np.asarray(labels)
    if folds < 2:
        raise InputError(f"folds={folds}: cross-validation needs at least 2")
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    dealt = shuffled[np.argsort(labels[shuffled], kind="stable")]
    fold_N = np.empty(len(labels), np.int64)
    fold_N[dealt] = np.arange(len(labels)) % folds
    return fold_N


class _Labelled(NamedTuple):
    """The labelled cells of both sides; `train_N` indexes `types`, the names that training cells have."""

    train_ND: np.ndarray
    train_names: np.ndarray
    train_N: np.ndarray
    types: np.ndarray
    test_ND: np.ndarray
    test_names: np.ndarray
    unlabelled: int


def _labelled(train_ND: np.ndarray, train_labels: Sequence, test_ND: np.ndarray, test_labels: Sequence) -> _Labelled:
    sides, unlabelled = [], 0
    for side, x_ND, labels in (("training", train_ND, train_labels), ("test", test_ND, test_labels)):
        x_ND = np.asarray(x_ND, np.float64)
        if x_ND.ndim != 2 or len(x_ND) != len(labels):
            raise InputError(
                f"{side} embedding of shape {x_ND.shape} came with {len(labels)} labels: give one row a label"
            )
        if not np.isfinite(x_ND).all():
            rows = int(np.sum(~np.isfinite(x_ND).all(axis=1)))
            raise InputError(
                f"{side} embedding: {rows} cells have values that are not finite; was the model's training stable?"
            )
        names, known = _names(labels)
        if not known.any():
            raise InputError(f"no {side} cell has a label: name another obs column")
        sides += [x_ND[known], names[known]]
        unlabelled += int(np.sum(~known))
    train_ND, train_names, test_ND, test_names = sides
    if train_ND.shape[1] != test_ND.shape[1]:
        raise InputError(
            f"training cells have {train_ND.shape[1]} columns and test cells {test_ND.shape[1]}: not one embedding"
        )
    types, train_N = np.unique(train_names, return_inverse=True)
    return _Labelled(train_ND, train_names, train_N, types, test_ND, test_names, unlabelled)


def _names(labels: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Labels as str, and which of them are not missing."""
    values = np.asarray(labels, dtype=object)
    return values.astype(str), ~np.asarray(pd.isna(values), bool)


def _centred(train_ND: np.ndarray, test_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean_D = train_ND.mean(axis=0)
    return train_ND - mean_D, test_ND - mean_D


def _unit_rows(x_ND: np.ndarray) -> np.ndarray:
    return x_ND / np.maximum(np.linalg.norm(x_ND, axis=1, keepdims=True), np.finfo(np.float64).tiny)


def _choose_strength(x_ND: np.ndarray, types_N: np.ndarray, seed: int) -> float:
    """The C of `PROBE_GRID` with most held-out cells right over the inner folds; the first of equals."""
    folds = min(INNER_FOLDS, len(x_ND))
    if folds < 2:
        return PROBE_GRID[0]
    fold_N = stratified_folds(types_N, folds, seed)

    def right(strength: float) -> int:
        held_out = ((fold_N != fold, fold_N == fold) for fold in range(folds))
        return sum(
            int(np.sum(_fit_predict(x_ND[train], types_N[train], x_ND[test], strength) == types_N[test]))
            for train, test in held_out
        )

    return max(PROBE_GRID, key=right)


def _fit_predict(train_ND: np.ndarray, types_N: np.ndarray, test_ND: np.ndarray, strength: float) -> np.ndarray:
    if len(np.unique(types_N)) == 1:  # nothing to separate: logistic regression refuses, the answer is plain
        return np.full(len(test_ND), types_N[0])
    return LogisticRegression(C=strength, max_iter=2000).fit(train_ND, types_N).predict(test_ND)
