"""The negative binomial against scipy's, and its gradients where they are hardest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mofm.objectives.likelihoods import masked_mean, negative_binomial_nll


@pytest.mark.parametrize("mean", [1e-3, 0.3, 5.0, 400.0])
@pytest.mark.parametrize("theta", [0.05, 1.0, 30.0])
def test_matches_scipy(mean, theta):
    counts = np.array([0, 1, 2, 7, 50, 900], np.float32)
    ours = negative_binomial_nll(counts, np.log(mean), np.log(theta))
    theirs = -stats.nbinom.logpmf(counts, theta, theta / (theta + mean))
    np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-4)


def test_tends_to_poisson_as_dispersion_vanishes():
    counts = np.arange(6, dtype=np.float32)
    ours = negative_binomial_nll(counts, np.log(2.0), 8.0)
    np.testing.assert_allclose(ours, -stats.poisson.logpmf(counts, 2.0), atol=5e-3)


def test_probabilities_sum_to_one():
    counts = np.arange(3000, dtype=np.float32)
    total = np.exp(-np.asarray(negative_binomial_nll(counts, np.log(20.0), np.log(0.8)), np.float64)).sum()
    assert total == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("count", [0.0, 1.0, 1e5])
@pytest.mark.parametrize("log_mean", [-1e3, -20.0, 0.0, 11.0, 1e3])
@pytest.mark.parametrize("log_theta", [-1e3, -8.0, 0.0, 8.0, 1e3])
def test_finite_at_extremes(count, log_mean, log_theta):
    value, gradients = jax.value_and_grad(negative_binomial_nll, argnums=(1, 2))(count, log_mean, log_theta)
    assert np.isfinite([value, *gradients]).all()


def test_gradients_against_finite_differences():
    with jax.enable_x64(True):
        args = (jnp.array([0.0, 3.0, 40.0]), jnp.array([-1.0, 1.0, 3.0]), jnp.array([0.5, -1.0, 2.0]))
        for place in (1, 2):
            slope = jax.jacfwd(negative_binomial_nll, argnums=place)(*args).diagonal()
            step = 1e-6
            up, down = ([a + sign * step if i == place else a for i, a in enumerate(args)] for sign in (1, -1))
            numeric = (negative_binomial_nll(*up) - negative_binomial_nll(*down)) / (2 * step)
            np.testing.assert_allclose(slope, numeric, rtol=1e-5, atol=1e-7)


def test_masked_mean():
    values, weights = np.array([1.0, 2.0, np.float32(60.0)]), np.array([True, True, False])
    assert masked_mean(values, weights) == 1.5
    assert masked_mean(values, np.zeros(3, bool)) == 0.0
