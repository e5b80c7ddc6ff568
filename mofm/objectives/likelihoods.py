"""Likelihoods of measured values, in float32 and in log space, so that no rate or dispersion makes them infinite.

Elementwise, each argument broadcast against the others; each gives -log of a probability, in nats. One for each omics
type: RNA negative binomial, ADT a mixture of two of them, ATAC Bernoulli, methylation beta-binomial.

Lgamma is avoided: a likelihood is a small difference of large ones, and at a dispersion of 1e5 float32 has lost its
first decimal. All that is needed of it is one ratio, `_log_multisets_rest`, whose large parts are cancelled on paper.
"""

import jax
import jax.numpy as jnp

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
    # theta * log(theta / (theta + mu)) = -theta * log1p(mu / theta), exact also where mu << theta.
    failures = -theta * jax.nn.softplus(log_mean - log_theta)
    successes = counts * (log_mean - jnp.logaddexp(log_theta, log_mean))
    return -(_log_multisets(log_theta, counts) + failures + successes)


def negative_binomial_mixture_nll(
    counts: jax.Array,
    log_background: jax.Array,
    log_foreground: jax.Array,
    background_logit: jax.Array,
    log_dispersion: jax.Array,
) -> jax.Array:
    """-log of pi NB(counts; background, theta) + (1 - pi) NB(counts; foreground, theta), elementwise, in nats.

    Antibodies are counted on cells without their protein too: pi is the chance that all of a count is such background
    (totalVI, Gayoso et al. 2021). Computed as logaddexp of the two logs. The two
    components may be exchanged with a change of the logit's sign; that the foreground is the larger is for the caller
    to see to, as totalVI does by foreground = background * (1 + something positive).

    Args:
      counts: whole numbers >= 0.
      log_background, log_foreground: log means of the components.
      background_logit: log(pi / (1 - pi)).
      log_dispersion: log theta, as in `negative_binomial_nll`, of both.
    """
    background = jax.nn.log_sigmoid(background_logit) - negative_binomial_nll(counts, log_background, log_dispersion)
    foreground = jax.nn.log_sigmoid(-background_logit) - negative_binomial_nll(counts, log_foreground, log_dispersion)
    return -jnp.logaddexp(background, foreground)


def bernoulli_nll(outcomes: jax.Array, logits: jax.Array) -> jax.Array:
    """-log of p where `outcomes`, of 1 - p elsewhere, p = sigmoid(logits); elementwise, in nats.

    Computed as softplus of -logit or of logit: exact for chances near 0 and 1, its slope never beyond 1. Accessibility
    is taken as open or not: counts of fragments say hardly more (PeakVI, Ashuach et al. 2022, and others).

    Args:
      outcomes: bool, or numbers of which those above 0 are open.
      logits: log(p / (1 - p)).
    """
    return jax.nn.softplus(jnp.where(outcomes > 0, -logits, logits))


def beta_binomial_nll(hits: jax.Array, totals: jax.Array, logits: jax.Array, log_concentration: jax.Array) -> jax.Array:
    """-log BetaBinomial(hits of totals; mean m = sigmoid(logits), concentration c), elementwise, in nats.

    log BB = log C(n, k) + log B(k + a, n - k + b) - log B(a, b), a = c m, b = c (1 - m): methylated reads of a region
    whose rate varies from cell to cell with variance m (1 - m) / (c + 1) (scMET, Kapourani et al. 2021). A binomial as
    c grows; 0 where there are no reads. Computed as a product of three numbers of multisets,
    C(a + k - 1, k) C(b + n - k - 1, n - k) / C(c + n - 1, n), which is the same.

    Args:
      hits: methylated reads k, whole numbers, 0 <= hits <= totals.
      totals: reads n.
      logits: log(m / (1 - m)).
      log_concentration: log c = log(a + b).
    """
    log_c = jnp.clip(log_concentration, -LOG_BOUND, LOG_BOUND)
    log_a, log_b = log_c + jax.nn.log_sigmoid(logits), log_c + jax.nn.log_sigmoid(-logits)
    misses = totals - hits
    # Each number of multisets is near to a power, and the powers nearly cancel: their logs are subtracted first.
    rest = _log_multisets_rest(log_c, totals) - _log_multisets_rest(log_a, hits) - _log_multisets_rest(log_b, misses)
    base = jax.nn.relu(log_c)
    return rest + hits * (base - jax.nn.relu(log_a)) + misses * (base - jax.nn.relu(log_b))


def sampled_nll(nll: jax.Array, nll_of_zero: jax.Array, is_zero: jax.Array, log_zero_weight: jax.Array) -> jax.Array:
    """-log of a count's probability given that it was shown, where zeros are shown less often than others; in nats.

    With w times as many zeros behind each that is shown, a count y of probability p(y) is shown in proportion to p(y) where
    it is above 0 and to p(0) / w where it is 0, so

        p(y | shown) = p(y) w^-[y = 0] / (p(0) / w + 1 - p(0)).

    Cases and controls are weighed so in epidemiology (Prentice and Pyke 1979); of `bernoulli_nll` it is log w added to the
    logit. What maximises it are rates among all features, whatever the share of zeros that was shown.

    Args:
      nll: of the count, as if all were shown.
      nll_of_zero: what it would be of a 0.
      is_zero: bool.
      log_zero_weight: log w; 0 where all are shown alike, inf where no zero is.
    """
    nll_of_zero = jnp.maximum(nll_of_zero, 1e-7)  # a mixture's may be 0 by rounding, where the logarithm has no slope
    log_above_zero = jnp.log(-jnp.expm1(-nll_of_zero))
    log_shown = jnp.logaddexp(-nll_of_zero - log_zero_weight, log_above_zero)
    return nll + log_shown + jnp.where(is_zero, log_zero_weight, 0.0)


def masked_mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Mean of `values` over all axes with `weights` (bool or float), in float32; 0 where every weight is 0."""
    weights = weights.astype(jnp.float32)
    return jnp.sum(values.astype(jnp.float32) * weights) / jnp.maximum(jnp.sum(weights), 1.0)


def _log_multisets(log_x: jax.Array, m: jax.Array) -> jax.Array:
    """log of Gamma(x + m) / (Gamma(x) m!), the number of multisets of m elements of x kinds; x > 0 real, m >= 0 whole."""
    return _log_multisets_rest(log_x, m) + m * jax.nn.relu(log_x)


def _log_multisets_rest(log_x: jax.Array, m: jax.Array) -> jax.Array:
    """log of Gamma(x + m) / (Gamma(x) m!) less m log(max(x, 1)): what the power of a large x leaves over.

    m! is Gamma(1 + m) / Gamma(1), so this is one rising factorial over another. Of each, Stirling's series at
    z = x + 4, where three terms of it are exact to 4e-8, and the four factors before; their large parts are divided by one
    another before any logarithm, so that none is the difference of two large ones. The first factor is taken from
    log x, so that an x too small for float32 still has a slope.
    """
    x = jnp.exp(log_x)
    z = x + 4.0
    last = jnp.where(m > 0, x + m, 1.0)  # where x and m are both 0, neither is divided by
    first = jnp.where(m > 0, log_x + jnp.log((1 + m) / last), 0.0)
    steps = [(x + i) * (i + 1 + m) / ((x + i + m) * (i + 1)) for i in (1, 2, 3)]
    # log of (z + m) / ((5 + m) max(x, 1)), near 0 where x is near 1 or m is large.
    few = jnp.log1p((jnp.minimum(x, 1.0) - 1) / (5 + m))
    many = jnp.log1p((4 + m) / jnp.maximum(x, 1.0)) - jnp.log(5 + m)
    each = jnp.where(x < 1, few, many)
    large = (z - 0.5) * jnp.log1p(m / z) - 4.5 * jnp.log1p(m / 5) + m * each
    series = _stirling(z + m) - _stirling(z) - _stirling(5 + m) + _stirling(5.0)
    return large + series + first + jnp.log(steps[0] * steps[1] * steps[2])


def _stirling(z: jax.Array | float) -> jax.Array:
    """lgamma(z) - ((z - 1/2) log z - z + log(2 pi) / 2), the small rest of Stirling's formula."""
    inverse = 1.0 / z
    square = inverse * inverse
    return inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260)))
