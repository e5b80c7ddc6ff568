"""The linear read-out: what a linear model knows of a cell, kept beside what the blocks make of it.

    profile_D = scale_D * (library / LIBRARY_SCALE) ** 1/4 * (mean of the shown tokens' row_D(gene), weighted by
                value * gain(gene),  less  that mean of an average cell)

With rows and gains that start as loadings and scales of principal components (see `linear/components.py`), the profile
starts as the cell's place along them. It is a mean of rows, and its weights sum to 1: neither the depth of a cell, nor how
many of its genes are shown, nor a level that all rows have in common moves it. A mean over tokens, times the square root of
the depth, does grow with depth, and shallow cells then lie together whatever they are. (Types by 15 neighbours, simulated
cells: .757 so and .813 as shares; A549's hours, RNA, .887 and .894. Simulated RNA and ATAC at the start: FOSCTTM .262 and .141,
A549's .338 and .295. Of the variance .14 to .27 lay along depth, and .02.) A share is the noisier the fewer reads it is of,
and the factor before it holds such cells back. (None, this, and the square root: FOSCTTM of A549 .330, .295 and .282, of
simulated cells .153, .141 and .146.) The cell embedding is the profile plus the attention pool, so training departs from the
linear baseline, where it would otherwise first have to find it. Rows and gains are learned on: rows are the gene table's own.

Other omics are read out in the same space, through the genes of their features, so a cell's chromatin lands near its
expression before any pair of them was seen. Each has scales of its own, one a column (negative for methylation, which
opposes expression), and an average cell of its own; what their tokens weigh is in `batch.read_values`.

An average cell is a weight for each gene, which is not trained: it is read as 0 whatever becomes of the rows. And what regions
add to their genes' rows (their places, rows of their own) is not read. Else the least move that rows have in common moves all
cells of a modality alike: with a centre fixed in space, 60 steps took simulated chromatin 14 units away from the RNA of the
same cells, of which either has a spread of 5, for the sake of a level that the decoder can find by itself.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mofm.axes import EMBED, GENES, MODALITIES, Modality
from mofm.batch import LEAST_WEIGHT, FeatureSpace, TokenBatch, depth_weight, read_values
from mofm.nn.layers import declare


class LinearReadout(nn.Module):
    """(view, hidden_BL, rows_BLD, genes_GD, modality, space) -> profile_BD, float32. Hidden values and padding do not enter.

    rows_BLD are what their genes' rows, `genes_GD`, say of the tokens' features.
    """

    genes: int

    @nn.compact
    def __call__(
        self,
        view: TokenBatch,
        hidden_BL: jax.Array,
        rows_BLD: jax.Array,
        genes_GD: jax.Array,
        modality: Modality,
        space: FeatureSpace | None,
    ) -> jax.Array:
        kinds, which = len(MODALITIES), MODALITIES.index(modality)
        log_gain_G = declare(self, "log_gain", (self.genes,), (GENES,), 0)
        scale_MD = declare(self, "scale", (kinds, rows_BLD.shape[-1]), (None, EMBED), "ones")
        average_GM = jax.lax.stop_gradient(declare(self, "average", (self.genes, kinds), (GENES, None), 0))
        mean_BL = 0.0 if space is None else jax.nn.sigmoid(space.base_F[view.features_BL])
        gain_BL = jnp.where(view.mask_BL & ~hidden_BL, gains(log_gain_G, view.features_BL, space), 0.0)
        value_BL, weight_BL = read_values(view, modality, mean_BL)
        total_BD = jnp.einsum("bl,bld->bd", value_BL * gain_BL, rows_BLD)
        weight_B1 = jnp.sum(weight_BL * gain_BL, axis=1, keepdims=True)
        away_BD = total_BD - weight_B1 * (average_GM[:, which] @ genes_GD)
        depth_B1 = depth_weight(view.library_B, modality)[:, None]
        return scale_MD[which] * depth_B1 * away_BD / (weight_B1 + LEAST_WEIGHT)


def gains(log_gain_G: jax.Array, features_BL: jax.Array, space: FeatureSpace | None) -> jax.Array:
    """Each token's gain: its gene's, or the weighted mean of its genes'."""
    if space is None:
        return jnp.exp(log_gain_G[features_BL])
    return jnp.sum(space.weights_FK[features_BL] * jnp.exp(log_gain_G[space.genes_FK[features_BL]]), axis=-1)
