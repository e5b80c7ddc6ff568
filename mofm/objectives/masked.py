"""Masked modelling: the likelihood of counts that the model was not shown.

Only hidden tokens are scored. Their counts never enter the computation of what predicts them (the library size does, as
the exposure that every count likelihood needs): the tests check that the gradient of a hidden token's prediction with
respect to its own value is exactly zero.
"""

import jax
import jax.numpy as jnp

from mofm.batch import TokenBatch, log_exposure
from mofm.nn.model import Outputs
from mofm.objectives.likelihoods import masked_mean, negative_binomial_nll


def masked_modelling(outputs: Outputs, view: TokenBatch, hidden_BL: jax.Array) -> dict[str, jax.Array]:
    """Mean negative log-likelihood of the hidden counts, in nats a token.

    Returns:
      "token_nll": predicted from the token's own state, which sees the cell's other tokens.
      "cell_nll": predicted from the cell embedding alone.
      "hidden": number of tokens scored.
    """
    log_exposure_B1 = log_exposure(view.library_B)[:, None]

    def nll(log_rate_BL: jax.Array) -> jax.Array:
        nll_BL = negative_binomial_nll(view.counts_BL, log_rate_BL + log_exposure_B1, outputs.log_dispersion_BL)
        return masked_mean(nll_BL, hidden_BL)

    return {
        "token_nll": nll(outputs.token_log_rate_BL),
        "cell_nll": nll(outputs.cell_log_rate_BL),
        "hidden": jnp.sum(hidden_BL),
    }
