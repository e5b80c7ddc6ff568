"""The mean predictor: what is known of a measurement without looking at the cell.

Every feature has one rate and one dispersion. It is the line that a loss curve is read against (a model that does not pass
it has learned nothing of cells), and where the decoder starts, so that no step is spent on learning means. It is that of
whole cells, zeros among them; that training is shown few of the zeros is the likelihood's affair (`objectives/masked.py`).

RNA's is a NullModel, where a model's own weights start. The other omics' are constants of their feature spaces.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit

from mofm.axes import Modality
from mofm.batch import LIBRARY_SCALE, FeatureSpace, TokenBatch

RATE_PRIOR = 1.0
"""Cells of the overall mean rate that shrink the rate of rarely found features."""
DISPERSION_PRIOR = 20.0
"""Cells that express a feature (or reads) that what all features share counts for against a feature's own."""
QUANTILES = 64
"""Depths that stand for those of all cells, where a sum is over all that do not express a feature."""
CALIBRATION_ROUNDS = 10
"""Each leaves less than a third of the error in the log odds."""


class NullModel(NamedTuple):
    """Attributes: log_rate_G, per LIBRARY_SCALE counts, and log_dispersion_G (log theta), float32, a row a gene."""

    log_rate_G: np.ndarray
    log_dispersion_G: np.ndarray


class WholeCells(NamedTuple):
    """What some cells show of one modality, all of it.

    Attributes:
      feature_T, count_T, exposure_T: of each count above zero; its cell's exposure is library / LIBRARY_SCALE.
      cells_F: how many cells measured the feature, whether they show it or not.
      exposure_F: their mean exposure; 0 where there are none.
      exposure_Q: quantiles of the cells' exposures, over their mean.
      depth: median library.
    """

    feature_T: np.ndarray
    count_T: np.ndarray
    exposure_T: np.ndarray
    cells_F: np.ndarray
    exposure_F: np.ndarray
    exposure_Q: np.ndarray
    depth: float


def whole_cells(views: Sequence[TokenBatch], features: int, measured: Callable[[int], np.ndarray]) -> WholeCells:
    """The cells of host batches that show all that is found in each; padded and empty rows are not looked at.

    Args:
      features: F.
      measured: gives which features a dataset, by its number, measures, bool; none after the last.
    """
    entries = [np.zeros((0, 3))]
    cells_F, exposure_F, exposures = np.zeros(features), np.zeros(features), [np.zeros(0)]
    for view in views:
        exposure_B = view.library_B.astype(np.float64) / LIBRARY_SCALE
        found_BL = view.mask_BL & (view.counts_BL > 0)
        each_BL = np.broadcast_to(exposure_B[:, None], found_BL.shape)
        entries.append(np.column_stack([view.features_BL[found_BL], view.counts_BL[found_BL], each_BL[found_BL]]))
        is_there = (view.cell_B >= 0) & (exposure_B > 0)
        for dataset in np.unique(view.dataset_B[is_there]):
            mine_B, number_M = is_there & (view.dataset_B == dataset), np.flatnonzero(measured(int(dataset)))
            cells_F[number_M] += mine_B.sum()
            exposure_F[number_M] += exposure_B[mine_B].sum()
        exposures.append(exposure_B[is_there])
    feature_T, count_T, exposure_T = np.concatenate(entries).T
    exposure_N = np.concatenate(exposures)
    if not len(exposure_N):
        exposure_N = np.ones(1)
    exposure_Q = np.quantile(exposure_N, (np.arange(QUANTILES) + 0.5) / QUANTILES)
    return WholeCells(
        feature_T.astype(np.int64),
        count_T,
        exposure_T,
        cells_F,
        exposure_F / np.maximum(cells_F, 1),
        exposure_Q / exposure_Q.mean(),
        float(np.median(exposure_N) * LIBRARY_SCALE),
    )


def fit_null(whole: WholeCells) -> NullModel:
    """Fit by moments: rate = sum x / sum e, theta from Var x = mu + mu^2 / theta. What no cell measured has the mean rate."""
    features, total_F = len(whole.cells_F), whole.cells_F * whole.exposure_F
    count_F = np.bincount(whole.feature_T, whole.count_T, features)
    overall = count_F.sum() / max(total_F.sum(), 1e-9)
    prior = RATE_PRIOR * max(total_F.sum() / max(whole.cells_F.sum(), 1), 1e-9)
    rate_F = np.maximum((count_F + prior * overall) / (total_F + prior), 1e-6)
    log_dispersion_F = -np.log(_inverse_dispersions(whole, rate_F))
    return NullModel(np.log(rate_F).astype(np.float32), log_dispersion_F.astype(np.float32))


def _inverse_dispersions(whole: WholeCells, rate_F: np.ndarray) -> np.ndarray:
    """1 / theta of each feature, from E[(x - mu)^2 - mu] = mu^2 / theta; cells weighted by (1 + mu)^-2, as the excess of
    a large count says no more of theta than that of a middling one, and is far noisier.

    The sums are those over all cells as if none expressed the feature, and what is different for those that do.
    """
    features = len(rate_F)
    excess_F, square_F = np.zeros(features), np.zeros(features)
    for share in whole.exposure_Q:
        mean_F = rate_F * whole.exposure_F * share
        weight_F = whole.cells_F / QUANTILES / (1 + mean_F) ** 2
        square_F += weight_F * mean_F**2
        excess_F += weight_F * (mean_F**2 - mean_F)
    mean_T = whole.exposure_T * rate_F[whole.feature_T]
    more_T = ((whole.count_T - mean_T) ** 2 - mean_T**2) / (1 + mean_T) ** 2
    excess_F += np.bincount(whole.feature_T, more_T, features)
    shared = excess_F.sum() / max(square_F.sum(), 1e-9)
    own_F = excess_F / np.maximum(square_F, 1e-9)
    expressing_F = np.bincount(whole.feature_T, minlength=features)
    share_F = expressing_F / (expressing_F + DISPERSION_PRIOR)
    return np.clip(share_F * own_F + (1 - share_F) * shared, 1e-2, 1e2)


def with_mean_predictor(
    space: FeatureSpace, modality: Modality, views: Sequence[TokenBatch], whole: WholeCells
) -> FeatureSpace:
    """The space with base_F and spread_F fitted; `views` are those of the whole cells, which methylation looks at."""
    if modality == "adt":
        base_F, spread_F = fit_null(whole)
    elif modality == "methylation":
        base_F, spread_F = _fit_methylated(views, len(space.base_F))
    else:
        base_F, spread_F = _fit_open(whole), np.zeros(len(space.base_F))
    return space._replace(base_F=base_F.astype(np.float32), spread_F=spread_F.astype(np.float32))


def _fit_methylated(views: Sequence[TokenBatch], features: int) -> tuple[np.ndarray, np.ndarray]:
    """Log odds of a methylated read, shrunk to the mean of all by DISPERSION_PRIOR reads; one log concentration for all.

    Var(k) = n m (1 - m) (1 + (n - 1) rho), rho = 1 / (concentration + 1).
    """
    hits_F, reads_F, kept = np.zeros(features), np.zeros(features), []
    for view in views:
        regions = view.features_BL[view.mask_BL]
        hits, reads = (leaf[view.mask_BL].astype(np.float64) for leaf in (view.counts_BL, view.totals_BL))
        hits_F += np.bincount(regions, hits, features)
        reads_F += np.bincount(regions, reads, features)
        kept.append((regions, hits, reads))
    overall = (hits_F.sum() + 1) / (reads_F.sum() + 2)
    mean_F = (hits_F + DISPERSION_PRIOR * overall) / (reads_F + DISPERSION_PRIOR)
    excess = pairs = 0.0
    for regions, hits, reads in kept:
        variance = mean_F[regions] * (1 - mean_F[regions])
        excess += np.sum((hits - reads * mean_F[regions]) ** 2 - reads * variance)
        pairs += np.sum(reads * (reads - 1) * variance)
    rho = np.clip(excess / max(pairs, 1e-9), 1e-2, 0.9)
    return logit(np.clip(mean_F, 1e-4, 1 - 1e-4)), np.full(features, np.log(1 / rho - 1))


def _fit_open(whole: WholeCells) -> np.ndarray:
    """Log odds of each region to be open at a depth of LIBRARY_SCALE: those by which it is open in as many cells as it is."""
    open_F = np.bincount(whole.feature_T, minlength=len(whole.cells_F))
    wanted_F = logit((open_F + 0.5) / (whole.cells_F + 1.0))
    log_exposure_F = np.log(np.where(whole.exposure_F > 0, whole.exposure_F, 1.0))
    base_F = wanted_F - log_exposure_F
    for _ in range(CALIBRATION_ROUNDS):
        chance_F = np.mean([expit(base_F + log_exposure_F + np.log(share)) for share in whole.exposure_Q], axis=0)
        base_F += wanted_F - logit(chance_F)
    return base_F
