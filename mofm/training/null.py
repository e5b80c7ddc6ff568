"""The mean predictor: what is known of a count without looking at the cell.

Every gene has one rate and one dispersion. It is the line that a loss curve is read against (a model that does not pass
it has learned nothing of cells), and where the decoder starts, so that no step is spent on learning means. It is fitted
on tokens drawn exactly as the training batches draw them: the sampler shows more expressed features than there are, and
a reference that ignored that would be easy to beat.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from mofm.batch import LIBRARY_SCALE, TokenBatch

RATE_PRIOR = 1.0
"""Pseudo-observations of the overall mean rate that shrink the rate of rarely sampled genes."""
DISPERSION_PRIOR = 20.0
"""Tokens that the dispersion shared by all genes counts for against a gene's own."""


class NullModel(NamedTuple):
    """Attributes: log_rate_G, per LIBRARY_SCALE counts, and log_dispersion_G (log theta), float32, a row a gene."""

    log_rate_G: np.ndarray
    log_dispersion_G: np.ndarray


def fit_null(views: Iterable[TokenBatch], genes: int) -> NullModel:
    """Fit by moments on the tokens of some batches: rate = sum x / sum e, theta from Var x = mu + mu^2 / theta.

    Args:
      views: host batches (numpy leaves); e is the cell's exposure, library / LIBRARY_SCALE.
      genes: G.
    """
    tokens_G, count_G, exposure_G = (np.zeros(genes) for _ in range(3))
    kept = []
    for view in views:
        features = view.features_BL[view.mask_BL]
        counts = view.counts_BL[view.mask_BL].astype(np.float64)
        exposures = np.broadcast_to(view.library_B[:, None] / LIBRARY_SCALE, view.mask_BL.shape)[view.mask_BL]
        tokens_G += np.bincount(features, minlength=genes)
        count_G += np.bincount(features, counts, genes)
        exposure_G += np.bincount(features, exposures, genes)
        kept.append((features, counts, exposures))
    prior_rate = count_G.sum() / max(exposure_G.sum(), 1e-9)
    prior = RATE_PRIOR * exposure_G.sum() / max(tokens_G.sum(), 1)
    rate_G = np.maximum((count_G + prior * prior_rate) / np.maximum(exposure_G + prior, 1e-9), 1e-6)
    log_dispersion_G = -np.log(_inverse_dispersions(kept, rate_G, tokens_G))
    return NullModel(np.log(rate_G).astype(np.float32), log_dispersion_G.astype(np.float32))


def _inverse_dispersions(
    kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]], rate_G: np.ndarray, tokens_G: np.ndarray
) -> np.ndarray:
    """1 / theta of each gene, from E[(x - mu)^2 - mu] = mu^2 / theta; tokens weighted by (1 + mu)^-2, as the excess of
    a large count says no more of theta than that of a middling one, and is far noisier."""
    excess_G, square_G = np.zeros_like(rate_G), np.zeros_like(rate_G)
    for features, counts, exposures in kept:
        means = exposures * rate_G[features]
        weights = 1 / (1 + means) ** 2
        square_G += np.bincount(features, weights * means**2, len(rate_G))
        excess_G += np.bincount(features, weights * ((counts - means) ** 2 - means), len(rate_G))
    shared = excess_G.sum() / max(square_G.sum(), 1e-9)
    own_G = excess_G / np.maximum(square_G, 1e-9)
    share_G = tokens_G / (tokens_G + DISPERSION_PRIOR)
    return np.clip(share_G * own_G + (1 - share_G) * shared, 1e-2, 1e2)
