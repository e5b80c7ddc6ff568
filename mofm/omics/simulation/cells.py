"""The simulated cells before any assay: type, donor, batch, TF activity, place on the path, and lagging proteins.

Choices and their cost:

- **A protein is made as fast as its gene is expressed and decays slowly**: `dP/dt = (rate - P) / lag` along the cell's own
  trajectory, so it shows where the cell was some time ago, smoothed. Only the proteins asked for are followed.
- **A donor is biology, a batch is technique**: a donor shifts the expression of genes, and promoters and proteins follow;
  a batch shifts what an assay reads. Every donor is in every batch (pooled samples), so the two can be separated.
"""

from typing import NamedTuple

import numpy as np
from scipy import sparse

from mofm.omics.simulation.config import SimulationConfig, stream
from mofm.omics.simulation.network import TIME_STEP, Network, sample_states
from mofm.omics.simulation.path import find_path, travel

_RARE_SHARE = 0.2  # of the cells is split evenly, so that no type vanishes
_STATE_BLOCK = 2048  # cells made at a time. Blocks order the draws: another size means other random numbers


class Cells(NamedTuple):
    """Cells, batches and donors.

    Attributes:
      label_N, batch_N, donor_N: int64, each cell's type, batch and donor.
      pseudotime_N: float64, place on the path from 0 (its first type) to 1 (its last); NaN off the path.
      activity_NT: float32 >= 0, TF activities; 1 is on.
      protein_NA: float32 > 0, levels of the proteins followed; 1 is the level at which every TF is half active.
      gene_factor_SG: float64, log factors of a batch on what is read of each gene.
      depth_factor_S: float64, log factor of a batch on the depth of a cell.
      shift_DG: float64, log factors of a donor on the expression of each gene.
    """

    label_N: np.ndarray
    batch_N: np.ndarray
    donor_N: np.ndarray
    pseudotime_N: np.ndarray
    activity_NT: np.ndarray
    protein_NA: np.ndarray
    gene_factor_SG: np.ndarray
    depth_factor_S: np.ndarray
    shift_DG: np.ndarray


def draw_cells(
    config: SimulationConfig,
    network: Network,
    attractors_CT: np.ndarray,
    surface_A: np.ndarray | None = None,
    lag: float = 1.0,
) -> Cells:
    """The config's cells, with the levels of the proteins of the genes `surface_A` (none where not given).

    Raises:
      InputError: the network cannot differentiate along the config's path.
    """
    label_N = _draw_labels(config)
    place_N = _draw_places(config, label_N)
    responses_AT = network.responses()[np.array([], dtype=np.int64) if surface_A is None else surface_A]
    trajectories = _sample_trajectories(config, network, attractors_CT, label_N, place_N, responses_AT, lag)
    batch_N, gene_factor_SG, depth_factor_S = _draw_batches(config, label_N)
    donor_N, shift_DG = _draw_donors(config, label_N)
    pseudotime_N = place_N / max(1, config.path_types - 1)
    return Cells(label_N, batch_N, donor_N, pseudotime_N, *trajectories, gene_factor_SG, depth_factor_S, shift_DG)


class _Proteins:
    """Levels of proteins, from where their cells start; `follow` the cells' states to keep them up to date."""

    def __init__(self, responses_AT: sparse.csr_matrix, lag: float, start_TN: np.ndarray):
        self.responses_AT, self.lag = responses_AT, lag
        self.level_AN = self.rates(start_TN)

    def rates(self, state_TN: np.ndarray) -> np.ndarray:
        return np.exp(self.responses_AT @ (state_TN - 0.5))

    def follow(self, state_TN: np.ndarray, cells: np.ndarray | slice = slice(None)) -> None:
        level_AN = self.level_AN[:, cells]
        self.level_AN[:, cells] = level_AN + TIME_STEP / self.lag * (self.rates(state_TN) - level_AN)


def _draw_labels(config: SimulationConfig) -> np.ndarray:
    """The cell type of each cell, int64."""
    rng = stream(config, "composition")
    share_C = rng.dirichlet(np.full(config.cell_types, config.type_concentration))
    share_C = (1 - _RARE_SHARE) * share_C + _RARE_SHARE / config.cell_types
    return rng.choice(config.cell_types, config.cells, p=share_C)


def _draw_places(config: SimulationConfig, label_N: np.ndarray) -> np.ndarray:
    """Each cell's place on the path, evenly within reach of its station; NaN for cells of other types."""
    offset_N = stream(config, "path").random(config.cells) - 0.5
    last = config.path_types - 1
    offset_N = np.where(label_N == 0, np.abs(offset_N), np.where(label_N == last, -np.abs(offset_N), offset_N))
    return np.where(label_N < config.path_types, label_N + offset_N, np.nan)


def _draw_batches(config: SimulationConfig, label_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each cell's batch, and each batch's log factors on the genes and on the depth."""
    rng = stream(config, "batches")
    gene_factor_SG = config.batch_effect * rng.standard_normal((config.batches, config.genes))
    depth_factor_S = config.batch_effect / 2 * rng.standard_normal(config.batches)
    batch_N = _spread(label_N, config.cell_types, config.batches, config.batch_concentration, rng)
    return batch_N, gene_factor_SG, depth_factor_S


def _draw_donors(config: SimulationConfig, label_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each cell's donor, and each donor's log factors on the genes; one donor alone has none."""
    rng = stream(config, "donors")
    strength = config.donor_effect if config.donors > 1 else 0.0
    shift_DG = strength * rng.standard_normal((config.donors, config.genes))
    return _spread(label_N, config.cell_types, config.donors, config.donor_concentration, rng), shift_DG


def _spread(label_N: np.ndarray, types: int, groups: int, concentration: float, rng: np.random.Generator) -> np.ndarray:
    """Each cell's group, int64; every type has its own shares of the groups."""
    upper_CS = rng.dirichlet(np.full(groups, concentration), types).cumsum(axis=1)
    return (rng.random((len(label_N), 1)) > upper_CS[label_N, :-1]).sum(axis=1)


def _sample_trajectories(
    config: SimulationConfig,
    network: Network,
    attractors_CT: np.ndarray,
    label_N: np.ndarray,
    place_N: np.ndarray,
    responses_AT: sparse.csr_matrix,
    lag: float,
) -> tuple[np.ndarray, np.ndarray]:
    """TF activities and protein levels of all cells where they are seen: float32 cells x TFs, cells x proteins."""
    rng, path_rng = stream(config, "states"), stream(config, "path_states")
    path = find_path(config, network, attractors_CT) if config.path_types else None
    on_path_N = ~np.isnan(place_N)
    station_N = label_N.copy()
    if path:
        station_N[on_path_N] = path.leg(place_N[on_path_N])
    activity_NT = np.empty((config.cells, config.tfs), dtype=np.float32)
    protein_NA = np.empty((config.cells, responses_AT.shape[0]), dtype=np.float32)
    for start in range(0, config.cells, _STATE_BLOCK):
        block = slice(start, start + _STATE_BLOCK)
        start_TN = attractors_CT[station_N[block]].T
        proteins = _Proteins(responses_AT, lag, start_TN)
        state_TN = sample_states(network, start_TN, config.state_noise, rng, proteins.follow)
        if path and on_path_N[block].any():
            state_TN = travel(network, path, place_N[block], state_TN, config.state_noise, path_rng, proteins.follow)
        activity_NT[block], protein_NA[block] = state_TN.T, proteins.level_AN.T
    return activity_NT, protein_NA
