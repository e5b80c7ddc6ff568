"""scIB's measures of integration, by the package scib-metrics (`evaluation/scib.py`): what the field's papers compare.

They answer what `integration.py` asks, in the words of others: figures here can be held against published ones, those there
have intervals. PCA has nothing done about batches; how much less batches explain is measured against it. Of more than
MOST_CELLS cells a lot is judged, the same for every embedding.
"""

import importlib.util

import numpy as np

from mofm.errors import InputError
from mofm.evaluation.resample import Estimate
from mofm.evaluation.scib import FEWEST_CELLS, scib_scores
from mofm.evaluation.tasks.labelled import PCA, Labelled, embeddings, labelled_cells
from mofm.evaluation.tasks.score import Judged, Score, Situation, Subject, need_labels

MOST_CELLS = 10_000


def check(situation: Situation) -> None:
    """Raises `InputError` where there are no labels, too few cells, or no scib-metrics."""
    need_labels(situation)
    most = max(len(names) for names in situation.shown.values())
    if most < FEWEST_CELLS:
        raise InputError(f"needs {FEWEST_CELLS} cells, as it looks at the neighbours of each; there are {most}")
    if not is_installed():
        raise InputError("needs scib-metrics, which is not installed: pip install 'mofm[scib]'")


def is_installed() -> bool:
    """Whether scib-metrics is there."""
    return importlib.util.find_spec("scib_metrics") is not None


def judge(subject: Subject) -> Judged:
    """Each modality's embedding beside principal components of all judged cells, and noise."""
    scores, notes = [], ["scIB's measures have no intervals: a cell that was drawn twice would be its own neighbour."]
    for of in labelled_cells(subject, FEWEST_CELLS, notes):
        of = _without_useless_batches(_some(of, subject.settings.seed, notes), notes)
        kinds, found = {}, {}
        for method, kind, x_ND in embeddings(subject, of):
            kinds[method], found[method] = kind, x_ND
        try:
            table = scib_scores(found, PCA, of.labels, of.batches)
        except Exception as error:  # whatever ails another package, the other tasks have their results
            notes.append(f"{of.modality}: not judged, as scib-metrics failed: {type(error).__name__}: {error}")
            continue
        unknown = table[table.isna().any(axis=1)]
        for metric, row in unknown.iterrows():
            of_whom = ", ".join(row.index[row.isna()])
            notes.append(
                f"{of.modality}: {metric} cannot be computed for {of_whom}: it is left out, and so it is of the sums"
            )
        for metric, row in table.drop(index=unknown.index).iterrows():
            for method, value in row.items():
                draws_D = np.append(value, np.full(subject.settings.bootstrap, np.nan))
                scores.append(Score(of.modality, metric, method, kinds[method], Estimate(draws_D), len(of.rows)))
    return Judged(scores, notes)


def _some(of: Labelled, seed: int, notes: list[str]) -> Labelled:
    if len(of.rows) <= MOST_CELLS:
        return of
    chosen = np.sort(np.random.default_rng([seed, 3]).choice(len(of.rows), MOST_CELLS, replace=False))
    notes.append(f"{of.modality}: {MOST_CELLS:,} of {len(of.rows):,} labelled cells are judged, by lot")
    batches = None if of.batches is None else of.batches[chosen]
    return of._replace(rows=of.rows[chosen], labels=of.labels[chosen], batches=batches)


def _without_useless_batches(of: Labelled, notes: list[str]) -> Labelled:
    """Where each label is in one batch alone, or has a cell in each, what is batch and what is label cannot be separated."""
    if of.batches is None:
        return of
    batches_of = [of.batches[of.labels == name] for name in np.unique(of.labels)]
    if any(1 < len(np.unique(batches)) < len(batches) for batches in batches_of):
        return of
    notes.append(f"{of.modality}: no label has several cells in two batches: correction of batches is not judged")
    return of._replace(batches=None)
