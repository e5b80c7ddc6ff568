"""Does a translation know how wrong it is? How often the intervals that it states hold what was measured.

Of a calibrated prediction the central 90% interval holds nine measurements in ten. Few reads are whole numbers, of which no
interval holds just so many: a count x stands for all of (F(x - 1), F(x)], F the stated distribution function, and counts as
inside by the part of it between 0.05 and 0.95 (the expectation of a randomised probability integral transform; Czado,
Gneiting & Held 2009). Then the mean over cells is 0.9 for what is calibrated, however few the reads, and no lot is drawn.

The distributions are those of the likelihoods (`objectives/moments.py`) as far as mean and variance tell them: negative
binomials for RNA and, of the mixture of ADT, the one of its moments. Not judged are regions, as an interval of a coin holds
what it should whatever the coin, and methylation, of which the variance of many reads is stated, and cells have few.
"""

import numpy as np
from scipy.special import betainc, gammaincc

from mofm.axes import Modality

SHARE = 0.9
JUDGED: tuple[Modality, ...] = ("rna", "adt")


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


def coverage_misses(weights_DN: np.ndarray, within_NF: np.ndarray) -> np.ndarray:
    """miss_DF: how far the share of a draw's cells that lie within is from `SHARE`, of each feature."""
    return np.abs(weights_DN @ within_NF / weights_DN.sum(axis=1, keepdims=True) - SHARE)


def _places(count_NF: np.ndarray, mean_NF: np.ndarray, variance_NF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(F(x - 1), F(x)) of the negative binomial of these moments; of the Poisson where they do not spread more than it."""
    count_NF, mean_NF, variance_NF = (np.asarray(x, np.float64) for x in (count_NF, mean_NF, variance_NF))
    mean_NF = np.maximum(mean_NF, 1e-12)
    extra_NF = variance_NF - mean_NF
    is_poisson_NF = extra_NF <= 1e-6 * mean_NF
    size_NF = mean_NF**2 / np.where(is_poisson_NF, mean_NF, extra_NF)
    chance_NF = np.where(is_poisson_NF, 0.5, mean_NF / np.where(is_poisson_NF, mean_NF, variance_NF))

    def below(count_NF: np.ndarray) -> np.ndarray:
        """The chance of fewer than so many."""
        some_NF = np.maximum(count_NF, 1)
        found_NF = np.where(is_poisson_NF, gammaincc(some_NF, mean_NF), betainc(size_NF, some_NF, chance_NF))
        return np.where(count_NF > 0, found_NF, 0.0)

    return below(count_NF), below(count_NF + 1)
