"""Integration: are cells of a type together, and are batches mixed among them, without anything learned of labels?

- label neighbours: the share of a cell's 15 nearest neighbours (Euclidean) that have its label, mean over cells.
- label silhouette: scaled to [0, 1] as in scIB, mean over labels.
- batch mixing, and within labels: 1 is what shuffled batches give, 0 is batches apart (`integration.py`). An embedding of
  noise mixes perfectly, which is why noise stands in the table: mixing counts for something only beside labels kept apart.

These are our own implementations, which have intervals: neighbours are those among all judged cells and are held in the draws,
which resample cells. Those of scIB are a task beside this one (`scib.py`).
"""

import numpy as np
from sklearn.metrics import silhouette_samples
from sklearn.neighbors import NearestNeighbors

from mofm.evaluation.integration import FEWEST_CELLS, mixing_edges
from mofm.evaluation.resample import Estimate, draw_weights, mean_estimate, mean_of, ratio_of
from mofm.evaluation.tasks.labelled import embeddings, labelled_cells
from mofm.evaluation.tasks.score import Judged, Score, Situation, Subject, need_labels

LABEL_NEIGHBOURS, BATCH_NEIGHBOURS, SILHOUETTE_CELLS = 15, 30, 5_000


def check(situation: Situation) -> None:
    """Raises `InputError` where there are no labels."""
    need_labels(situation)


def judge(subject: Subject) -> Judged:
    """Each modality's embedding beside principal components of all judged cells, and noise."""
    scores, notes = [], []
    for of in labelled_cells(subject, FEWEST_CELLS, notes):
        weights_DN = draw_weights(len(of.rows), subject.settings.bootstrap, subject.settings.seed)
        for method, kind, x_ND in embeddings(subject, of):
            for metric, estimate in _metrics(x_ND, of.labels, of.batches, weights_DN, subject.settings.seed).items():
                scores.append(Score(of.modality, metric, method, kind, estimate, len(of.rows)))
    return Judged(scores, notes)


def _metrics(x_ND, labels, batches, weights_DN, seed) -> dict[str, Estimate]:
    x_ND = np.asarray(x_ND, np.float64)
    nearest_NK = _neighbours(x_ND, min(LABEL_NEIGHBOURS, len(x_ND) - 1))
    found = {
        "label neighbours": mean_of(weights_DN, np.mean(labels[nearest_NK] == labels[:, None], axis=1)),
        "label silhouette": _silhouette(x_ND, labels, weights_DN, seed),
    }
    if batches is not None:
        found["batch mixing"] = mixing(x_ND, batches, weights_DN)
        within = mixing_within(x_ND, batches, labels, weights_DN)
        if within is not None:
            found["batch mixing within labels"] = within
    return found


def _neighbours(x_ND: np.ndarray, k: int) -> np.ndarray:
    return NearestNeighbors(n_neighbors=k).fit(x_ND).kneighbors(return_distance=False)


def mixing_within(x_ND: np.ndarray, batches: np.ndarray, labels: np.ndarray, weights_DN: np.ndarray) -> Estimate | None:
    """Mean over labels of `mixing` among the cells of each; None where no label has `FEWEST_CELLS` and two batches."""
    within = []
    for name in np.unique(labels):
        rows = np.flatnonzero(labels == name)
        if len(rows) >= FEWEST_CELLS and len(np.unique(batches[rows])) > 1:
            within.append(mixing(x_ND[rows], batches[rows], weights_DN[:, rows]))
    return mean_estimate(within) if within else None


def mixing(x_ND: np.ndarray, batches: np.ndarray, weights_DN: np.ndarray) -> Estimate:
    """`integration.batch_mixing` with draws: neighbours are those among all cells, held in the draws."""
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
