"""Which real genes the simulated ones are: ids, symbols and places of a gene table, by lot.

A simulated gene takes over the identity and the place of a real one, so that its reads resolve and its peaks are found by
their coordinates. It takes over nothing else: a gene that regulates here need not be a TF in life, and a real GRN says
nothing about these cells.
"""

import re

import numpy as np
import pandas as pd

from mofm.errors import InputError
from mofm.omics.genome import GeneTable
from mofm.omics.simulation.config import SimulationConfig, stream

_CHROMOSOME = re.compile(r"chr(\d+|X)")  # chrY and chrM are not in every cell, or have no chromatin
_SURFACE = re.compile(r"CD\d+[A-Z]*", re.IGNORECASE)  # symbols that antibody panels know
_APART = 2000  # bp between the starts of two genes, so that their promoters are two
_UNNAMED = "SIMG{:05d}"


def unnamed_genes(config: SimulationConfig) -> pd.DataFrame:
    """A `var` whose index is the genes' own names, SIMG00001 and on, and that says nothing else."""
    return pd.DataFrame(index=[_UNNAMED.format(i) for i in range(1, config.genes + 1)])


def choose_genes(config: SimulationConfig, table: GeneTable, surface_A: np.ndarray) -> pd.DataFrame:
    """A real, protein-coding gene for each simulated one.

    Args:
      surface_A: the genes whose proteins are measured; they get symbols of surface antigens (CD4) as far as these go, the other
        genes do not depend on them.

    Returns:
      A `var`: index Ensembl id; columns gene_symbol, chrom (categorical), start, end (int32, 0-based, end exclusive)
      and strand (categorical), as in the table.

    Raises:
      InputError: more genes are asked for than the table has usable ones.
    """
    pool = _usable(table)
    shuffled = pool.iloc[stream(config, "gene_names").permutation(len(pool))]
    is_surface = shuffled["symbol"].str.fullmatch(_SURFACE).to_numpy(dtype=bool)
    others, antigens = shuffled[~is_surface], shuffled[is_surface]
    if config.genes > len(others):
        raise InputError(
            f"simulation: genes={config.genes} are more than the {len(others)} usable genes of the {table.species} "
            "gene table: lower genes"
        )
    chosen = others.index.to_numpy()[: config.genes].copy()
    known = surface_A[: len(antigens)]
    chosen[known] = antigens.index[: len(known)]
    var = pool.loc[chosen].set_index("gene_id").rename(columns={"symbol": "gene_symbol"})
    return var[["gene_symbol", "chrom", "start", "end", "strand"]].rename_axis(None)


def _usable(table: GeneTable) -> pd.DataFrame:
    """Protein-coding genes of one symbol on the chromosomes, with starts far enough from each other."""
    frame = table.frame
    chromosomes = [name for name in frame["chrom"].cat.categories if _CHROMOSOME.fullmatch(name)]
    named = ~frame["symbol"].isin(table.ambiguous_symbols) & (frame["symbol"] != frame["gene_id"])
    frame = frame[(frame["biotype"] == "protein_coding") & frame["chrom"].isin(chromosomes) & named]
    frame = frame.assign(tss=tss(frame)).sort_values(["chrom", "tss", "gene_id"])
    gap = frame["tss"].diff()
    crowded = (frame["chrom"] == frame["chrom"].shift()) & (gap < _APART)
    return frame[~crowded]


def tss(genes: pd.DataFrame) -> np.ndarray:
    """Transcription start site of each gene: the position of its first base, int64, 0-based."""
    return np.where(genes["strand"] == "-", genes["end"] - 1, genes["start"]).astype(np.int64)


def spans(table: GeneTable) -> pd.DataFrame:
    """From the first to the last gene of each chromosome: index chrom in genome order, int64 columns start and end.

    The table does not say how long a chromosome is; what lies within its span lies on it.
    """
    frame = table.frame[table.frame["chrom"].astype(str).str.fullmatch(_CHROMOSOME)]
    grouped = frame.groupby(frame["chrom"].astype(str))
    span = pd.DataFrame({"start": grouped["start"].min(), "end": grouped["end"].max()}).astype(np.int64)
    return span.loc[sorted(span.index, key=genome_order)]


def genome_order(chromosome: str) -> tuple[int, str]:
    """chr2 before chr10 before chrX."""
    number = chromosome.removeprefix("chr")
    return (int(number), "") if number.isdigit() else (10**6, number)
