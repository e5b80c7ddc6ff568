"""Likelihoods of measured values, in float32 and in log space, so that no rate or dispersion makes them infinite."""

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln

LOG_BOUND = 12.0
"""Log rates and log dispersions are held within +-this: exp stays far inside float32, gradients stay finite."""


def negative_binomial_nll(counts: jax.Array, log_mean: jax.Array, log_dispersion: jax.Array) -> jax.Array:
    """-log NB(counts; mean mu, inverse dispersion theta), elementwise, in nats.

    log NB = lgamma(x + t) - lgamma(t) - lgamma(x + 1) + t (log t - log(t + mu)) + x (log mu - log(t + mu)),
    variance mu + mu^2 / t (the parameterisation of scVI, Lopez et al. 2018). At count 0 it tends to mu as t grows, a
    Poisson's. Computed as logaddexp of logs: no underflow for rare genes, no cancellation for t >> mu.

    Args:
      counts: whole numbers >= 0.
      log_mean: log mu.
      log_dispersion: log theta.
    """
    log_mean = jnp.clip(log_mean, -2 * LOG_BOUND, LOG_BOUND)
    log_theta = jnp.clip(log_dispersion, -LOG_BOUND, LOG_BOUND)
    theta = jnp.exp(log_theta)
    combinations = gammaln(counts + theta) - gammaln(theta) - gammaln(counts + 1.0)
    # theta * log(theta / (theta + mu)) = -theta * log1p(mu / theta), exact also where mu << theta.
    failures = -theta * jax.nn.softplus(log_mean - log_theta)
    successes = counts * (log_mean - jnp.logaddexp(log_theta, log_mean))
    return -(combinations + failures + successes)


def masked_mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Mean of `values` over all axes with `weights` (bool or float), in float32; 0 where every weight is 0."""
    weights = weights.astype(jnp.float32)
    return jnp.sum(values.astype(jnp.float32) * weights) / jnp.maximum(jnp.sum(weights), 1.0)
