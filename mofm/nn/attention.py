"""The two modules that use attention over sets of tokens: among tokens, and of a cell's summary to its tokens.

Queries and keys are normalised to unit RMS before the product (QK-norm, Henry et al. 2020), so logits stay bounded in bf16.
There are no positions: a cell is a set, and permuting its tokens permutes the states and changes nothing else.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mofm.axes import EMBED, HEAD_WIDTH, HEADS
from mofm.nn.attend import MASKED_LOGIT, attend
from mofm.nn.layers import RMSNorm, declare, product

POOL_START = 0.02
"""Scale of the pool's values at the start, against a profile of unit size: the embedding starts as the linear one."""


class Attention(nn.Module):
    """Multi-head attention of a cell's tokens to each other, or to M tokens of another of its views."""

    heads: int
    out_scale: float = 1.0

    @nn.compact
    def __call__(self, x_BLD: jax.Array, seen_BMD: jax.Array, mask_BM: jax.Array) -> jax.Array:
        """What the tokens `x_BLD` gather of `seen_BMD` (the same, for self-attention), where `mask_BM` allows; (B, L, D)."""
        width = x_BLD.shape[-1]
        head_width = width // self.heads
        qkv = {}
        for name, of in (("query", x_BLD), ("key", seen_BMD), ("value", seen_BMD)):
            shape, axes = (width, self.heads, head_width), (EMBED, HEADS, HEAD_WIDTH)
            w_DHK = declare(self, name, shape, axes, width**-0.5)
            qkv[name] = product(of, w_DHK)
        q_BLHK = RMSNorm(HEAD_WIDTH, name="query_norm")(qkv["query"])
        k_BMHK = RMSNorm(HEAD_WIDTH, name="key_norm")(qkv["key"])
        out_BLHK = attend(q_BLHK, k_BMHK, qkv["value"], mask_BM)
        out_HKD = declare(
            self, "out", (self.heads, head_width, width), (HEADS, HEAD_WIDTH, EMBED), self.out_scale * width**-0.5
        )
        return product(out_BLHK, out_HKD, contracted=2)


class AttentionPool(nn.Module):
    """A cell's summary: a learned query of each head attends to the cell's tokens (Set Transformer, Lee et al. 2019)."""

    heads: int

    @nn.compact
    def __call__(self, x_BLD: jax.Array, mask_BL: jax.Array) -> jax.Array:
        """Tokens (B, L, D) -> (B, D)."""
        cells, _, width = x_BLD.shape
        head_width = width // self.heads
        query_HK = declare(self, "query", (self.heads, head_width), (HEADS, HEAD_WIDTH), 1.0)
        key_DHK = declare(self, "key", (width, self.heads, head_width), (EMBED, HEADS, HEAD_WIDTH), width**-0.5)
        value_DHK = declare(
            self, "value", (width, self.heads, head_width), (EMBED, HEADS, HEAD_WIDTH), POOL_START * width**-0.5
        )
        k_BLHK = RMSNorm(HEAD_WIDTH, name="key_norm")(product(x_BLD, key_DHK))
        v_BLHK = product(x_BLD, value_DHK)
        # One query a head: elementwise over L, so no kernel is worth its launch.
        logits_BHL = jnp.einsum("hk,blhk->bhl", query_HK, k_BLHK.astype(jnp.float32)) * head_width**-0.5
        logits_BHL = jnp.where(mask_BL[:, None, :], logits_BHL, MASKED_LOGIT)
        pooled_BHK = jnp.einsum("bhl,blhk->bhk", jax.nn.softmax(logits_BHL, axis=-1).astype(x_BLD.dtype), v_BLHK)
        return pooled_BHK.reshape(cells, width)
