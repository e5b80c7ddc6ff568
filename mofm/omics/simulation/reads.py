"""Reads over many features without a matrix of cells x features: how likely each is, and drawing them.

Reads are Poisson. They are proposed by what a feature could give at most and kept with the chance that this cell's state
leaves (thinning), so work and memory go with the reads and not with cells x features, and 200,000 peaks are possible. Cells
are drawn in blocks of bounded size. The cost: the few copies of a locus in a cell are not distinguished.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.special import expit

from mofm.omics.simulation.cells import Cells
from mofm.omics.simulation.config import SimulationConfig

_PROPOSAL_BLOCK = 2**20  # proposed reads. Blocks order the draws: another size means other random numbers


class LogOdds(NamedTuple):
    """The log odds of features (peaks that are open, regions that are methylated), linear in what the TFs do.

    Attributes:
      rest_P: float64, with every TF half active.
      weights_PT: CSR float64, what is added from TF off to TF on.
      shift_DP: float64, what each donor adds.
    """

    rest_P: np.ndarray
    weights_PT: sparse.csr_matrix
    shift_DP: np.ndarray

    def at(self, cells: Cells, cell_I: np.ndarray, feature_I: np.ndarray) -> np.ndarray:
        """Of the pairs of a cell and a feature, float64."""
        weights_IT = self.weights_PT[feature_I]
        pair = np.repeat(np.arange(len(cell_I)), np.diff(weights_IT.indptr))
        activity = cells.activity_NT[cell_I[pair], weights_IT.indices]
        driven_I = np.bincount(pair, weights_IT.data * (activity - 0.5), minlength=len(cell_I))
        return self.rest_P[feature_I] + self.shift_DP[cells.donor_N[cell_I], feature_I] + driven_I

    def of_state(self, state_T: np.ndarray) -> np.ndarray:
        """Of every feature in one state of the TFs, without donors: float64."""
        return self.rest_P + self.weights_PT @ (state_T - 0.5)

    def highest(self, cells: Cells) -> np.ndarray:
        """No cell has more, float64 features."""
        low_T, high_T = (edge(cells.activity_NT, axis=0).astype(np.float64) - 0.5 for edge in (np.min, np.max))
        opening, closing = self.weights_PT.maximum(0), self.weights_PT.minimum(0)
        return self.rest_P + self.shift_DP.max(axis=0) + opening @ high_T + closing @ low_T


def draw_depths(
    config: SimulationConfig, median: float, spread: float, batch_N: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The depth of each cell: log-normal with standard deviation `spread`, times its batch's factor. float64."""
    factor_S = config.batch_effect / 2 * rng.standard_normal(config.batches)
    return median * np.exp(spread * rng.standard_normal(len(batch_N)) + factor_S[batch_N])


def draw_capacities(config: SimulationConfig, capacity_P: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What each feature yields in each batch, float64 batches x features: `capacity_P` times the batch's factors."""
    return capacity_P * np.exp(config.batch_effect * rng.standard_normal((config.batches, len(capacity_P))))


def draw_reads(
    depth_N: np.ndarray,
    capacity_SP: np.ndarray,
    batch_N: np.ndarray,
    rng: np.random.Generator,
    keep: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> sparse.csr_matrix:
    """Poisson reads of cells x features, canonical int32 CSR, with mean depth x capacity x keep.

    Args:
      keep: (cells, features) of proposed reads -> the chance (0 to 1) that each stays; None keeps all.
    """
    n_batches, n_features = capacity_SP.shape
    total_S = capacity_SP.sum(axis=1)
    upper_SP = capacity_SP.cumsum(axis=1) / total_S[:, None] + np.arange(n_batches)[:, None]
    proposed_N = rng.poisson(depth_N * total_S[batch_N])
    blocks = []
    for first, last in _blocks(proposed_N):
        cell = np.repeat(np.arange(first, last), proposed_N[first:last])
        # Batch s owns the interval from s to s + 1 of one long line of all batches' features.
        place = np.searchsorted(upper_SP.ravel(), batch_N[cell] + rng.random(len(cell)), side="right")
        feature = np.clip(place - n_features * batch_N[cell], 0, n_features - 1)
        if keep:
            kept = rng.random(len(cell)) < keep(cell, feature)
            cell, feature = cell[kept], feature[kept]
        one = np.ones(len(cell), dtype=np.int32)
        blocks.append(sparse.csr_matrix((one, (cell - first, feature)), shape=(last - first, n_features)))
    reads = sparse.vstack(blocks, format="csr")
    reads.sum_duplicates()
    return reads


def _blocks(proposed_N: np.ndarray) -> list[tuple[int, int]]:
    """Runs of cells with about `_PROPOSAL_BLOCK` reads each, at least one cell."""
    block_N = proposed_N.cumsum() // _PROPOSAL_BLOCK
    starts = np.flatnonzero(np.diff(block_N, prepend=-1))
    return list(zip(starts.tolist(), [*starts[1:].tolist(), len(proposed_N)], strict=True))


def beta_binomial(total_I: np.ndarray, log_odds_I: np.ndarray, spread: float, rng: np.random.Generator) -> np.ndarray:
    """Hits among `total_I` trials, int32, whose chance has the log odds' mean and a beta distribution around it.

    `spread` is the correlation of two trials of one entry, 1 / (a + b + 1) of Beta(a, b); 0 is binomial.
    """
    chance_I = expit(log_odds_I)
    if spread:
        strength = 1 / spread - 1
        chance_I = rng.beta(np.maximum(strength * chance_I, 1e-6), np.maximum(strength * (1 - chance_I), 1e-6))
    return rng.binomial(total_I, chance_I).astype(np.int32)
