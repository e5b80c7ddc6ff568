"""Links from regions to genes: which genes a peak or CpG region speaks of, how much, and from how far.

The token of a region is the weighted mean of the rows of its genes, so a link's weight is how far the region's
identity is that gene's. It falls with distance as regulatory potential does: halved every 10 kb from the gene's start
(Wang et al. 2013, Nat. Protoc. 8:2502, BETA; Wang et al. 2020, Genome Biol. 21:198, MAESTRO), with promoters in full.

For a region and a gene, in bp between their nearest bases, 0 where they overlap:

    d  to the gene's transcription start
    p  to its promoter, 2,000 bp before the start to 500 bp after it, along its strand
    b  to its body, start to end of the gene

    score    = max( 2^(-p / 250),  1/4 * 2^(-b / 250),  2^(-d / 10,000) ) - 2^-10,  or 0 where that is negative

    kept     = score - 9/10 * (score of the best gene left out), for the `top` genes of the highest score
    weight   = kept / sum of kept over the genes of the region

Choices and their cost:
- Everything is continuous in the region's place. Promoter and body fade over some hundred bp instead of ending at a
  base; the score is 0 at 100 kb (2^-10), where links end; and the best gene left out takes off most of what a gene at
  the edge of the `top` would have. So a peak caller that moves a region by a base moves its token as little.
- What weights (they sum to 1) cannot say is kept in `strength`, the sum of the scores: how much a region speaks of any
  gene at all. A region with one gene at 90 kb has weight 1 and strength 0.001. Nothing within reach: no link.
- Genes are those that reads are counted over (`BIOTYPES`, as in 10x references): pseudogenes and small RNAs would take
  the weight of the genes beside them. Other regulation, from further away or past a nearer gene, is not seen here.
- Places of regions and genes must be of one build; a region that cannot be of the table's build is refused.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from mofm.errors import InputError
from mofm.omics.assemblies import chromosome_sizes
from mofm.omics.builds import SPECIES, build_name
from mofm.omics.genome import GeneTable

KINDS = ("promoter", "body", "distal")
"""What a link is, by its number in `RegionLinks.kind`: overlaps the promoter, else the body, else neither."""

FEATURES = ("upstream", "downstream", "promoter", "body", "width")
"""Columns of `RegionLinks.features`, all continuous in the region's place.

upstream: -log1p(u / 1000), where u is the least over genes of d, or of 20 d where the region is not upstream of the
  gene's start (along its strand): minus the log distance to the gene that the region is before. downstream:
  log1p(v / 1000), likewise for the gene whose start the region is after. Both at most log1p(1000), 1 Mb.
promoter: 2^(-p / 250) of the nearest promoter. body: 2^(-b / 250) of the nearest gene body.
width: log1p((end - start) / 1000).
"""

BIOTYPES = (
    *("protein_coding", "lncRNA", "IG_C_gene", "IG_D_gene", "IG_J_gene", "IG_V_gene", "IG_LV_gene"),
    *("TR_C_gene", "TR_D_gene", "TR_J_gene", "TR_V_gene"),
)
"""Biotypes of the genes that regions are linked to."""

REACH = 100_000
"""bp from a gene's start to where links end."""

UPSTREAM, DOWNSTREAM = 2000, 500
"""bp of the promoter before and after the transcription start."""

_HALVED, _FADES, _BODY, _LEFT_OUT, _WRONG_SIDE = 10_000.0, 250.0, 0.25, 0.9, 20
_FLOOR = 2.0 ** (-REACH / _HALVED)
_BODY_REACH = 2000  # bp at which the body's term has fallen to the floor
_FAR = 1_000_000
_BLOCK = 100_000  # regions linked at a time: some hundred MB


@dataclasses.dataclass(frozen=True, eq=False)
class RegionLinks:
    """The E links of P regions, ordered by region and then by falling weight.

    Attributes:
      region: int32[E], number of the region (0 to P-1).
      gene: int32[E], row of the gene in the table.
      weight: float32[E], above 0; those of a region sum to 1.
      distance: int32[E], bp from the gene's start to the region, negative where the region is upstream of it.
      kind: uint8[E], number in `KINDS`.
      strength: float32[P], sum of the scores of the region's kept genes; 0 where it has none.
      features: float32[P, len(FEATURES)]; a region without a place has those of one far from any gene.
    """

    region: np.ndarray
    gene: np.ndarray
    weight: np.ndarray
    distance: np.ndarray
    kind: np.ndarray
    strength: np.ndarray
    features: np.ndarray

    @property
    def unlinked(self) -> np.ndarray:
        """Numbers of the regions that have no link."""
        return np.flatnonzero(self.strength == 0)

    def summary(self) -> dict[str, int | dict[str, int]]:
        """Counts for a manifest: regions, those without a link, links, and regions by their strongest link's kind."""
        first = np.unique(self.region, return_index=True)[1]
        kinds = np.bincount(self.kind[first], minlength=len(KINDS))
        return {
            "regions": len(self.strength),
            "unlinked": len(self.unlinked),
            "links": len(self.region),
            "by_kind": dict(zip(KINDS, kinds.tolist(), strict=True)),
        }

    def padded(self, top: int) -> tuple[np.ndarray, np.ndarray]:
        """The links as static arrays: int32[P, top] genes and float32[P, top] weights, both 0 past a region's last.

        `top` must be at least the one that the links were made with.
        """
        place = np.arange(len(self.region)) - np.searchsorted(self.region, self.region)
        genes = np.zeros((len(self.strength), top), np.int32)
        weights = np.zeros((len(self.strength), top), np.float32)
        genes[self.region, place] = self.gene
        weights[self.region, place] = self.weight
        return genes, weights


def link_regions(
    chrom: Sequence[str],
    start: np.ndarray,
    end: np.ndarray,
    table: GeneTable,
    *,
    build: str | None = None,
    top: int = 8,
    biotypes: Sequence[str] | None = BIOTYPES,
) -> RegionLinks:
    """The genes that each region speaks of, and the region's distance features.

    Args:
      chrom: str[P], named as `assemblies.chromosome_name` does; "" for a region without a place, which gets no link.
      start, end: int[P], bp from 0, end exclusive, in the build of `table`.
      build: the regions' own build, held against the table's; None trusts that they are the same.
      top: at most so many genes of a region are kept.
      biotypes: of the genes that are linked; None for all genes.

    Raises:
      InputError: the regions are of another build than the table, or more than 1 of 1,000 begin past the ends of its
        chromosomes.
    """
    chrom = np.asarray(chrom, dtype=np.str_)
    start, end = np.asarray(start, np.int64), np.asarray(end, np.int64)
    _check_same_build(chrom, start, table, build)
    genes = _genes(table, biotypes)
    regions = pd.DataFrame({"chrom": chrom, "start": start, "end": end})
    regions = regions[regions["chrom"] != ""]
    blocks = [_link_block(regions.iloc[at : at + _BLOCK], genes, top) for at in range(0, len(regions), _BLOCK)]
    parts = [np.concatenate(columns) for columns in zip(*(links for links, _ in blocks), strict=True)]
    region, gene, weight, distance, kind, score = parts or [np.empty(0)] * 6
    features = np.tile(_features_far_from_all(), (len(chrom), 1))
    for at, (_, soft) in zip(range(0, len(regions), _BLOCK), blocks, strict=True):
        block = regions.iloc[at : at + _BLOCK]
        features[block.index] = np.column_stack([*_sides(block, genes), *soft, np.log1p(_width(block) / 1000)])
    return RegionLinks(
        region=region.astype(np.int32),
        gene=gene.astype(np.int32),
        weight=weight.astype(np.float32),
        distance=distance.astype(np.int32),
        kind=kind.astype(np.uint8),
        strength=np.bincount(region.astype(np.int64), score, minlength=len(chrom)).astype(np.float32),
        features=features.astype(np.float32),
    )


def _check_same_build(chrom: np.ndarray, start: np.ndarray, table: GeneTable, build: str | None) -> None:
    if build is not None and table.build is not None and build_name(build) != table.build:
        raise InputError(
            f"regions of {build_name(build)} cannot be linked to genes placed in {table.build}; use a gene table of "
            "that build, or say with --build what the regions are of"
        )
    if table.build in SPECIES:
        sizes = pd.Series(chrom).map(chromosome_sizes(table.build)).fillna(np.inf).to_numpy()
        past = int(np.count_nonzero(start >= sizes))
        if past > len(chrom) / 1000:
            raise InputError(
                f"{past:,} of {len(chrom):,} regions begin past the ends of the chromosomes of {table.build}: "
                "they are of another genome build; name it with --build"
            )


def _genes(table: GeneTable, biotypes: Sequence[str] | None) -> pd.DataFrame:
    """A row a gene that can be linked: its row in the table, first and last base, start base, sign of its strand."""
    frame = table.frame.reset_index(drop=True)
    wanted = (frame["start"] >= 0) & (True if biotypes is None else frame["biotype"].isin(biotypes))
    frame = frame[wanted]
    forward = (frame["strand"] == "+").to_numpy()
    first, last = frame["start"].to_numpy(np.int64), frame["end"].to_numpy(np.int64) - 1
    return pd.DataFrame({
        "chrom": frame["chrom"].astype(str).to_numpy(),
        "row": frame.index.to_numpy(),
        "first": first,
        "last": last,
        "tss": np.where(forward, first, last),
        "sign": np.where(forward, 1, -1),
    })  # fmt: skip


def _link_block(regions: pd.DataFrame, genes: pd.DataFrame, top: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Links of some regions (region, gene, weight, distance, kind, score), and their promoter and body features."""
    of_region, of_gene = _pairs(regions, genes)
    first, last = (regions[name].to_numpy()[of_region] for name in ("start", "end"))
    last = last - 1
    gene = {name: genes[name].to_numpy()[of_gene] for name in ("row", "first", "last", "tss", "sign")}
    distance = _gap(first, last, gene["tss"], gene["tss"])
    side = np.where(first > gene["tss"], 1, -1) * gene["sign"]
    before, after = np.where(gene["sign"] > 0, UPSTREAM, DOWNSTREAM), np.where(gene["sign"] > 0, DOWNSTREAM, UPSTREAM)
    to_promoter = _gap(first, last, gene["tss"] - before, gene["tss"] + after)
    to_body = _gap(first, last, gene["first"], gene["last"])
    promoter, body = np.exp2(-to_promoter / _FADES), np.exp2(-to_body / _FADES)
    score = np.maximum.reduce([promoter, _BODY * body, np.exp2(-distance / _HALVED)]) - _FLOOR
    kept, kept_score = _best(of_region, gene["row"], score, top)
    kind = np.select([to_promoter == 0, to_body == 0], [0, 1], 2)
    total = np.bincount(of_region[kept], kept_score, minlength=len(regions))
    links = [
        regions.index.to_numpy()[of_region[kept]],
        gene["row"][kept],
        kept_score / total[of_region[kept]],
        (distance * side)[kept],
        kind[kept],
        score[kept],
    ]
    soft = [np.zeros(len(regions)), np.zeros(len(regions))]
    for nearest, values in zip(soft, (promoter, body), strict=True):
        np.maximum.at(nearest, of_region, values)
    return links, soft


def _pairs(regions: pd.DataFrame, genes: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the regions and genes that are near enough for a score above 0."""
    reached = pd.DataFrame({
        "chrom": genes["chrom"],
        "start": np.minimum(genes["tss"] - REACH, genes["first"] - _BODY_REACH),
        "end": np.maximum(genes["tss"] + REACH, genes["last"] + _BODY_REACH) + 1,
    })  # fmt: skip
    on_known = regions["chrom"].isin(genes["chrom"]).to_numpy()
    near = regions[on_known].reset_index(drop=True)
    if near.empty:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    import bioframe  # see assemblies.py

    pairs = bioframe.overlap(near, reached, how="inner", return_input=False, return_index=True)
    rows = pairs["index"].to_numpy(np.int64)
    return np.flatnonzero(on_known)[rows], pairs["index_"].to_numpy(np.int64)


def _best(region: np.ndarray, row: np.ndarray, score: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the pairs that are kept, ordered by region and falling score, and what is kept of their scores."""
    above = np.flatnonzero(score > 0)
    order = above[np.lexsort((row[above], -score[above], region[above]))]
    ordered = region[order]
    begins = np.searchsorted(ordered, ordered)
    rank = np.arange(len(order)) - begins
    left_out = np.zeros(len(order))
    beyond = np.flatnonzero(rank == top)
    left_out[beyond - top] = score[order[beyond]]
    kept = rank < top
    kept_score = score[order] - _LEFT_OUT * left_out[begins]
    return order[kept], kept_score[kept]


def _gap(first: np.ndarray, last: np.ndarray, other_first: np.ndarray, other_last: np.ndarray) -> np.ndarray:
    """bp between two stretches of bases, 0 where they overlap."""
    return np.maximum(np.maximum(first - other_last, other_first - last), 0)


def _width(regions: pd.DataFrame) -> np.ndarray:
    return (regions["end"] - regions["start"]).to_numpy(np.float64)


def _features_far_from_all() -> np.ndarray:
    far = np.log1p(_FAR / 1000)
    return np.array([-far, far, 0.0, 0.0, 0.0])


def _sides(regions: pd.DataFrame, genes: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The features "upstream" and "downstream" of each region."""
    known = pd.Index(genes["chrom"].unique())
    stride = np.int64(2**34)
    at = known.get_indexer(regions["chrom"]) * stride
    first, last = at + regions["start"].to_numpy(), at + regions["end"].to_numpy() - 1
    starts = known.get_indexer(genes["chrom"]) * stride + genes["tss"].to_numpy()
    sides = {1: np.full(len(regions), _FAR), -1: np.full(len(regions), _FAR)}
    for sign in (1, -1):
        tss = np.sort(starts[genes["sign"] == sign])
        tss = np.concatenate([[-3 * stride], tss, [stride * (len(known) + 2)]])  # further than any start
        right = np.maximum(tss[np.searchsorted(tss, first)] - last, 0)  # the region lies left of these starts
        left = np.maximum(first - tss[np.searchsorted(tss, last, side="right") - 1], 0)
        sides[sign] = np.minimum.reduce([sides[sign], right, _WRONG_SIDE * left])
        sides[-sign] = np.minimum.reduce([sides[-sign], left, _WRONG_SIDE * right])
    return -np.log1p(sides[1] / 1000), np.log1p(sides[-1] / 1000)
