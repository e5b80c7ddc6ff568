"""Does a translation know how wrong it is? What was measured, under the distribution that it states.

By how much it surprises (the logarithmic score, in nats: least in the mean for the true distribution, so neither the too
sure nor the too shy gain by it), and how often the central interval holds it. Of a calibrated prediction the central 90%
interval holds nine measurements in ten. Few reads are whole numbers, of which no interval holds just so many: a count x
stands for all of (F(x - 1), F(x)], F the stated distribution function, and counts as inside by the part of it between 0.05
and 0.95 (the expectation of a randomised probability integral transform; Czado, Gneiting & Held 2009). Then the mean over
cells is 0.9 for what is calibrated, however few the reads, and no lot is drawn.

Both are asked at the depth at which a cell was in truth read (`at_depth`): what is stated is the spread of one more
measurement at a depth that is told with it, not of what depths there are; a droplet of clumped antibodies, read twenty times as
deep, would else be all that is judged.

The distributions are those of the likelihoods (`objectives/moments.py`) as far as mean and variance tell them: negative
binomials for RNA and, of the mixture of ADT, the one of its moments. Not judged are regions, as an interval of a coin holds
what it should whatever the coin, and methylation, of which the variance of many reads is stated, and cells have few.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import betainc, gammaincc, gammaln

from mofm.axes import Modality

SHARE = 0.9
JUDGED: tuple[Modality, ...] = ("rna", "adt")


def at_depth(mean_NF: np.ndarray, variance_NF: np.ndarray, times_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of cells read so many times as deep: the mean grows with it, the overdispersion stays."""
    mean_NF, variance_NF, times_N1 = (np.asarray(x, np.float64) for x in (mean_NF, variance_NF, times_N[:, None]))
    return mean_NF * times_N1, mean_NF * times_N1 + np.maximum(variance_NF - mean_NF, 0) * times_N1**2


def by_rate(count_NF: np.ndarray, library_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What knows nothing of a cell states of one read once: each feature's share of the reads, and its moments' variance."""
    rate_F = (count_NF.sum(axis=0) + 0.5) / (library_N.sum() + 1)
    mean_NF = rate_F * library_N[:, None]
    squared_F = np.maximum(np.square(mean_NF).sum(axis=0), np.finfo(np.float64).tiny)
    extra_F = (np.square(count_NF - mean_NF) - mean_NF).sum(axis=0) / squared_F
    return rate_F, rate_F + np.maximum(extra_F, 0) * rate_F**2


def within(count_NF: np.ndarray, mean_NF: np.ndarray, variance_NF: np.ndarray) -> np.ndarray:
    """By how much each count lies within the central interval that holds `SHARE` of its stated distribution, in [0, 1].

    Args:
      mean_NF, variance_NF: as stated, of the counts; a variance below the mean is taken for the mean, as Poisson's is.
    """
    low_NF, high_NF = _places(count_NF, mean_NF, variance_NF)
    first, last = (1 - SHARE) / 2, (1 + SHARE) / 2
    width_NF = high_NF - low_NF
    part_NF = np.clip(np.minimum(high_NF, last) - np.maximum(low_NF, first), 0, None)
    is_point_NF = width_NF < 1e-12  # far in a tail: all of it lies on one side
    return np.where(is_point_NF, (low_NF > first) & (low_NF < last), part_NF / np.where(is_point_NF, 1, width_NF))


def surprise(count_NF: np.ndarray, mean_NF: np.ndarray, variance_NF: np.ndarray) -> np.ndarray:
    """-log of the chance that was stated of each count, in nats. Arguments as of `within`."""
    count_NF, mean_NF, law = np.asarray(count_NF, np.float64), *_law(mean_NF, variance_NF)
    poisson_NF = count_NF * np.log(mean_NF) - mean_NF
    size_NF = law.size_NF
    negative_NF = gammaln(size_NF + count_NF) - gammaln(size_NF)
    negative_NF += size_NF * np.log1p(-law.chance_NF) + count_NF * np.log(law.chance_NF)
    return gammaln(count_NF + 1) - np.where(law.is_poisson_NF, poisson_NF, negative_NF)


class _Law(NamedTuple):
    """A negative binomial: its size, and the chance of one count more; or a Poisson, and then these say nothing."""

    is_poisson_NF: np.ndarray
    size_NF: np.ndarray
    chance_NF: np.ndarray


def _law(mean_NF: np.ndarray, variance_NF: np.ndarray) -> tuple[np.ndarray, _Law]:
    """Means, float64 and above 0, and the law of these moments; Poisson's where they do not spread more than it."""
    mean_NF, variance_NF = np.maximum(np.asarray(mean_NF, np.float64), 1e-12), np.asarray(variance_NF, np.float64)
    extra_NF = variance_NF - mean_NF
    is_poisson_NF = extra_NF <= 1e-6 * mean_NF
    extra_NF = np.where(is_poisson_NF, mean_NF, extra_NF)
    return mean_NF, _Law(is_poisson_NF, mean_NF**2 / extra_NF, extra_NF / (mean_NF + extra_NF))


def _places(count_NF: np.ndarray, mean_NF: np.ndarray, variance_NF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(F(x - 1), F(x))."""
    count_NF, mean_NF, law = np.asarray(count_NF, np.float64), *_law(mean_NF, variance_NF)

    def below(count_NF: np.ndarray) -> np.ndarray:
        """The chance of fewer than so many."""
        some_NF = np.maximum(count_NF, 1)
        spread_NF = betainc(law.size_NF, some_NF, 1 - law.chance_NF)
        return np.where(count_NF > 0, np.where(law.is_poisson_NF, gammaincc(some_NF, mean_NF), spread_NF), 0.0)

    return below(count_NF), below(count_NF + 1)
