"""Integration: are cells of a type together, and are batches mixed among them, without anything learned of labels?

- label neighbours: the share of a cell's 15 nearest neighbours (Euclidean) that have its label, mean over cells.
- label silhouette: scaled to [0, 1] as in scIB, mean over labels.
- batch mixing, and within labels: 1 is what shuffled batches give, 0 is batches apart (`integration.py`). An embedding of
  noise mixes perfectly, which is why noise stands in the table: mixing counts for something only beside labels kept apart.

These are our own implementations; no other package is asked. Neighbours are those among all judged cells and are held in
the draws, which resample cells.
"""

import numpy as np
from sklearn.metrics import silhouette_samples
from sklearn.neighbors import NearestNeighbors

from mofm.evaluation.integration import FEWEST_CELLS, mixing_edges
from mofm.evaluation.resample import Estimate, draw_weights, mean_estimate, mean_of, ratio_of
from mofm.evaluation.subject import View
from mofm.evaluation.tasks.score import OURS, Judged, Score, Situation, Subject, need_labels
from mofm.evaluation.translation_baselines import COMPONENTS, source_components

LABEL_NEIGHBOURS, BATCH_NEIGHBOURS, SILHOUETTE_CELLS = 15, 30, 5_000
NOISE = 30
"""Columns of the embedding that knows nothing."""


def check(situation: Situation) -> None:
    """Raises `InputError` where there are no labels."""
    need_labels(situation)


def judge(subject: Subject) -> Judged:
    """Each modality's embedding beside principal components of all judged cells, and noise."""
    scores, notes = [], []
    for modality, view in subject.views.items():
        rows = np.flatnonzero([subject.cells.labels[cell] is not None for cell in view.place_N])
        rows = rows[subject.cells.fold_N[view.place_N[rows]] >= 0]
        labels = subject.cells.labels[view.place_N[rows]].astype(str)
        if len(np.unique(labels)) < 2 or len(rows) < FEWEST_CELLS:
            notes.append(f"{modality}: {len(rows):,} labelled cells of {len(np.unique(labels))} labels: not judged")
            continue
        batches, said = _batches(subject, view, rows)
        notes += [f"{modality}: {said}"] if said else []
        weights_DN = draw_weights(len(rows), subject.settings.bootstrap, subject.settings.seed)
        for method, kind, x_ND in _embeddings(subject, modality, view, rows):
            for metric, estimate in _metrics(x_ND, labels, batches, weights_DN, subject.settings.seed).items():
                scores.append(Score(modality, metric, method, kind, estimate, len(rows)))
    if subject.cells.batches is None:
        notes.append("No --batch-key was given: mixing of batches is not judged.")
    return Judged(scores, notes)


def _batches(subject: Subject, view: View, rows: np.ndarray) -> tuple[np.ndarray | None, str]:
    if subject.cells.batches is None:
        return None, ""
    batches = subject.cells.batches[view.place_N[rows]]
    if any(batch is None for batch in batches):
        return None, f"{sum(batch is None for batch in batches):,} cells have no batch: mixing is not judged"
    if len(np.unique(batches.astype(str))) < 2:
        return None, "there is one batch: mixing is not judged"
    return batches.astype(str), ""


def _embeddings(subject: Subject, modality, view: View, rows: np.ndarray):
    """(method, kind, embedding of the rows)."""
    yield OURS, "mofm", view.embedding_NE[rows]
    for name, x_ND in view.peers.items():
        yield name, "peer", x_ND[rows]
    part = view.measured
    part = type(part)(*(None if one is None else one[rows] for one in part))
    components_ND = source_components(modality, part, part)[0]
    yield f"PCA ({COMPONENTS})", "linear", components_ND
    yield "noise", "trivial", np.random.default_rng([subject.settings.seed, 1]).normal(size=(len(rows), NOISE))


def _metrics(x_ND, labels, batches, weights_DN, seed) -> dict[str, Estimate]:
    x_ND = np.asarray(x_ND, np.float64)
    nearest_NK = _neighbours(x_ND, min(LABEL_NEIGHBOURS, len(x_ND) - 1))
    found = {
        "label neighbours": mean_of(weights_DN, np.mean(labels[nearest_NK] == labels[:, None], axis=1)),
        "label silhouette": _silhouette(x_ND, labels, weights_DN, seed),
    }
    if batches is not None:
        found["batch mixing"] = _mixing(x_ND, batches, weights_DN)
        within = []
        for name in np.unique(labels):
            rows = np.flatnonzero(labels == name)
            if len(rows) >= FEWEST_CELLS and len(np.unique(batches[rows])) > 1:
                within.append(_mixing(x_ND[rows], batches[rows], weights_DN[:, rows]))
        if within:
            found["batch mixing within labels"] = mean_estimate(within)
    return found


def _neighbours(x_ND: np.ndarray, k: int) -> np.ndarray:
    return NearestNeighbors(n_neighbors=k).fit(x_ND).kneighbors(return_distance=False)


def _mixing(x_ND: np.ndarray, batches: np.ndarray, weights_DN: np.ndarray) -> Estimate:
    code_N = np.unique(batches, return_inverse=True)[1]
    k = min(BATCH_NEIGHBOURS, max(1, len(x_ND) // 2))
    return ratio_of(weights_DN, *mixing_edges(x_ND, code_N, k))


def _silhouette(x_ND: np.ndarray, labels: np.ndarray, weights_DN: np.ndarray, seed: int) -> Estimate:
    """Mean over labels of two cells or more; of many cells, of a lot of them, which is the same for every embedding."""
    rows = np.arange(len(labels))
    if len(rows) > SILHOUETTE_CELLS:
        rows = np.sort(np.random.default_rng([seed, 2]).choice(rows, SILHOUETTE_CELLS, replace=False))
    _, code_N, counts = np.unique(labels[rows], return_inverse=True, return_counts=True)
    rows, code_N = rows[counts[code_N] > 1], code_N[counts[code_N] > 1]
    if len(np.unique(code_N)) < 2:
        return Estimate(np.full(len(weights_DN), np.nan))
    width_N = (1 + silhouette_samples(x_ND[rows], code_N)) / 2
    return mean_estimate(
        [mean_of(weights_DN[:, rows[code_N == code]], width_N[code_N == code]) for code in np.unique(code_N)]
    )
