"""Does a translation know how wrong it is? What was measured, under the distribution that it states.

By how much it surprises (the logarithmic score, in nats: least in the mean for the true distribution, so neither the too
sure nor the too shy gain by it), and, of counts, how often the central interval holds them. Of a calibrated prediction the
central 90% interval holds nine measurements in ten. Few reads are whole numbers, of which no interval holds just so many: a
count x stands for all of (F(x - 1), F(x)], F the stated distribution function, and counts as inside by the part of it between
0.05 and 0.95 (the expectation of a randomised probability integral transform; Czado, Gneiting & Held 2009). Then the mean
over cells is 0.9 for what is calibrated, however few the reads, and no lot is drawn.

Both are asked at the depth at which a cell was in truth read (`at_depth`): what is stated is the spread of one more
measurement at a depth that is given with it, not of what depths there are; a droplet of clumped antibodies, read twenty times
as deep, would else be all that is judged.

The distributions are those of the likelihoods (`objectives/moments.py`) as far as mean and variance fix them: negative
binomials for RNA and, of the mixture of ADT, the one of its moments; of a region, open or not. Methylation is not judged:
stated is the variance of many reads, and cells have few.
"""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.special import betainc, expit, gammaincc, gammaln, logit

from mofm.axes import Modality
from mofm.sampling import evenly

SHARE = 0.9
JUDGED: tuple[Modality, ...] = ("rna", "adt", "atac")
COUNTED: tuple[Modality, ...] = ("rna", "adt")
"""Of which intervals are judged too: of open or not, there is none between."""

OVERDISPERSIONS = np.append(0.0, np.geomspace(1e-2, 30, 14))
"""Of which each feature gets the likeliest, in `by_share`; variance less mean, over the mean squared."""

FITTED_CELLS = 1_000
"""By which that is found, where there are more: every so many-th."""

BLOCK_ENTRIES = 4_000_000
"""Of cells x features that are dense at once."""

TINY = 1e-12
"""A depth, mean or chance of 0 is taken for this, of which the logarithm can be had."""


def at_depth(
    modality: Modality, mean_NF: np.ndarray, variance_NF: np.ndarray, times_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of cells read so many times as deep, as the likelihoods have it but for what training adds to the slope
    of depth: the mean of counts grows with it and the overdispersion stays; a region's odds of being open grow with it."""
    mean_NF, variance_NF, times_N1 = (np.asarray(x, np.float64) for x in (mean_NF, variance_NF, times_N[:, None]))
    if modality == "atac":
        chance_NF = expit(logit(mean_NF) + np.log(np.maximum(times_N1, TINY)))
        return chance_NF, chance_NF * (1 - chance_NF)
    return mean_NF * times_N1, mean_NF * times_N1 + np.maximum(variance_NF - mean_NF, 0) * times_N1**2


def by_share(modality: Modality, counts: sp.csr_matrix, library_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """mean_F, variance_F of a cell read once, as stated by who knows what share of its reads a feature has in other cells.

    Counts: the likeliest share and the likeliest of `OVERDISPERSIONS`; by moments the few cells read deepest would decide both.
    Regions: the odds at which as many cells are expected to have it open as do, a half more.
    """
    counts, cells = counts.tocsc(), len(library_N)
    step = max(1, BLOCK_ENTRIES // cells)
    blocks = (counts[:, start : start + step].toarray() for start in range(0, counts.shape[1], step))
    if modality == "atac":
        chance_F = np.concatenate([expit(_level(count_NB > 0, library_N)) for count_NB in blocks])
        return chance_F, chance_F * (1 - chance_F)
    rate_F, spread_F = np.concatenate([_share_and_spread(count_NB, library_N) for count_NB in blocks], axis=1)
    return rate_F, rate_F + spread_F * rate_F**2


def _share_and_spread(count_NB: np.ndarray, library_N: np.ndarray) -> np.ndarray:
    """rate_B over spread_B, the overdispersion: in turn each the likeliest for the other, which soon is both."""
    cells, library_N1 = len(library_N), library_N[:, None]
    some = evenly(cells, FITTED_CELLS)
    weight_NB = np.ones(count_NB.shape)
    for _ in range(3):
        rate_B = ((weight_NB * count_NB).sum(axis=0) + 0.5) / ((weight_NB * library_N1).sum(axis=0) + 1)
        mean_NB = rate_B * library_N1[some]
        nats = [surprise("rna", count_NB[some], mean_NB, mean_NB + o * mean_NB**2).sum(axis=0) for o in OVERDISPERSIONS]
        spread_B = OVERDISPERSIONS[np.argmin(nats, axis=0)]
        weight_NB = 1 / (1 + spread_B * rate_B * library_N1)  # where d likelihood / d rate is 0
    return np.stack([rate_B, spread_B])


def _level(is_open_NF: np.ndarray, depth_N: np.ndarray) -> np.ndarray:
    """level_F: the mean over cells of expit(level + log depth) is the share of cells that have it open; by bisection, over
    FITTED_CELLS of the depths from the least to the largest."""
    cells = len(depth_N)
    depth_N1 = np.log(np.maximum(np.sort(depth_N)[evenly(cells, FITTED_CELLS)], TINY))[:, None]
    wanted_F = (is_open_NF.sum(axis=0) + 0.5) / (cells + 1)
    low_F, high_F = np.full(len(wanted_F), -60.0), np.full(len(wanted_F), 60.0)
    for _ in range(40):
        middle_F = (low_F + high_F) / 2
        is_less_F = expit(middle_F + depth_N1).mean(axis=0) < wanted_F
        low_F, high_F = np.where(is_less_F, middle_F, low_F), np.where(is_less_F, high_F, middle_F)
    return low_F


def surprise(modality: Modality, count_NF: np.ndarray, mean_NF: np.ndarray, variance_NF: np.ndarray) -> np.ndarray:
    """-log of the chance that was stated of each count, or of a region being open or not, in nats.

    Args:
      mean_NF, variance_NF: as stated, of the counts; a variance below the mean is taken for the mean, as Poisson's is. Of
        regions the mean is the chance, and the variance says nothing.
    """
    if modality == "atac":
        chance_NF = np.clip(np.asarray(mean_NF, np.float64), TINY, 1 - TINY)
        return -np.where(count_NF > 0, np.log(chance_NF), np.log1p(-chance_NF))
    count_NF, law = np.asarray(count_NF, np.float64), _law(mean_NF, variance_NF)
    poisson_NF = count_NF * np.log(law.mean_NF) - law.mean_NF
    size_NF, of_more_NF = law.mean_NF**2 / law.extra_NF, law.extra_NF / (law.mean_NF + law.extra_NF)
    negative_NF = gammaln(size_NF + count_NF) - gammaln(size_NF)
    negative_NF += count_NF * np.log(of_more_NF) - size_NF * np.log1p(law.extra_NF / law.mean_NF)
    return gammaln(count_NF + 1) - np.where(law.is_poisson_NF, poisson_NF, negative_NF)


def within(count_NF: np.ndarray, mean_NF: np.ndarray, variance_NF: np.ndarray) -> np.ndarray:
    """By how much each count lies within the central interval that holds `SHARE` of its stated distribution, in [0, 1].
    Arguments as of `surprise`."""
    low_NF, high_NF = _places(count_NF, mean_NF, variance_NF)
    first, last = (1 - SHARE) / 2, (1 + SHARE) / 2
    width_NF = high_NF - low_NF
    part_NF = np.clip(np.minimum(high_NF, last) - np.maximum(low_NF, first), 0, None)
    is_point_NF = width_NF < 1e-12  # far in a tail: all of it lies on one side
    return np.where(is_point_NF, (low_NF > first) & (low_NF < last), part_NF / np.where(is_point_NF, 1, width_NF))


class _Law(NamedTuple):
    """A negative binomial by its mean and what its variance has beyond that; or a Poisson, and then that says nothing."""

    mean_NF: np.ndarray
    extra_NF: np.ndarray
    is_poisson_NF: np.ndarray


def _law(mean_NF: np.ndarray, variance_NF: np.ndarray) -> _Law:
    """The law of these moments, float64, the mean above 0; Poisson's where they do not spread more than it."""
    mean_NF = np.maximum(np.asarray(mean_NF, np.float64), TINY)
    extra_NF = np.asarray(variance_NF, np.float64) - mean_NF
    is_poisson_NF = extra_NF <= 1e-6 * mean_NF
    return _Law(mean_NF, np.where(is_poisson_NF, mean_NF, extra_NF), is_poisson_NF)


def _places(count_NF: np.ndarray, mean_NF: np.ndarray, variance_NF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(F(x - 1), F(x))."""
    count_NF, law = np.asarray(count_NF, np.float64), _law(mean_NF, variance_NF)
    size_NF, of_no_more_NF = law.mean_NF**2 / law.extra_NF, law.mean_NF / (law.mean_NF + law.extra_NF)

    def below(count_NF: np.ndarray) -> np.ndarray:
        """The chance of fewer than so many."""
        some_NF = np.maximum(count_NF, 1)
        spread_NF = betainc(size_NF, some_NF, of_no_more_NF)
        return np.where(count_NF > 0, np.where(law.is_poisson_NF, gammaincc(some_NF, law.mean_NF), spread_NF), 0.0)

    return below(count_NF), below(count_NF + 1)
