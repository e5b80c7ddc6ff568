"""The AnnData of each simulated modality: the counts, what is known of cells and features, and the truth behind them.

What each holds is said in `mofm.omics.simulate`, whose results these are.
"""

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from mofm.omics.simulation.adt import AdtConfig, count_adt
from mofm.omics.simulation.atac import AtacConfig, Chromatin, count_atac
from mofm.omics.simulation.cells import Cells
from mofm.omics.simulation.config import SimulationConfig
from mofm.omics.simulation.methylation import MethylationConfig, Methylome, count_methylation
from mofm.omics.simulation.network import Network
from mofm.omics.simulation.rna import count_rna


def truth_of_network(
    config: SimulationConfig, network: Network, attractors_CT: np.ndarray, genes: pd.DataFrame
) -> dict[str, np.ndarray]:
    """What `uns["simulation"]` says of the TFs and of the cell types."""
    return {
        "attractors": attractors_CT,
        "lineage": np.arange(config.cell_types) // config.types_per_lineage,
        "tf_names": genes.index.to_numpy(dtype=object)[network.tf_genes_T],
        "type_names": np.array([f"type_{i}" for i in range(1, config.cell_types + 1)], dtype=object),
    }


def rna_table(config: SimulationConfig, network: Network, genes: pd.DataFrame, cells: Cells, truth: dict) -> AnnData:
    """Counts of genes, and the network between them."""
    var = genes.copy()
    var.insert(0, "is_tf", np.isin(np.arange(config.genes), network.tf_genes_T))
    adata = _with_cells(config, count_rna(config, network, cells), var, cells, truth)
    adata.varp["grn"] = network.grn()
    if config.donors > 1:
        adata.varm["donor_shift"] = cells.shift_DG.T.astype(np.float32)
    return adata


def atac_table(
    config: SimulationConfig,
    atac: AtacConfig,
    chromatin: Chromatin,
    attractors_CT: np.ndarray,
    genes: pd.DataFrame,
    cells: Cells,
    truth: dict,
) -> AnnData:
    """Fragments over peaks, what opens the peaks, and the genes that follow them."""
    counts = count_atac(config, atac, chromatin, attractors_CT, cells)
    link_P = np.asarray(chromatin.links_PG.sum(axis=1)).ravel()  # a peak has one gene
    var = _with_gene_ids(chromatin.peaks, genes).assign(log_odds=chromatin.odds.rest_P, link=link_P)
    adata = _with_cells(config, counts, var, cells, truth)
    adata.varm["tf_binding"] = chromatin.odds.weights_PT.astype(np.float32)
    adata.varm["links"] = chromatin.links_PG.astype(np.float32)
    if config.donors > 1:
        adata.varm["donor_shift"] = chromatin.odds.shift_DP.T.astype(np.float32)
    return adata


def adt_table(
    config: SimulationConfig, adt: AdtConfig, genes: pd.DataFrame, surface_A: np.ndarray, cells: Cells, truth: dict
) -> AnnData:
    """Antibody counts, with the proteins and the background that they are counts of."""
    measured = count_adt(config, adt, genes, surface_A, cells)
    adata = _with_cells(config, measured.counts, measured.var, cells, truth)
    adata.obs["background"] = measured.background_N
    adata.obsm["protein_level"] = measured.protein_NA
    return adata


def methylation_table(
    config: SimulationConfig,
    methylation: MethylationConfig,
    methylome: Methylome,
    genes: pd.DataFrame,
    cells: Cells,
    truth: dict,
) -> AnnData:
    """Total and methylated reads over regions, and what the TFs do to them."""
    total, methylated = count_methylation(config, methylation, methylome, cells)
    var = _with_gene_ids(methylome.regions, genes).assign(log_odds=methylome.odds.rest_P)
    adata = _with_cells(config, total, var, cells, truth)
    adata.layers["methylated"] = methylated
    adata.varm["tf_effect"] = methylome.odds.weights_PT.astype(np.float32)
    if config.donors > 1:
        adata.varm["donor_shift"] = methylome.odds.shift_DP.T.astype(np.float32)
    return adata


def _with_cells(
    config: SimulationConfig, counts: sparse.csr_matrix, var: pd.DataFrame, cells: Cells, truth: dict
) -> AnnData:
    """The counts with what every modality says of its cells and of what made them."""
    columns = {
        "cell_type": pd.Categorical.from_codes(cells.label_N, truth["type_names"].tolist()),
        "batch": pd.Categorical.from_codes(cells.batch_N, [f"batch_{i}" for i in range(1, config.batches + 1)]),
        "n_counts": np.asarray(counts.sum(axis=1, dtype=np.int64)).ravel(),
    }
    if config.donors > 1:
        columns["donor"] = pd.Categorical.from_codes(cells.donor_N, [f"donor_{i}" for i in range(1, config.donors + 1)])
    if config.path_types:
        columns["pseudotime"] = cells.pseudotime_N
    prefix = f"part_{config.part}_" if config.part else ""
    obs = pd.DataFrame(columns, index=[f"{prefix}cell_{i:07d}" for i in range(1, config.cells + 1)])
    return AnnData(counts, obs=obs, var=var, obsm={"tf_activity": cells.activity_NT}, uns={"simulation": dict(truth)})


def _with_gene_ids(regions: pd.DataFrame, genes: pd.DataFrame) -> pd.DataFrame:
    """The regions with the id of the gene that each belongs to, "" where there is none."""
    gene = regions["gene"].to_numpy()
    return regions.assign(gene_id=np.where(gene >= 0, genes.index.to_numpy(dtype=object)[gene], ""))
