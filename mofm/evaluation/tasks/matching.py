"""Matching: how near the two views of one cell lie in the model's space, where nothing says that they are one cell's.

- FOSCTTM (0 is perfect, 0.5 chance): the share of the other views that lie nearer than a cell's own.
- matching score: how often the nearest view is the cell's own; chance is one in as many cells as are judged together.

Cells are matched within their fold, and every embedding is centred on its modality's mean. Beside the model stand gene
activity (the other modality's counts summed for the genes that they are linked to, on principal components of RNA; it saw no
pair) and ridge from one's components to the other's, which learned from the pairs of the other folds.
"""

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp

from mofm.axes import Modality
from mofm.errors import InputError
from mofm.evaluation.baselines import log_normalised, pca_embedding
from mofm.evaluation.pairing import closer_shares, match_places
from mofm.evaluation.resample import Estimate, draw_weights, mean_estimate, mean_of
from mofm.evaluation.subject import View, reading_of
from mofm.evaluation.tasks.score import OURS, Judged, Kind, Score, Situation, Subject, pairs_of, rows_by_name
from mofm.evaluation.translation_baselines import COMPONENTS, Measured, ridge, source_components
from mofm.inference.model import Options
from mofm.training.components import link_matrix

Sides = tuple[np.ndarray, np.ndarray]
"""Embeddings of the same cells in two modalities."""


def check(situation: Situation) -> None:
    """Raises `InputError` where no cells have two modalities that the model knows."""
    if not pairs_of(situation.shown):
        raise InputError(
            "needs cells of which two modalities that the model knows were measured, under one name; there are "
            f"{', '.join(situation.shown)}{' alone' if len(situation.shown) == 1 else ' of different cells'}"
        )


def judge(subject: Subject) -> Judged:
    """Every pair of modalities."""
    scores, notes = (
        [],
        [
            "Ridge on pairs learned from pairs of this file, gene activity from none; the model from what its training had."
        ],
    )
    for one, other in pairs_of({name: view.adata.obs_names for name, view in subject.views.items()}):
        views = subject.views[one], subject.views[other]
        rows = rows_by_name(*views)
        fold_N = subject.cells.fold_N[views[0].place_N[rows[0]]]
        tests = [np.flatnonzero(fold_N == fold) for fold in subject.cells.folds]
        tests = [test for test in tests if len(test) > 2 and len(test) < len(fold_N) - 1]
        found: dict[tuple[str, Kind], list[dict[str, Estimate]]] = {}
        for number, test in enumerate(tests):
            weights_DN = draw_weights(len(test), subject.settings.bootstrap, subject.settings.seed + number)
            for method, kind, sides in _embeddings(subject, (one, other), views, rows, test):
                found.setdefault((method, kind), []).append(_metrics(sides, weights_DN))
            chance = Estimate(np.full(len(weights_DN), 0.5)), Estimate(np.full(len(weights_DN), 1 / len(test)))
            metrics = dict(zip(("FOSCTTM", "matching score"), chance, strict=True))
            found.setdefault(("chance", "trivial"), []).append(metrics)
        cells = sum(map(len, tests))
        scores += [
            Score(f"{one} and {other}", metric, method, kind, mean_estimate([fold[metric] for fold in folds]), cells,
                  lower_is_better=metric == "FOSCTTM")
            for metric in ("FOSCTTM", "matching score")
            for (method, kind), folds in found.items()
        ]  # fmt: skip
        sizes = " or ".join(f"{size:,}" for size in sorted({len(test) for test in tests}))
        notes.append(f"{one} and {other}: matched among {sizes} cells at a time.")
    return Judged(scores, notes)


def _metrics(sides: Sides, weights_DN: np.ndarray) -> dict[str, Estimate]:
    return {
        "FOSCTTM": mean_of(weights_DN, closer_shares(*sides)),
        "matching score": mean_of(weights_DN, match_places(*sides).mean(axis=0)),
    }


def _embeddings(
    subject: Subject,
    pair: tuple[Modality, Modality],
    views: tuple[View, View],
    rows: list[np.ndarray],
    test: np.ndarray,
) -> Iterator[tuple[str, Kind, Sides]]:
    """(method, kind, both sides of the test cells)."""

    def centred(both) -> Sides:
        return tuple((x - x.mean(axis=0))[test] for x in both)

    yield (
        OURS,
        "mofm",
        centred(view.embedding_NE[row].astype(np.float64) for view, row in zip(views, rows, strict=True)),
    )
    for name in views[0].own & views[1].own:
        both = [view.peers[name][row] for view, row in zip(views, rows, strict=True)]
        if both[0].shape[1] == both[1].shape[1]:
            yield name, "peer", centred(both)
    train = np.setdiff1d(np.arange(len(rows[0])), test)
    if pair[0] == "rna" and pair[1] != "methylation":
        genes = [gene_counts(subject, modality, view)[row]
                 for modality, view, row in zip(pair, views, rows, strict=True)]  # fmt: skip
        yield "gene activity", "linear", _gene_activity(genes, train, test)
    sides = []
    for modality, view, row in zip(pair, views, rows, strict=True):
        cut = [Measured(*(None if x is None else x[row][part] for x in view.measured)) for part in (train, test)]
        sides.append(source_components(modality, *cut))
    (one_train, one_test), (other_train, other_test) = sides
    yield "ridge on pairs", "linear", (ridge(one_train, other_train, one_test), other_test)


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
