"""RNA of simulated cells: expression rates read off the transcription factors, counted the way a sequencer does.

**Technical noise comes last**: batch effects and depth, negative binomial counts, then dropout, logistic in the log of
the expected count as in SERGIO (Dibaeinia & Sinha 2020, doi:10.1016/j.cels.2020.08.003).
"""

import numpy as np
from scipy import sparse

from mofm.omics.simulation.config import SimulationConfig, stream
from mofm.omics.simulation.network import Network

_OWN_MRNA = 2.0  # log fold change of a TF's own mRNA from inactive to active
# Cells are counted in blocks to bound the memory. Blocks order the draws: another size means other random numbers.
_COUNT_BLOCK = 2**21  # cells x genes


def expression_rates(network: Network, state_TN: np.ndarray) -> np.ndarray:
    """The share of a cell's transcripts that each gene has: float64 cells x genes, rows sum to 1."""
    n_tfs = len(network.tf_genes_T)
    own_mrna = (np.full(n_tfs, _OWN_MRNA), (network.tf_genes_T, np.arange(n_tfs)))
    response_GT = network.effects_GT + sparse.csr_matrix(own_mrna, shape=network.effects_GT.shape)
    rate_NG = np.exp(np.ascontiguousarray((response_GT @ (state_TN - 0.5)).T) + network.baseline_G)
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


def _draw_batches(config: SimulationConfig, label_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each cell's batch, its depth (expected UMIs), and each batch's log factors on the genes."""
    rng = stream(config, "batches")
    gene_factor_SG = config.batch_effect * rng.standard_normal((config.batches, config.genes))
    depth_factor_S = config.batch_effect / 2 * rng.standard_normal(config.batches)
    share_CS = rng.dirichlet(np.full(config.batches, config.batch_concentration), config.cell_types)
    batch_N = (rng.random((config.cells, 1)) > share_CS.cumsum(axis=1)[label_N, :-1]).sum(axis=1)
    log_depth_N = config.library_size_sd * stream(config, "depth").standard_normal(config.cells)
    depth_N = config.library_size * np.exp(log_depth_N + depth_factor_S[batch_N])
    return batch_N, depth_N, gene_factor_SG


def count_cells(config: SimulationConfig, network: Network, activity_NT: np.ndarray, label_N: np.ndarray):
    """Counts (int32 CSR) and the batch of each cell."""
    batch_N, depth_N, gene_factor_SG = _draw_batches(config, label_N)
    rng, dropout_rng = stream(config, "counts"), stream(config, "dropout")
    blocks, cells_a_block = [], max(1, _COUNT_BLOCK // config.genes)
    for start in range(0, config.cells, cells_a_block):
        block = slice(start, start + cells_a_block)
        share_NG = expression_rates(network, activity_NT[block].T) * np.exp(gene_factor_SG[batch_N[block]])
        expected_NG = share_NG * (depth_N[block] / share_NG.sum(axis=1))[:, None]
        blocks.append(sample_counts(expected_NG, config.overdispersion, config.dropout, rng, dropout_rng))
    return sparse.vstack(blocks, format="csr"), batch_N
