"""Masked modelling: the likelihood of measurements that the model was not shown.

Only hidden tokens are scored. Their values never enter the computation of what predicts them (the library size does, as
the exposure that every count likelihood needs): the tests check that the gradient of a hidden token's prediction with
respect to its own value is exactly zero.

Tokens are a sample with few of the zeros, the fewer the shallower the cell, so a likelihood that took them for all
features would be highest for a model that finds out how many features a cell expresses, and adds that to every rate. (CITE-seq,
protein to RNA: four fifths of what 150 steps had learned was one such level a cell, and translations were the worse for
it.) What is scored is the chance of a measurement given that it was shown (`sampled_nll`); rates are those of whole cells.
"""

import jax
import jax.numpy as jnp

from mofm.axes import Modality
from mofm.batch import TokenBatch, log_exposure, log_zero_weight
from mofm.nn.assembly import Outputs
from mofm.nn.decoder import Prediction
from mofm.objectives.likelihoods import (
    bernoulli_nll,
    beta_binomial_nll,
    masked_mean,
    negative_binomial_mixture_nll,
    negative_binomial_nll,
    sampled_nll,
)


def masked_modelling(
    outputs: Outputs, view: TokenBatch, hidden_BL: jax.Array, modality: Modality
) -> dict[str, jax.Array]:
    """Mean negative log-likelihood of the hidden measurements, in nats a token.

    Returns:
      "token_nll": predicted from the token's own state, which sees the cell's other tokens.
      "cell_nll": predicted from the cell embedding alone.
      "pool_size": mean square of what the attention pool adds to the cell embedding, over cells with tokens.
      "hidden": number of tokens scored.
    """
    prediction = outputs.prediction
    return {
        "token_nll": masked_mean(likelihood(prediction, prediction.token_BL, view, modality), hidden_BL),
        "cell_nll": masked_mean(likelihood(prediction, prediction.cell_BL, view, modality), hidden_BL),
        "pool_size": _pool_size(outputs.pooled_BD, view.mask_BL),
        "hidden": hidden_BL.sum(),
    }


def _pool_size(pooled_BD: jax.Array, mask_BL: jax.Array) -> jax.Array:
    """Mean square over cells that have tokens: what the pool makes of padding alone means nothing."""
    if not pooled_BD.size:
        return jnp.zeros(())
    return masked_mean(jnp.mean(jnp.square(pooled_BD), axis=1), mask_BL.any(axis=1))


def likelihood(prediction: Prediction, predictor_BL: jax.Array, view: TokenBatch, modality: Modality) -> jax.Array:
    """nll_BL of the view's measurements under one of a prediction's predictors.

    RNA: negative binomial counts. ADT: a mixture of background and foreground counts. ATAC: open or not, the log odds
    rising with the log of the depth as the chance of a rare event does. Methylation: beta-binomial reads. Each given that
    the measurement was shown.
    """
    if modality == "methylation":
        return beta_binomial_nll(view.counts_BL, view.totals_BL, predictor_BL, prediction.spread_BL)
    log_exposure_B1, log_weight_B1 = log_exposure(view.library_B)[:, None], log_zero_weight(view)[:, None]
    predictor_BL = predictor_BL + log_exposure_B1
    if modality == "atac":
        return bernoulli_nll(view.counts_BL, predictor_BL + log_weight_B1)

    def of(counts_BL: jax.Array) -> jax.Array:
        if modality == "rna":
            return negative_binomial_nll(counts_BL, predictor_BL, prediction.spread_BL)
        background_BL, logit_BL = prediction.background_BL + log_exposure_B1, prediction.background_logit_BL
        return negative_binomial_mixture_nll(counts_BL, background_BL, predictor_BL, logit_BL, prediction.spread_BL)

    zeros_BL = jnp.zeros_like(view.counts_BL)
    return sampled_nll(of(view.counts_BL), of(zeros_BL), view.counts_BL == 0, log_weight_B1)
