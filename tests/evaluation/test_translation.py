"""Scores of a translation against scipy and sklearn, one feature at a time, and what is left out is counted."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import roc_auc_score

from mofm.errors import InputError
from mofm.evaluation import translation
from mofm.evaluation.translation import per_feature_auroc, per_feature_correlation


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Every test crosses the borders of blocks: 7 features of 40 cells each."""
    monkeypatch.setattr(translation, "BLOCK_ENTRIES", 280)


@pytest.fixture
def cells():
    """Truth of few values, so with ties, and a prediction that knows some of it."""
    rng = np.random.default_rng(0)
    truth_NF = rng.poisson(1.0, (40, 23)).astype(float)
    return truth_NF, np.round(truth_NF + rng.normal(0, 2, truth_NF.shape), 1)


@pytest.mark.parametrize(("kind", "reference"), [("pearson", pearsonr), ("spearman", spearmanr)])
def test_correlation_is_that_of_scipy(cells, kind, reference):
    truth_NF, predicted_NF = cells
    found = per_feature_correlation(truth_NF, predicted_NF, kind)
    expected = [reference(t, p).statistic for t, p in zip(truth_NF.T, predicted_NF.T, strict=True)]
    np.testing.assert_allclose(found.score_F, expected, atol=1e-12)
    assert found.mean == pytest.approx(np.mean(expected))
    assert (found.left_out, found.flat, found.scored) == (0, 0, 23)


@pytest.mark.parametrize(("kind", "reference"), [("pearson", pearsonr), ("spearman", spearmanr)])
def test_what_was_not_measured_is_left_out_cell_by_cell(cells, kind, reference):
    truth_NF, predicted_NF = cells
    truth_NF[np.random.default_rng(1).random(truth_NF.shape) < 0.4] = np.nan
    found = per_feature_correlation(truth_NF, predicted_NF, kind)
    for score, t, p in zip(found.score_F, truth_NF.T, predicted_NF.T, strict=True):
        here = ~np.isnan(t)
        assert score == pytest.approx(reference(t[here], p[here]).statistic, abs=1e-12)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.csc_array])
def test_auroc_is_that_of_sklearn(cells, form):
    truth_NF, score_NF = cells
    open_NF = truth_NF > 1
    expected = [roc_auc_score(t, s) for t, s in zip(open_NF.T, score_NF.T, strict=True)]
    found = per_feature_auroc(form(open_NF), score_NF)
    np.testing.assert_allclose(found.score_F, expected, atol=1e-12)
    assert per_feature_auroc(form(open_NF.astype(np.int32)), score_NF).mean == pytest.approx(np.mean(expected))


def test_features_of_one_value_are_left_out_and_flat_predictions_stay_in(cells):
    truth_NF, predicted_NF = cells
    truth_NF[:, 3], truth_NF[:, 4], truth_NF[1:, 5] = 0.1, np.nan, np.nan
    predicted_NF[:, [8, 9]] = 0.1  # not a number that sums without rounding
    found = per_feature_correlation(truth_NF, predicted_NF)
    assert np.flatnonzero(np.isnan(found.score_F)).tolist() == [3, 4, 5]
    assert (found.left_out, found.flat, found.scored) == (3, 2, 20)
    np.testing.assert_array_equal(found.score_F[[8, 9]], 0)
    assert found.mean == pytest.approx(np.nanmean(found.score_F))

    open_NF = truth_NF > 1
    open_NF[:, 6], open_NF[:, 7] = True, False
    found = per_feature_auroc(open_NF, predicted_NF)
    assert np.flatnonzero(np.isnan(found.score_F)).tolist() == [3, 4, 5, 6, 7]
    assert (found.left_out, found.flat) == (5, 2)
    np.testing.assert_array_equal(found.score_F[[8, 9]], 0.5)


def test_a_feature_that_is_constant_but_for_the_unmeasured_is_left_out():
    truth_NF = np.array([[1.0, 1], [np.nan, 0], [1, 1]])
    found = per_feature_correlation(truth_NF, np.arange(6.0).reshape(3, 2))
    assert np.isnan(found.score_F).tolist() == [True, False]
    assert np.isnan(per_feature_correlation(truth_NF[:, :1], np.ones((3, 1))).mean)


def test_scale_and_shift_change_no_correlation(cells):
    truth_NF, predicted_NF = cells
    plain = per_feature_correlation(truth_NF, predicted_NF).score_F
    for factor in (1e-200, 1e150):
        np.testing.assert_allclose(per_feature_correlation(truth_NF, factor * predicted_NF).score_F, plain, atol=1e-9)
    np.testing.assert_allclose(per_feature_correlation(truth_NF, 5 - predicted_NF).score_F, -plain, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: per_feature_correlation(np.ones((3, 2)), np.ones((3, 4))), "not of the same cells"),
        (lambda: per_feature_correlation(np.ones((0, 2)), np.ones((0, 2))), "not of the same cells"),
        (lambda: per_feature_correlation(np.ones((3, 2)), np.full((3, 2), np.nan)), "not finite"),
        (lambda: per_feature_correlation(np.full((3, 2), np.inf), np.ones((3, 2))), "not finite"),
        (lambda: per_feature_auroc(np.full((3, 2), 2), np.ones((3, 2))), "binarise"),
        (lambda: per_feature_auroc(np.full((3, 2), np.nan), np.ones((3, 2))), "binarise"),
    ],
)
def test_what_cannot_be_judged_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
