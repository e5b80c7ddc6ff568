"""The transformer: pre-norm bidirectional blocks, scanned over depth and rematerialised.

One block is compiled once, whatever the depth: its weights carry a leading "blocks" axis. Residual branches start at
1/sqrt(2 X) of their usual scale (GPT-2), so that the stream's variance does not grow with depth.
"""

from typing import Literal

import flax.linen as nn
import jax

from mofm.axes import BLOCKS, CELLS, TOKENS
from mofm.nn.attention import SelfAttention
from mofm.nn.layers import RMSNorm, SwiGLU
from mofm.parallel.rules import constrain

Remat = Literal["none", "dots", "full"]
"""What the backward pass keeps: everything; the outputs of weight products; each block's input alone."""


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    heads: int
    ffn: int
    out_scale: float

    @nn.compact
    def __call__(self, x_BLD: jax.Array, mask_BL: jax.Array) -> tuple[jax.Array, None]:
        x_BLD = constrain(x_BLD, (CELLS, TOKENS, None))
        x_BLD += SelfAttention(self.heads, self.out_scale, name="attention")(RMSNorm(name="norm_1")(x_BLD), mask_BL)
        x_BLD += SwiGLU(self.ffn, self.out_scale, name="ffn")(RMSNorm(name="norm_2")(x_BLD))
        return x_BLD, None


class Encoder(nn.Module):
    """A stack of blocks and a final norm: (B, L, D) -> (B, L, D). Padding is never attended to."""

    blocks: int
    heads: int
    ffn: int
    remat: Remat = "none"

    @nn.compact
    def __call__(self, x_BLD: jax.Array, mask_BL: jax.Array) -> jax.Array:
        block = Block
        if self.remat != "none":
            policies = {"dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable, "full": None}
            block = nn.remat(Block, prevent_cse=False, policy=policies[self.remat])
        stack = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.blocks,
            metadata_params={nn.PARTITION_NAME: BLOCKS},
        )
        x_BLD, _ = stack(self.heads, self.ffn, (2 * self.blocks) ** -0.5, name="blocks")(x_BLD, mask_BL)
        return RMSNorm(name="norm")(x_BLD)
