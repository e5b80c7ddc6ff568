"""A token is a feature, its value and its modality, in one space for every omics type.

The gene table is the one table of identities (and the node table of the regulatory network): a gene's token takes its
row. The value modulates the row, instead of being added beside it:

    token_D = row_D * scale(value)_D + shift(value)_D + modality_D

so that already the mean over a cell's tokens is a linear read-out of the expression profile in the space of gene rows,
and the blocks start from what a linear model knows. scale and shift are soft-binned: a value lies between V learned
centres and takes a weighted mean of their rows, smooth in the value, free in shape (xTrimoGene's auto-discretisation).
A hidden value takes the rows of [MASK]; the identity is never hidden.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mofm.axes import BINS, EMBED, GENES, MODALITIES, Modality
from mofm.batch import TokenBatch
from mofm.nn.layers import declare

ROW_START = 0.03
"""Deviation of fresh gene rows; what is known of a gene before training is added to it (`training/state.py`)."""
MAX_VALUE = 8.0
"""Upper end of the initial bin centres: log1p of 3,000 per ten thousand, above which hardly a value lies."""


class Tokenizer(nn.Module):
    """Embeds the tokens of one modality's views."""

    genes: int
    width: int
    bins: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, view: TokenBatch, hidden_BL: jax.Array, modality: Modality) -> tuple[jax.Array, jax.Array]:
        """
        Args:
          view: the tokens; where `hidden_BL` is True the value is not looked at.
          hidden_BL: bool, True where the value is replaced by [MASK].
          modality: the view's omics type.

        Returns:
          tokens_BLD in `dtype`, and rows_BLD, the tokens' rows of the gene table, float32.
        """
        table_GD = declare(self, "gene_table", (self.genes, self.width), (GENES, EMBED), ROW_START)
        modality_MD = declare(self, "modality", (len(MODALITIES), self.width), (None, EMBED), 0.02)
        shift_VD = declare(self, "value_shift", (self.bins + 1, self.width), (BINS, EMBED), 0.1)
        scale_VD = declare(self, "value_scale", (self.bins + 1, self.width), (BINS, EMBED), 0)
        rows_BLD = table_GD[view.features_BL]
        weights_BLV = self._soft_bins(jnp.where(hidden_BL, 0.0, view.values_BL), hidden_BL)
        # At the start the scale is the value itself, and 0 for [MASK]: the linear read-out.
        start_V = jnp.asarray(np.append(self._centres() / MAX_VALUE * 4.0, 0.0), jnp.float32)
        scale_BLD = weights_BLV @ (scale_VD + start_V[:, None])
        shift_BLD = weights_BLV @ shift_VD
        tokens_BLD = rows_BLD * (0.5 + scale_BLD) + shift_BLD + modality_MD[MODALITIES.index(modality)]
        return tokens_BLD.astype(self.dtype), rows_BLD

    def _centres(self) -> np.ndarray:
        return np.linspace(0.0, MAX_VALUE, self.bins, dtype=np.float32)

    def _soft_bins(self, values_BL: jax.Array, hidden_BL: jax.Array) -> jax.Array:
        """(B, L, V + 1) weights that sum to 1; the last bin is [MASK]'s."""
        sharpness = 1.0 / (MAX_VALUE / (self.bins - 1)) ** 2
        logits_BLV = -sharpness * jnp.square(values_BL[..., None] - self._centres())
        weights_BLV = jax.nn.softmax(logits_BLV, axis=-1) * ~hidden_BL[..., None]
        return jnp.concatenate([weights_BLV, hidden_BL[..., None].astype(jnp.float32)], axis=-1)
