"""The linear translation as the model carries it: constants, fitted in closed form before training and not trained on.

    profile_R = depth * (mean of the tokens' axes_R(feature), weighted by their values, - centre_R), and the log of the depth
    change of a feature = <profile_R of the source, loading_R of the feature>
    predictor = mean predictor + change, of RNA and ATAC held back above 0 + level of the feature + what training adds
    log spread = the mean predictor's + spread of the feature + what training adds

The profile is the linear read-out (`readout.py`) as it was at the start, apart from it: rows and embeddings move in training
for the sake of other objectives, and loadings that were fitted to the old ones would fit them ever worse. (CITE-seq, RNA to
protein: .43 at the start, .39 after 300 steps with loadings that read the moving embedding.)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mofm.axes import Modality
from mofm.batch import LEAST_WEIGHT, Array, TokenBatch, depth_weight, log_exposure, read_values

RARELY_SEEN = ("rna", "atac")
"""Omics whose measurements are mostly zero."""


class Part(NamedTuple):
    """Some columns of the linear profile, float32.

    Attributes:
      axes_FR: what each feature's value is multiplied by; its gain and the columns' scales are in it.
      gain_F: by which each feature weighs in what the values are shares of.
      centre_R: the mean of an average cell.
    """

    axes_FR: Array
    gain_F: Array
    centre_R: Array


class Reader(NamedTuple):
    """How one modality's views become linear profiles.

    Attributes:
      mean_F: float32. The value of each feature that adds nothing; 0 but for methylation.
      parts: one after the other.
      log_depth: float32. The log of the depth at which the last column is 0.
    """

    mean_F: Array
    parts: tuple[Part, ...]
    log_depth: Array


def linear_profile(reader: Reader, view: TokenBatch, modality: Modality) -> jax.Array:
    """profile_BR of views: the parts' columns, and the log of the depth. Padding does not enter."""
    value_BL, weight_BL = read_values(view, modality, reader.mean_F[view.features_BL])
    value_BL, weight_BL = (jnp.where(view.mask_BL, leaf_BL, 0.0) for leaf_BL in (value_BL, weight_BL))
    depth_B1 = depth_weight(view.library_B, modality)[:, None]
    columns = []
    for part in reader.parts:
        total_BR = jnp.sum(value_BL[..., None] * part.axes_FR[view.features_BL], axis=1)
        weight_B1 = jnp.sum(weight_BL * part.gain_F[view.features_BL], axis=1, keepdims=True)
        columns.append(depth_B1 * (total_BR - weight_B1 * part.centre_R) / (weight_B1 + LEAST_WEIGHT))
    log_depth_B = jnp.where(view.library_B > 0, log_exposure(view.library_B) - reader.log_depth, 0.0)
    return jnp.concatenate([*columns, log_depth_B[:, None]], axis=1)


class LinearAnswer(NamedTuple):
    """What the linear translation adds to each feature's predictor, and to the log of its spread, float32."""

    predictor_BL: jax.Array
    spread_BL: jax.Array


def linear_answer(
    profile_BR: jax.Array, loading_FR: jax.Array, features_BL: jax.Array, target: Modality
) -> LinearAnswer:
    """Of features of the target, nats. loading_FR has a column for each of the profile's, and then level and spread."""
    loading_BLR = loading_FR[features_BL]
    change_BL = jnp.sum(profile_BR[:, None] * loading_BLR[..., :-2], axis=2)
    if target in RARELY_SEEN:
        change_BL = _held_back(change_BL)
    return LinearAnswer(change_BL + loading_BLR[..., -2], loading_BLR[..., -1])


def _held_back(change_BL: jax.Array) -> jax.Array:
    # The regression gives by which share the mean is higher or lower: a gene five times as high in one type would be exp(4)
    # times as high if that were read as nats. Below the mean they are nats, as no share is below -1, and above it something
    # between the two. (ridge regression on proteins of CITE-seq, Pearson of RNA: .067 as shares, .069 so, .070 as nats, of
    # which the likelihood is as bad as the mean's; ATAC of A549 .0655, .0662, .0663, of simulated cells .103, .106, .106.)
    raised_BL = jnp.maximum(change_BL, 0.0)
    return jnp.minimum(change_BL, 0.0) + 2 * jnp.log1p(raised_BL / 2)
