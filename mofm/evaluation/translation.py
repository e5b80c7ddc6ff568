"""How well one omics type is predicted from another, feature by feature across cells.

Pooled over all entries, or per cell, the mean predictor looks brilliant: it knows which features are high, and nothing
of any cell (AUROC .88 of a real Multiome). Across cells, one feature at a time, it is at 0 (correlation) or at 0.5
(AUROC), so these are the scores here; they stand beside those of `translation_baselines`.

Choices and their cost:
- Every feature weighs the same in the mean, so rare features, which hold more noise than cell, pull it down. Which
  features are judged is the caller's to choose and to say.
- A feature that has one value in the truth cannot be ranked by anyone: it is left out and counted. One whose
  *prediction* is constant says nothing of cells: it stays in, at 0 or at 0.5, and is counted as `flat`.
- NaN in the truth is what was not measured (methylation): that cell is left out for that feature alone. A prediction
  must be finite everywhere.
- Features pass in blocks of `BLOCK_ENTRIES` numbers, and a sparse truth becomes dense a block at a time.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.stats import rankdata

from mofm.errors import InputError

BLOCK_ENTRIES = 2**22

Matrix = np.ndarray | sp.spmatrix | sp.sparray


class PerFeature(NamedTuple):
    """A score of each feature.

    Attributes:
      score_F: float64, one a feature; NaN where it was left out.
      mean: over the features that are in; NaN where none is.
      left_out: features whose measured truth has fewer than two values.
      flat: features that are in though their prediction is the same for every cell.
    """

    score_F: np.ndarray
    mean: float
    left_out: int
    flat: int

    @property
    def scored(self) -> int:
        """Features in the mean."""
        return len(self.score_F) - self.left_out


def per_feature_correlation(
    truth_NF: Matrix, predicted_NF: Matrix, kind: Literal["pearson", "spearman"] = "pearson"
) -> PerFeature:
    """Correlation over cells of each feature's prediction with its truth; a flat prediction has 0.

    Args:
      truth_NF: cells x features, dense or sparse; NaN where not measured.
      predicted_NF: the same shape, on any scale (Spearman) or on the truth's scale up to shift and factor (Pearson).
      kind: "spearman" ranks the measured cells of each feature first, ties by their mean rank.

    Raises:
      InputError: shapes that differ, no cells, or a prediction (or a truth, but for NaN) that is not finite.
    """
    return _by_feature(truth_NF, predicted_NF, 0.0, lambda *block: _correlate(*block, ranked=kind == "spearman"))


def per_feature_auroc(open_NF: Matrix, score_NF: Matrix) -> PerFeature:
    """The chance that an open cell has a higher score than a closed one, of each feature; ties count half.

    Args:
      open_NF: cells x features, bool or 0 and 1, dense or sparse.
      score_NF: the same shape; only its order over the cells of a feature matters. A flat score has 0.5.

    Raises:
      InputError: shapes that differ, no cells, a truth of other values than 0 and 1, or a score that is not finite.
    """
    return _by_feature(open_NF, score_NF, 0.5, _rank_sums)


def _by_feature(truth_NF: Matrix, predicted_NF: Matrix, flat_score: float, score: Callable) -> PerFeature:
    """`score(truth, measured, predicted)` of blocks of features; NaN of it is left out, flat predictions get theirs."""
    if truth_NF.shape != predicted_NF.shape or len(truth_NF.shape) != 2 or not truth_NF.shape[0]:
        raise InputError(
            f"translation: truth {truth_NF.shape} and prediction {predicted_NF.shape} are not of the same cells and "
            "features: align their names first"
        )
    cells, features = truth_NF.shape
    truth_NF, predicted_NF = (x.tocsc() if sp.issparse(x) else np.asarray(x) for x in (truth_NF, predicted_NF))
    score_F, is_flat_F = np.full(features, np.nan), np.zeros(features, bool)
    step = max(1, BLOCK_ENTRIES // cells)
    for start in range(0, features, step):
        block = slice(start, start + step)
        truth_NB, predicted_NB = (_dense(x[:, block]) for x in (truth_NF, predicted_NF))
        measured_NB = ~np.isnan(truth_NB)
        if not np.isfinite(predicted_NB).all() or np.isinf(truth_NB).any():
            raise InputError(f"translation: values of features {start} to {start + step} are not finite")
        score_B = score(truth_NB, measured_NB, predicted_NB)
        is_flat_F[block] = _constant(predicted_NB, measured_NB) & ~np.isnan(score_B)
        score_F[block] = np.where(is_flat_F[block], flat_score, score_B)
    return _summary(score_F, is_flat_F)


def _summary(score_F: np.ndarray, is_flat_F: np.ndarray) -> PerFeature:
    kept = ~np.isnan(score_F)
    mean = float(score_F[kept].mean()) if kept.any() else float("nan")
    return PerFeature(score_F, mean, int(np.sum(~kept)), int(is_flat_F.sum()))


def _dense(x: Matrix) -> np.ndarray:
    return np.asarray(x.toarray() if sp.issparse(x) else x, np.float64)


def _constant(x_NF: np.ndarray, measured_NF: np.ndarray) -> np.ndarray:
    """Whether a feature has fewer than two values among its measured cells. Exact: no tolerance to be small in."""
    lowest_F = np.min(x_NF, axis=0, where=measured_NF, initial=np.inf)
    return ~(np.max(x_NF, axis=0, where=measured_NF, initial=-np.inf) > lowest_F)


def _correlate(truth_NF: np.ndarray, measured_NF: np.ndarray, predicted_NF: np.ndarray, ranked: bool) -> np.ndarray:
    out = _constant(truth_NF, measured_NF)
    predicted_NF = np.where(measured_NF, predicted_NF, np.nan)
    if ranked:
        truth_NF, predicted_NF = (rankdata(x, axis=0, nan_policy="omit") for x in (truth_NF, predicted_NF))
    truth_NF, predicted_NF = (_standardised(x, measured_NF) for x in (truth_NF, predicted_NF))
    return np.where(out, np.nan, np.clip(np.sum(truth_NF * predicted_NF, axis=0), -1, 1))


def _standardised(x_NF: np.ndarray, measured_NF: np.ndarray) -> np.ndarray:
    """Columns of mean 0 and length 1 over their measured cells, 0 elsewhere and where constant."""
    x_NF = np.where(measured_NF, x_NF, 0.0)
    x_NF = np.where(measured_NF, x_NF - x_NF.sum(axis=0) / np.maximum(measured_NF.sum(axis=0), 1), 0.0)
    x_NF /= np.maximum(np.abs(x_NF).max(axis=0), np.finfo(np.float64).tiny)  # squares of tiny values would vanish
    return x_NF / np.maximum(np.linalg.norm(x_NF, axis=0), np.finfo(np.float64).tiny)


def _rank_sums(open_NF: np.ndarray, measured_NF: np.ndarray, score_NF: np.ndarray) -> np.ndarray:
    """AUROC by the Mann-Whitney statistic of ranks."""
    if not np.isin(open_NF, (0.0, 1.0)).all():
        raise InputError("AUROC is of features that are open (1) or closed (0) in a cell: binarise counts first")
    open_F = open_NF.sum(axis=0)
    closed_F = len(open_NF) - open_F
    above_F = np.sum(rankdata(score_NF, axis=0) * open_NF, axis=0) - open_F * (open_F + 1) / 2
    pairs_F = open_F * closed_F
    return np.divide(above_F, pairs_F, out=np.full(len(pairs_F), np.nan), where=pairs_F > 0)
