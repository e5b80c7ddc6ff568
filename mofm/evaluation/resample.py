"""Scores of cells under resampling: each score as it is and as it is in B bootstrap draws of the cells, all at once.

A draw of N cells with replacement is N weights that sum to N, so every score here takes weights_DN, whose row 0 is all
ones: entry 0 of what it gives is the score, the others are its draws. Methods that are scored with the same weights are
scored on the same draws, so the difference of two has an interval of its own, narrower than theirs are where they err on
the same cells.

What an interval says: how sure the score is on cells like these, from this sample. Not how another training run, another
donor or another experiment would come out; what was fitted (components, neighbours, readers) is held as it is.
"""

from typing import NamedTuple

import numba
import numpy as np

from mofm.errors import InputError
from mofm.evaluation.scores import Interval

LEAST_DRAWS = 20
_FLAT = 1e-9
"""A variance below this, of values scaled to 1, is none: rounding alone."""


class Estimate(NamedTuple):
    """A score and its draws.

    Attributes:
      draws_D: float64; the first is the score of the cells as they are. NaN where it cannot be computed for a draw.
    """

    draws_D: np.ndarray

    @property
    def interval(self) -> Interval:
        """The score and the ends of its 95% percentile interval."""
        drawn = self.draws_D[1:][np.isfinite(self.draws_D[1:])]
        ends = np.quantile(drawn, (0.025, 0.975)) if len(drawn) else (np.nan, np.nan)
        return Interval(float(self.draws_D[0]), float(ends[0]), float(ends[1]))

    def minus(self, other: "Estimate") -> "Estimate":
        """The difference, draw by draw: both are to be of the same weights."""
        return Estimate(self.draws_D - other.draws_D)


def draw_weights(cells: int, draws: int, seed: int) -> np.ndarray:
    """weights_DN, float64, D being `draws` + 1: row 0 is all ones, the others say how often each cell was drawn.

    Raises:
      InputError: no cells, or fewer than `LEAST_DRAWS` draws.
    """
    if cells < 1:
        raise InputError("an interval over cells needs at least one of them")
    if draws < LEAST_DRAWS:
        raise InputError(f"--bootstrap {draws}: must be at least {LEAST_DRAWS}; 1000 is usual")
    drawn = np.random.default_rng(seed).multinomial(cells, np.full(cells, 1 / cells), size=draws)
    return np.concatenate([np.ones((1, cells)), drawn])


def mean_of(weights_DN: np.ndarray, values_N: np.ndarray) -> Estimate:
    """The mean over cells of a value of each."""
    return ratio_of(weights_DN, values_N, np.ones(len(values_N)))


def ratio_of(weights_DN: np.ndarray, above_N: np.ndarray, below_N: np.ndarray) -> Estimate:
    """The sum of one value over that of another; NaN where the second is 0."""
    above_D, below_D = weights_DN @ np.asarray(above_N, np.float64), weights_DN @ np.asarray(below_N, np.float64)
    return Estimate(np.divide(above_D, below_D, out=np.full(len(above_D), np.nan), where=below_D > 1e-12))


def accuracy(weights_DN: np.ndarray, true_N: np.ndarray, said_N: np.ndarray) -> Estimate:
    """The share of cells whose label was named."""
    return mean_of(weights_DN, np.asarray(true_N) == np.asarray(said_N))


def macro_f1(weights_DN: np.ndarray, true_N: np.ndarray, said_N: np.ndarray) -> Estimate:
    """Mean F1 of the labels that the cells of a draw have; each weighs the same."""
    names, true_N = np.unique(true_N, return_inverse=True)
    is_true_NC = np.eye(len(names))[true_N]
    is_said_NC = (np.asarray(said_N)[:, None] == names[None, :]).astype(np.float64)
    true_DC, said_DC, both_DC = (weights_DN @ x for x in (is_true_NC, is_said_NC, is_true_NC * is_said_NC))
    f1_DC = 2 * both_DC / np.maximum(true_DC + said_DC, 1)
    present_DC = true_DC > 0
    return Estimate(np.sum(f1_DC, axis=1, where=present_DC) / present_DC.sum(axis=1))


def correlations(weights_DN: np.ndarray, truth_NF: np.ndarray, predicted_NF: np.ndarray) -> np.ndarray:
    """r_DF, Pearson's correlation over cells of each feature. A flat prediction has 0, a truth of one value NaN.

    Args:
      truth_NF: NaN where not measured: that cell is left out for that feature.
      predicted_NF: finite.
    """
    measured_NF = ~np.isnan(truth_NF)
    truth_NF, predicted_NF = (_scaled(x, measured_NF) for x in (truth_NF, predicted_NF))
    count_DF, *moments = (
        weights_DN @ x for x in (measured_NF.astype(np.float64), truth_NF, predicted_NF, truth_NF**2, predicted_NF**2)
    )
    truth_DF, predicted_DF, truth2_DF, predicted2_DF = (x / np.maximum(count_DF, 1) for x in moments)
    both_DF = weights_DN @ (truth_NF * predicted_NF) / np.maximum(count_DF, 1) - truth_DF * predicted_DF
    truth2_DF, predicted2_DF = truth2_DF - truth_DF**2, predicted2_DF - predicted_DF**2
    varies_DF = (truth2_DF > _FLAT) & (predicted2_DF > _FLAT)
    r_DF = np.divide(both_DF, np.sqrt(truth2_DF * predicted2_DF, where=varies_DF, out=np.ones_like(both_DF)),
                     out=np.zeros_like(both_DF), where=varies_DF)  # fmt: skip
    return np.where(truth2_DF > _FLAT, np.clip(r_DF, -1, 1), np.nan)


def aurocs(weights_DN: np.ndarray, is_open_NF: np.ndarray, score_NF: np.ndarray) -> np.ndarray:
    """auroc_DF: the chance that an open cell has a higher score than a closed one; ties count half, NaN without both."""
    order_NF = np.argsort(score_NF, axis=0, kind="stable")
    sorted_FN, open_FN = (
        np.ascontiguousarray(np.take_along_axis(x, order_NF, axis=0).T)
        for x in (np.asarray(score_NF), np.asarray(is_open_NF, bool))
    )
    return _aurocs(weights_DN, np.ascontiguousarray(order_NF.T), sorted_FN, open_FN)


@numba.njit(nogil=True)
def _aurocs(weights_DN, order_FN, score_FN, open_FN):
    features, cells = score_FN.shape
    result_DF = np.empty((len(weights_DN), features))
    for feature in range(features):
        order_N, score_N, open_N = order_FN[feature], score_FN[feature], open_FN[feature]
        for draw in range(len(weights_DN)):
            weight_N = weights_DN[draw]
            above, opened, closed, place = 0.0, 0.0, 0.0, 0
            while place < cells:
                tied_open, tied_closed, value = 0.0, 0.0, score_N[place]
                while place < cells and score_N[place] == value:
                    if open_N[place]:
                        tied_open += weight_N[order_N[place]]
                    else:
                        tied_closed += weight_N[order_N[place]]
                    place += 1
                above += tied_open * (closed + tied_closed / 2)
                opened, closed = opened + tied_open, closed + tied_closed
            result_DF[draw, feature] = above / (opened * closed) if opened * closed > 0 else np.nan
    return result_DF


def over_features(score_DF: np.ndarray) -> tuple[Estimate, Estimate]:
    """Mean and median over the features that are defined for the cells as they are; a draw leaves out those that it does
    not."""
    score_DF = score_DF[:, np.isfinite(score_DF[0])]
    if not score_DF.shape[1]:
        nothing = Estimate(np.full(len(score_DF), np.nan))
        return nothing, nothing
    finite_DF = np.isfinite(score_DF)
    some_D = finite_DF.any(axis=1)
    both = np.full((2, len(score_DF)), np.nan)
    both[0, some_D] = np.nanmean(score_DF[some_D], axis=1)
    both[1, some_D] = np.nanmedian(score_DF[some_D], axis=1)
    return Estimate(both[0]), Estimate(both[1])


def mean_estimate(estimates: list[Estimate]) -> Estimate:
    """The mean of several, draw by draw; of those defined for a draw."""
    draws = np.stack([one.draws_D for one in estimates])
    is_finite = np.isfinite(draws)
    count_D = is_finite.sum(axis=0)
    total_D = np.sum(draws, axis=0, where=is_finite)
    return Estimate(np.divide(total_D, count_D, out=np.full(len(total_D), np.nan), where=count_D > 0))


def _scaled(x_NF: np.ndarray, measured_NF: np.ndarray) -> np.ndarray:
    """Mean 0 and variance 1 over the measured cells of each column, 0 elsewhere and in a column of one value."""
    x_NF = np.asarray(x_NF, np.float64)
    lowest_F = np.min(x_NF, axis=0, where=measured_NF, initial=np.inf)
    varies_F = np.max(x_NF, axis=0, where=measured_NF, initial=-np.inf) > lowest_F
    count_F = np.maximum(measured_NF.sum(axis=0), 1)
    x_NF = np.where(measured_NF & varies_F, x_NF, 0.0)
    x_NF = np.where(measured_NF & varies_F, x_NF - x_NF.sum(axis=0) / count_F, 0.0)
    x_NF /= np.maximum(np.abs(x_NF).max(axis=0, initial=0), np.finfo(np.float64).tiny)
    return x_NF / np.maximum(np.sqrt(np.sum(x_NF**2, axis=0) / count_F), np.finfo(np.float64).tiny)
