"""ATAC of simulated cells: TFs open the peaks that they bind, genes follow their peaks, fragments are counted.

Choices and their cost:

- **Peaks carry the network.** A gene's promoter is bound by all of its regulators: activators open it, repressors close it.
  A distal peak is an enhancer, opened by some of the gene's activators, or a silencer, opened by some of its
  repressors. What a TF does to a gene is the sum of what its peaks do, exactly:

      links_PG.T @ binding_PT = the network's edges (target genes x TFs)

  with binding in log odds of openness from TF off to on, and a link in change of the gene's log expression (of a TF
  gene, of the input of its sigmoid) for each log odds that the peak gains: positive but for silencers.
- **Links fade with distance** (by e at 50 kb) and bindings do not, so distance says of a link's weight what it says in life.
- **Openness and expression are read off the same TF activity** of a cell; given it, they are independent. A peak has one
  target; near genes that are not its target are what a method that goes by distance has to cope with.
- A donor's shift of a gene's expression shows on the gene's promoter.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.special import expit

from mofm.omics.genome import GeneTable
from mofm.omics.simulation.cells import Cells
from mofm.omics.simulation.config import SimulationConfig, check_fields, stream
from mofm.omics.simulation.network import Network
from mofm.omics.simulation.peaks import draw_peaks
from mofm.omics.simulation.reads import LogOdds, draw_capacities, draw_depths, draw_reads

KINDS = ("promoter", "enhancer", "silencer", "background")

_FADE = 50_000  # bp over which a link's weight falls by e
_TF_EDGE = 6.0  # typical weight in the input of a TF's sigmoid, at switch_strength 1
_TOGETHER = 0.5  # chance that a further regulator of the same sign binds a distal peak too
_PROMOTER_BY_EXPRESSION = 0.5  # log odds for each nat of the gene's baseline expression
_DISTAL_REST = -1.0, 0.5  # mean and standard deviation of the log odds
_BACKGROUND_REST = -4.0
_DONOR = 3.0  # log odds of a promoter for each nat that the donor shifts its gene
_CAPACITY_SD = 0.5  # of the log of what an open peak yields

_RANGES = {
    "distal_peaks": (0.0, 50.0),
    "background_peaks": (0, math.inf),
    "opening": (0.1, 20.0),
    "fragments": (1.0, 1e7),
    "fragments_sd": (0.0, 3.0),
}


@dataclasses.dataclass(frozen=True)
class AtacConfig:
    """How chromatin opens and is measured.

    Attributes:
      distal_peaks: mean number of distal peaks of a regulated gene (Poisson), besides its promoter's.
      background_peaks: closed peaks that belong to no gene.
      opening: log odds of openness that a TF adds where it binds, for an edge of average strength in one near peak;
        several peaks share it.
      fragments: median expected fragments in peaks of a cell.
      fragments_sd: standard deviation of its log.

    Raises:
      InputError: a value of the wrong kind or out of range.
    """

    distal_peaks: float = 3.0
    background_peaks: int = 1000
    opening: float = 3.0
    fragments: float = 2000.0
    fragments_sd: float = 0.4

    def __post_init__(self):
        check_fields(self, _RANGES, "atac.")


class Chromatin(NamedTuple):
    """Peaks, what opens them, and which genes follow.

    Attributes:
      peaks: a `var`: index `chrom:start-end` (0-based, end exclusive), columns chrom, start, end, gene (int64, -1 for
        none), distance (bp from the gene's TSS to the peak's middle, positive downstream) and kind (of `KINDS`).
      odds: log odds that each peak is open; its weights are the TFs' bindings.
      links_PG: CSR float64, peaks x genes.
    """

    peaks: pd.DataFrame
    odds: LogOdds
    links_PG: sparse.csr_matrix


def draw_chromatin(
    config: SimulationConfig,
    atac: AtacConfig,
    network: Network,
    shift_DG: np.ndarray,
    genes: pd.DataFrame,
    table: GeneTable,
) -> Chromatin:
    """The peaks of the seed's network, around the places of `genes` (what `choose_genes` gave).

    Raises:
      InputError: there is no room for so many peaks.
    """
    edges_GT = network.edges()
    rng = stream(config, "binding")
    regulated_G = np.diff(edges_GT.indptr) > 0
    distal_G = np.where(regulated_G, rng.poisson(atac.distal_peaks, config.genes), 0)
    peaks = draw_peaks(config, distal_G, atac.background_peaks, genes, table)
    gene_P, is_promoter_P = peaks["gene"].to_numpy(), peaks.pop("is_promoter").to_numpy()
    pairs = _bind(edges_GT, gene_P, is_promoter_P, rng)

    sign_P = np.ones(len(peaks))
    sign_P[pairs.peak[~is_promoter_P[pairs.peak] & (pairs.strength < 0)]] = -1
    kind_P = np.where(is_promoter_P, 0, np.where(gene_P < 0, 3, np.where(sign_P > 0, 1, 2)))
    peaks["kind"] = pd.Categorical.from_codes(kind_P, KINDS)

    link_P = sign_P * _link_strengths(config, atac, network, peaks, rng)
    binding = _shared_out(pairs, link_P)
    weights_PT = sparse.csr_matrix((binding, (pairs.peak, pairs.tf)), shape=(len(peaks), config.tfs))
    owned = np.flatnonzero(gene_P >= 0)
    links_PG = sparse.csr_matrix((link_P[owned], (owned, gene_P[owned])), shape=(len(peaks), config.genes))
    shift_DP = np.where(is_promoter_P, _DONOR * shift_DG[:, gene_P], 0)
    return Chromatin(peaks, LogOdds(_rest(config, network, peaks), weights_PT, shift_DP), links_PG)


class _Pairs(NamedTuple):
    """Pairs of a peak and a TF that binds it: the edge (of target gene and TF) that the pair serves, its strength, and
    how strongly the TF binds here compared with its other peaks of the same gene."""

    peak: np.ndarray
    tf: np.ndarray
    edge: np.ndarray
    strength: np.ndarray
    affinity: np.ndarray


def _bind(
    edges_GT: sparse.csr_matrix, gene_P: np.ndarray, is_promoter_P: np.ndarray, rng: np.random.Generator
) -> _Pairs:
    """Who binds where: all regulators of a gene its promoter, some of one sign, at least one, a distal peak."""
    degree_G = np.diff(edges_GT.indptr)
    owned = np.flatnonzero((gene_P >= 0) & (degree_G[gene_P] > 0))
    degree = degree_G[gene_P[owned]]
    first = degree.cumsum() - degree
    peak = np.repeat(owned, degree)
    edge = np.arange(len(peak)) + np.repeat(edges_GT.indptr[gene_P[owned]] - first, degree)
    represses = edges_GT.data[edge] < 0
    luck = rng.random(len(peak))
    leads = luck == np.repeat(np.maximum.reduceat(luck, first), degree)
    silencer = np.repeat(np.logical_or.reduceat(leads & represses, first), degree)
    joins = leads | ((represses == silencer) & (rng.random(len(peak)) < _TOGETHER))
    bound = is_promoter_P[peak] | joins
    affinity = rng.lognormal(0, 0.3, len(peak))
    return _Pairs(*(part[bound] for part in (peak, edges_GT.indices[edge], edge, edges_GT.data[edge], affinity)))


def _link_strengths(
    config: SimulationConfig, atac: AtacConfig, network: Network, peaks: pd.DataFrame, rng: np.random.Generator
) -> np.ndarray:
    """|change of the gene for each log odds of the peak|, so that a lone peak near the gene opens as the config says."""
    typical_G = np.full(config.genes, max(config.effect_size, 1e-9))
    typical_G[network.tf_genes_T] = _TF_EDGE * config.switch_strength
    fade_P = np.exp(-np.abs(peaks["distance"].to_numpy()) / _FADE)
    return typical_G[peaks["gene"]] * fade_P * rng.lognormal(0, 0.2, len(peaks)) / atac.opening


def _shared_out(pairs: _Pairs, link_P: np.ndarray) -> np.ndarray:
    """The binding (log odds) of each pair, so that the peaks of an edge bring about its strength together."""
    reach_E = np.bincount(pairs.edge, np.abs(link_P[pairs.peak]) * pairs.affinity)
    return np.sign(link_P[pairs.peak]) * pairs.strength * pairs.affinity / reach_E[pairs.edge]


def _rest(config: SimulationConfig, network: Network, peaks: pd.DataFrame) -> np.ndarray:
    """Log odds that a peak is open with every TF half active."""
    mean, spread = _DISTAL_REST
    rest_P = mean + spread * stream(config, "openness").standard_normal(len(peaks))
    by_expression_P = _PROMOTER_BY_EXPRESSION * network.baseline_G[peaks["gene"]]
    rest_P = np.where(peaks["kind"] == "promoter", by_expression_P, rest_P)
    return np.where(peaks["kind"] == "background", _BACKGROUND_REST, rest_P)


def count_atac(
    config: SimulationConfig, atac: AtacConfig, chromatin: Chromatin, attractors_CT: np.ndarray, cells: Cells
) -> sparse.csr_matrix:
    """Fragments of all cells over the peaks, int32 CSR."""
    rng, odds = stream(config, "fragments"), chromatin.odds
    capacity_P = np.exp(_CAPACITY_SD * rng.standard_normal(len(chromatin.peaks)))
    capacity_SP = draw_capacities(config, capacity_P, rng)
    depth_N = draw_depths(config, atac.fragments, atac.fragments_sd, cells.batch_N, rng)
    typical = np.mean([capacity_P @ expit(odds.of_state(state_T)) for state_T in attractors_CT])
    highest_P = expit(odds.highest(cells))

    def open_now(cell_I: np.ndarray, peak_I: np.ndarray) -> np.ndarray:
        return expit(odds.at(cells, cell_I, peak_I)) / highest_P[peak_I]

    return draw_reads(depth_N / typical, capacity_SP * highest_P, cells.batch_N, rng, open_now)
