"""Attention over sets of tokens: one function for every device, and the two modules that use it.

`attend` has one meaning (softmax of q.k / sqrt(K) over the keys that the mask allows) and the fastest form of it that we
have proved on each platform, chosen when the program is lowered: one compiled on a laptop for a TPU gets the TPU's.

  cpu      a scan over cells of plain two-dimensional products. XLA:CPU runs batched small products an order of magnitude
           under its matmul rate; this form was 6x faster, forward and backward, at 64 cells x 192 tokens (RESULTS.md).
  others   `jax.nn.dot_product_attention` as XLA compiles it, logits in full. cuDNN's flash kernel would have to be asked for
           (`implementation="cudnn"`), and so would a TPU's: no accelerator was at hand to prove one, so none is.

Queries and keys are normalised to unit RMS before the product (QK-norm, Henry et al. 2020), so logits stay bounded in bf16.
There are no positions: a cell is a set, and permuting its tokens permutes the states and changes nothing else.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mofm.axes import CELLS, DATA, EMBED, FSDP, HEAD_WIDTH, HEADS, TENSOR
from mofm.nn.layers import RMSNorm, declare, product
from mofm.parallel.rules import partition

POOL_START = 0.02
"""Scale of the pool's values at the start, against a profile of unit size: the embedding starts as the linear one."""
MASKED_LOGIT = -1e9
"""Added to the logits of padding: exp underflows to exactly zero, and a row of padding alone stays finite."""


def attend(q_BLHK: jax.Array, k_BMHK: jax.Array, v_BMHK: jax.Array, mask_BM: jax.Array) -> jax.Array:
    """Softmax attention of L queries over M keys, in the dtype of the inputs with float32 softmax.

    Args:
      q_BLHK, k_BMHK, v_BMHK: queries, keys and values.
      mask_BM: bool, True where a key may be attended to.

    Returns:
      (B, L, H, K), finite also where a cell's mask is all False.
    """
    return jax.lax.platform_dependent(q_BLHK, k_BMHK, v_BMHK, mask_BM, cpu=_attend_by_cell, default=_attend_fused)


def _attend_fused(q_BLHK, k_BMHK, v_BMHK, mask_BM):
    return jax.nn.dot_product_attention(q_BLHK, k_BMHK, v_BMHK, mask=mask_BM[:, None, None, :])


def _attend_by_cell(q_BLHK, k_BMHK, v_BMHK, mask_BM):
    """Each device's cells and heads by themselves: a scan over cells that lie on several would gather all of them on each."""
    mesh, states, mask = (
        jax.sharding.get_abstract_mesh(),
        partition((CELLS, None, HEADS, None)),
        partition((CELLS, None)),
    )
    cells, heads = q_BLHK.shape[0], q_BLHK.shape[2]
    if mesh.size <= 1 or cells % (mesh.shape[DATA] * mesh.shape[FSDP]) or heads % mesh.shape[TENSOR]:
        return _scan_cells(q_BLHK, k_BMHK, v_BMHK, mask_BM)
    specs = (states, states, states, mask)
    return jax.shard_map(_scan_cells, in_specs=specs, out_specs=states)(q_BLHK, k_BMHK, v_BMHK, mask_BM)


def _scan_cells(q_BLHK, k_BMHK, v_BMHK, mask_BM):
    heads, width = q_BLHK.shape[-2:]

    @jax.checkpoint  # the probabilities are cheaper to take again than to store
    def one_cell(q_LHK, k_MHK, v_MHK, mask_M):
        bias_M = jnp.where(mask_M, 0.0, MASKED_LOGIT)

        def one_head(h):
            logits_LM = (q_LHK[:, h] @ k_MHK[:, h].T).astype(jnp.float32) * width**-0.5 + bias_M
            return jax.nn.softmax(logits_LM, axis=-1).astype(v_MHK.dtype) @ v_MHK[:, h]

        return jnp.stack([one_head(h) for h in range(heads)], axis=1)

    return jax.lax.map(lambda cell: one_cell(*cell), (q_BLHK, k_BMHK, v_BMHK, mask_BM))


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
