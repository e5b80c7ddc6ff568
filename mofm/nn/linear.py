"""The linear translation as the model carries it: constants, fitted in closed form before training and not trained on.

    profile_R = depth * mean over the shown tokens of (value - mean of the feature) * axes_R(feature)  -  centre_R
    predictor of a feature = mean predictor + <profile_R of the source, loading_R of the feature> + what training adds

The profile is the linear read-out (`readout.py`) as it was at the start, apart from it: rows and embeddings move in training
for the sake of other objectives, and loadings that were fitted to the old ones would fit them ever worse. (CITE-seq, RNA to
protein: .43 at the start, .39 after 300 steps with loadings that read the moving embedding.)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mofm.axes import Modality
from mofm.batch import WEIGHED_BY_DEPTH, Array, TokenBatch, log_exposure


class Reader(NamedTuple):
    """How one modality's views become linear profiles, float32.

    Attributes:
      axes_FR: what a unit of each feature's value adds.
      mean_F: the value of each feature that adds nothing; 0 but for methylation.
      centre_R: the profile of an average cell.
    """

    axes_FR: Array
    mean_F: Array
    centre_R: Array


def linear_profile(reader: Reader, view: TokenBatch, hidden_BL: jax.Array, modality: Modality) -> jax.Array:
    """profile_BR of views. Hidden values and padding do not enter."""
    shown_BL = view.mask_BL & ~hidden_BL
    values_BL = jnp.where(shown_BL, view.values_BL - reader.mean_F[view.features_BL], 0.0)
    total_BR = jnp.einsum("bl,blr->br", values_BL, reader.axes_FR[view.features_BL])
    mean_BR = total_BR / jnp.maximum(jnp.sum(shown_BL, axis=1, keepdims=True), 1)
    if modality in WEIGHED_BY_DEPTH:
        mean_BR *= jnp.exp(log_exposure(view.library_B) / 2)[:, None]
    return mean_BR - reader.centre_R


def linear_predictor(profile_BR: jax.Array, loading_FR: jax.Array, features_BL: jax.Array) -> jax.Array:
    """predictor_BL, nats above the mean predictor, of features of the target."""
    return jnp.einsum("br,blr->bl", profile_BR, loading_FR[features_BL])
