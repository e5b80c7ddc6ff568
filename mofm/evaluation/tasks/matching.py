"""Matching: how near the two views of one cell lie in the model's space, where nothing says that they are one cell's.

- FOSCTTM (0 is perfect, 0.5 chance): the share of the other views that lie nearer than a cell's own.
- matching score: how often the nearest view is the cell's own; chance is one in as many cells as are judged together.
- modality mixing, and within labels: of the views of both modalities put together as they are, 1 is what shuffled modalities
  give, 0 is modalities apart (`integration.py`). It counts for something only beside labels that are kept.
- labels from the other modality: the share of views whose label the vote of the 15 nearest views of the other modality names,
  mean of both directions.

Cells are matched within their fold. All but mixing are of embeddings that are centred on their modality's mean; mixing asks
whether they need be. Beside the model stand gene activity (the other modality's counts summed for the genes that they are
linked to, on principal components of RNA; it saw no pair) and ridge from one's components to the other's, which learned from
the pairs of the other folds.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from mofm.axes import Modality
from mofm.errors import InputError
from mofm.evaluation.annotation import knn_accuracy
from mofm.evaluation.baselines import log_normalised, pca_embedding
from mofm.evaluation.pairing import closer_shares, match_places
from mofm.evaluation.resample import Estimate, accuracy, draw_weights, mean_estimate, mean_of
from mofm.evaluation.subject import View, reading_of
from mofm.evaluation.tasks.integration import mixing, mixing_within
from mofm.evaluation.tasks.score import OURS, Judged, Kind, Score, Situation, Subject, pairs_of, rows_by_name
from mofm.evaluation.translation_baselines import COMPONENTS, Measured, ridge, source_components
from mofm.inference.model import Options
from mofm.linear.components import link_matrix

Sides = tuple[np.ndarray, np.ndarray]
"""Embeddings of the same cells in two modalities."""
FOSCTTM, MATCHING, MIXING, WITHIN, LABELS = METRICS = (
    "FOSCTTM",
    "matching score",
    "modality mixing",
    "modality mixing within labels",
    "labels from the other modality, 15-NN",
)


class Embedded(NamedTuple):
    """Attributes: plain, as they are; centred, each on its modality's mean (baselines of this task are so already)."""

    plain: Sides
    centred: Sides


def check(situation: Situation) -> None:
    """Raises `InputError` where no cells have two modalities that the model knows."""
    if not pairs_of(situation.shown):
        raise InputError(
            "needs cells of which two modalities that the model knows were measured, under one name; there are "
            f"{', '.join(situation.shown)}{' alone' if len(situation.shown) == 1 else ' of different cells'}"
        )


def judge(subject: Subject) -> Judged:
    """Every pair of modalities."""
    scores, notes = [], [
        "Ridge on pairs learned from pairs of this file, gene activity from none; the model from what its training had."
    ]  # fmt: skip
    for pair in pairs_of({name: view.adata.obs_names for name, view in subject.views.items()}):
        found, said = _judge_pair(subject, pair)
        scores, notes = scores + found, [*notes, f"{' and '.join(pair)}: {said}"]
    if subject.cells.labels is None:
        notes.append("No --label-key was given: whether labels are kept where modalities mix is not judged.")
    return Judged(scores, notes)


def _judge_pair(subject: Subject, pair: tuple[Modality, Modality]) -> tuple[list[Score], str]:
    """Its scores, and among how many cells."""
    views = subject.views[pair[0]], subject.views[pair[1]]
    rows = rows_by_name(*views)
    place_N = views[0].place_N[rows[0]]
    fold_N = subject.cells.fold_N[place_N]
    label_N = np.full(len(place_N), None) if subject.cells.labels is None else subject.cells.labels[place_N]
    tests = [np.flatnonzero(fold_N == fold) for fold in subject.cells.folds]
    tests = [test for test in tests if len(test) > 2 and len(test) < len(fold_N) - 1]
    found: dict[tuple[str, Kind], list[dict[str, Estimate]]] = {}
    for number, test in enumerate(tests):
        weights_DN = draw_weights(len(test), subject.settings.bootstrap, subject.settings.seed + number)
        for method, kind, embedded in _embeddings(subject, pair, views, rows, test):
            metrics = _metrics(embedded, label_N[test], weights_DN)
            found.setdefault((method, kind), []).append(metrics)
        by_chance = _chance(label_N[test], weights_DN)
        found.setdefault(("chance", "trivial"), []).append({metric: by_chance[metric] for metric in metrics})
    of, cells = " and ".join(pair), sum(map(len, tests))
    scores = [
        Score(of, metric, method, kind, mean_estimate([fold[metric] for fold in folds]), cells,
              lower_is_better=metric == FOSCTTM)
        for metric in METRICS
        for (method, kind), folds in found.items()
        if all(metric in fold for fold in folds)
    ]  # fmt: skip
    sizes = " or ".join(f"{size:,}" for size in sorted({len(test) for test in tests}))
    return scores, f"matched among {sizes} cells at a time."


def _metrics(embedded: Embedded, label_N: np.ndarray, weights_DN: np.ndarray) -> dict[str, Estimate]:
    """Those of labels are of the cells that have one, and there only where these have two."""
    both_XD, of_X, weights_DX = np.concatenate(embedded.plain), np.repeat([0, 1], len(label_N)), np.tile(weights_DN, 2)
    found = {
        FOSCTTM: mean_of(weights_DN, closer_shares(*embedded.centred)),
        MATCHING: mean_of(weights_DN, match_places(*embedded.centred).mean(axis=0)),
        MIXING: mixing(both_XD, of_X, weights_DX),
    }
    known = np.flatnonzero([label is not None for label in label_N])
    name_N = label_N[known].astype(str)
    if len(np.unique(name_N)) < 2:
        return found
    one_ND, other_ND = (x[known] for x in embedded.centred)
    named = [
        accuracy(weights_DN[:, known], name_N, knn_accuracy(x, name_N, y, name_N).predicted)
        for x, y in ((one_ND, other_ND), (other_ND, one_ND))
    ]
    known_X = np.concatenate([known, known + len(label_N)])
    within = mixing_within(both_XD[known_X], of_X[known_X], np.tile(name_N, 2), weights_DX[:, known_X])
    return found | {LABELS: mean_estimate(named)} | ({} if within is None else {WITHIN: within})


def _chance(label_N: np.ndarray, weights_DN: np.ndarray) -> dict[str, Estimate]:
    """Of views that lie anywhere: what each metric says, and of labels how often the commonest is right."""
    draws, cells = weights_DN.shape
    expected = {FOSCTTM: 0.5, MATCHING: 1 / cells, MIXING: 1.0, WITHIN: 1.0}
    found = {metric: Estimate(np.full(draws, value)) for metric, value in expected.items()}
    known = np.flatnonzero([label is not None for label in label_N])
    names, counts = np.unique(label_N[known].astype(str), return_counts=True)
    if len(names) > 1:
        found[LABELS] = mean_of(weights_DN[:, known], label_N[known].astype(str) == names[np.argmax(counts)])
    return found


def _embeddings(
    subject: Subject,
    pair: tuple[Modality, Modality],
    views: tuple[View, View],
    rows: list[np.ndarray],
    test: np.ndarray,
) -> Iterator[tuple[str, Kind, Embedded]]:
    """(method, kind, both sides of the test cells)."""

    def of_all(sides) -> Embedded:
        sides = [np.asarray(x, np.float64) for x in sides]
        return Embedded(tuple(x[test] for x in sides), tuple((x - x.mean(axis=0))[test] for x in sides))

    yield OURS, "mofm", of_all(view.embedding_NE[row] for view, row in zip(views, rows, strict=True))
    for name in views[0].own & views[1].own:
        both = [view.peers[name][row] for view, row in zip(views, rows, strict=True)]
        if both[0].shape[1] == both[1].shape[1]:
            yield name, "peer", of_all(both)
    train = np.setdiff1d(np.arange(len(rows[0])), test)
    if pair[0] == "rna" and pair[1] != "methylation":
        genes = [gene_counts(subject, modality, view)[row]
                 for modality, view, row in zip(pair, views, rows, strict=True)]  # fmt: skip
        sides = _gene_activity(genes, train, test)
        yield "gene activity", "linear", Embedded(sides, sides)
    sides = []
    for modality, view, row in zip(pair, views, rows, strict=True):
        cut = [Measured(*(None if x is None else x[row][part] for x in view.measured)) for part in (train, test)]
        sides.append(source_components(modality, *cut))
    (one_train, one_test), (other_train, other_test) = sides
    sides = ridge(one_train, other_train, one_test), other_test
    yield "ridge on pairs", "linear", Embedded(sides, sides)


def gene_counts(subject: Subject, modality: Modality, view: View) -> sp.csr_matrix:
    """Counts of the model's genes: of RNA its own, of other modalities those of features linked to a gene, so weighted."""
    options = Options(**subject.options)
    with subject.model.opened(view.adata, reading_of(modality), options) as [(_, matching)]:
        pass
    genes, columns = len(subject.model.genes), len(matching.feature_C)
    features = len(matching.rows_F)
    merge = sp.csr_matrix((np.ones(columns), (np.arange(columns), matching.feature_C)), shape=(columns, features))
    if modality == "rna":
        known = np.flatnonzero(matching.rows_F >= 0)
        to_gene = sp.csr_matrix((np.ones(len(known)), (known, matching.rows_F[known])), shape=(features, genes))
    else:
        to_gene = link_matrix(matching.space, genes)
    return sp.csr_matrix(sp.csr_matrix(view.adata.X, dtype=np.float64) @ merge @ to_gene)


def _gene_activity(genes: list[sp.csr_matrix], train: np.ndarray, test: np.ndarray) -> Sides:
    rna, other = genes
    fitted = pca_embedding(rna[train], rna[test], COMPONENTS)
    rna_NG, other_NG = (_scaled(x[train], x[test], fitted.genes) for x in (rna, other))
    axes_GD = np.linalg.lstsq(rna_NG, fitted.test_ND, rcond=None)[0]
    return rna_NG @ axes_GD, other_NG @ axes_GD


def _scaled(train: sp.csr_matrix, test: sp.csr_matrix, genes: np.ndarray) -> np.ndarray:
    """Test cells' log1p CP10k of some genes, each less its mean and by its deviation among the training cells."""
    train_NG, test_NG = (log_normalised(x)[:, genes].toarray() for x in (train, test))
    return np.clip((test_NG - train_NG.mean(axis=0)) / (train_NG.std(axis=0) + 1e-3), -10, 10)
