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
    count_G, exposure_G, square_G, excess_G = (np.zeros(genes) for _ in range(4))
    kept = []
    for view in views:
        features = view.features_BL[view.mask_BL]
        counts = view.counts_BL[view.mask_BL].astype(np.float64)
        exposures = np.broadcast_to(view.library_B[:, None] / LIBRARY_SCALE, view.mask_BL.shape)[view.mask_BL]
        count_G += np.bincount(features, counts, genes)
        exposure_G += np.bincount(features, exposures, genes)
        kept.append((features, counts, exposures))
    prior_rate = count_G.sum() / max(exposure_G.sum(), 1e-9)
    mean_exposure = exposure_G.sum() / max(sum(len(f) for f, _, _ in kept), 1)
    prior = RATE_PRIOR * mean_exposure
    rate_G = np.maximum((count_G + prior * prior_rate) / np.maximum(exposure_G + prior, 1e-9), 1e-6)
    for features, counts, exposures in kept:
        means = exposures * rate_G[features]
        square_G += np.bincount(features, means**2, genes)
        excess_G += np.bincount(features, (counts - means) ** 2 - means, genes)
    # One theta shared by all genes steadies the estimate of genes with few tokens.
    shared = max(excess_G.sum() / max(square_G.sum(), 1e-9), 1e-2)
    weight = square_G.mean() if square_G.any() else 1.0
    inverse_theta_G = np.clip((excess_G + weight * shared) / (square_G + weight), 1e-2, 1e2)
    return NullModel(np.log(rate_G).astype(np.float32), -np.log(inverse_theta_G).astype(np.float32))
