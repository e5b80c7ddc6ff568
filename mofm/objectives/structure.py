"""Agreement of two modalities in how alike their cells are, with no wish that their embeddings be the same.

SAILERX (Cao et al. 2022, Nucleic Acids Research 50:e121): each modality keeps a space of its own, and the cosine
similarities between cells in one are held near those in the other. It says less than a contrastive loss does, and so
fits less of the noise of one modality into the other. SAILERX keeps one side fixed (the RNA's principal components):
that is `stop`.

Only cells that both views have are compared, all with all: S x S similarities of a random sample of S of them. Pairs
grow as the square, so a few hundred cells estimate the mean as well as all do.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from mofm.objectives.likelihoods import masked_mean
from mofm.objectives.rows import row_of_cell, sample_rows, unit_rows


def structure_agreement(
    key: jax.Array,
    one_BE: jax.Array,
    other_CF: jax.Array,
    one_cell_B: jax.Array,
    other_cell_C: jax.Array,
    *,
    cells: int = 512,
    stop: Literal["one", "other"] | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(loss, metrics): mean over pairs i, j of cells of (cos(one_i, one_j) - cos(other_i, other_j))^2, between 0 and 4.

    It is 0 where one side is the other rotated, reflected, or its rows scaled, and does not change when either is. A row
    is matched with the first row of the other view of the same cell; a row without one takes no part, nor does a pair of
    two rows of one cell. Without a pair it is 0, and so is its gradient.

    Args:
      key: PRNG key of the sample; of no matter where `cells` is at least B.
      one_BE, other_CF: embeddings of any float type; their widths may differ.
      one_cell_B, other_cell_C: int32; -1 for rows that take no part.
      cells: the most cells compared.
      stop: the side that takes no gradient.

    Returns:
      loss: float32.
      metrics: float32. "loss"; "correlation" of the two sides' similarities over the pairs, 0 where there is none;
        "cells", those compared.
    """
    row_B = row_of_cell(one_cell_B, other_cell_C)
    place_S, mask_S = sample_rows(key, row_B >= 0, cells)
    one_SE, other_SF = jnp.asarray(one_BE)[place_S], jnp.asarray(other_CF)[jnp.maximum(row_B[place_S], 0)]
    if stop is not None:
        one_SE, other_SF = (
            jax.lax.stop_gradient(x) if side == stop else x for side, x in (("one", one_SE), ("other", other_SF))
        )
    # What a row that takes no part holds may be no number, which 0 times it is neither.
    one_SE, other_SF = (unit_rows(jnp.where(mask_S[:, None], x, 0.0)) for x in (one_SE, other_SF))
    one_SS, other_SS = (jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST) for x in (one_SE, other_SF))
    cell_S = one_cell_B[place_S]
    is_pair_SS = mask_S[:, None] & mask_S & (cell_S[:, None] != cell_S)
    loss = masked_mean(jnp.square(one_SS - other_SS), is_pair_SS)
    correlation = _correlation(*jax.lax.stop_gradient((one_SS, other_SS)), is_pair_SS)
    return loss, {"loss": loss, "correlation": correlation, "cells": mask_S.sum().astype(jnp.float32)}


def _correlation(x: jax.Array, y: jax.Array, mask: jax.Array) -> jax.Array:
    """Pearson's, over the mask; 0 where either does not vary."""
    x, y = x - masked_mean(x, mask), y - masked_mean(y, mask)
    spread = jnp.sqrt(masked_mean(x * x, mask) * masked_mean(y * y, mask))
    return jnp.where(spread > 0, masked_mean(x * y, mask) / jnp.where(spread > 0, spread, 1.0), 0.0)
