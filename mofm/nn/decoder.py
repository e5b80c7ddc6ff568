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

BACKGROUND_LEVEL, BACKGROUND_LOGIT = -1.0, -2.0
"""Where a protein's background begins: its log rate beside the mean predictor's, and the log odds that it is all there is."""


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
    """Likelihood parameters of a view's features.

    Attributes:
      genes: G.
      width, cell_width: D and E.
      ffn: F.
    """

    genes: int
    width: int
    cell_width: int
    ffn: int

    def setup(self):
        """Declares the weights."""
        kinds, width, cell = len(MODALITIES), self.width, self.cell_width
        self.token_MDD = declare(self, "token", (kinds, width, width), (None, EMBED, None), 0)
        self.cell_MED = declare(self, "cell", (kinds, cell, width), (None, CELL_EMBED, EMBED), 0)
        self.cell_ffn, self.cell_norm = SwiGLU(self.ffn), RMSNorm(CELL_EMBED)
        self.background_D = declare(self, "background", (width,), (EMBED,), 0)
        self.level_E = declare(self, "background_level", (cell,), (CELL_EMBED,), 0)
        self.bias_G = declare(self, "gene_log_rate", (self.genes,), (GENES,), 0)
        self.log_dispersion_G = declare(self, "gene_log_dispersion", (self.genes,), (GENES,), 0)
        self.slope_G = declare(self, "gene_depth_slope", (self.genes,), (GENES,), 0)
        self.slope_M = declare(self, "depth_slope", (kinds,), (None,), 0)
        self.spread_M = declare(self, "spread", (kinds,), (None,), 0)

    def factors(self, embedding_BE: jax.Array, modality: Modality) -> jax.Array:
        """factor_BD of cells: the cell's predictor of a feature is <factor, the feature's row> above the mean predictor."""
        cell_BE = embedding_BE + self.cell_ffn(self.cell_norm(embedding_BE))
        return cell_BE @ self.cell_MED[MODALITIES.index(modality)]

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
        which = MODALITIES.index(modality)
        bias_BL, spread_BL = self._mean_predictor(features_BL, log_exposure_B, which, space)

        token_BLD = (states_BLD @ self.token_MDD[which].astype(states_BLD.dtype)).astype(jnp.float32)
        token_BL = bias_BL + jnp.sum(token_BLD * rows_BLD, axis=-1)
        cell_BL = bias_BL + jnp.einsum("bd,bld->bl", self.factors(embedding_BE, modality), rows_BLD)

        if modality != "adt":
            return Prediction(token_BL, cell_BL, spread_BL)
        background_BL = bias_BL + (embedding_BE @ self.level_E)[:, None] + BACKGROUND_LEVEL
        alone_BL = rows_BLD @ self.background_D + BACKGROUND_LOGIT
        return Prediction(token_BL, cell_BL, spread_BL, background_BL, alone_BL)

    def _mean_predictor(
        self, features_BL: jax.Array, log_exposure_B: jax.Array, which: int, space: FeatureSpace | None
    ) -> tuple[jax.Array, jax.Array]:
        """bias_BL and spread_BL."""
        depth_B1 = log_exposure_B[:, None]
        if space is None:
            bias_BL = self.bias_G[features_BL] + self.slope_G[features_BL] * depth_B1
            return bias_BL, self.log_dispersion_G[features_BL]
        bias_BL = space.base_F[features_BL] + self.slope_M[which] * depth_B1
        return bias_BL, space.spread_F[features_BL] + self.spread_M[which]
