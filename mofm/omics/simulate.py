"""Simulated single cells whose gene regulatory network (GRN) is known: RNA alone, or up to four omics of each cell.

The story, one function a step: draw a network, find its attractors (the cell types), let cells fluctuate around
them or travel between them, read each assay off the transcription factors, and count the way a sequencer does.

    draw_network -> find_attractors -> draw_cells -> count_rna, count_atac, count_adt, count_methylation

What is assumed, and what it costs, is said where it is done, in the files of `mofm.omics.simulation`. Every stage
draws from its own stream of the seed, and sparse products keep BLAS out: the same config gives the same bits; more
cells, more genes, another sequencer or another omics type leave the TF network and the cell types as they are. The RNA
of `simulate` and of `simulate_multiomics` are the same counts; only the genes' names differ.
"""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import mudata
import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from mofm.axes import MODALITIES, Modality
from mofm.errors import InputError, nearest_name
from mofm.omics.genome import GeneTable, gene_table
from mofm.omics.simulation.adt import AdtConfig, choose_surface
from mofm.omics.simulation.atac import AtacConfig, draw_chromatin
from mofm.omics.simulation.cells import draw_cells
from mofm.omics.simulation.config import SimulationConfig, stream
from mofm.omics.simulation.genes import choose_genes, unnamed_genes
from mofm.omics.simulation.methylation import MethylationConfig, draw_methylome
from mofm.omics.simulation.network import draw_cell_types
from mofm.omics.simulation.tables import adt_table, atac_table, methylation_table, rna_table, truth_of_network

__all__ = [
    "AdtConfig",
    "AtacConfig",
    "MethylationConfig",
    "MultiomicsConfig",
    "SimulationConfig",
    "simulate",
    "simulate_any",
    "simulate_multiomics",
    "split_unpaired",
    "to_mudata",
    "write_mudata",
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


def simulate(config: SimulationConfig) -> AnnData:
    """Simulated RNA of cells, with everything that made them; the genes are no real ones.

    Returns:
      AnnData of cells x genes. `X` CSR of int32 counts (signed, because tools subtract; an ingest narrows them);
      `obs` cell_type and batch (categorical), n_counts (int64), where there are several donors donor (categorical),
      where there is a path pseudotime (float64, 0 to 1 along it, NaN off it); `var` is_tf; where there are several
      donors `varm["donor_shift"]` genes x donors, float32 log factors on expression; `varp["grn"]` as
      `Network.grn`: logits of the sigmoid to TFs, log fold changes to all other genes; `obsm["tf_activity"]` cells x
      TFs, float32 >= 0, 1 is on;
      `uns["simulation"]` config (a dict of numbers, `SimulationConfig(**config)` gives it back), attractors (float64,
      types x TFs), lineage (int64, of each type), tf_names (columns of tf_activity) and type_names.

    Raises:
      InputError: this config's networks do not have as many stable cell types as it asks for, or no path between them.
    """
    network, attractors_CT = draw_cell_types(config)
    cells = draw_cells(config, network, attractors_CT)
    genes = unnamed_genes(config)
    truth = {"config": dataclasses.asdict(config)} | truth_of_network(config, network, attractors_CT, genes)
    return rna_table(config, network, genes, cells, truth)


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
      Where there are several donors, `varm["donor_shift"]` of peaks and regions is in log odds.
      rna: as in `simulate`, but the index of `var` is Ensembl ids, with gene_symbol, chrom, start, end and strand.
      atac: `X` fragments over peaks. `var` chrom, start, end, gene (number of the gene that follows the peak, -1 for
        none), gene_id ("" for none), distance (bp, positive downstream of the TSS), kind (promoter, enhancer, silencer,
        background), log_odds (float64, of being open with every TF half active), link (signed weight: change of the
        gene's log expression for each log odds of the peak; 0 for none). `varm["tf_binding"]` CSR peaks x TFs, log odds
        from TF off to on; `varm["links"]` CSR peaks x genes, with links.T @ tf_binding = the network's edges.
      adt: `X` UMIs of antibodies. `var` gene_id, is_isotype, signal and sticky as in `AntibodyCounts`, the index the
        protein's symbol; `obs["background"]` the cell's unspecific binding; `obsm["protein_level"]` float32 cells x
        antibodies (0 for controls), what is there to bind.
      methylation: `X` total reads over regions, `layers["methylated"]` those methylated, with the same entries. `var`
        chrom, start, end, gene, gene_id, kind (promoter, gene_body), log_odds (of a read being methylated);
        `varm["tf_effect"]` CSR regions x TFs, log odds.

    Raises:
      InputError: as `simulate`; an unknown modality; too few genes in the table, or no room for so many peaks.
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
    truth = {"config": dataclasses.asdict(config)} | truth_of_network(base, network, attractors_CT, genes)
    truth |= {"genes": genes.index.to_numpy(dtype=object), "annotation": table.version}
    truth["grn"] = network.edges().T.tocsr().astype(np.float32)
    chromatin = draw_chromatin(base, config.atac, network, cells.shift_DG, genes, table)
    methylome = draw_methylome(base, config.methylation, network, chromatin, cells.shift_DG, genes)
    count = {
        "rna": lambda: rna_table(base, network, genes, cells, truth),
        "atac": lambda: atac_table(base, config.atac, chromatin, attractors_CT, genes, cells, truth),
        "adt": lambda: adt_table(base, config.adt, genes, surface_A, cells, truth),
        "methylation": lambda: methylation_table(base, config.methylation, methylome, genes, cells, truth),
    }
    return {modality: count[modality]() for modality in MODALITIES if modality in modalities}


def simulate_any(
    config: SimulationConfig,
    modalities: Sequence[Modality] = ("rna",),
    species: str | None = None,
    unpaired: bool = False,
) -> dict[Modality, AnnData]:
    """RNA alone of made-up genes, as `simulate`, unless `species` says whose genes; several omics as `simulate_multiomics`.

    Args:
      unpaired: each cell in one modality only, as `split_unpaired`.
    """
    if tuple(modalities) == ("rna",) and species is None:
        return {"rna": simulate(config)}
    adt = AdtConfig(antibodies=min(AdtConfig.antibodies, config.genes - config.tfs))
    omics = simulate_multiomics(MultiomicsConfig(cells=config, adt=adt), modalities, gene_table(species or "human"))
    return split_unpaired(omics, config.seed) if unpaired else omics


def to_mudata(omics: Mapping[Modality, AnnData]) -> MuData:
    """One MuData of the modalities, whose `obs` has the columns that all of them share (but n_counts).

    Cells of the same name are the same cell: a paired simulation stays paired, a split one stays split.
    """
    with _no_pulling():
        mdata = MuData(dict(omics))
    shared = [column for column in next(iter(omics.values())).obs if column != "n_counts"]
    shared = [column for column in shared if all(column in adata.obs for adata in omics.values())]
    obs = pd.concat([adata.obs[shared] for adata in omics.values()])
    mdata.obs[shared] = obs[~obs.index.duplicated()].loc[mdata.obs_names]
    return mdata


def write_mudata(mdata: MuData, path: Path) -> None:
    """Write an h5mu file whose `obs` is what it is in memory. Raises OSError where it cannot be written."""
    with _no_pulling():
        mdata.write_h5mu(path)


def _no_pulling():
    """mudata below 0.4 copies the obs and var of its modalities into its own unless told not to; later ones never do."""
    return mudata.set_options(pull_on_update=False) if hasattr(mudata, "set_options") else contextlib.nullcontext()


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
