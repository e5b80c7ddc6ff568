"""Places of peaks: one on each gene's promoter, some around each regulated gene, and closed ones anywhere.

The genome is cut into slots of 1 kb and a slot holds at most one peak, so no two overlap. Distal peaks crowd towards
their gene: the distance is log-uniform from 2 to 98 kb, on either side, as links found by distance expect. Positions
past the first and last gene of a chromosome are not used, so that none lies past its end.
"""

import numpy as np
import pandas as pd

from mofm.errors import InputError
from mofm.omics.genome import GeneTable
from mofm.omics.simulation.config import SimulationConfig, stream
from mofm.omics.simulation.genes import spans, tss

REACH = 100_000  # bp from a gene's TSS to any base of its peaks
_SLOT = 1000
_PROMOTER_HALF = 250
_NEAREST, _FURTHEST = 2000, REACH - 2 * _SLOT
_WIDTHS = 200, 900  # of peaks that are no promoters
_SLOTS_A_CHROMOSOME = 2**20  # more than any has: chromosome and slot in one number
_TRIES = 100


def draw_peaks(
    config: SimulationConfig, distal_G: np.ndarray, background: int, genes: pd.DataFrame, table: GeneTable
) -> pd.DataFrame:
    """The peaks in genome order.

    Args:
      distal_G: int, how many distal peaks each gene gets.
      background: how many peaks belong to no gene.
      genes: what `choose_genes` gave.

    Returns:
      index `chrom:start-end`; columns chrom (categorical), start, end (int64, 0-based, end exclusive), gene (int64, -1
      for none), is_promoter, and distance (int64, bp from the gene's TSS to the peak's middle, positive downstream).

    Raises:
      InputError: there is no room for so many peaks.
    """
    span = spans(table)
    chromosome_G = span.index.get_indexer(genes["chrom"].astype(str))
    tss_G = tss(genes)
    promoters = _promoters(chromosome_G, tss_G)
    taken = _slots_of(promoters)
    rng = stream(config, "peak_places")
    owner = np.repeat(np.arange(len(distal_G)), distal_G)

    def near_gene(owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        distance = np.exp(rng.uniform(np.log(_NEAREST), np.log(_FURTHEST), len(owners)))
        return chromosome_G[owners], tss_G[owners] + (rng.choice([-1, 1], len(owners)) * distance).astype(np.int64)

    distal = _place(owner, near_gene, taken, span, rng)
    rng_elsewhere = stream(config, "background_peaks")
    share = (span["end"] - span["start"]) / (span["end"] - span["start"]).sum()

    def anywhere(owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        chromosome = rng_elsewhere.choice(len(span), len(owners), p=share.to_numpy())
        return chromosome, rng_elsewhere.integers(
            span["start"].to_numpy()[chromosome], span["end"].to_numpy()[chromosome]
        )

    taken = np.union1d(taken, _slots_of(distal))
    elsewhere = _place(np.full(background, -1), anywhere, taken, span, rng_elsewhere)
    return _table(pd.concat([promoters, distal, elsewhere]), span, genes, tss_G)


def _promoters(chromosome_G: np.ndarray, tss_G: np.ndarray) -> pd.DataFrame:
    start = np.maximum(tss_G - _PROMOTER_HALF, 0)
    gene = np.arange(len(tss_G))
    return pd.DataFrame(
        {"chromosome": chromosome_G, "start": start, "end": tss_G + _PROMOTER_HALF, "gene": gene, "is_promoter": True}
    )


def _slots_of(peaks: pd.DataFrame) -> np.ndarray:
    """Every slot that one of the peaks touches, sorted."""
    first, last = peaks["start"] // _SLOT, (peaks["end"] - 1) // _SLOT
    return np.union1d(*(_SLOTS_A_CHROMOSOME * peaks["chromosome"] + slot for slot in (first, last)))


def _place(owner: np.ndarray, propose, taken: np.ndarray, span: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """A peak in a free slot for each of `owner`; `propose` (owners) -> chromosomes, positions is asked until it fits."""
    chromosome, slot = np.empty(len(owner), dtype=np.int64), np.empty(len(owner), dtype=np.int64)
    waiting = np.arange(len(owner))
    for _ in range(_TRIES):
        if not len(waiting):
            break
        chromosome[waiting], position = propose(owner[waiting])
        slot[waiting] = position // _SLOT
        key = _SLOTS_A_CHROMOSOME * chromosome[waiting] + slot[waiting]
        low, high = (span[side].to_numpy()[chromosome[waiting]] for side in ("start", "end"))
        inside = (slot[waiting] * _SLOT >= low) & ((slot[waiting] + 1) * _SLOT <= high)
        first = np.zeros(len(key), dtype=bool)
        first[np.unique(key, return_index=True)[1]] = True
        fits = inside & first & ~np.isin(key, taken)
        taken = np.union1d(taken, key[fits])
        waiting = waiting[~fits]
    if len(waiting):
        raise InputError(
            f"simulation: there is no room for {len(owner):,} peaks: lower atac.distal_peaks or atac.background_peaks"
        )
    width = rng.integers(*_WIDTHS, len(owner), endpoint=True)
    start = slot * _SLOT + rng.integers(0, _SLOT - width, endpoint=True)
    return pd.DataFrame(
        {"chromosome": chromosome, "start": start, "end": start + width, "gene": owner, "is_promoter": False}
    )


def _table(peaks: pd.DataFrame, span: pd.DataFrame, genes: pd.DataFrame, tss_G: np.ndarray) -> pd.DataFrame:
    peaks = peaks.sort_values(["chromosome", "start"])
    chrom = pd.Categorical.from_codes(peaks["chromosome"], span.index.astype(str))
    gene, start, end = (peaks[column].to_numpy() for column in ("gene", "start", "end"))
    downstream = np.where(genes["strand"] == "-", -1, 1)[gene] * ((start + end) // 2 - tss_G[gene])
    columns = {
        "chrom": chrom,
        "start": start,
        "end": end,
        "gene": gene,
        "is_promoter": peaks["is_promoter"].to_numpy(),
        "distance": np.where(gene >= 0, downstream, 0),
    }
    return pd.DataFrame(columns, index=region_names(chrom, start, end))


def region_names(chrom: pd.Categorical, start: np.ndarray, end: np.ndarray) -> list[str]:
    """`chr1:100-200` for each region, 0-based, end exclusive."""
    return [f"{name}:{first}-{last}" for name, first, last in zip(chrom, start.tolist(), end.tolist(), strict=True)]
