"""Scores of ranked edges against counting by hand, and at their fixed points."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofm.errors import InputError
from mofm.evaluation.regulation import direction_accuracy, edge_scores, sign_accuracy, tf_bootstrap

SCORES = st.lists(st.integers(0, 4), min_size=1, max_size=3)


def test_a_ranking_by_hand():
    """Ranked: edge, none, edge, none, none."""
    found = edge_scores(np.array([5.0, 3.0]), np.array([4.0, 2.0, 1.0]))
    assert found["auroc"] == pytest.approx(5 / 6)
    assert found["auprc"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["auprc_random"] == pytest.approx(2 / 5)
    assert found["early_precision"] == pytest.approx(1 / 2)
    assert found["early_precision_ratio"] == pytest.approx(5 / 4)


@given(SCORES, SCORES)
@settings(max_examples=60, deadline=None)
def test_ties_count_as_the_mean_of_their_orders(positive, negative):
    scores, k = np.array(positive + negative, float), len(positive)
    is_edge = np.arange(len(scores)) < k
    orders = [
        order for order in itertools.permutations(range(len(scores))) if (np.diff(scores[list(order)]) <= 0).all()
    ]
    found = edge_scores(positive, negative)
    assert found["early_precision"] == pytest.approx(np.mean([is_edge[list(order[:k])].mean() for order in orders]))
    wins = np.mean([(p > n) + (p == n) / 2 for p in positive for n in negative])
    assert found["auroc"] == pytest.approx(wins)


def test_perfect_random_and_silent_rankings():
    rng = np.random.default_rng(0)
    assert edge_scores([2, 3], [0, 1])["auprc"] == edge_scores([2, 3], [0, 1])["early_precision"] == 1.0
    lots = edge_scores(rng.random(4000), rng.random(12000))
    assert lots["auroc"] == pytest.approx(0.5, abs=0.02)
    assert lots["auprc"] == pytest.approx(lots["auprc_random"], abs=0.02)
    assert lots["early_precision_ratio"] == pytest.approx(1, abs=0.08)
    silent = edge_scores(np.zeros(10), np.zeros(30))
    assert silent["auroc"] == 0.5
    assert silent["auprc"] == silent["early_precision"] == silent["auprc_random"] == 0.25


@pytest.mark.parametrize(
    ("positive", "negative", "message"),
    [([1, np.nan], [0], "1 of 3 scores are not finite"), ([], [0], "need both"), ([1], [], "need both")],
)
def test_what_cannot_be_ranked_is_refused(positive, negative, message):
    with pytest.raises(InputError, match=message):
        edge_scores(positive, negative)


def test_signs_are_judged_by_class():
    sign = np.array([1, 1, 1, 1, -1, -1, 0])
    assert sign_accuracy([1, 2, 3, -1, -1, 1, -9], sign) == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert sign_accuracy(np.ones(7), sign) == 0.5  # the majority
    assert sign_accuracy(np.zeros(7), sign) == 0.5
    assert sign_accuracy(0.1 * sign, sign) == 1
    with pytest.raises(InputError, match="no repression"):
        sign_accuracy([1, 1], [1, 0])
    with pytest.raises(InputError, match="not finite"):
        sign_accuracy([1, np.nan], [1, -1])
    with pytest.raises(InputError, match="same pairs"):
        sign_accuracy([1], [1, -1])


def test_directions():
    assert direction_accuracy([1, 2, 3, 0], [0, 2, 4, -1]) == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    assert direction_accuracy([1, 2], [1, 2]) == 0.5
    for wrong in (([], []), ([1], [np.inf]), ([1], [1, 2])):
        with pytest.raises(InputError):
            direction_accuracy(*wrong)


def test_tfs_are_resampled_whole():
    """A score that only TFs differ in: its interval is that of 10 numbers, not of 1,000."""
    of_tf = np.random.default_rng(0).normal(size=10)
    tf = np.repeat(np.arange(10) + 7, 100)[np.random.default_rng(1).permutation(1000)]
    values = of_tf[tf - 7]

    def mean(rows):
        assert set(np.unique(tf[rows], return_counts=True)[1] % 100) == {0}
        return {"mean": values[rows].mean()}

    found = tf_bootstrap(mean, tf, seed=0)["mean"]
    assert found.value == pytest.approx(of_tf.mean())
    spread = of_tf.std() / np.sqrt(10)
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.15)
    assert tf_bootstrap(mean, tf, seed=0)["mean"] == found
    assert tf_bootstrap(mean, tf, seed=1)["mean"] != found


def test_draws_without_a_score_are_left_out_unless_they_are_most():
    sign, tf = np.array([1, 1, -1, 1]), np.array([0, 0, 1, 2])

    def statistic(rows):
        return {"sign": sign_accuracy(sign[rows], sign[rows])}

    assert tf_bootstrap(statistic, tf, seed=0)["sign"] == (1.0, 1.0, 1.0)
    with pytest.raises(InputError, match="at least 2"):
        tf_bootstrap(statistic, np.zeros(4), seed=0)

    def only_observed(rows):
        if not np.array_equal(rows, np.arange(4)):
            raise InputError("nothing to tell")
        return {"some": 1.0}

    with pytest.raises(InputError, match="there is no score"):
        tf_bootstrap(only_observed, tf, seed=0)
