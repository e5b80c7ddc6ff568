"""Level and spread of proteins, given what a direction with pairs says of them: the likeliest, as the decoder begins.

    background   depth * exp(base + BACKGROUND_LEVEL)     with the chance sigmoid(BACKGROUND_LOGIT)
    foreground   depth * exp(base + change + level)       otherwise; both with an overdispersion of theta * exp(spread)

What the mean predictor says of base and theta is of all cells, deep droplets with their clumps first, and knows nothing of
the source. Only cells of data sets that measure a protein speak of it.

The likelihood is that of `objectives/likelihoods.py`, on the host and in float64: so a start is the same on every device, and
sums over thousands of cells separate neighbouring spreads.
"""

import numpy as np
from scipy.special import expit, gammaln, log_expit

from mofm.batch import FeatureSpace
from mofm.nn.decoder import BACKGROUND_LEVEL, BACKGROUND_LOGIT

SPREADS = np.linspace(-1.5, 3, 19)
PRIOR_NATS, PRIOR_COUNTS = 1.0, 5.0
"""How far a spread is from the mean predictor's, and the reads by which a level is held to it."""
ROUNDS, LEVEL_ROUNDS = 3, 5
"""Of levels and spreads in turn, and of the levels' expectation and maximisation in each."""


def fit_law(
    counts_NF: np.ndarray, measured_NF: np.ndarray, change_NF: np.ndarray, log_depth_N: np.ndarray, space: FeatureSpace
) -> np.ndarray:
    """law_F2, level and spread, float64: 0 of what no cell measures.

    The likeliest of SPREADS, with a Gaussian prior of PRIOR_NATS about 0, and of levels with PRIOR_COUNTS reads as expected.

    Args:
      counts_NF: reads; of what is not measured they are not looked at.
      measured_NF: bool.
      change_NF: what others predict of each cell, nats.
      log_depth_N: log of the cell's depth in units of LIBRARY_SCALE.
    """
    base_NF = np.asarray(space.base_F, np.float64) + log_depth_N[:, None]
    background_NF, foreground_NF = np.exp(base_NF + BACKGROUND_LEVEL), np.exp(base_NF + change_NF)
    level_F, spread_F = np.zeros(base_NF.shape[1]), np.zeros(base_NF.shape[1])
    for _ in range(ROUNDS):
        theta_F = np.exp(space.spread_F + spread_F)
        for _ in range(LEVEL_ROUNDS):
            mean_NF = foreground_NF * np.exp(level_F)
            is_it_NF = expit(_log_odds(counts_NF, background_NF, mean_NF, theta_F))
            # Where d likelihood / d level is 0: reads and what is expected of them, by how well a cell shows the level.
            weight_NF = measured_NF * is_it_NF / (1 + mean_NF / theta_F)
            read_F, expected_F = ((weight_NF * x_NF).sum(axis=0) + PRIOR_COUNTS for x_NF in (counts_NF, foreground_NF))
            level_F = np.log(read_F / expected_F)
        mean_NF = foreground_NF * np.exp(level_F)
        nats_SF = np.stack(
            [
                np.sum(
                    measured_NF * surprise(counts_NF, background_NF, mean_NF, np.exp(space.spread_F + spread)), axis=0
                )
                for spread in SPREADS
            ]
        )
        spread_F = SPREADS[np.argmin(nats_SF + (SPREADS[:, None] / PRIOR_NATS) ** 2 / 2, axis=0)]
    return np.column_stack([level_F, spread_F])


def surprise(
    counts_NF: np.ndarray, background_NF: np.ndarray, foreground_NF: np.ndarray, theta_F: np.ndarray
) -> np.ndarray:
    """-log likelihood of each count under the mixture, nats, less what hangs on the count alone."""
    common_NF = gammaln(theta_F + counts_NF) - gammaln(theta_F)
    alone_NF = log_expit(BACKGROUND_LOGIT) + common_NF + _log_kernel(counts_NF, background_NF, theta_F)
    both_NF = log_expit(-BACKGROUND_LOGIT) + common_NF + _log_kernel(counts_NF, foreground_NF, theta_F)
    return -np.logaddexp(alone_NF, both_NF)


def _log_odds(
    counts_NF: np.ndarray, background_NF: np.ndarray, foreground_NF: np.ndarray, theta_F: np.ndarray
) -> np.ndarray:
    """That a count is foreground, to that it is background."""
    kernels = (_log_kernel(counts_NF, mean_NF, theta_F) for mean_NF in (foreground_NF, background_NF))
    return next(kernels) - next(kernels) - BACKGROUND_LOGIT


def _log_kernel(counts_NF: np.ndarray, mean_NF: np.ndarray, theta_F: np.ndarray) -> np.ndarray:
    """What a negative binomial's log likelihood has that hangs on its mean."""
    return counts_NF * np.log(mean_NF / (theta_F + mean_NF)) - theta_F * np.log1p(mean_NF / theta_F)
