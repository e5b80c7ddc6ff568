"""Intervals of counts: what is calibrated is told so however few the reads, what is too sure or too shy is not."""

import numpy as np
import pytest
from scipy import stats

from mofm.evaluation.resample import draw_weights
from mofm.evaluation.stated import SHARE, coverage_misses, within

CELLS = 40_000


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def counts_of(rng, mean, size):
    return rng.poisson(mean * rng.gamma(size, 1 / size, CELLS))[:, None]


def stated(mean, variance):
    return np.full((CELLS, 1), mean), np.full((CELLS, 1), variance)


@pytest.mark.parametrize(("mean", "size"), [(0.02, 1.0), (0.7, 0.5), (3.0, 2.0), (400.0, 3.0)])
def test_counts_lie_within_as_often_as_stated(rng, mean, size):
    count_N1 = counts_of(rng, mean, size)
    variance = mean + mean**2 / size
    assert within(count_N1, *stated(mean, variance)).mean() == pytest.approx(SHARE, abs=0.005)
    if mean > 1:  # of a gene read in one cell of fifty, that one cell tells of the spread
        assert within(count_N1, *stated(mean, mean + (variance - mean) / 6)).mean() < SHARE - 0.04
        assert within(count_N1, *stated(mean, 6 * variance)).mean() > SHARE + 0.03


@pytest.mark.parametrize("mean", [0.05, 2.0, 60.0])
def test_what_spreads_no_more_than_poisson_is_read_so(rng, mean):
    count_N1 = rng.poisson(mean, (CELLS, 1))
    for variance in (mean, 0.5 * mean, 0.0):
        assert within(count_N1, *stated(mean, variance)).mean() == pytest.approx(SHARE, abs=0.005)


def test_a_count_is_inside_by_the_part_of_its_own_chance():
    size, chance = 2.5, 0.25  # of which 0 to 20 lie below, across and above the ends
    law = stats.nbinom(size, chance)
    count_N = np.arange(40)
    low_N, high_N = law.cdf(count_N - 1), law.cdf(count_N)
    first, last = (1 - SHARE) / 2, (1 + SHARE) / 2
    expected_N = [
        max(min(high, last) - max(low, first), 0) / (high - low) for low, high in zip(low_N, high_N, strict=True)
    ]
    found_N1 = within(count_N[:, None], np.full((40, 1), law.mean()), np.full((40, 1), law.var()))
    np.testing.assert_allclose(found_N1[:, 0], expected_N, atol=1e-9)
    assert {0.0, 1.0} < set(found_N1[:, 0])
    assert np.sum(law.pmf(count_N) * found_N1[:, 0]) == pytest.approx(SHARE, abs=1e-4)


def test_what_cannot_have_been_lies_outside():
    count_NF = np.array([[10**6, 0]])
    np.testing.assert_array_equal(within(count_NF, np.array([[1e-3, 1e4]]), np.array([[1e-3, 1e4]])), [[0, 0]])
    np.testing.assert_array_equal(within(count_NF, np.array([[0.0, 0.0]]), np.zeros((1, 2)))[0, 0], 0)


def test_misses_are_of_the_cells_of_a_draw():
    within_NF = np.array([[1.0, 0.0], [1, 1], [0.5, 1], [1, 1]])
    weights_DN = np.array([[1.0, 1, 1, 1], [4, 0, 0, 0], [0, 0, 2, 2]])
    expected_DF = [[abs(3.5 / 4 - SHARE), abs(3 / 4 - SHARE)], [1 - SHARE, SHARE], [SHARE - 0.75, 1 - SHARE]]
    np.testing.assert_allclose(coverage_misses(weights_DN, within_NF), expected_DF)
    assert coverage_misses(draw_weights(4, 30, 0), within_NF).shape == (31, 2)
