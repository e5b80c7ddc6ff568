"""Annotation: how well labels read off the embedding of cells that the reader never saw, and whether it knows what it
does not know.

- accuracy and macro-F1 of two readers (`annotation.py`): the vote of 15 nearest neighbours, and a linear probe. Readers,
  and the components that mofm stands beside, are fitted on the other folds; every cell is judged once.
- unknown labels recognised: each label in turn is taken from the training cells; with the share of the voices of 15
  neighbours that the likeliest label has, the AUROC with which its cells are separated, as the less sure, from all others. Mean
  over labels.

Readers run on one thread of BLAS: their products are small, of which two threads on a busy machine made ten times the time,
and what they find does not depend on the number of cores.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from mofm.axes import Modality
from mofm.evaluation.annotation import knn_accuracy, linear_probe
from mofm.evaluation.resample import Estimate, accuracy, aurocs, draw_weights, macro_f1, over_features
from mofm.evaluation.subject import View
from mofm.evaluation.tasks.score import OURS, Judged, Kind, Score, Situation, Subject, need_labels
from mofm.evaluation.translation_baselines import COMPONENTS, Measured, source_components
from mofm.inference.annotate import annotate

READERS = {"15-NN": knn_accuracy, "linear probe": linear_probe}
FEWEST_CELLS = 10
"""A label of fewer cells is not taken away to be found unknown."""

Fold = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Rows of training and of test cells, and their embeddings."""


def check(situation: Situation) -> None:
    """Raises `InputError` where there are no labels."""
    need_labels(situation)


def judge(subject: Subject) -> Judged:
    """Each modality's embedding beside principal components, and the commonest label."""
    scores, notes = [], []
    for modality, view in subject.views.items():
        labels, rare = _labels(subject, view)
        known = np.array([label is not None for label in labels])
        fold_N = subject.cells.fold_N[view.place_N]
        rows = np.flatnonzero(known & (fold_N >= 0))
        if rare:
            some = ", ".join(f"{name} ({cells})" for name, cells in list(rare.items())[:5])
            notes.append(f"{modality}: left out, as labels of fewer cells than folds cannot be in each: {some}")
        folds = [
            (np.flatnonzero(known & (fold_N != fold)), np.flatnonzero(known & (fold_N == fold)))
            for fold in subject.cells.folds
        ]
        folds = [(train, test) for train, test in folds if len(train) > 1 and len(test)]
        if not folds or len(np.unique(labels[rows].astype(str))) < 2:
            notes.append(f"{modality}: fewer than two labels among the judged cells: not judged")
            continue
        notes += _never_seen(modality, labels, folds)
        found, said = _judge_view(subject, modality, view, labels, folds)
        scores, notes = scores + found, notes + said
    return Judged(scores, notes)


def _judge_view(subject: Subject, modality: Modality, view: View, labels: np.ndarray, folds: list) -> tuple[list, list]:
    tested = np.concatenate([test for _, test in folds])
    true_N = labels[tested].astype(str)
    settings = subject.settings
    weights_DN = draw_weights(len(tested), settings.bootstrap, settings.seed)
    taken = [name for name, cells in zip(*np.unique(true_N, return_counts=True), strict=True) if cells >= FEWEST_CELLS]
    taken = taken if len(taken) >= 3 else []
    scores = []

    def add(metric: str, method: str, kind: Kind, estimate: Estimate) -> None:
        scores.append(Score(modality, metric, method, kind, estimate, len(tested)))

    for method, kind, embedded in _embeddings(modality, view, folds):
        for reader, read in READERS.items():
            with threadpool_limits(1, user_api="blas"):
                said = [read(x, labels[a].astype(str), y, labels[b].astype(str), seed=settings.seed).predicted
                        for a, b, x, y in embedded]  # fmt: skip
            said_N = np.concatenate(said)
            add(f"accuracy, {reader}", method, kind, accuracy(weights_DN, true_N, said_N))
            add(f"macro-F1, {reader}", method, kind, macro_f1(weights_DN, true_N, said_N))
        if taken:
            sure_NC = np.concatenate([_sureness(labels, fold, taken) for fold in embedded])
            add("unknown labels recognised, AUROC", method, kind, _unknown(weights_DN, true_N, sure_NC, taken))
    commonest = np.concatenate([np.full(len(b), pd.Series(labels[a].astype(str)).mode()[0]) for a, b in folds])
    for reader in READERS:
        add(f"accuracy, {reader}", "majority", "trivial", accuracy(weights_DN, true_N, commonest))
        add(f"macro-F1, {reader}", "majority", "trivial", macro_f1(weights_DN, true_N, commonest))
    if taken:  # who is as sure of all cells separates none
        add("unknown labels recognised, AUROC", "majority", "trivial", Estimate(np.full(len(weights_DN), 0.5)))
    notes = [] if taken else [f"{modality}: fewer than 3 labels of {FEWEST_CELLS} cells: unknown ones are not judged"]
    return scores, notes


def _labels(subject: Subject, view: View) -> tuple[np.ndarray, dict[str, int]]:
    """Labels of the view's cells, None for those of too few cells where folds are dealt by cell; and those labels."""
    labels = subject.cells.labels[view.place_N].copy()
    if subject.cells.groups is not None or len(subject.cells.folds) < 2:
        return labels, {}
    counts = pd.Series([label for label in labels if label is not None]).value_counts()
    rare = counts[counts < len(subject.cells.folds)]
    labels[[label in rare.index for label in labels]] = None
    return labels, {str(name): int(cells) for name, cells in rare.items()}


def _never_seen(modality: Modality, labels: np.ndarray, folds: list) -> list[str]:
    lost = pd.Series([
        label for train, test in folds for label in labels[test] if label not in set(labels[train])
    ]).value_counts()  # fmt: skip
    if not len(lost):
        return []
    some = ", ".join(f"{name} ({cells})" for name, cells in list(lost.items())[:5])
    return [
        f"{modality}: cells whose label no training cell of their fold has cannot be right and count as errors: {some}"
    ]


def _embeddings(modality: Modality, view: View, folds: list) -> Iterator[tuple[str, Kind, list[Fold]]]:
    """(method, kind, folds with their embeddings)."""
    yield OURS, "mofm", [(a, b, view.embedding_NE[a], view.embedding_NE[b]) for a, b in folds]
    for name, x_ND in view.peers.items():
        yield name, "peer", [(a, b, x_ND[a], x_ND[b]) for a, b in folds]
    fitted = []
    for a, b in folds:
        sides = (Measured(*(None if one is None else one[rows] for one in view.measured)) for rows in (a, b))
        fitted.append((a, b, *source_components(modality, *sides)))
    yield f"PCA ({COMPONENTS})", "linear", fitted


def _sureness(labels: np.ndarray, fold: Fold, taken: list[str]) -> np.ndarray:
    """sure_NC: the share of the neighbours that agree on a test cell's label, each of `taken` in turn being unknown."""
    train, test, train_ND, test_ND = fold
    columns = []
    for name in taken:
        kept = labels[train].astype(str) != name
        if not kept.any():
            columns.append(np.ones(len(test)))
            continue
        names = pd.Series(labels[train][kept].astype(str), name="label")
        columns.append(annotate(test_ND, train_ND[kept], names).confidence_N)
    return np.stack(columns, axis=1)


def _unknown(weights_DN: np.ndarray, true_N: np.ndarray, sure_NC: np.ndarray, taken: list[str]) -> Estimate:
    is_unknown_NC = true_N[:, None] == np.array(taken)[None, :]
    return over_features(aurocs(weights_DN, is_unknown_NC, -sure_NC.astype(np.float64)))[0]
