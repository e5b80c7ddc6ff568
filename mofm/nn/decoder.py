"""From states to the parameters of a likelihood.

Every feature is asked twice: of its own token's state, which has seen the other tokens, and of the cell embedding alone.
The second is a bottleneck: all that the embedding does not hold is lost to it, which is what makes the embedding hold
the cell. Both answer through the features' own rows (what predicts a gene and what identifies it are one vector), so
the cell's answer is a factor model, log rate = <g(embedding), row> + bias, of which GLM-PCA (Townes et al. 2019) is the
linear case. Both answers start at the bias, the mean predictor's: a weight for each gene of RNA; for the others a
constant of their feature space, as new regions have no weights.

One predictor serves every omics type: log rate of a count (RNA, ADT), log odds of being open (ATAC), both per
LIBRARY_SCALE counts of the cell, or log odds of a methylated read.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mofm.axes import CELL_EMBED, EMBED, GENES, MODALITIES, Modality
from mofm.batch import FeatureSpace
from mofm.nn.layers import RMSNorm, SwiGLU, declare


class Prediction(NamedTuple):
    """Parameters of the likelihood of each token's measurement, float32.

    Attributes:
      token_BL, cell_BL: the predictor, from the token's state and from the cell embedding alone.
      spread_BL: log inverse dispersion theta (RNA, ADT: variance = mu + mu^2 / theta), log concentration (methylation).
      background_BL, background_logit_BL: ADT: log rate of the unspecific background, and log odds that a count is
        background alone. None for others.
    """

    token_BL: jax.Array
    cell_BL: jax.Array
    spread_BL: jax.Array
    background_BL: jax.Array | None = None
    background_logit_BL: jax.Array | None = None


class Decoder(nn.Module):
    """Likelihood parameters of a view's features."""

    genes: int
    ffn: int

    @nn.compact
    def __call__(
        self,
        states_BLD: jax.Array,
        embedding_BE: jax.Array,
        rows_BLD: jax.Array,
        features_BL: jax.Array,
        log_exposure_B: jax.Array,
        modality: Modality,
        space: FeatureSpace | None,
    ) -> Prediction:
        kinds, which, width = len(MODALITIES), MODALITIES.index(modality), rows_BLD.shape[-1]
        bias_BL, spread_BL = self._mean_predictor(features_BL, log_exposure_B, which, space)

        token_MDD = declare(self, "token", (kinds, width, width), (None, EMBED, None), 0)
        cell_MED = declare(self, "cell", (kinds, embedding_BE.shape[-1], width), (None, CELL_EMBED, EMBED), 0)
        token_BLD = (states_BLD @ token_MDD[which].astype(states_BLD.dtype)).astype(jnp.float32)
        cell_BE = embedding_BE + SwiGLU(self.ffn, name="cell_ffn")(RMSNorm(CELL_EMBED, name="cell_norm")(embedding_BE))
        cell_BD = cell_BE @ cell_MED[which]
        token_BL = bias_BL + jnp.sum(token_BLD * rows_BLD, axis=-1)
        cell_BL = bias_BL + jnp.einsum("bd,bld->bl", cell_BD, rows_BLD)

        background_D = declare(self, "background", (width,), (EMBED,), 0)
        level_E = declare(self, "background_level", (embedding_BE.shape[-1],), (CELL_EMBED,), 0)
        if modality != "adt":
            return Prediction(token_BL, cell_BL, spread_BL)
        background_BL = bias_BL + (embedding_BE @ level_E)[:, None] - 1.0
        return Prediction(token_BL, cell_BL, spread_BL, background_BL, rows_BLD @ background_D - 2.0)

    def _mean_predictor(
        self, features_BL: jax.Array, log_exposure_B: jax.Array, which: int, space: FeatureSpace | None
    ) -> tuple[jax.Array, jax.Array]:
        """bias_BL and spread_BL."""
        bias_G = declare(self, "gene_log_rate", (self.genes,), (GENES,), 0)
        log_dispersion_G = declare(self, "gene_log_dispersion", (self.genes,), (GENES,), 0)
        slope_G = declare(self, "gene_depth_slope", (self.genes,), (GENES,), 0)
        slope_M = declare(self, "depth_slope", (len(MODALITIES),), (None,), 0)
        spread_M = declare(self, "spread", (len(MODALITIES),), (None,), 0)
        depth_B1 = log_exposure_B[:, None]
        if space is None:
            return bias_G[features_BL] + slope_G[features_BL] * depth_B1, log_dispersion_G[features_BL]
        return space.base_F[features_BL] + slope_M[which] * depth_B1, space.spread_F[features_BL] + spread_M[which]
