"""RNA of simulated cells: expression rates read off the transcription factors, counted the way a sequencer does.

**Technical noise comes last**: batch effects and depth, negative binomial counts, then dropout, logistic in the log of
the expected count as in SERGIO (Dibaeinia & Sinha 2020, doi:10.1016/j.cels.2020.08.003).
"""

import numpy as np
from scipy import sparse

from mofm.omics.simulation.cells import Cells
from mofm.omics.simulation.config import SimulationConfig, stream
from mofm.omics.simulation.network import Network

# Cells are counted in blocks to bound the memory. Blocks order the draws: another size means other random numbers.
_COUNT_BLOCK = 2**21  # cells x genes


def expression_rates(network: Network, state_TN: np.ndarray) -> np.ndarray:
    """The share of a cell's transcripts that each gene has: float64 cells x genes, rows sum to 1."""
    rate_NG = np.exp(np.ascontiguousarray((network.responses() @ (state_TN - 0.5)).T) + network.baseline_G)
    return rate_NG / rate_NG.sum(axis=1, keepdims=True)


def sample_counts(
    expected_NG: np.ndarray,
    overdispersion: float,
    dropout: float,
    rng: np.random.Generator,
    dropout_rng: np.random.Generator,
) -> sparse.csr_matrix:
    """Negative binomial counts (int32 CSR) around the expected UMIs, some lost. Dropout only ever removes entries."""
    mean_NG = expected_NG
    if overdispersion:
        mean_NG = expected_NG * overdispersion * rng.standard_gamma(1 / overdispersion, expected_NG.shape)
    counts_NG = rng.poisson(mean_NG).astype(np.int32)
    counts_NG[dropout_rng.random(expected_NG.shape) < dropout / (1 + expected_NG)] = 0
    return sparse.csr_matrix(counts_NG)


def count_rna(config: SimulationConfig, network: Network, cells: Cells) -> sparse.csr_matrix:
    """UMI counts of all cells, int32 CSR."""
    log_depth_N = config.library_size_sd * stream(config, "depth").standard_normal(config.cells)
    depth_N = config.library_size * np.exp(log_depth_N + cells.depth_factor_S[cells.batch_N])
    rng, dropout_rng = stream(config, "counts"), stream(config, "dropout")
    blocks, cells_a_block = [], max(1, _COUNT_BLOCK // config.genes)
    for start in range(0, config.cells, cells_a_block):
        block = slice(start, start + cells_a_block)
        log_factor_NG = cells.gene_factor_SG[cells.batch_N[block]] + cells.shift_DG[cells.donor_N[block]]
        share_NG = expression_rates(network, cells.activity_NT[block].T) * np.exp(log_factor_NG)
        expected_NG = share_NG * (depth_N[block] / share_NG.sum(axis=1))[:, None]
        blocks.append(sample_counts(expected_NG, config.overdispersion, config.dropout, rng, dropout_rng))
    return sparse.vstack(blocks, format="csr")
