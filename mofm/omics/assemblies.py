"""The genome builds that mofm knows: their chromosomes and sizes, and what distinguishes them.

The sizes are those of bioframe's bundled assemblies (UCSC and NCBI assembly reports; MIT), read from the installed
package. Chromosomes are named as in the gene tables: "chr1" for those of the primary assembly, scaffolds by their
accession ("KI270728.1"), whatever a file calls them.

How a build is found. Three things are counted for each build, and only differences between builds decide:
- regions that begin past the end of a chromosome, or lie on a sequence that only other builds have (the decoy
  "hs37d5", a scaffold in a version of its own): a single file of the right build has none;
- chromosomes whose very last base a region covers: genome-wide tiles do, peaks hardly ever;
- regions within `NEAR` of the start of a protein-coding gene, against what is expected of regions that lie in the
  same neighbourhoods but not in that register: the mean after shifting all by each of `SHIFTS`. Chromatin opens at
  gene starts, in register with the right build only; between builds a chromosome is shifted by many times `NEAR`.
"""

import functools
import re
from typing import NamedTuple

import numpy as np
import pandas as pd

from mofm.omics.builds import SPECIES
from mofm.omics.genome import GeneTable, gene_table

NEAR = 1000
"""bp from the start of a gene within which a region counts as near it."""

SHIFTS = (-300_000, -100_000, -30_000, 30_000, 100_000, 300_000)
"""bp by which regions are shifted to see how many lie near a gene by chance."""

_SAYS_BUILD = {"hs37d5": "GRCh37"}  # the decoy of the 1000 Genomes reference
_SCAFFOLD = re.compile(
    r"(?:chr\w+?_)?((?:GL|KI|JH|MU|KZ|KQ|KN|ML|KV|JB)\d{6})(?:[v.](\d+))?(?:_(?:random|alt|fix))?", re.I
)
_PRIMARY = re.compile(r"(?:chr)?(\d{1,2}|[XYZW]|MT?)", re.I)


class Tally(NamedTuple):
    """What speaks for and against one build. Counts are of regions, shares of the regions on its chromosomes.

    Attributes:
      foreign: begin past the end of a chromosome, or lie on a sequence that only another build has.
      chromosome_ends: chromosomes whose last base a region covers.
      near: share within `NEAR` of the start of a protein-coding gene.
      expected: the same share after shifting the regions (see `SHIFTS`).
      sampled: regions that the shares were counted over.
    """

    foreign: int
    chromosome_ends: int
    near: float
    expected: float
    sampled: int

    @property
    def excess(self) -> float:
        """Share of regions near a gene's start beyond those that are by chance."""
        return self.near - self.expected

    @property
    def z(self) -> float:
        """The excess in standard deviations of a binomial share around the expected one."""
        deviation = np.sqrt(max(self.expected, 1e-3) * (1 - self.expected) / max(1, self.sampled))
        return float(self.excess / deviation)


def build_table(build: str) -> GeneTable:
    """The bundled gene table with places in `build`, a name of `SPECIES`."""
    return gene_table(SPECIES[build], build)


@functools.cache
def chromosome_sizes(build: str) -> dict[str, int]:
    """Length in bp of each chromosome and scaffold of a build, a name of `SPECIES`."""
    import bioframe  # it brings matplotlib along: a second and 60 MB that reading a corpus does not need

    seqinfo = bioframe.assembly_info(build, roles="all", units="all").seqinfo
    return dict(zip(map(chromosome_name, seqinfo["name"]), seqinfo["length"].astype(int), strict=True))


@functools.cache
def chromosome_name(name: str) -> str:
    """A chromosome as the gene tables name it: "1", "chr1" as "chr1"; "MT" as "chrM"; "chr4_GL456216_random" and
    "chrUn_KI270742v1" by their accessions "GL456216.1" and "KI270742.1". Other names stay."""
    if match := _PRIMARY.fullmatch(name):
        return "chr" + match[1].upper().replace("MT", "M")
    if match := _SCAFFOLD.fullmatch(name):
        return f"{match[1].upper()}.{match[2] or 1}"
    return name


def tally(chrom: np.ndarray, start: np.ndarray, end: np.ndarray, build: str, *, sample: int, seed: int = 0) -> Tally:
    """What the regions say about one build.

    Args:
      chrom, start, end: str[P] as `chromosome_name` gives, int64[P] bp, int64[P] bp.
      sample: at most so many regions are held against the genes; all are held against the ends.
    """
    codes, names = pd.factorize(chrom)
    sizes = np.array([chromosome_sizes(build).get(name, -1) for name in names], np.int64)[codes]
    elsewhere = np.array([_only_elsewhere(name, build) for name in names], bool)[codes]
    on_it = sizes >= 0
    foreign = elsewhere | (on_it & (start >= sizes))
    covered = np.unique(codes[on_it & (start < sizes) & (end >= sizes)])
    chromosome_ends = sum(bool(_PRIMARY.fullmatch(names[code])) and names[code] != "chrM" for code in covered)
    chosen = np.flatnonzero(on_it)
    if len(chosen) > sample:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, sample, replace=False))
    starts = _starts_of_coding_genes(build)
    near = _share_near(chrom[chosen], start[chosen], end[chosen], starts)
    by_chance = [_share_near(chrom[chosen], start[chosen] + by, end[chosen] + by, starts) for by in SHIFTS]
    return Tally(int(np.count_nonzero(foreign)), chromosome_ends, near, float(np.mean(by_chance)), len(chosen))


def _only_elsewhere(name: str, build: str) -> bool:
    if name in _SAYS_BUILD:
        return _SAYS_BUILD[name] != build
    return name not in chromosome_sizes(build) and any(name in chromosome_sizes(other) for other in SPECIES)


@functools.cache
def _starts_of_coding_genes(build: str) -> dict[str, np.ndarray]:
    """Sorted transcription start of each protein-coding gene, by chromosome."""
    frame = build_table(build).frame
    coding = frame[(frame["biotype"] == "protein_coding") & (frame["start"] >= 0)]
    starts = coding["start"].where(coding["strand"] == "+", coding["end"] - 1)
    return {chrom: np.sort(of_it.to_numpy(np.int64)) for chrom, of_it in starts.groupby(coding["chrom"], observed=True)}


def _share_near(chrom: np.ndarray, start: np.ndarray, end: np.ndarray, starts: dict[str, np.ndarray]) -> float:
    near = 0
    for name, rows in pd.Series(chrom).groupby(chrom).indices.items():
        of_it = starts.get(name, np.empty(0, np.int64))
        first = np.searchsorted(of_it, start[rows] - NEAR)
        past = np.searchsorted(of_it, end[rows] + NEAR)
        near += int(np.count_nonzero(past > first))
    return near / max(1, len(chrom))
