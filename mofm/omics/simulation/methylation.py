"""DNA methylation of simulated cells: it opposes activity, and few of its reads are seen.

Two regions a gene: its promoter (TSS +- 1 kb), whose methylation falls as the promoter's chromatin opens, and its body,
whose methylation falls as the gene is expressed, as CH methylation does in neurons. CG methylation of bodies often
rises with expression instead; here both oppose, so that a region's sign is known.
Reads cover regions at random, long ones more (with the root of the length). Those of one region in one cell agree more
than chance: a cell has two copies of a locus, and neighbouring sites go together (beta-binomial).
"""

import dataclasses
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from mofm.omics.simulation.atac import Chromatin
from mofm.omics.simulation.cells import Cells
from mofm.omics.simulation.config import SimulationConfig, check_fields, stream
from mofm.omics.simulation.genes import genome_order, tss
from mofm.omics.simulation.network import Network
from mofm.omics.simulation.peaks import region_names
from mofm.omics.simulation.reads import LogOdds, beta_binomial, draw_capacities, draw_depths, draw_reads

KINDS = ("promoter", "gene_body")

_PROMOTER_HALF = 1000  # bp
_BODY_REST = 1.5  # log odds of methylation of a gene at average expression
_BY_EXPRESSION = 2.0  # log odds of a body for each nat of expression, as those of a promoter's openness count once
_REST_SD = 0.5  # of the log odds of regions, whatever their gene does
_COVERAGE_SD = 0.5  # of the log of a region's coverage

_RANGES = {
    "reads": (1.0, 1e9),
    "reads_sd": (0.0, 3.0),
    "opposition": (0.0, 10.0),
    "spread": (0.0, 0.9),
}


@dataclasses.dataclass(frozen=True)
class MethylationConfig:
    """How methylation opposes activity and is measured.

    Attributes:
      reads: median expected reads in regions of a cell; the fewer, the fewer regions are covered at all.
      reads_sd: standard deviation of its log.
      opposition: log odds of methylation that a promoter loses for each log odds of openness that it gains.
      spread: of the beta-binomial, the correlation of the reads of one region in one cell; 0 is binomial.

    Raises:
      InputError: a value of the wrong kind or out of range.
    """

    reads: float = 1500.0
    reads_sd: float = 0.4
    opposition: float = 0.7
    spread: float = 0.2

    def __post_init__(self):
        check_fields(self, _RANGES, "methylation.")


class Methylome(NamedTuple):
    """Regions and how methylated they are.

    Attributes:
      regions: a `var`: index `chrom:start-end` (0-based, end exclusive), columns chrom, start, end, gene (int64) and
        kind (of `KINDS`).
      odds: log odds that a read of the region is methylated.
    """

    regions: pd.DataFrame
    odds: LogOdds


def draw_methylome(
    config: SimulationConfig,
    methylation: MethylationConfig,
    network: Network,
    chromatin: Chromatin,
    shift_DG: np.ndarray,
    genes: pd.DataFrame,
) -> Methylome:
    """Promoters and bodies of `genes` (what `choose_genes` gave), in genome order."""
    promoter_G = np.empty(config.genes, dtype=np.int64)
    is_promoter_P = (chromatin.peaks["kind"] == "promoter").to_numpy()
    promoter_G[chromatin.peaks["gene"][is_promoter_P]] = np.flatnonzero(is_promoter_P)
    openness, against = chromatin.odds, -methylation.opposition
    body = against * _BY_EXPRESSION
    rest_R = np.concatenate([against * openness.rest_P[promoter_G], _BODY_REST + body / 4 * network.baseline_G])
    rest_R += _REST_SD * stream(config, "regions").standard_normal(len(rest_R))
    weights_RT = sparse.vstack([against * openness.weights_PT[promoter_G], body * network.responses()], format="csr")
    shift_DR = np.hstack([against * openness.shift_DP[:, promoter_G], body * shift_DG])

    regions = _regions(genes)
    order = np.lexsort((regions["end"], regions["start"], regions["chrom"].cat.codes))
    return Methylome(regions.iloc[order], LogOdds(rest_R[order], weights_RT[order], shift_DR[:, order]))


def _regions(genes: pd.DataFrame) -> pd.DataFrame:
    """All promoters, then all bodies, in the order of the genes."""
    chromosomes = sorted(set(genes["chrom"]), key=genome_order)
    chrom = pd.Categorical([*genes["chrom"], *genes["chrom"]], categories=chromosomes)
    start = np.concatenate([np.maximum(tss(genes) - _PROMOTER_HALF, 0), genes["start"].to_numpy(dtype=np.int64)])
    end = np.concatenate([tss(genes) + _PROMOTER_HALF, genes["end"].to_numpy(dtype=np.int64)])
    kind = pd.Categorical.from_codes(np.repeat([0, 1], len(genes)), KINDS)
    gene = np.tile(np.arange(len(genes)), 2)
    columns = {"chrom": chrom, "start": start, "end": end, "gene": gene, "kind": kind}
    return pd.DataFrame(columns, index=region_names(chrom, start, end))


def count_methylation(
    config: SimulationConfig, methylation: MethylationConfig, methylome: Methylome, cells: Cells
) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Total and methylated reads of all cells, int32 CSR with the same entries: a covered region may have 0 of them."""
    rng = stream(config, "reads")
    length_R = (methylome.regions["end"] - methylome.regions["start"]).to_numpy()
    capacity_R = np.sqrt(length_R) * np.exp(_COVERAGE_SD * rng.standard_normal(len(length_R)))
    capacity_SR = draw_capacities(config, capacity_R / capacity_R.sum(), rng)
    depth_N = draw_depths(config, methylation.reads, methylation.reads_sd, cells.batch_N, rng)
    total = draw_reads(depth_N, capacity_SR, cells.batch_N, rng)

    methylated = total.copy()
    hit_rng = stream(config, "methylated_reads")
    block = 2**20  # covered regions
    cell_I = np.repeat(np.arange(config.cells), np.diff(total.indptr))
    for start in range(0, total.nnz, block):
        here = slice(start, start + block)
        log_odds_I = methylome.odds.at(cells, cell_I[here], total.indices[here])
        methylated.data[here] = beta_binomial(total.data[here], log_odds_I, methylation.spread, hit_rng)
    return total, methylated
