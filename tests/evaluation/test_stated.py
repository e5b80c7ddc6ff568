"""Intervals of counts: what is calibrated is told so however few the reads, what is too sure or too shy is not."""

import numpy as np
import pytest
from scipy import sparse, stats

from mofm.evaluation.stated import SHARE, at_depth, by_share, surprise, within

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


@pytest.mark.parametrize(("mean", "variance"), [(0.3, 0.5), (4.0, 30.0), (2.0, 2.0), (5.0, 1.0)])
def test_surprise_is_less_the_logarithm_of_the_chance(mean, variance):
    count_1F = np.arange(30)[None, :]
    law = stats.poisson(mean) if variance <= mean else stats.nbinom(mean**2 / (variance - mean), mean / variance)
    found_1F = surprise("rna", count_1F, np.full((1, 30), mean), np.full((1, 30), variance))
    np.testing.assert_allclose(found_1F, -law.logpmf(count_1F), rtol=1e-8)


def test_neither_the_too_sure_nor_the_too_shy_surprise_less(rng):
    count_N1 = counts_of(rng, 3.0, 2.0)
    true = surprise("rna", count_N1, *stated(3.0, 7.5)).mean()
    for mean, variance in ((3.0, 4.0), (3.0, 15.0), (2.0, 4.0), (4.0, 12.0)):
        assert surprise("rna", count_N1, *stated(mean, variance)).mean() > true + 0.01


def test_a_cell_read_deeper_spreads_as_its_counts_do(rng):
    """Of one law at many depths: told of one depth, it is right at all; the rate and its spread are found from counts."""
    depth_N, rate, size = rng.lognormal(np.log(500), 0.6, CELLS), 0.01, 2.0
    count_N1 = rng.poisson(depth_N * rate * rng.gamma(size, 1 / size, CELLS))[:, None]
    mean, variance = 300 * rate, 300 * rate + (300 * rate) ** 2 / size
    told = at_depth("rna", *stated(mean, variance), depth_N / 300)
    assert within(count_N1, *told).mean() == pytest.approx(SHARE, abs=0.005)
    assert surprise("rna", count_N1, *told).mean() < surprise("rna", count_N1, *stated(mean, variance)).mean() - 0.1
    rate_1, variance_1 = by_share("rna", sparse.csr_matrix(count_N1), depth_N)
    assert rate_1 == pytest.approx([rate], rel=0.02)
    assert (variance_1 - rate_1) / rate_1**2 == pytest.approx([1 / size], rel=0.3)


def test_one_droplet_read_twenty_times_as_deep_does_not_say_how_all_spread(rng):
    """Who knows of no cell anything is still who knows how counts spread: the likeliest law of all cells, not of one."""
    size, rate_F = 3.0, np.array([0.004, 0.02, 0.1])
    depth_N = rng.lognormal(np.log(500), 0.3, 400)
    count_NF = rng.poisson(depth_N[:, None] * rate_F * rng.gamma(size, 1 / size, (400, 3)))
    true_NF = depth_N[:, None] * rate_F
    best = surprise("rna", count_NF, true_NF, true_NF + true_NF**2 / size).mean()
    for clump in (None, [2_000, 10, 8_000]):  # of antibodies, a droplet's
        rows_NF = count_NF if clump is None else np.concatenate([count_NF, [clump]])
        share = by_share("adt", sparse.csr_matrix(rows_NF), np.append(depth_N, 10_010)[: len(rows_NF)])
        law = at_depth("adt", *(one[None, :] for one in share), depth_N)
        assert surprise("adt", count_NF, *law).mean() < best + 0.03


def test_a_feature_that_no_cell_had_may_yet_be_seen():
    for modality in ("rna", "atac"):
        share = by_share(modality, sparse.csr_matrix((20, 2), dtype=int), np.full(20, 100.0))
        law = at_depth(modality, *(one[None, :] for one in share), np.array([100.0]))
        found = surprise(modality, np.array([[1, 0]]), *law)
        assert 0 < found[0, 1] < 1 < found[0, 0] < 10


def test_odds_of_a_region_grow_with_depth_and_its_share_is_found_so(rng):
    """Regions as the likelihood of training has them: read at many depths, told of one, the shares found from what was open."""
    depth_N, level_F = rng.lognormal(np.log(3_000), 0.8, CELLS), np.log([1e-5, 1e-4, 1e-3])
    chance_NF = 1 / (1 + np.exp(-level_F) / depth_N[:, None])
    is_open_NF = (rng.random((CELLS, 3)) < chance_NF).astype(int)
    at_1000_F = 1 / (1 + np.exp(-level_F) / 1_000)
    told, variance = at_depth("atac", at_1000_F[None, :], np.zeros((1, 3)), depth_N / 1_000)
    np.testing.assert_allclose(told, chance_NF, rtol=1e-9)
    np.testing.assert_allclose(variance, told * (1 - told))
    chance_F, _ = by_share("atac", sparse.csr_matrix(is_open_NF), depth_N)
    np.testing.assert_allclose(np.log(chance_F / (1 - chance_F)), level_F, atol=0.25)  # of some cells
    best = surprise("atac", is_open_NF, told, variance).mean()
    assert best == pytest.approx(-(stats.bernoulli.logpmf(is_open_NF, chance_NF)).mean())
    for wrong in (at_1000_F, is_open_NF.mean(axis=0)):
        assert surprise("atac", is_open_NF, np.broadcast_to(wrong, told.shape), variance).mean() > best + 0.005


def test_a_law_of_nearly_all_zeros_is_a_law():
    """A mean that is nothing beside its variance: chances are lost to rounding where they are taken from 1."""
    mean_11, variance_11 = np.array([[1e-6]]), np.array([[1e11]])
    assert surprise("rna", np.array([[0]]), mean_11, variance_11)[0, 0] == pytest.approx(0, abs=1e-9)
    assert within(np.array([[0]]), mean_11, variance_11)[0, 0] == pytest.approx(SHARE, abs=0.01)
