"""What a head's logits and distances are worth, by cells that it did not learn from.

- The temperature is that of the least log loss, so that confidences are chances to be right.
- Two things say "unknown": a confidence below the threshold, and a distance beyond `far` (`places.py`). Both cuts are made at
  the same rank, such that SHARE_KEPT of the rightly named judged cells pass both.

Figures are cross-fitted between two halves of the judged cells, each calibrated on the other half.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from scipy.stats import rankdata

from mofm.inference.naming import SHARE_KEPT

BINS = 10


class Worth(NamedTuple):
    """Attributes: temperature, of the logits; threshold, least confidence, and far, most distance, of a cell that is named."""

    temperature: float
    threshold: float
    far: float


def calibrate(logit_NC: np.ndarray, distance_N: np.ndarray, code_N: np.ndarray) -> Worth:
    """What N judged cells of the classes `code_N` say; without one that is rightly named, every cell is named."""

    def loss(log_temperature: float) -> float:
        return -log_softmax(logit_NC / np.exp(log_temperature), axis=1)[np.arange(len(code_N)), code_N].mean()

    found = minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded", options={"xatol": 1e-6})
    temperature = float(np.exp(found.x))
    chance_NC = np.exp(log_softmax(logit_NC / temperature, axis=1))
    right_N = chance_NC.argmax(axis=1) == code_N
    if not right_N.any():
        return Worth(temperature, 0.0, np.inf)
    sure_N, near_N = chance_NC.max(axis=1)[right_N], -distance_N[right_N]
    rank_N = np.minimum(rankdata(sure_N), rankdata(near_N))
    kept_N = rank_N >= np.quantile(rank_N, 1 - SHARE_KEPT, method="lower")
    return Worth(temperature, float(sure_N[kept_N].min()), float(-near_N[kept_N].min()))


def figures_of(
    logit_NC: np.ndarray, distance_N: np.ndarray, code_N: np.ndarray, rng: np.random.Generator
) -> dict[str, float]:
    """How well N judged cells are named, as plain values."""
    halves = np.array_split(rng.permutation(len(code_N)), 2)
    confidence_N, kept_N = np.zeros(len(code_N)), np.zeros(len(code_N), bool)
    for mine, other in (halves, halves[::-1]):
        worth = calibrate(logit_NC[other], distance_N[other], code_N[other])
        confidence_N[mine] = np.exp(log_softmax(logit_NC[mine] / worth.temperature, axis=1)).max(axis=1)
        kept_N[mine] = (confidence_N[mine] >= worth.threshold) & (distance_N[mine] <= worth.far)
    right_N = logit_NC.argmax(axis=1) == code_N
    return {
        "accuracy": float(right_N.mean()),
        "mean_recall": float(pd.Series(right_N).groupby(code_N).mean().mean()),
        "calibration_error": reliability(confidence_N, right_N),
        "kept": float(kept_N.mean()),
        "accuracy_of_kept": float(right_N[kept_N].mean()) if kept_N.any() else 0.0,
    }


def reliability(confidence_N: np.ndarray, right_N: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error: |mean confidence - share that is right| over bins of equally many cells, averaged."""
    order = np.argsort(confidence_N, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    gaps = [abs(confidence_N[part].mean() - right_N[part].mean()) * len(part) for part in parts]
    return float(np.sum(gaps) / len(order))
