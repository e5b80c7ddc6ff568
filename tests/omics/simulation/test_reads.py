"""Thinned reads have the mean and the spread of the counts that a matrix of cells x features would have drawn."""

import numpy as np
import pytest
from scipy import sparse, stats

from mofm.omics.simulation.cells import draw_cells
from mofm.omics.simulation.network import draw_cell_types
from mofm.omics.simulation.reads import LogOdds, beta_binomial, draw_reads


@pytest.mark.parametrize("block", [2**20, 50])
def test_reads_are_poisson_with_the_mean_asked_for(monkeypatch, block):
    monkeypatch.setattr("mofm.omics.simulation.reads._PROPOSAL_BLOCK", block)
    depth_N = np.repeat([5.0, 20.0], 3000)
    capacity_SP, batch_N = np.array([[0.2, 0.3, 0.0], [1.0, 0.1, 0.5]]), np.tile([0, 1], 3000)
    chance_P = np.array([1.0, 0.5, 0.8])
    reads = draw_reads(depth_N, capacity_SP, batch_N, np.random.default_rng(0), lambda cell, feature: chance_P[feature])
    assert reads.shape == (6000, 3)
    assert reads.dtype == np.int32
    assert reads.has_canonical_format
    for depth in (5.0, 20.0):
        for batch in (0, 1):
            counts_NP = reads[(depth_N == depth) & (batch_N == batch)].toarray()
            expected_P = depth * capacity_SP[batch] * chance_P
            np.testing.assert_allclose(counts_NP.mean(axis=0), expected_P, rtol=0.1)
            np.testing.assert_allclose(counts_NP.var(axis=0), expected_P, rtol=0.2)


def test_a_cell_without_reads_is_an_empty_row():
    reads = draw_reads(np.zeros(4), np.ones((1, 3)), np.zeros(4, dtype=np.int64), np.random.default_rng(0))
    assert reads.shape == (4, 3)
    assert reads.nnz == 0


def test_log_odds_of_pairs_are_those_of_the_matrix(small):
    network, attractors_CT = draw_cell_types(small)
    cells = draw_cells(small, network, attractors_CT)
    rng = np.random.default_rng(0)
    odds = LogOdds(rng.normal(size=30), sparse.random(30, 20, 0.2, "csr", random_state=0), rng.normal(size=(1, 30)))
    all_NP = odds.rest_P + odds.shift_DP[cells.donor_N] + (cells.activity_NT - 0.5) @ odds.weights_PT.T.toarray()
    cell_I, feature_I = rng.integers(400, size=500), rng.integers(30, size=500)
    np.testing.assert_allclose(odds.at(cells, cell_I, feature_I), all_NP[cell_I, feature_I], atol=1e-6)
    assert (odds.highest(cells) >= all_NP.max(axis=0) - 1e-6).all()
    state_T = attractors_CT[1]
    np.testing.assert_allclose(odds.of_state(state_T), odds.rest_P + odds.weights_PT.toarray() @ (state_T - 0.5))


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_hits_have_the_distribution_of_the_beta_binomial(spread):
    total_I = np.full(40_000, 6)
    hits_I = beta_binomial(total_I, np.full(40_000, np.log(0.3 / 0.7)), spread, np.random.default_rng(0))
    strength = 1 / spread - 1 if spread else 1e9
    expected = stats.betabinom.pmf(np.arange(7), 6, 0.3 * strength, 0.7 * strength)
    np.testing.assert_allclose(np.bincount(hits_I, minlength=7) / 40_000, expected, atol=0.01)


def test_hits_at_extremes_are_none_or_all():
    hits_I = beta_binomial(np.array([5, 5]), np.array([-800.0, 800.0]), 0.2, np.random.default_rng(0))
    np.testing.assert_array_equal(hits_I, [0, 5])
