"""The cells of each modality that have a label, and the embeddings of them that are held side by side."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from mofm.axes import Modality
from mofm.evaluation.subject import View
from mofm.evaluation.tasks.score import OURS, Kind, Subject
from mofm.evaluation.translation_baselines import COMPONENTS, source_components

PCA = f"PCA ({COMPONENTS})"
NOISE = 30
"""Columns of the embedding that knows nothing."""


class Labelled(NamedTuple):
    """Attributes: rows, of the view; labels, batches: str, of these rows, the batches None where they say nothing."""

    modality: Modality
    view: View
    rows: np.ndarray
    labels: np.ndarray
    batches: np.ndarray | None


def labelled_cells(subject: Subject, least: int, notes: list[str]) -> Iterator[Labelled]:
    """Of each modality, the judged cells that have a label. `notes` gets a line on those with fewer than `least` cells or of
    one label, and why batches say nothing."""
    for modality, view in subject.views.items():
        rows = np.flatnonzero([subject.cells.labels[cell] is not None for cell in view.place_N])
        rows = rows[subject.cells.fold_N[view.place_N[rows]] >= 0]
        labels = subject.cells.labels[view.place_N[rows]].astype(str)
        if len(np.unique(labels)) < 2 or len(rows) < least:
            notes.append(f"{modality}: {len(rows):,} labelled cells of {len(np.unique(labels))} labels: not judged")
            continue
        batches, said = _batches(subject, view, rows)
        notes += [f"{modality}: {said}"] if said else []
        yield Labelled(modality, view, rows, labels, batches)
    if subject.cells.batches is None:
        notes.append("No --batch-key was given: mixing of batches is not judged.")


def _batches(subject: Subject, view: View, rows: np.ndarray) -> tuple[np.ndarray | None, str]:
    if subject.cells.batches is None:
        return None, ""
    batches = subject.cells.batches[view.place_N[rows]]
    if any(batch is None for batch in batches):
        return None, f"{sum(batch is None for batch in batches):,} cells have no batch: mixing is not judged"
    if len(np.unique(batches.astype(str))) < 2:
        return None, "there is one batch: mixing is not judged"
    return batches.astype(str), ""


def embeddings(subject: Subject, of: Labelled) -> Iterator[tuple[str, Kind, np.ndarray]]:
    """(method, kind, embedding of the rows): the model's, those that came along, components of the rows, and noise."""
    yield OURS, "mofm", of.view.embedding_NE[of.rows]
    for name, x_ND in of.view.peers.items():
        yield name, "peer", x_ND[of.rows]
    part = of.view.measured
    part = type(part)(*(None if one is None else one[of.rows] for one in part))
    yield PCA, "linear", source_components(of.modality, part, part)[0]
    yield "noise", "trivial", np.random.default_rng([subject.settings.seed, 1]).normal(size=(len(of.rows), NOISE))
