"""What the regression's share of a mean becomes in the predictor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mofm.axes import MODALITIES
from mofm.nn.linear import RARELY_SEEN, linear_answer

CHANGE = np.linspace(-6, 30, 721).astype(np.float32)


def predictor_of(change, target):
    """Of cells whose profile is the change itself, and a feature of loading 1."""
    profile_BR, loading_FR = jnp.asarray(change)[:, None], jnp.array([[5.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    return linear_answer(profile_BR, loading_FR, jnp.ones((len(change), 1), jnp.int32), target).predictor_BL[:, 0]


@pytest.mark.parametrize("target", MODALITIES)
def test_level_and_spread_are_the_feature_s_whatever_the_cell(target):
    loading_FR = jnp.array([[5.0, 9.0, 9.0], [1.0, 0.25, -0.5]])
    features_BL = jnp.ones((len(CHANGE), 1), jnp.int32)
    found = linear_answer(jnp.asarray(CHANGE)[:, None], loading_FR, features_BL, target)
    np.testing.assert_allclose(found.predictor_BL[:, 0] - predictor_of(CHANGE, target), 0.25, atol=1e-5)
    np.testing.assert_array_equal(found.spread_BL, np.full((len(CHANGE), 1), -0.5, np.float32))


@pytest.mark.parametrize("target", MODALITIES)
def test_a_small_change_is_that_many_nats(target):
    small = np.array([-1e-3, 0, 1e-3], np.float32)
    np.testing.assert_allclose(predictor_of(small, target), small, atol=1e-6)


@pytest.mark.parametrize("target", RARELY_SEEN)
def test_of_what_is_rarely_seen_a_rise_lies_between_shares_and_nats(target):
    told = np.asarray(predictor_of(CHANGE, target), np.float64)
    above = CHANGE > 0.05
    assert (told[above] > np.log1p(CHANGE[above])).all()
    assert (told[above] < CHANGE[above]).all()
    np.testing.assert_allclose(told[CHANGE <= 0], CHANGE[CHANGE <= 0], rtol=1e-6)
    assert (np.diff(told) > 0).all()
    slope = jax.vmap(jax.grad(lambda one: predictor_of(one[None], target)[0]))(jnp.asarray(CHANGE))
    np.testing.assert_allclose(slope, np.gradient(told, CHANGE), atol=0.02)


@pytest.mark.parametrize("target", [name for name in MODALITIES if name not in RARELY_SEEN])
def test_of_others_it_is_the_change(target):
    np.testing.assert_allclose(predictor_of(CHANGE, target), CHANGE, rtol=1e-6)
