"""scIB's measures: told right of what is apart and what is mixed, alike each time, and refused or left out with a reason."""

from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.metrics import silhouette_samples

from mofm.errors import InputError
from mofm.evaluation.evaluation_page import headlines
from mofm.evaluation.resample import Estimate
from mofm.evaluation.scib import PREFIX, scib_scores
from mofm.evaluation.subject import Cells, Settings, View
from mofm.evaluation.tasks import scib
from mofm.evaluation.tasks.labelled import PCA
from mofm.evaluation.tasks.score import Situation, Subject

pytest.importorskip("scib_metrics")
CELLS = 200


def drawn(effect):
    """x_ND, labels and batches of cells of three labels in two batches that are `effect` apart."""
    rng = np.random.default_rng(0)
    label_N, batch_N = np.arange(CELLS) % 3, np.arange(CELLS) % 2
    x_ND = 4 * np.eye(3, 8)[label_N] + effect * np.eye(2, 8, 6)[batch_N] + rng.normal(size=(CELLS, 8))
    return x_ND, np.array(["B", "NK", "T"])[label_N], np.array(["one", "two"])[batch_N]


@pytest.fixture(scope="module")
def scored():
    apart_ND, labels, batches = drawn(effect=8.0)
    given = {"apart": apart_ND, "mixed": drawn(effect=0.0)[0]}, "apart", labels, batches
    return given, scib_scores(*given)


def test_batches_that_are_apart_have_low_scores_of_correction_and_labels_do_not(scored):
    table = scored[1].set_axis(scored[1].index.str.removeprefix(PREFIX))
    for metric in ("iLISI", "KBET", "BRAS", "PCR comparison", "Batch correction", "Total"):
        assert table.loc[metric, "mixed"] > table.loc[metric, "apart"] + 0.2, metric
    assert table.loc["PCR comparison", "apart"] == 0.0  # it is what the other is held against
    assert table.loc["cLISI", "mixed"] > 0.95
    both = 0.4 * table.loc["Batch correction"] + 0.6 * table.loc["Bio conservation"]
    np.testing.assert_allclose(table.loc["Total"], both)


def test_sums_are_of_what_can_be_told_of_all(scored):
    embeddings, _, labels, batches = scored[0]
    table = scib_scores(embeddings | {"one point": np.zeros((CELLS, 8))}, "apart", labels, batches)
    table = table.set_axis(table.index.str.removeprefix(PREFIX))
    told = table.dropna()
    assert "PCR comparison" not in told.index
    correction = told.loc[["BRAS", "iLISI", "KBET", "Graph connectivity"]]
    np.testing.assert_allclose(told.loc["Batch correction"], correction.mean())


def test_silhouettes_are_those_of_scikit_learn(scored):
    (embeddings, _, labels, _), table = scored
    for name, x_ND in embeddings.items():
        expected = (1 + silhouette_samples(x_ND, labels).mean()) / 2
        assert table.loc[f"{PREFIX}Silhouette label", name] == pytest.approx(expected, abs=1e-4)


def test_the_same_cells_give_the_same_figures(scored):
    pd.testing.assert_frame_equal(scib_scores(*scored[0]), scored[1], check_exact=True)


def subject_of(labels, batches, cells=CELLS, **settings):
    """A subject of one modality: counts by lot, the embedding of `drawn`."""
    names = pd.Index([f"cell{number}" for number in range(cells)])
    counts = sp.csr_matrix(np.random.default_rng(1).poisson(1.0, (cells, 60)).astype(np.float32))
    x_ND = drawn(0.0)[0][:cells]
    view = View(ad.AnnData(counts), np.arange(cells), x_ND, {"same": x_ND}, frozenset(), {})
    said = (None if column is None else np.array(column, object) for column in (labels, batches))
    of = Cells(names, *said, None, None, np.zeros(cells, np.int64))
    return Subject(None, Settings(bootstrap=20, **settings), of, {"rna": view}, {})


def test_the_task_judges_the_model_beside_components_noise_and_peers():
    _, labels, batches = drawn(0.0)
    found = scib.judge(subject_of(labels, batches))
    values = {(score.metric, score.method): score.estimate.interval.value for score in found.scores}
    kinds = {score.method: score.kind for score in found.scores}
    assert kinds == {"mofm": "mofm", "same": "peer", PCA: "linear", "noise": "trivial"}
    for metric in {metric for metric, _ in values}:
        assert values[metric, "mofm"] == values[metric, "same"]
    assert values[f"{PREFIX}Bio conservation", "mofm"] > values[f"{PREFIX}Bio conservation", "noise"] + 0.3
    assert all(np.isnan(score.estimate.interval.low) for score in found.scores)
    assert any("no intervals" in note for note in found.notes)
    nothing = [score._replace(estimate=Estimate(0 * score.estimate.draws_D + np.nan)) for score in found.scores]
    for scores, said in (
        (found.scores, "no intervals"),
        (nothing, "nothing could be judged"),
        ([], "nothing could be"),
    ):
        (line,) = headlines(SimpleNamespace(judged={"scib": found._replace(scores=scores)}))
        assert said in line


@pytest.mark.slow
def test_without_batches_that_can_be_told_from_labels_correction_is_left_out_and_said():
    labels = drawn(0.0)[1].copy()
    batches = labels.copy()
    labels[[0, 1]] = "rare"  # in two batches, but with a cell in each
    found = scib.judge(subject_of(labels, batches))
    assert any("no label has several cells in two batches" in note for note in found.notes)
    metrics = {score.metric.removeprefix(PREFIX) for score in found.scores}
    assert "Bio conservation" in metrics
    assert not metrics & {"Batch correction", "Total", "iLISI"}


@pytest.mark.slow
def test_what_cannot_be_told_of_small_labels_is_named_and_left_out():
    batches = drawn(0.0)[2]
    found = scib.judge(subject_of([f"label{number // 3}" for number in range(CELLS)], batches))
    assert any("KBET cannot be computed for mofm" in note for note in found.notes)
    assert f"{PREFIX}KBET" not in {score.metric for score in found.scores}
    assert all(np.isfinite(score.estimate.draws_D[0]) for score in found.scores)


def test_where_the_package_fails_that_is_said_and_no_more_is_lost(monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("no neighbours")

    monkeypatch.setattr(scib, "scib_scores", fail)
    _, labels, batches = drawn(0.0)
    found = scib.judge(subject_of(labels, batches))
    assert not found.scores
    assert any("ZeroDivisionError: no neighbours" in note for note in found.notes)


@pytest.mark.slow
def test_of_many_cells_a_lot_is_judged(monkeypatch):
    monkeypatch.setattr(scib, "MOST_CELLS", 120)
    _, labels, _ = drawn(0.0)
    found = scib.judge(subject_of(labels, None))
    assert {score.cells for score in found.scores} == {120}
    assert any("120 of 200" in note for note in found.notes)


@pytest.mark.parametrize(
    ("label_key", "cells", "message"), [(None, 200, "--label-key"), ("type", 90, "needs 91 cells")]
)
def test_what_the_data_cannot_bear_is_refused(label_key, cells, message):
    shown = {"rna": pd.Index(range(cells))}
    with pytest.raises(InputError, match=message):
        scib.check(Situation(SimpleNamespace(), shown, Settings(label_key=label_key), {}))
