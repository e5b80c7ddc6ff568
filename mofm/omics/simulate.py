"""Simulated single cells whose gene regulatory network (GRN) is known: RNA alone, or up to four omics of each cell.

The story, one function a step: draw a network, find its attractors (the cell types), let cells fluctuate around
them or travel between them, read each assay off the transcription factors, and count the way a sequencer does.

    draw_network -> find_attractors -> draw_cells -> count_rna, count_atac, count_adt, count_methylation

What is assumed, and what it costs, is told where it is done, in the files of `mofm.omics.simulation`. Every stage
draws from its own stream of the seed, and sparse products keep BLAS out: the same config gives the same bits; more
cells, more genes, another sequencer or another omics type leave the TF network and the cell types as they are. The RNA
of `simulate` and of `simulate_multiomics` are the same counts; only the genes' names differ.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import mudata
import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from mofm.axes import MODALITIES, Modality
from mofm.errors import InputError, nearest_name
from mofm.omics.genome import GeneTable, gene_table
from mofm.omics.simulation.adt import AdtConfig, choose_surface, count_adt
from mofm.omics.simulation.atac import AtacConfig, Chromatin, count_atac, draw_chromatin
from mofm.omics.simulation.cells import Cells, draw_cells
from mofm.omics.simulation.config import SimulationConfig, stream
from mofm.omics.simulation.genes import choose_genes, unnamed_genes
from mofm.omics.simulation.methylation import MethylationConfig, count_methylation, draw_methylome
from mofm.omics.simulation.network import Network, draw_cell_types
from mofm.omics.simulation.rna import count_rna

__all__ = [
    "AdtConfig",
    "AtacConfig",
    "MethylationConfig",
    "MultiomicsConfig",
    "SimulationConfig",
    "simulate",
    "simulate_multiomics",
    "split_unpaired",
    "to_mudata",
]


@dataclasses.dataclass(frozen=True)
class MultiomicsConfig:
    """What to simulate of every omics type.

    Attributes:
      cells: the network, the cells and their RNA.
      atac, adt, methylation: the other assays of the same cells.

    Raises:
      InputError: more antibodies than genes that are no TFs.
    """

    cells: SimulationConfig = dataclasses.field(default_factory=SimulationConfig)
    atac: AtacConfig = dataclasses.field(default_factory=AtacConfig)
    adt: AdtConfig = dataclasses.field(default_factory=AdtConfig)
    methylation: MethylationConfig = dataclasses.field(default_factory=MethylationConfig)

    def __post_init__(self):
        targets = self.cells.genes - self.cells.tfs
        if self.adt.antibodies > targets:
            raise InputError(
                f"simulation: adt.antibodies={self.adt.antibodies} are more than the {targets} genes that are no TFs: "
                "lower antibodies or raise genes"
            )

    @classmethod
    def from_dict(cls, record: Mapping[str, Mapping[str, int | float]]) -> "MultiomicsConfig":
        """The config of a file: what `dataclasses.asdict` made of it, in `uns["simulation"]["config"]`."""
        parts = {field.name: field.default_factory for field in dataclasses.fields(cls)}
        return cls(**{name: part(**record[name]) for name, part in parts.items()})


def simulate(config: SimulationConfig, table: GeneTable | None = None) -> AnnData:
    """Simulated RNA of cells, with everything that made them.

    Args:
      table: genes take id, symbol and place of genes of this table, by lot; None names them SIMG00001 and on.

    Returns:
      AnnData of cells x genes. `X` CSR of int32 counts (signed, because tools subtract; an ingest narrows them);
      `obs` cell_type and batch (categorical), n_counts (int64), where there are several donors donor (categorical),
      where there is a path pseudotime (float64, 0 to 1 along it, NaN off it); `var` is_tf, and with a table gene_symbol,
      chrom, start, end and strand, the index being Ensembl ids; `varp["grn"]` as `Network.grn`: logits of
      the sigmoid to TFs, log fold changes to all other genes; `obsm["tf_activity"]` cells x TFs, float32 >= 0, 1 is on;
      `uns["simulation"]` config (a dict of numbers, `SimulationConfig(**config)` gives it back), attractors (float64,
      types x TFs), lineage (int64, of each type), tf_names (columns of tf_activity) and type_names.

    Raises:
      InputError: this config's networks do not have as many stable cell types as it asks for, or no path between them,
        or the table has too few genes.
    """
    network, attractors_CT = draw_cell_types(config)
    genes = unnamed_genes(config) if table is None else choose_genes(config, table)
    cells = draw_cells(config, network, attractors_CT)
    record = _record(config, config, network, attractors_CT, genes)
    return _rna(config, network, genes, cells, record)


def simulate_multiomics(
    config: MultiomicsConfig | None = None,
    modalities: Sequence[Modality] = MODALITIES,
    table: GeneTable | None = None,
) -> dict[Modality, AnnData]:
    """Several omics of the same simulated cells, driven by one network, with the truth about each.

    Args:
      config: None for the defaults.
      modalities: which to count. What is left out does not change the others.
      table: whose genes the simulated ones are, by lot; None for the bundled human genes.

    Returns:
      An AnnData for each modality, of the same cells in the same order. `X` is int32 CSR; `obs`, `obsm["tf_activity"]`
      and `uns["simulation"]` are as in `simulate`, the config nested (`MultiomicsConfig.from_dict` gives it back), and
      `uns["simulation"]` has besides genes (names, in the order that `gene` columns and matrices count), grn (float32
      CSR, TFs x genes, as in `varp["grn"]`) and annotation (the table's version).
      Region names are `chr1:100-200`, 0-based, end exclusive, as are the columns chrom, start and end.
      rna: what `simulate` gives with the table; `varm["donor_shift"]` genes x donors, float32 log factors.
      atac: `X` fragments over peaks. `var` chrom, start, end, gene (number of the gene that follows the peak, -1 for
        none), gene_id ("" for none), distance (bp, positive downstream of the TSS), kind (promoter, enhancer, silencer,
        background), log_odds (float64, of being open with every TF half active), link (signed weight: change of the
        gene's log expression for each log odds of the peak; 0 for none). `varm["tf_binding"]` CSR peaks x TFs, log odds
        from TF off to on; `varm["links"]` CSR peaks x genes, with links.T @ tf_binding = the network's edges;
        `varm["donor_shift"]` peaks x donors, log odds.
      adt: `X` UMIs of antibodies. `var` gene_id, is_isotype, signal and sticky as in `AntibodyCounts`, the index the
        protein's symbol; `obs["background"]` the cell's unspecific binding; `obsm["protein_level"]` float32 cells x
        antibodies (0 for controls), what is there to bind.
      methylation: `X` total reads over regions, `layers["methylated"]` those methylated, with the same entries. `var`
        chrom, start, end, gene, gene_id, kind (promoter, gene_body), log_odds (of a read being methylated);
        `varm["tf_effect"]` CSR regions x TFs, log odds; `varm["donor_shift"]` regions x donors, log odds.

    Raises:
      InputError: as `simulate`; an unknown modality; no room on the genome for so many peaks.
    """
    config, table = config or MultiomicsConfig(), table or gene_table("human")
    for modality in modalities:
        if modality not in MODALITIES:
            hint = nearest_name(modality, MODALITIES)
            raise InputError(f"simulation: unknown modality {modality!r}: give of {', '.join(MODALITIES)}.{hint}")
    base = config.cells
    network, attractors_CT = draw_cell_types(base)
    surface_A = choose_surface(config.adt, network, attractors_CT)
    genes = choose_genes(base, table, surface_A)
    cells = draw_cells(base, network, attractors_CT, surface_A, config.adt.lag)
    record = _record(config, base, network, attractors_CT, genes) | {
        "genes": genes.index.to_numpy(dtype=object),
        "grn": network.edges().T.tocsr().astype(np.float32),
        "annotation": table.version,
    }
    omics = {}
    if "rna" in modalities:
        omics["rna"] = _rna(base, network, genes, cells, record)
        omics["rna"].varm["donor_shift"] = cells.shift_DG.T.astype(np.float32)
    if "adt" in modalities:
        omics["adt"] = _adt(config, genes, surface_A, cells, record)
    if "atac" in modalities or "methylation" in modalities:
        chromatin = draw_chromatin(base, config.atac, network, cells.shift_DG, genes, table)
        if "atac" in modalities:
            omics["atac"] = _atac(config, chromatin, attractors_CT, genes, cells, record)
        if "methylation" in modalities:
            omics["methylation"] = _methylation(config, network, chromatin, genes, cells, record)
    return {modality: omics[modality] for modality in MODALITIES if modality in omics}


def to_mudata(omics: Mapping[Modality, AnnData]) -> MuData:
    """One MuData of the modalities, whose `obs` has the columns that all of them share (but n_counts).

    Cells of the same name are the same cell: a paired simulation stays paired, a split one stays split.
    """
    with mudata.set_options(pull_on_update=False):
        mdata = MuData(dict(omics))
    shared = [column for column in next(iter(omics.values())).obs if column != "n_counts"]
    shared = [column for column in shared if all(column in adata.obs for adata in omics.values())]
    obs = pd.concat([adata.obs[shared] for adata in omics.values()])
    mdata.obs[shared] = obs[~obs.index.duplicated()].loc[mdata.obs_names]
    return mdata


def split_unpaired(omics: Mapping[Modality, AnnData], seed: int = 0) -> dict[Modality, AnnData]:
    """Every cell in one modality only: disjoint parts, by lot, whose sizes differ by one cell at most.

    Cells keep their names and their order, so that the pairing that was taken away is known.

    Raises:
      InputError: the modalities are not of the same cells in the same order.
    """
    first, *rest = omics.values()
    if not all(adata.obs_names.equals(first.obs_names) for adata in rest):
        raise InputError("simulation: only modalities of the same cells in the same order can be split")
    order = stream(SimulationConfig(seed=seed), "split").permutation(first.n_obs)
    parts = np.array_split(order, len(omics))
    return {modality: omics[modality][np.sort(part)].copy() for modality, part in zip(omics, parts, strict=True)}


def _record(config, base: SimulationConfig, network: Network, attractors_CT: np.ndarray, genes: pd.DataFrame) -> dict:
    """What `uns["simulation"]` keeps."""
    return {
        "config": dataclasses.asdict(config),
        "attractors": attractors_CT,
        "lineage": np.arange(base.cell_types) // base.types_per_lineage,
        "tf_names": genes.index.to_numpy(dtype=object)[network.tf_genes_T],
        "type_names": np.array([f"type_{i}" for i in range(1, base.cell_types + 1)], dtype=object),
    }


def _assembled(
    base: SimulationConfig, counts: sparse.csr_matrix, var: pd.DataFrame, cells: Cells, record: dict
) -> AnnData:
    """Counts with what every modality says of its cells."""
    columns = {
        "cell_type": pd.Categorical.from_codes(cells.label_N, record["type_names"].tolist()),
        "batch": pd.Categorical.from_codes(cells.batch_N, [f"batch_{i}" for i in range(1, base.batches + 1)]),
        "n_counts": np.asarray(counts.sum(axis=1, dtype=np.int64)).ravel(),
    }
    if base.donors > 1:
        columns["donor"] = pd.Categorical.from_codes(cells.donor_N, [f"donor_{i}" for i in range(1, base.donors + 1)])
    if base.path_types:
        columns["pseudotime"] = cells.pseudotime_N
    obs = pd.DataFrame(columns, index=[f"cell_{i:07d}" for i in range(1, base.cells + 1)])
    return AnnData(counts, obs=obs, var=var, obsm={"tf_activity": cells.activity_NT}, uns={"simulation": dict(record)})


def _rna(config: SimulationConfig, network: Network, genes: pd.DataFrame, cells: Cells, record: dict) -> AnnData:
    var = genes.copy()
    var.insert(0, "is_tf", np.isin(np.arange(config.genes), network.tf_genes_T))
    adata = _assembled(config, count_rna(config, network, cells), var, cells, record)
    adata.varp["grn"] = network.grn()
    return adata


def _atac(
    config: MultiomicsConfig,
    chromatin: Chromatin,
    attractors_CT: np.ndarray,
    genes: pd.DataFrame,
    cells: Cells,
    record: dict,
) -> AnnData:
    counts = count_atac(config.cells, config.atac, chromatin, attractors_CT, cells)
    link_P = np.asarray(chromatin.links_PG.sum(axis=1)).ravel()
    var = _with_gene_ids(chromatin.peaks, genes).assign(log_odds=chromatin.odds.rest_P, link=link_P)
    adata = _assembled(config.cells, counts, var, cells, record)
    adata.varm["tf_binding"] = chromatin.odds.weights_PT.astype(np.float32)
    adata.varm["links"] = chromatin.links_PG.astype(np.float32)
    adata.varm["donor_shift"] = chromatin.odds.shift_DP.T.astype(np.float32)
    return adata


def _adt(config: MultiomicsConfig, genes: pd.DataFrame, surface_A: np.ndarray, cells: Cells, record: dict) -> AnnData:
    measured = count_adt(config.cells, config.adt, genes, surface_A, cells)
    adata = _assembled(config.cells, measured.counts, measured.var, cells, record)
    adata.obs["background"] = measured.background_N
    level_NA = np.zeros(adata.shape, dtype=np.float32)
    level_NA[:, : len(surface_A)] = cells.protein_NA * np.exp(cells.shift_DG[:, surface_A])[cells.donor_N]
    adata.obsm["protein_level"] = level_NA
    return adata


def _methylation(
    config: MultiomicsConfig,
    network: Network,
    chromatin: Chromatin,
    genes: pd.DataFrame,
    cells: Cells,
    record: dict,
) -> AnnData:
    methylome = draw_methylome(config.cells, config.methylation, network, chromatin, cells.shift_DG, genes)
    total, methylated = count_methylation(config.cells, config.methylation, methylome, cells)
    var = _with_gene_ids(methylome.regions, genes).assign(log_odds=methylome.odds.rest_P)
    adata = _assembled(config.cells, total, var, cells, record)
    adata.layers["methylated"] = methylated
    adata.varm["tf_effect"] = methylome.odds.weights_PT.astype(np.float32)
    adata.varm["donor_shift"] = methylome.odds.shift_DP.T.astype(np.float32)
    return adata


def _with_gene_ids(regions: pd.DataFrame, genes: pd.DataFrame) -> pd.DataFrame:
    """The regions with the id of the gene that each belongs to, "" where there is none."""
    gene = regions["gene"].to_numpy()
    return regions.assign(gene_id=np.where(gene >= 0, genes.index.to_numpy(dtype=object)[gene], ""))
