"""The transformer: pre-norm bidirectional blocks, scanned over depth and rematerialised.

A stack's tokens attend to each other, or to the tokens of another view of their cell (`translator.py`). One block is
compiled once, whatever the depth: its weights carry a leading "blocks" axis. Residual branches start at 1/sqrt(2 X) of
their usual scale (GPT-2), so that the stream's variance does not grow with depth.
"""

from typing import Literal

import flax.linen as nn
import jax

from mofm.axes import BLOCKS, CELLS, TOKENS
from mofm.nn.attention import Attention
from mofm.nn.layers import RMSNorm, SwiGLU
from mofm.parallel.rules import constrain

Remat = Literal["none", "dots", "full"]
"""What the backward pass keeps: everything; the outputs of weight products; each block's input alone."""


class Block(nn.Module):
    """x + attention(norm(x), seen), then x + feed-forward(norm(x)); without `seen_BMD`, norm(x) sees itself."""

    heads: int
    ffn: int
    out_scale: float

    @nn.compact
    def __call__(
        self, x_BLD: jax.Array, mask_BM: jax.Array, seen_BMD: jax.Array | None = None
    ) -> tuple[jax.Array, None]:
        x_BLD = constrain(x_BLD, (CELLS, TOKENS, None))
        normed_BLD = RMSNorm(name="norm_1")(x_BLD)
        seen_BMD = normed_BLD if seen_BMD is None else seen_BMD
        x_BLD += Attention(self.heads, self.out_scale, name="attention")(normed_BLD, seen_BMD, mask_BM)
        x_BLD += SwiGLU(self.ffn, self.out_scale, name="ffn")(RMSNorm(name="norm_2")(x_BLD))
        return x_BLD, None


class Encoder(nn.Module):
    """A stack of blocks and a final norm: (B, L, D) -> (B, L, D). Padding is never attended to."""

    blocks: int
    heads: int
    ffn: int
    remat: Remat = "none"

    @nn.compact
    def __call__(self, x_BLD: jax.Array, mask_BM: jax.Array, seen_BMD: jax.Array | None = None) -> jax.Array:
        """The tokens after they saw each other, or the M tokens `seen_BMD`; `mask_BM` is of what is seen."""
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
        x_BLD, _ = stack(self.heads, self.ffn, (2 * self.blocks) ** -0.5, name="blocks")(x_BLD, mask_BM, seen_BMD)
        return RMSNorm(name="norm")(x_BLD)
