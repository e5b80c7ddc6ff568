"""How near the two views of one cell lie, where a model never saw them paired.

FOSCTTM, the fraction of samples closer than the true match (Liu et al. 2019): of each cell's view, the share of the
other modality's cells that lie nearer than its own other view, averaged over cells and both directions. 0 is perfect,
0.5 is chance, and its standard of comparison is the same embedding's: it does not change with scale or rotation.

The matching score is stricter: of a weight of 1 that each cell deals out among the other modality's cells, what its
own other view gets (the "match probability" of the NeurIPS 2021 challenge; Lance et al. 2022, PMLR 176:162). There the
method deals it out; here all do alike, evenly among the k nearest, so that embeddings are compared and not matchers.

Labels transferred from one modality to the other are `annotation.knn_accuracy`, the one's cells voting for the other's.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from mofm.errors import InputError

BLOCK = 1024
"""Cells compared at a time; memory is BLOCK x N."""


def foscttm(one_ND: np.ndarray, other_ND: np.ndarray) -> float:
    """Mean of both directions, Euclidean; ties count half.

    Args:
      one_ND, other_ND: row i of both is the same cell.

    Raises:
      InputError: shapes that differ, fewer than 2 cells, or values that are not finite.
    """
    return float(np.mean(closer_shares(one_ND, other_ND)))


def closer_shares(one_ND: np.ndarray, other_ND: np.ndarray) -> np.ndarray:
    """FOSCTTM of each cell, of which `foscttm` is the mean: float64, N, the mean of its two directions."""
    one_ND, other_ND = _checked("FOSCTTM", one_ND, other_ND)
    return (_closer(one_ND, other_ND) + _closer(other_ND, one_ND)) / 2


class Matching(NamedTuple):
    """Attributes: score, the mean weight of the true match; found, the share of cells with any; chance, of the score."""

    score: float
    found: float
    chance: float


def matching_score(one_ND: np.ndarray, other_ND: np.ndarray, k: int = 1) -> Matching:
    """Mean weight, over cells and both directions, of the true match where the k nearest get 1/k each (Euclidean).

    Cells at the distance of the k-th share what places are left. With k of 1 it is how often the nearest is the match.

    Args:
      one_ND, other_ND: row i of both is the same cell.
      k: lowered to the number of cells where there are fewer.

    Raises:
      InputError: shapes that differ, fewer than 2 cells, values that are not finite, or k below 1.
    """
    place_2N = match_places(one_ND, other_ND, k)
    return Matching(float(np.mean(place_2N) / min(k, len(one_ND))), float(np.mean(place_2N > 0)), 1 / len(one_ND))


def match_places(one_ND: np.ndarray, other_ND: np.ndarray, k: int = 1) -> np.ndarray:
    """For each direction and cell, how much of a place among the k nearest its true match has; float64, 2 x N."""
    one_ND, other_ND = _checked("matching score", one_ND, other_ND)
    if k < 1:
        raise InputError(f"matching score: k={k} must be at least 1")
    k = min(k, len(one_ND))
    return np.stack([_places(one_ND, other_ND, k), _places(other_ND, one_ND, k)])


def _places(queries_ND: np.ndarray, targets_ND: np.ndarray, k: int) -> np.ndarray:
    """How much of a place among the k nearest each query's own target has: 1, 0, or a share of those that ties leave."""
    places = []
    for rows, distance_BN in _distances(queries_ND, targets_ND):
        own_B1 = distance_BN[np.arange(len(rows)), rows][:, None]
        nearer_B, tied_B = np.sum(distance_BN < own_B1, axis=1), np.sum(distance_BN == own_B1, axis=1)
        places.append(np.clip((k - nearer_B) / tied_B, 0, 1))
    return np.concatenate(places)


def _closer(queries_ND: np.ndarray, targets_ND: np.ndarray) -> np.ndarray:
    shares = []
    for rows, distance_BN in _distances(queries_ND, targets_ND):
        own_B1 = distance_BN[np.arange(len(rows)), rows][:, None]
        nearer_B = np.sum(distance_BN < own_B1, axis=1) + (np.sum(distance_BN == own_B1, axis=1) - 1) / 2
        shares.append(nearer_B / (len(targets_ND) - 1))
    return np.concatenate(shares)


def _distances(queries_ND: np.ndarray, targets_ND: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of some queries, and their distances to all targets: squared, less what is the same for all targets."""
    size_N = np.sum(targets_ND**2, axis=1)
    for start in range(0, len(queries_ND), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(queries_ND)))
        yield rows, size_N - 2 * queries_ND[rows] @ targets_ND.T


def _checked(score: str, one_ND: np.ndarray, other_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    one_ND, other_ND = np.asarray(one_ND, np.float64), np.asarray(other_ND, np.float64)
    if one_ND.shape != other_ND.shape or one_ND.ndim != 2 or len(one_ND) < 2:
        raise InputError(f"{score} needs two embeddings of the same cells, 2 or more: {one_ND.shape}, {other_ND.shape}")
    if not (np.isfinite(one_ND).all() and np.isfinite(other_ND).all()):
        raise InputError(f"{score} needs finite embeddings: leave out the cells that a modality does not have")
    return one_ND, other_ND
