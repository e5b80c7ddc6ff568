"""Scores under resampling: each draw is the score of the cells that were drawn, and intervals hold what they should."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from mofm.errors import InputError
from mofm.evaluation.resample import (
    Estimate,
    accuracy,
    aurocs,
    correlations,
    draw_weights,
    macro_f1,
    mean_estimate,
    mean_of,
    over_features,
    ratio_of,
)
from mofm.evaluation.translation import per_feature_auroc, per_feature_correlation

CELLS = 60


@pytest.fixture
def weights_DN():
    return draw_weights(CELLS, 30, seed=3)


def drawn(weights_N):
    """The cells of a draw, one behind the other."""
    return np.repeat(np.arange(len(weights_N)), weights_N.astype(int))


def features(seed=0, open_=False):
    rng = np.random.default_rng(seed)
    truth_NF = rng.normal(size=(CELLS, 5))
    predicted_NF = truth_NF + 2 * rng.normal(size=truth_NF.shape)
    truth_NF[:, 3], predicted_NF[:, 4] = 7.0, 0.1  # neither varies
    predicted_NF[:, 2] = np.round(predicted_NF[:, 2])  # ties
    return (truth_NF > 0.5).astype(float) if open_ else truth_NF, predicted_NF


def test_weights_are_draws_of_as_many_cells(weights_DN):
    assert weights_DN.shape == (31, CELLS)
    assert (weights_DN[0] == 1).all()
    assert (weights_DN.sum(axis=1) == CELLS).all()
    assert (draw_weights(CELLS, 30, seed=3) == weights_DN).all()
    assert (draw_weights(CELLS, 30, seed=4) != weights_DN).any()


@pytest.mark.parametrize(("cells", "draws"), [(0, 100), (10, 3)])
def test_too_little_is_refused(cells, draws):
    with pytest.raises(InputError):
        draw_weights(cells, draws, 0)


def test_labels_are_scored_as_scikit_learn_scores_the_drawn_cells(weights_DN):
    rng = np.random.default_rng(1)
    true_N = rng.choice(["a", "b", "c"], CELLS, p=[0.6, 0.3, 0.1])
    said_N = np.where(rng.random(CELLS) < 0.7, true_N, rng.choice(["a", "b", "d"], CELLS))
    right, f1 = accuracy(weights_DN, true_N, said_N).draws_D, macro_f1(weights_DN, true_N, said_N).draws_D
    for draw, weights_N in enumerate(weights_DN):
        rows = drawn(weights_N)
        assert right[draw] == pytest.approx(np.mean(true_N[rows] == said_N[rows]))
        there = np.unique(true_N[rows])
        expected = f1_score(true_N[rows], said_N[rows], labels=there, average="macro", zero_division=0)
        assert f1[draw] == pytest.approx(expected)


def test_correlations_are_those_of_the_drawn_cells(weights_DN):
    truth_NF, predicted_NF = features()
    truth_NF[np.random.default_rng(2).random(truth_NF.shape) < 0.2] = np.nan
    r_DF = correlations(weights_DN, truth_NF, predicted_NF)
    plain = per_feature_correlation(truth_NF, predicted_NF).score_F
    np.testing.assert_allclose(r_DF[0], plain, atol=1e-9)
    assert np.isnan(r_DF[:, 3]).all()
    assert (r_DF[:, 4] == 0).all()
    for draw in (1, 17, 30):
        rows = drawn(weights_DN[draw])
        np.testing.assert_allclose(
            r_DF[draw], per_feature_correlation(truth_NF[rows], predicted_NF[rows]).score_F, atol=1e-9
        )


def test_correlations_do_not_depend_on_scale(weights_DN):
    truth_NF, predicted_NF = features()
    plain = correlations(weights_DN, truth_NF, predicted_NF)
    moved = correlations(weights_DN, truth_NF * 1e-6 + 3, predicted_NF * 1e8 - 1e9)
    np.testing.assert_allclose(moved, plain, atol=1e-6)


def test_aurocs_are_those_of_the_drawn_cells(weights_DN):
    open_NF, score_NF = features(open_=True)
    auroc_DF = aurocs(weights_DN, open_NF > 0, score_NF)
    np.testing.assert_allclose(auroc_DF[0], per_feature_auroc(open_NF, score_NF).score_F, atol=1e-12)
    assert (auroc_DF[:, 4] == 0.5).all()
    assert np.isnan(auroc_DF[:, 3]).all()
    for feature in (0, 1, 2):
        expected = [roc_auc_score(open_NF[:, feature], score_NF[:, feature], sample_weight=w) for w in weights_DN]
        np.testing.assert_allclose(auroc_DF[:, feature], expected, atol=1e-9)


def test_over_features_leaves_out_what_the_cells_do_not_tell():
    score_DF = np.array([[0.1, np.nan, 0.3, 0.8], [0.2, 0.9, np.nan, 0.6]])
    mean, median = over_features(score_DF)
    np.testing.assert_allclose(mean.draws_D, [0.4, 0.4])
    np.testing.assert_allclose(median.draws_D, [0.3, 0.4])
    assert np.isnan(over_features(np.full((2, 3), np.nan))[0].draws_D).all()


def test_ratios_and_means_of_estimates(weights_DN):
    rng = np.random.default_rng(5)
    above_N, below_N = rng.normal(size=CELLS), rng.random(CELLS)
    ratio = ratio_of(weights_DN, above_N, below_N)
    assert ratio.draws_D[0] == pytest.approx(above_N.sum() / below_N.sum())
    assert np.isnan(ratio_of(weights_DN, above_N, np.zeros(CELLS)).draws_D).all()
    other = Estimate(np.full(31, np.nan))
    np.testing.assert_allclose(mean_estimate([ratio, other]).draws_D, ratio.draws_D)
    np.testing.assert_allclose(mean_estimate([ratio, ratio.minus(ratio)]).draws_D, ratio.draws_D / 2)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    """Of 300 samples of a known share, the 95% interval of about 95% holds it."""
    rng, held = np.random.default_rng(0), 0
    for seed in range(300):
        right_N = rng.random(80) < 0.7
        interval = mean_of(draw_weights(80, 300, seed), right_N).interval
        assert interval.low <= interval.value <= interval.high
        held += interval.low <= 0.7 <= interval.high
    assert 0.90 < held / 300 < 0.99


def test_a_difference_is_surer_than_its_parts_where_both_err_alike():
    rng = np.random.default_rng(0)
    hard_N = rng.random(200)
    weights_DN = draw_weights(200, 500, 0)
    one, other = mean_of(weights_DN, hard_N < 0.7), mean_of(weights_DN, hard_N < 0.68)
    apart = one.interval.high - one.interval.low
    between = one.minus(other).interval
    assert between.value == pytest.approx(one.interval.value - other.interval.value)
    assert between.high - between.low < apart / 2
