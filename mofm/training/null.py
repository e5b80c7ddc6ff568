"""The mean predictor: what is known of a count without looking at the cell.

Every gene has one rate and one dispersion. It is the line that a loss curve is read against (a model that does not pass
it has learned nothing of cells), and where the decoder starts, so that no step is spent on learning means. It is fitted
on tokens drawn exactly as the training batches draw them: the sampler shows more expressed features than there are, and
a reference that ignored that would be easy to beat.

RNA's is a NullModel, where a model's own weights start. The other omics' are constants of their feature spaces.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit

from mofm.axes import Modality
from mofm.batch import LIBRARY_SCALE, FeatureSpace, TokenBatch

RATE_PRIOR = 1.0
"""Pseudo-observations of the overall mean rate that shrink the rate of rarely sampled genes."""
DISPERSION_PRIOR = 20.0
"""Tokens (or reads) that what all features share counts for against a feature's own."""
CALIBRATION_STEPS = 60
"""Halvings of an interval of 64 nats: to the last bit of a float32."""


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


def with_mean_predictor(
    space: FeatureSpace, modality: Modality, views: Iterable[TokenBatch], full: Iterable[TokenBatch]
) -> FeatureSpace:
    """The space with base_F and spread_F fitted.

    Args:
      views: host batches as training draws them.
      full: host batches that show (nearly) all that is open in each cell; ATAC alone looks at them.
    """
    features = len(space.base_F)
    if modality == "adt":
        base_F, spread_F = fit_null(views, features)
    elif modality == "methylation":
        base_F, spread_F = _fit_methylated(views, features)
    else:
        base_F, spread_F = _fit_open(views, full, features), np.zeros(features)
    return space._replace(base_F=base_F.astype(np.float32), spread_F=spread_F.astype(np.float32))


class Level(NamedTuple):
    """What a modality's measurements are in whole cells, where training sees a sample of them with few of the zeros.

    Attributes:
      depth: float32, the median library of a cell.
      shift_F: float32. Added to the predictor of a feature it makes the mean over training cells what it is over all of
        their measurements, zeros among them. Methylation has none, and its shift is 0.
    """

    depth: np.ndarray
    shift_F: np.ndarray


def fit_level(full: Iterable[TokenBatch], modality: Modality, base_F: np.ndarray) -> Level:
    """The level of a modality.

    Args:
      full: host batches that show (nearly) all that is found in each cell; padded rows are not looked at.
      base_F: what the mean predictor says of each feature, as fitted on what training sees.
    """
    features, libraries = len(base_F), []
    found_F, cells = np.zeros(features), 0
    for view in full:
        libraries.append(view.library_B[view.cell_B >= 0])
        cells += len(libraries[-1])
        counts = view.counts_BL[view.mask_BL]
        found = counts > 0 if modality == "atac" else counts
        found_F += np.bincount(view.features_BL[view.mask_BL], found, features)
    library_N = np.concatenate([np.zeros(0), *libraries])
    library_N = library_N[library_N > 0]
    depth = float(np.median(library_N)) if len(library_N) else LIBRARY_SCALE
    if modality == "methylation" or not len(library_N):
        shift_F = np.zeros(features)
    elif modality == "atac":
        shift_F = logit((found_F + 0.5) / (cells + 1.0)) - np.log(depth / LIBRARY_SCALE) - base_F
    else:
        shift_F = np.log((found_F + 0.5) / library_N.sum() * LIBRARY_SCALE) - base_F
    return Level(np.float32(depth), shift_F.astype(np.float32))


def _fit_methylated(views: Iterable[TokenBatch], features: int) -> tuple[np.ndarray, np.ndarray]:
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


def _fit_open(views: Iterable[TokenBatch], full: Iterable[TokenBatch], features: int) -> np.ndarray:
    """Log odds of each region to be open, moved together so that as many of the tokens of `views` are open as are.

    The odds come from whole cells, as few tokens of any one region are drawn; the move makes good for the zeros, of
    which far fewer are drawn than there are.
    """
    open_F, cells = np.zeros(features), 0
    for view in full:
        open_F += np.bincount(view.features_BL[view.mask_BL & (view.counts_BL > 0)], minlength=features)
        cells += int(np.sum(view.cell_B >= 0))
    odds_F = logit((open_F + 0.5) / (cells + 1.0))
    logits, is_open = [], []
    for view in views:
        depth_BL = np.broadcast_to(np.log(np.maximum(view.library_B, 1)[:, None] / LIBRARY_SCALE), view.mask_BL.shape)
        logits.append((odds_F[view.features_BL] + depth_BL)[view.mask_BL])
        is_open.append(view.counts_BL[view.mask_BL] > 0)
    if not logits:
        return odds_F
    logits, wanted = np.concatenate(logits), int(np.sum(np.concatenate(is_open)))
    low, high = -32.0, 32.0
    for _ in range(CALIBRATION_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if expit(logits + middle).sum() > wanted else (middle, high)
    return odds_F + low
