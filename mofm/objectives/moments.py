"""Mean and variance of what a likelihood says of a measurement: what a translation reports, and what it is read back by.

    RNA          negative binomial: mu, mu + mu^2 / theta
    ADT          of the mixture of background and foreground: the mean of the means, and the law of total variance
    ATAC         open or not: p, p (1 - p)
    methylation  the fraction of methylated reads: m, m (1 - m) / (concentration + 1), as reads grow many

In float32; bounded as `likelihoods.py` bounds log rates, so that nothing is infinite.
"""

import jax
import jax.numpy as jnp

from mofm.axes import Modality
from mofm.batch import log_exposure
from mofm.nn.decoder import Prediction
from mofm.objectives.likelihoods import LOG_BOUND


def moments(
    prediction: Prediction, predictor_BL: jax.Array, library_B: jax.Array, modality: Modality
) -> tuple[jax.Array, jax.Array]:
    """mean_BL and variance_BL of the measurement at a depth of `library_B`, under one of a prediction's predictors."""
    if modality == "methylation":
        mean_BL = jax.nn.sigmoid(predictor_BL)
        return mean_BL, mean_BL * (1 - mean_BL) / (_exp(prediction.spread_BL) + 1)
    depth_B1 = log_exposure(library_B)[:, None]
    if modality == "atac":
        chance_BL = jax.nn.sigmoid(predictor_BL + depth_B1)
        return chance_BL, chance_BL * (1 - chance_BL)
    foreground_BL, theta_BL = _exp(predictor_BL + depth_B1), _exp(prediction.spread_BL)
    if modality == "rna":
        return foreground_BL, foreground_BL + foreground_BL**2 / theta_BL
    background_BL = _exp(prediction.background_BL + depth_B1)
    alone_BL = jax.nn.sigmoid(prediction.background_logit_BL)
    mean_BL = alone_BL * background_BL + (1 - alone_BL) * foreground_BL
    square_BL = alone_BL * background_BL**2 + (1 - alone_BL) * foreground_BL**2
    return mean_BL, mean_BL + square_BL * (1 + 1 / theta_BL) - mean_BL**2


def _exp(log_rate: jax.Array) -> jax.Array:
    return jnp.exp(jnp.clip(log_rate, -2 * LOG_BOUND, LOG_BOUND))
