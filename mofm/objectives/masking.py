"""Which tokens' values are hidden: a pure function of the key."""

import jax
import jax.numpy as jnp


def hide(key: jax.Array, mask_BL: jax.Array, rate: float, rate_spread: float) -> jax.Array:
    """Choose the tokens to hide.

    Each cell draws its own rate, uniformly in rate +- rate_spread, and hides each of its tokens with that probability:
    a model that meets cells more and less hidden also embeds those of which nothing is hidden.

    Args:
      key: PRNG key; the same key hides the same tokens on any number of devices.
      mask_BL: True for tokens, False for padding, which is never hidden.
      rate, rate_spread: in (0, 1), with 0 <= rate - rate_spread and rate + rate_spread <= 1.

    Returns:
      hidden_BL, bool.
    """
    rate_key, token_key = jax.random.split(key)
    cells = mask_BL.shape[0]
    rate_B1 = jax.random.uniform(rate_key, (cells, 1), minval=rate - rate_spread, maxval=rate + rate_spread)
    return (jax.random.uniform(token_key, mask_BL.shape) < rate_B1) & mask_BL.astype(jnp.bool_)
