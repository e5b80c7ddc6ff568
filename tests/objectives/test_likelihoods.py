"""The likelihoods against scipy's, and their gradients where they are hardest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from mofm.objectives.likelihoods import (
    bernoulli_nll,
    beta_binomial_nll,
    masked_mean,
    negative_binomial_mixture_nll,
    negative_binomial_nll,
    sampled_nll,
)


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


NLLS = {
    "nb": (negative_binomial_nll, 1, 2),
    "mixture": (negative_binomial_mixture_nll, 1, 4),
    "bernoulli": (bernoulli_nll, 1, 1),
    "beta-binomial": (beta_binomial_nll, 2, 2),
}
"""Function, how many arguments are measured, how many are parameters."""
SLOPES = {
    name: jax.jit(jax.value_and_grad(nll, argnums=tuple(range(data, data + parameters))))
    for name, (nll, data, parameters) in NLLS.items()
}
COUNTS = st.integers(0, 2_000)
LOGS = st.floats(-11, 11, width=32)
WILD = st.one_of(LOGS, st.sampled_from([-1e30, -1e3, -88.0, 0.0, 88.0, 1e3, 1e30]))


def sigmoids(logit: float) -> tuple[float, float]:
    """p and 1 - p in double precision."""
    return 1 / (1 + np.exp(-float(logit))), 1 / (1 + np.exp(float(logit)))


def expect_close(name: str, arguments, theirs, reads: int) -> None:
    """To float32's precision of the largest part that cancels, about reads * log(reads)."""
    ours, _ = SLOPES[name](*map(np.float32, arguments))
    assert ours.dtype == np.float32
    assert float(ours) == pytest.approx(theirs, rel=2e-5, abs=2e-6 + 2e-6 * reads)


@settings(max_examples=200, deadline=None)
@given(count=COUNTS, log_mean=LOGS, log_theta=LOGS)
def test_negative_binomial_is_scipys(count, log_mean, log_theta):
    theta = np.exp(float(log_theta))
    theirs = -stats.nbinom.logpmf(count, theta, 1 / (1 + np.exp(float(log_mean)) / theta))
    expect_close("nb", (count, log_mean, log_theta), theirs, count)


@settings(max_examples=200, deadline=None)
@given(count=COUNTS, background=LOGS, foreground=LOGS, logit=LOGS, log_theta=LOGS)
def test_mixture_is_scipys(count, background, foreground, logit, log_theta):
    theta = np.exp(float(log_theta))
    logs = [
        stats.nbinom.logpmf(count, theta, 1 / (1 + np.exp(float(mean)) / theta)) for mean in (background, foreground)
    ]
    theirs = -np.logaddexp(*(np.log(weight) + log for weight, log in zip(sigmoids(logit), logs, strict=True)))
    expect_close("mixture", (count, background, foreground, logit, log_theta), theirs, count)


@settings(deadline=None)
@given(logit=st.floats(-80, 80, width=32))
def test_bernoulli_is_scipys(logit):
    closed, opened = (SLOPES["bernoulli"](np.float32(outcome), np.float32(logit))[0] for outcome in (0, 1))
    p, q = sigmoids(logit)
    assert float(opened) == pytest.approx(-stats.bernoulli.logpmf(1, p), rel=1e-6, abs=1e-12)
    assert float(closed) == pytest.approx(-stats.bernoulli.logpmf(1, q), rel=1e-6, abs=1e-12)


@settings(max_examples=200, deadline=None)
@given(reads=COUNTS, share=st.floats(0, 1), logit=LOGS, log_concentration=LOGS)
@example(reads=230, share=0.5, logit=0.0, log_concentration=9.25)  # logs of three large powers cancel
def test_beta_binomial_is_scipys(reads, share, logit, log_concentration):
    hits, concentration = round(share * reads), np.exp(float(log_concentration))
    a, b = (concentration * chance for chance in sigmoids(logit))
    theirs = -stats.betabinom.logpmf(hits, reads, a, b)
    expect_close("beta-binomial", (hits, reads, logit, log_concentration), theirs, reads)


@settings(max_examples=200, deadline=None)
@given(count=st.integers(0, 100_000), share=st.floats(0, 1), wild=st.tuples(WILD, WILD, WILD, WILD))
def test_values_and_slopes_are_finite_everywhere(count, share, wild):
    measured = {1: (count,), 2: (round(share * count), count)}
    for name, (_, data, parameters) in NLLS.items():
        value, slopes = SLOPES[name](*map(np.float32, (*measured[data], *wild[:parameters])))
        assert np.isfinite([value, *slopes]).all()
        assert value > -1e-6 * (1 + count)


@pytest.mark.parametrize(
    ("nll", "arguments"),
    [
        (
            lambda a, b, c, d: negative_binomial_mixture_nll(jnp.array([0.0, 3.0, 40.0]), a, b, c, d),
            (0.5, 2.0, -0.7, 0.3),
        ),
        (lambda a: bernoulli_nll(jnp.array([0.0, 1.0, 1.0]), a), (0.4,)),
        (lambda a, b: beta_binomial_nll(jnp.array([0.0, 3.0, 9.0]), jnp.array([0.0, 7.0, 9.0]), a, b), (-0.8, 1.2)),
    ],
    ids=["mixture", "bernoulli", "beta-binomial"],
)
def test_slopes_against_finite_differences(nll, arguments):
    with jax.enable_x64(True):
        arguments, step = [jnp.full(3, a) for a in arguments], 1e-6
        for place in range(len(arguments)):
            slope = jax.grad(lambda *a: nll(*a).sum(), argnums=place)(*arguments)
            up, down = ([a + sign * step if i == place else a for i, a in enumerate(arguments)] for sign in (1, -1))
            np.testing.assert_allclose(slope, (nll(*up) - nll(*down)) / (2 * step), rtol=1e-5, atol=1e-7)


def test_mixture_of_one_component_is_the_component():
    counts = np.arange(9, dtype=np.float32)
    one = negative_binomial_nll(counts, 1.3, 0.4)
    np.testing.assert_allclose(negative_binomial_mixture_nll(counts, 1.3, 1.3, -2.0, 0.4), one, rtol=1e-6)
    np.testing.assert_allclose(negative_binomial_mixture_nll(counts, 1.3, 5.0, 40.0, 0.4), one, rtol=1e-6)
    np.testing.assert_allclose(negative_binomial_mixture_nll(counts, 5.0, 1.3, -40.0, 0.4), one, rtol=1e-6)


def test_beta_binomial_tends_to_a_binomial_and_is_nothing_without_reads():
    hits = np.arange(8, dtype=np.float32)
    ours = beta_binomial_nll(hits, 7.0, 0.3, 11.9)
    np.testing.assert_allclose(ours, -stats.binom.logpmf(hits, 7, sigmoids(0.3)[0]), atol=2e-4)
    assert not np.any(
        beta_binomial_nll(np.zeros(3), np.zeros(3), np.array([-50.0, 0.0, 9.0]), np.array([3.0, -9.0, 0.0]))
    )


def test_a_hopeless_rate_still_has_a_way_back():
    """No clip stands between a wrong answer and its correction."""
    slope = jax.grad(beta_binomial_nll, argnums=2)
    assert slope(5.0, 9.0, -200.0, 1.0) < -0.5
    assert slope(5.0, 9.0, 200.0, 1.0) > 0.5
    assert jax.grad(bernoulli_nll, argnums=1)(1.0, -200.0) < -0.5


COUNTS = np.arange(200, dtype=np.float32)


@pytest.mark.parametrize("weight", [1.0, 7.5, 300.0, np.inf])
def test_of_what_is_shown_the_chances_sum_to_one(weight):
    nll = negative_binomial_nll(COUNTS, np.log(0.4), np.log(2.0))
    found = np.asarray(sampled_nll(nll, nll[0], COUNTS == 0, np.log(weight)), np.float64)
    assert np.exp(-found).sum() == pytest.approx(1.0, abs=1e-5)
    chance = np.exp(-np.asarray(nll, np.float64))
    shown = np.where(COUNTS == 0, chance / weight, chance)
    np.testing.assert_allclose(np.exp(-found), shown / shown.sum(), rtol=1e-4, atol=1e-12)
    if weight == 1:
        np.testing.assert_allclose(found, nll, atol=1e-6)


def test_where_few_zeros_are_shown_the_rate_of_all_is_still_the_likeliest():
    """Cells of one rate, of which each shows its own share of its zeros."""
    rng = np.random.default_rng(0)
    counts, weights = rng.negative_binomial(2.0, 2.0 / 2.4, 200_000), rng.choice([1.0, 5.0, 40.0], 200_000)
    shown = (counts > 0) | (rng.random(200_000) < 1 / weights)
    counts, weights = counts[shown].astype(np.float32), weights[shown].astype(np.float32)

    def loss(log_mean, log_weight):
        of = lambda x: negative_binomial_nll(x, log_mean, jnp.log(2.0))  # noqa: E731
        return sampled_nll(of(counts), of(0.0 * counts), counts == 0, log_weight).mean()

    slope = jax.jit(jax.grad(loss))
    assert abs(slope(np.log(0.4), np.log(weights))) < 4e-3
    assert slope(np.log(0.4), 0 * weights) < -0.1  # taken for all, they would ask for a higher rate


@pytest.mark.parametrize("log_weight", [0.0, 3.0, np.inf])
@pytest.mark.parametrize("log_mean", [-30.0, -12.0, 0.0, 30.0])
def test_its_slope_is_finite_wherever_the_rate_is(log_mean, log_weight):
    def loss(log_mean):
        of = lambda x: negative_binomial_mixture_nll(x, log_mean - 1, log_mean, 0.3, 0.5)  # noqa: E731
        return jnp.stack(
            [sampled_nll(of(x), of(0.0), x == 0, log_weight) for x in (0.0, 1.0, 50.0)][int(log_weight == np.inf) :]
        ).sum()

    assert np.isfinite(loss(log_mean))
    assert np.isfinite(jax.grad(loss)(log_mean))


@settings(deadline=None, max_examples=50)
@given(logit=st.floats(-15, 15), log_weight=st.floats(0, 8), is_open=st.booleans())
def test_of_open_or_not_it_is_a_shift_of_the_log_odds(logit, log_weight, is_open):
    found = sampled_nll(
        bernoulli_nll(float(is_open), logit), bernoulli_nll(0.0, logit), not is_open, np.float32(log_weight)
    )
    np.testing.assert_allclose(found, bernoulli_nll(float(is_open), logit + log_weight), rtol=1e-4, atol=1e-5)
