"""From states to the parameters of a count likelihood.

Every gene is asked twice: of its own token's state, which has seen the other tokens, and of the cell embedding alone.
The second is a bottleneck: all that the embedding does not hold is lost to it, which is what makes the embedding hold
the cell. Both answer through the gene table's own rows (what predicts a gene and what identifies it are one vector), so
the cell's answer is a factor model, log rate = <g(embedding), row> + bias, of which GLM-PCA (Townes et al. 2019) is the
linear case. Both answers start at the gene's bias, the mean predictor's rate.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mofm.axes import CELL_EMBED, EMBED, GENES
from mofm.nn.layers import RMSNorm, SwiGLU, declare


class CountDecoder(nn.Module):
    """Negative-binomial parameters of genes. Log rates are per LIBRARY_SCALE counts of the cell."""

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
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """
        Returns:
          token_log_rate_BL, cell_log_rate_BL, log_dispersion_BL: float32. Dispersion is the negative binomial's
          inverse dispersion theta: variance = mu + mu^2 / theta.
        """
        width = rows_BLD.shape[-1]
        bias_G = declare(self, "gene_log_rate", (self.genes,), (GENES,), 0)
        log_dispersion_G = declare(self, "gene_log_dispersion", (self.genes,), (GENES,), 0)
        slope_G = declare(self, "gene_depth_slope", (self.genes,), (GENES,), 0)
        bias_BL = bias_G[features_BL] + slope_G[features_BL] * log_exposure_B[:, None]

        token_DD = declare(self, "token", (width, width), (EMBED, None), 0)
        token_BLD = (states_BLD @ token_DD.astype(states_BLD.dtype)).astype(jnp.float32)
        token_log_rate_BL = bias_BL + jnp.sum(token_BLD * rows_BLD, axis=-1)

        cell_ED = declare(self, "cell", (embedding_BE.shape[-1], width), (CELL_EMBED, EMBED), 0)
        cell_BE = embedding_BE + SwiGLU(self.ffn, name="cell_ffn")(RMSNorm(CELL_EMBED, name="cell_norm")(embedding_BE))
        cell_BD = cell_BE @ cell_ED
        cell_log_rate_BL = bias_BL + jnp.einsum("bd,bld->bl", cell_BD, rows_BLD)
        return token_log_rate_BL, cell_log_rate_BL, log_dispersion_G[features_BL]
