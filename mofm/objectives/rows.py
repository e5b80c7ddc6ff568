"""Rows of embeddings as the objectives that compare cells take them: of unit length, matched by cell, and a sample."""

import jax
import jax.numpy as jnp
import numpy as np

SHORTEST = 1e-6
"""Rows shorter than this have no direction: they are taken as 0, and get no gradient rather than one of 1 / length."""


def unit_rows(x_BE: jax.Array) -> jax.Array:
    """float32 rows of length 1; a row shorter than SHORTEST is 0, its gradient too."""
    x_BE = x_BE.astype(jnp.float32)
    squared_B1 = jnp.sum(jnp.square(x_BE), axis=1, keepdims=True)
    has_length_B1 = squared_B1 > SHORTEST**2
    return jnp.where(has_length_B1, x_BE * jax.lax.rsqrt(jnp.where(has_length_B1, squared_B1, 1.0)), 0.0)


def centred(x_BE: jax.Array, mask_B: jax.Array) -> jax.Array:
    """float32 rows less the mean of those that the mask has; others are 0, whatever they hold."""
    x_BE = jnp.where(mask_B[:, None], x_BE.astype(jnp.float32), 0.0)
    mean_E = jnp.sum(x_BE, axis=0) / jnp.maximum(jnp.sum(mask_B), 1)
    return jnp.where(mask_B[:, None], x_BE - mean_E, 0.0)


def row_of_cell(cell_B: jax.Array, other_cell_C: jax.Array) -> jax.Array:
    """int32 row_B: a row of `other_cell_C` that has the same cell; -1 where none has, and for padding (-1).

    Of several rows of a cell it is the first.
    """
    order_C = jnp.argsort(other_cell_C, stable=True).astype(jnp.int32)
    ascending_C = other_cell_C[order_C]
    place_B = jnp.minimum(jnp.searchsorted(ascending_C, cell_B), len(other_cell_C) - 1)
    return jnp.where((cell_B >= 0) & (ascending_C[place_B] == cell_B), order_C[place_B], -1)


def sample_rows(key: jax.Array, mask_B: jax.Array, rows: int) -> tuple[jax.Array, jax.Array]:
    """A uniform sample without replacement of the rows that the mask has, for what compares all with all.

    Args:
      key: PRNG key; the same key draws the same on any number of devices.
      mask_B: bool.
      rows: S, the most rows; at most B.

    Returns:
      row_S: int32.
      mask_S: bool. False where the mask has fewer than S rows: that place holds some row that is none of them.
    """
    score_B = jnp.where(mask_B, jax.random.uniform(key, mask_B.shape), -np.inf)
    score_S, row_S = jax.lax.top_k(score_B, min(rows, len(mask_B)))
    return row_S.astype(jnp.int32), score_S >= 0
