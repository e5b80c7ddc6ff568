"""How near the two views of one cell lie, where a model never saw them paired.

FOSCTTM, the fraction of samples closer than the true match (Liu et al. 2019): of each cell's view, the share of the
other modality's cells that lie nearer than its own other view, averaged over cells and both directions. 0 is perfect,
0.5 is chance, and its standard of comparison is the same embedding's: it does not change with scale or rotation.
"""

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
    one_ND, other_ND = np.asarray(one_ND, np.float64), np.asarray(other_ND, np.float64)
    if one_ND.shape != other_ND.shape or one_ND.ndim != 2 or len(one_ND) < 2:
        raise InputError(f"FOSCTTM needs two embeddings of the same cells, 2 or more: {one_ND.shape}, {other_ND.shape}")
    if not (np.isfinite(one_ND).all() and np.isfinite(other_ND).all()):
        raise InputError("FOSCTTM needs finite embeddings: leave out the cells that a modality does not have")
    return (_closer(one_ND, other_ND) + _closer(other_ND, one_ND)) / 2


def _closer(queries_ND: np.ndarray, targets_ND: np.ndarray) -> float:
    size_N, shares = np.sum(targets_ND**2, axis=1), []
    for start in range(0, len(queries_ND), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(queries_ND)))
        distance_BN = size_N - 2 * queries_ND[rows] @ targets_ND.T  # squared, less what is the same for all targets
        own_B1 = distance_BN[np.arange(len(rows)), rows][:, None]
        nearer_B = np.sum(distance_BN < own_B1, axis=1) + (np.sum(distance_BN == own_B1, axis=1) - 1) / 2
        shares.append(nearer_B / (len(targets_ND) - 1))
    return float(np.mean(np.concatenate(shares)))
