"""Translation: how well one omics type of a cell is predicted from another, feature by feature across cells.

Per cell, or pooled over all entries, the mean predictor looks brilliant and knows nothing of any cell; across cells it has
0 (correlation) or 0.5 (AUROC, of open and closed regions), and that is what is judged (`translation.py`). Scores are taken
within each fold's cells and averaged over folds: means fitted on other folds, pooled over folds, would go against the truth.

What each method knows differs, and that is said in the report: ridge and 15-NN learned from the pairs of this very file
(its other folds), mofm from whatever it was trained on.

Whether the uncertainty that is stated with it can be believed is judged as well, beside who knows of each feature its share of
the reads of the other folds' cells, and their spread (`stated.py`).
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from mofm.axes import FEATURES, Modality
from mofm.errors import InputError
from mofm.evaluation import stated
from mofm.evaluation.resample import (
    Estimate,
    aurocs,
    correlations,
    draw_weights,
    mean_estimate,
    mean_of,
    over_features,
)
from mofm.evaluation.subject import View, reading_of
from mofm.evaluation.tasks.score import OURS, Judged, Kind, Score, Situation, Subject, pairs_of, rows_by_name
from mofm.evaluation.translation_baselines import Measured, baseline_translations, target_columns, values_at_depth
from mofm.inference.targets import find_targets, measured_depth
from mofm.inference.translate import translate_cells

BASELINES: dict[str, Kind] = {
    "feature mean": "trivial",
    "feature share": "trivial",
    "ridge": "linear",
    "15-NN": "linear",
}


class Target(NamedTuple):
    """The judged features of a modality, for the cells that both modalities have.

    Attributes:
      names: in the file.
      truth_NF: `target_values`, NaN where not measured.
      counts: reads, cells x features.
      library_N: how deep each cell was read, as the model takes it.
      note: which they are.
    """

    names: list[str]
    truth_NF: np.ndarray
    counts: sp.csr_matrix
    library_N: np.ndarray
    note: str


class Translations(NamedTuple):
    """What the model says of the judged features.

    Attributes:
      value_NF: on the scale that is judged, 0 for a feature that the model does not know.
      mean_NK, sd_NK: of the counts of the features that it knows, at depths of depth_N.
      known_K: which they are.
      note: of those that it does not know; "" where there is none.
    """

    value_NF: np.ndarray
    mean_NK: np.ndarray
    sd_NK: np.ndarray
    depth_N: np.ndarray
    known_K: np.ndarray
    note: str


def check(situation: Situation) -> None:
    """Raises `InputError` where the model does not translate, or no cells have two modalities that it knows."""
    model, shown = situation.model, situation.shown
    if not model.spec.translates:
        raise InputError(f"{model.name} does not translate: it was trained with no --config.translator.blocks")
    if not pairs_of(shown):
        has = ", ".join(shown)
        raise InputError(
            f"needs cells of which two modalities that the model knows were measured; of these there is {has} alone"
            if len(shown) == 1
            else f"needs cells with two modalities under one name; its {has} share fewer than 10 cells"
        )


def judge(subject: Subject) -> Judged:
    """Both directions of every pair of modalities."""
    scores, notes = [], [
        "Ridge and 15-NN learned from pairs of this very file, outside of the judged fold; what the model's training saw of "
        "its cells is said below."
    ]  # fmt: skip
    for pair in pairs_of({name: view.adata.obs_names for name, view in subject.views.items()}):
        for source, target in (pair, pair[::-1]):
            found, said = _judge_direction(subject, source, target)
            scores, notes = scores + found, notes + [f"{source} to {target}: {line}" for line in said]
    return Judged(scores, notes)


def _judge_direction(subject: Subject, source: Modality, target: Modality) -> tuple[list[Score], list[str]]:
    from_view, to_view = subject.views[source], subject.views[target]
    from_rows, to_rows = rows_by_name(from_view, to_view)
    fold_N = subject.cells.fold_N[from_view.place_N[from_rows]]
    judged = _target(subject, target, to_view, to_rows)
    asked = np.flatnonzero(fold_N >= 0)
    ours = _translated(subject, from_view, from_rows[asked], source, target, judged.names, to_view)
    place_N = np.full(len(from_rows), -1)
    place_N[asked] = np.arange(len(asked))
    measured = from_view.measured
    measured = Measured(*(None if one is None else one[from_rows] for one in measured))
    by_method: dict[str, list[tuple[Estimate, Estimate]]] = {}
    cells = 0
    for train, test, weights_DN in _folds(subject, fold_N):
        cells += len(test)
        sides = (Measured(*(None if one is None else one[rows] for one in measured)) for rows in (train, test))
        simple = baseline_translations(source, *sides, judged.truth_NF[train])
        for method, predicted_NF in _methods(ours.value_NF[place_N[test]], simple):
            by_method.setdefault(method, []).append(
                over_features(_per_feature(target, weights_DN, judged.truth_NF[test], predicted_NF))
            )
    metric = "AUROC" if target == "atac" else "Pearson"
    scores = [
        Score(f"{source} to {target}", f"{word} {metric} per feature", method, BASELINES.get(method, "mofm"),
              mean_estimate([one[place] for one in estimates]), cells, len(judged.names))
        for place, word in enumerate(("mean", "median"))
        for method, estimates in by_method.items()
    ]  # fmt: skip
    notes = [judged.note] + ([ours.note] if ours.note else [])
    if target in stated.JUDGED and len(ours.known_K) and cells:
        found, said = _judge_stated(subject, source, target, judged, ours, place_N, fold_N)
        scores, notes = scores + found, notes + said
    return scores, notes


def _folds(subject: Subject, fold_N: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(cells outside of a fold, cells in it, weights_DN of these), of folds with enough of both."""
    for fold in subject.cells.folds:
        train, test = np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold)
        if len(train) >= 2 and len(test) >= 3:
            yield train, test, draw_weights(len(test), subject.settings.bootstrap, subject.settings.seed + fold)


def _judge_stated(
    subject: Subject,
    source: Modality,
    target: Modality,
    judged: Target,
    ours: Translations,
    place_N: np.ndarray,
    fold_N: np.ndarray,
) -> tuple[list[Score], list[str]]:
    """How well what is stated predicts the counts of the features that the model knows; and a note of its intervals."""
    counts, library_N = judged.counts[:, ours.known_K], judged.library_N
    surprises: dict[str, list[Estimate]] = {}
    held: dict[str, list[float]] = {}
    cells = 0
    for train, test, weights_DN in _folds(subject, fold_N):
        cells += len(test)
        rows, read_NK = place_N[test], counts[test].toarray()
        times_N = library_N[test] / ours.depth_N[rows]
        share = stated.by_share(target, counts[train], library_N[train])
        laws = {
            OURS: stated.at_depth(target, ours.mean_NK[rows], np.square(ours.sd_NK[rows]), times_N),
            "feature share": stated.at_depth(target, *(one[None, :] for one in share), library_N[test]),
        }
        for method, law in laws.items():
            nats_N = stated.surprise(target, read_NK, *law).mean(axis=1)
            surprises.setdefault(method, []).append(mean_of(weights_DN, nats_N))
            if target in stated.COUNTED:
                held.setdefault(method, []).append(stated.within(read_NK, *law).mean())
    scores = [
        Score(f"{source} to {target}", f"surprise, nats a {'region' if target == 'atac' else 'count'}", method,
              BASELINES.get(method, "mofm"), mean_estimate(estimates), cells, len(ours.known_K), lower_is_better=True)
        for method, estimates in surprises.items()
    ]  # fmt: skip
    shares = " and ".join(f"{np.mean(shares):.3f} by {method}" for method, shares in held.items())
    note = f"{stated.SHARE:.0%} intervals, as stated, held {shares}, of the counts of {len(ours.known_K):,} features"
    return scores, [note] if held else []


def _methods(value_NF: np.ndarray, simple) -> Iterator[tuple[str, np.ndarray]]:
    yield OURS, value_NF
    yield from zip(("feature mean", "ridge", "15-NN"), simple, strict=True)


def _per_feature(
    target: Modality, weights_DN: np.ndarray, truth_NF: np.ndarray, predicted_NF: np.ndarray
) -> np.ndarray:
    if target == "atac":
        return aurocs(weights_DN, truth_NF > 0, predicted_NF)
    return correlations(weights_DN, truth_NF, predicted_NF)


def _target(subject: Subject, target: Modality, view: View, rows: np.ndarray) -> Target:
    """The features that are measured in most cells, regions open in nearest half of them, each name once; all proteins, as
    their scale is relative to all."""
    measured = Measured(*(None if one is None else one[rows] for one in view.measured))
    counts = measured.counts
    cells_F = np.bincount(counts.indices[counts.data > 0], minlength=counts.shape[1])
    if target == "atac":  # a region that is open in every cell says as little of cells as one that is in none
        cells_F = np.minimum(cells_F, counts.shape[0] - cells_F)
    is_first_F = ~view.adata.var_names.duplicated()
    usable = np.flatnonzero(is_first_F & (cells_F > 0))
    chosen, most = usable, subject.settings.max_features
    if target != "adt" and len(usable) > most:
        chosen = np.sort(usable[np.argsort(-cells_F[usable], kind="stable")[:most]])
    what, whole = FEATURES[target], view.adata.n_vars
    note = f"judged are {len(chosen):,} of {whole:,} {what}"
    which = "those nearest to open in half of the cells" if target == "atac" else "those measured in most cells"
    note += (
        f", {which}"
        if len(chosen) < len(usable)
        else ", all that differ"
        if target == "atac"
        else ", all that some cell has"
    )
    truth_NF = target_columns(target, measured, chosen)
    library_N = subject.model.depths(view.adata[rows].copy(), reading_of(target), **subject.options)
    return Target(view.adata.var_names[chosen].tolist(), truth_NF, counts[:, chosen], library_N, note)


def _translated(subject: Subject, view: View, rows: np.ndarray, source: Modality, target: Modality,
                names: list[str], to_view: View) -> Translations:  # fmt: skip
    build = subject.options.get("build") or to_view.report.get("build") or None
    depth = measured_depth(subject.model, source, target)
    targets = find_targets(subject.model, target, names, build, f"--tasks translation, {target}", depth)
    answer = translate_cells(subject.model, view.adata[rows].copy(), targets, reading_of(source), **subject.options)
    value_NF = np.zeros((len(rows), len(names)), np.float32)
    known = np.flatnonzero(np.isin(names, answer.var_names))
    mean_NK, depth_N = np.asarray(answer.X), answer.obs["mofm_depth"].to_numpy()
    value_NF[:, known] = values_at_depth(target, mean_NK, depth_N)
    missing = len(names) - answer.n_vars
    note = f"{missing:,} of the {FEATURES[target]} speak of no gene of the model: it says the same of every cell there"
    return Translations(value_NF, mean_NK, np.asarray(answer.layers["sd"]), depth_N, known, note if missing else "")
