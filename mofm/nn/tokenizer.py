"""A token is a feature, its value and its modality, in one space for every omics type.

The gene table is the one table of identities, and the node table of the regulatory network, which shows its rows who
regulates whom before they come here (`grn.py`). A gene's token takes its row; a region's or a protein's takes the
weighted mean of its genes' rows (`FeatureSpace`), and a region adds a projection of where it lies about them and, as an
option, a hashed row of its own. There is no vocabulary of peaks: a new dataset's are understood from their places. The value
modulates the row, instead of being added beside it:

    token_D = row_D * (1/2 + scale(value)_D) + shift(value)_D + modality_D

so that already the mean over a cell's tokens is a linear read-out of the expression profile in the space of gene rows,
and the blocks start from what a linear model knows. scale and shift are each modality's own, and soft-binned: a value
lies between V evenly spaced centres and takes a weighted mean of their learned rows, smooth in the value, free in shape
(after xTrimoGene's auto-discretisation, which learns the bins too). A hidden value takes the rows of [MASK]; the identity is
never hidden.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mofm.axes import BINS, CELLS, EMBED, GENES, MODALITIES, TOKENS, Modality
from mofm.batch import PLACES, FeatureSpace, TokenBatch
from mofm.nn.layers import declare
from mofm.parallel.rules import constrain

MAX_VALUE = {"rna": 8.0, "atac": 8.0, "adt": 8.0, "methylation": 1.0}
"""Upper end of the bin centres. RNA: log1p of 3,000 per ten thousand, above which hardly a value lies."""


class Tokenizer(nn.Module):
    """Embeds the tokens of one modality's views."""

    width: int
    bins: int
    region_rows: int
    dtype: jnp.dtype

    def setup(self):
        """Declares the weights: every one whatever the modality, so that all views share one tree."""
        kinds, width = len(MODALITIES), self.width
        self.modality_MD = declare(self, "modality", (kinds, width), (None, EMBED), 0.02)
        self.shift_MVD = declare(self, "value_shift", (kinds, self.bins + 1, width), (None, BINS, EMBED), 0.1)
        self.scale_MVD = declare(self, "value_scale", (kinds, self.bins + 1, width), (None, BINS, EMBED), 0)
        self.place_PD = declare(self, "place", (PLACES, width), (None, EMBED), 0)
        self.own_RD = declare(self, "region_table", (max(self.region_rows, 1), width), (None, EMBED), 0)

    def __call__(
        self,
        genes_GD: jax.Array,
        view: TokenBatch,
        hidden_BL: jax.Array,
        modality: Modality,
        space: FeatureSpace | None,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """
        Args:
          genes_GD: float32, the genes' rows.
          view: the tokens; where `hidden_BL` is True the value is not looked at.
          hidden_BL: bool, True where the value is replaced by [MASK].
          modality: the view's omics type.
          space: its features; None for RNA.

        Returns:
          tokens_BLD in `dtype`; rows_BLD, the identities of the tokens' features, float32; and of these what their genes say.
        """
        which = MODALITIES.index(modality)
        by_genes_BLD = self._by_genes(genes_GD, view.features_BL, space)
        rows_BLD = self._with_own(by_genes_BLD, view.features_BL, space)
        weights_BLV = _soft_bins(jnp.where(hidden_BL, 0.0, view.values_BL), hidden_BL, self.bins, MAX_VALUE[modality])
        # At the start the scale rises in a line from 0 to 4 with the value, and is 0 for [MASK]: what a linear read-out wants.
        start_V = jnp.asarray(np.append(np.linspace(0.0, 4.0, self.bins), 0.0), jnp.float32)
        scale_BLD = weights_BLV @ (self.scale_MVD[which] + start_V[:, None])
        shift_BLD = weights_BLV @ self.shift_MVD[which]
        tokens_BLD = rows_BLD * (0.5 + scale_BLD) + shift_BLD + self.modality_MD[which]
        return tokens_BLD.astype(self.dtype), rows_BLD, by_genes_BLD

    def rows(self, genes_GD: jax.Array, features_BL: jax.Array, space: FeatureSpace | None) -> jax.Array:
        """rows_BLD, the identities of features."""
        return self._with_own(self._by_genes(genes_GD, features_BL, space), features_BL, space)

    def _by_genes(self, genes_GD: jax.Array, features_BL: jax.Array, space: FeatureSpace | None) -> jax.Array:
        # The table is gathered along fsdp before rows are taken of it, and its gradient is summed over devices as a table. Left
        # to the partitioner, on a mesh of data and fsdp every token's gradient was gathered on every device.
        genes_GD = constrain(genes_GD, (GENES, None))
        if space is None:
            return constrain(genes_GD[features_BL], (CELLS, TOKENS, None))
        genes_BLK, weights_BLK = space.genes_FK[features_BL], space.weights_FK[features_BL]
        # One gene at a time: the K rows of every token together would be the largest array of the step.
        rows_BLD = sum(weights_BLK[..., k, None] * genes_GD[genes_BLK[..., k]] for k in range(space.genes_FK.shape[1]))
        return constrain(rows_BLD, (CELLS, TOKENS, None))

    def _with_own(self, rows_BLD: jax.Array, features_BL: jax.Array, space: FeatureSpace | None) -> jax.Array:
        if space is None:
            return rows_BLD
        rows_BLD += space.place_FP[features_BL] @ self.place_PD
        if self.region_rows:
            rows_BLD += self.own_RD[space.bucket_F[features_BL] % self.region_rows]
        return constrain(rows_BLD, (CELLS, TOKENS, None))


def _soft_bins(values_BL: jax.Array, hidden_BL: jax.Array, bins: int, max_value: float) -> jax.Array:
    """(B, L, V + 1) weights that sum to 1; the last bin is [MASK]'s."""
    centres_V = np.linspace(0.0, max_value, bins, dtype=np.float32)
    sharpness = 1.0 / (max_value / (bins - 1)) ** 2
    logits_BLV = -sharpness * jnp.square(values_BL[..., None] - centres_V)
    weights_BLV = jax.nn.softmax(logits_BLV, axis=-1) * ~hidden_BL[..., None]
    return jnp.concatenate([weights_BLV, hidden_BL[..., None].astype(jnp.float32)], axis=-1)
