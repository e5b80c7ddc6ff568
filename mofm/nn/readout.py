"""The linear read-out: what a linear model knows of a cell, kept beside what the blocks make of it.

    profile_D = sqrt(library / LIBRARY_SCALE) * mean over the shown tokens of  value * gain(gene) * row_D(gene)
                less what an average cell gives of the same rows

With rows and gains that start as loadings and scales of principal components (see `training/components.py`), the profile
starts as the cell's principal components, seen through its sample of tokens. Those are a sum over all expressed genes;
a view shows a sample, whose mean does not depend on its size, and how many genes a cell expresses grows about as the
square root of its depth, hence the first factor. (The mean alone placed a cell less well among its neighbours: on 500
cells 0.77 against 0.81 of them had the type of their 15 nearest.) The cell embedding is the profile plus the attention
pool, so training departs from the linear baseline, where it would otherwise first have to find it. Rows and gains are
learned on: the rows are the gene table's own.

Other omics are read out in the same space, through the genes of their features, so a cell's chromatin lands near its
expression before any pair of them was seen. Each has scales of its own, one a column (negative for methylation, which
opposes expression), and an average cell of its own. Chromatin has the factor of depth too: a mean over few open peaks is mostly
noise, and without it such cells lie farthest out (simulated RNA and ATAC at the start of training: FOSCTTM .290 with it, .298
without).

An average cell is a weight for each gene, which is not trained: it is read as 0 whatever becomes of the rows. And what regions
add to their genes' rows (their places, rows of their own) is not read. Else the least move that rows have in common moves all
cells of a modality alike: with a centre fixed in space, 60 steps took simulated chromatin 14 units away from the RNA of the
same cells, of which either has a spread of 5, for the sake of a level that the decoder can find by itself.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mofm.axes import EMBED, GENES, MODALITIES, Modality
from mofm.batch import WEIGHED_BY_DEPTH, FeatureSpace, TokenBatch, log_exposure
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
        shown_BL = view.mask_BL & ~hidden_BL
        values_BL = view.values_BL
        if modality == "methylation":  # which regions were read says nothing: only what differs from their mean does
            values_BL = values_BL - jax.nn.sigmoid(space.base_F[view.features_BL])
        weight_BL = jnp.where(shown_BL, values_BL, 0.0) * gains(log_gain_G, view.features_BL, space)
        total_BD = jnp.einsum("bl,bld->bd", weight_BL, rows_BLD)
        mean_BD = total_BD / jnp.maximum(jnp.sum(shown_BL, axis=1, keepdims=True), 1)
        if modality in WEIGHED_BY_DEPTH:
            mean_BD *= jnp.exp(log_exposure(view.library_B) / 2)[:, None]
        return scale_MD[which] * (mean_BD - average_GM[:, which] @ genes_GD)


def gains(log_gain_G: jax.Array, features_BL: jax.Array, space: FeatureSpace | None) -> jax.Array:
    """Each token's gain: its gene's, or the weighted mean of its genes'."""
    if space is None:
        return jnp.exp(log_gain_G[features_BL])
    return jnp.sum(space.weights_FK[features_BL] * jnp.exp(log_gain_G[space.genes_FK[features_BL]]), axis=-1)
