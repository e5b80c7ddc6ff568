"""Which genome build regions are of: given, named by their file, or found by where they lie."""

import dataclasses

import numpy as np

from mofm.errors import InputError
from mofm.omics.assemblies import NEAR, Tally, tally
from mofm.omics.builds import SPECIES, build_name
from mofm.omics.regions import RegionResolution

FEWEST_HITS = 5
"""Regions near genes' starts, beyond those by chance, from which on they show a build."""


@dataclasses.dataclass(frozen=True)
class BuildEvidence:
    """Which genome build regions are of.

    Attributes:
      build: a name of `builds.SPECIES`, or None where the regions do not show it.
      given: whether somebody said so, or the names do; the evidence then does not speak against it.
      sentence: how it is known, in one sentence, for a person.
      tallies: what was counted for each build.
    """

    build: str | None
    given: bool
    sentence: str
    tallies: dict[str, Tally]

    @property
    def species(self) -> str | None:
        """The species of the build."""
        return SPECIES.get(self.build)


def build_of_names(regions: RegionResolution, where: str) -> str | None:
    """The build that stands before the places, as in "GRCh38_chr1:100-200", or in a column genome, both as 10x Genomics
    writes them; None where none does.

    Raises:
      InputError: there are several, and the same place in each would be taken for one.
    """
    builds = sorted(set(regions.builds) - {""})
    if len(builds) > 1:
        raise InputError(
            f"{where}: holds regions of {' and '.join(builds)}, by the file; write those of each to a file of its own"
        )
    return builds[0] if builds else None


def find_build(regions: RegionResolution, n_sample: int = 20_000) -> BuildEvidence:
    """The genome build that the places speak for: see `assemblies` for what is counted.

    A build is ruled out where more than 1 of 1,000 regions cannot be of it. It is spoken for where regions cover the
    ends of three chromosomes, or lie near gene starts more than expected (by `FEWEST_HITS` of them, 6 standard
    deviations and 2% of the regions). It is taken where it is spoken for, and every other is ruled out or far behind: at
    the ends of less than half as many chromosomes, or with less than a third of the regions in excess near gene starts.

    Args:
      n_sample: so many regions, drawn with a fixed seed, are held against the gene starts.
    """
    rows = np.flatnonzero(regions.placed)
    chrom, start, end = regions.chrom[rows], regions.start[rows], regions.end[rows]
    tallies = {build: tally(chrom, start, end, build, sample=n_sample) for build in SPECIES}
    left = {build: of_it for build, of_it in tallies.items() if not _ruled_out(of_it, len(rows))}
    ranked = sorted(left, key=lambda build: (left[build].chromosome_ends >= 3, left[build].excess), reverse=True)
    taken = None
    if ranked and _spoken_for(left[ranked[0]]) and all(_less(left[other], left[ranked[0]]) for other in ranked[1:]):
        taken = ranked[0]
    return BuildEvidence(taken, False, _sentence(taken, ranked, tallies, len(rows)), tallies)


def check_build(regions: RegionResolution, build: str | None, where: str) -> BuildEvidence:
    """The build of the regions of `where` (a file, a modality): as given or named by the file, where the evidence
    allows it, or as found.

    Args:
      build: any name of a build, as a person gave it; None to take it from the names or find it.

    Returns:
      The evidence; its `build` is None where none was given or named and the regions do not show it: such regions are taken
      to be of the build of the gene table.

    Raises:
      InputError: the name is unknown; the regions are not of the build that was given or named; what is given differs
        from what the file names; or mofm does not have that.
    """
    given, named = build and build_name(build), build_of_names(regions, where)
    if named is not None and named not in SPECIES:
        raise InputError(
            f"{where}: the regions are of {named}, by the file, a genome build that mofm does not have; convert their "
            f"places to one of {', '.join(SPECIES)} (UCSC liftOver does), or give a gene table of {named} with --species "
            "FILE.parquet"
        )
    if given and named and given != named:
        raise InputError(
            f"{where}: the regions are of {named}, by the file, and --build says {given}; leave --build out, or take "
            "the build off the names, or out of the column genome, where it is wrong"
        )
    found = find_build(regions)
    if not (given or named):
        return found
    said, by = given or named, "named by the file" if named else "given"
    n_placed = int(np.count_nonzero(regions.placed))
    if _ruled_out(found.tallies[said], n_placed) or found.build not in (None, said):
        raise InputError(
            f"{where}: the regions are not of {said}{' as the file says' if named else ''}: "
            f"{_against(said, found, n_placed)}; {_advice(named is not None, found)}"
        )
    sentence = f"{said}, {by}" + (found.sentence.removeprefix(said) if found.build else "")
    return dataclasses.replace(found, build=said, given=True, sentence=sentence)


def _advice(is_named: bool, found: BuildEvidence) -> str:
    if is_named:
        return "mend the build in the names or in the column genome, or take it off"
    return f"give --build {found.build}" if found.build else "give their own with --build"


def _ruled_out(of_it: Tally, n_regions: int) -> bool:
    return of_it.foreign > n_regions / 1000


def _spoken_for(of_it: Tally) -> bool:
    """A hit or two near genes is chance, however unlikely each was."""
    hits = of_it.excess * of_it.sampled
    return of_it.chromosome_ends >= 3 or (hits >= FEWEST_HITS and of_it.z >= 6 and of_it.excess >= 0.02)


def _less(other: Tally, best: Tally) -> bool:
    if best.chromosome_ends >= 3:
        return other.chromosome_ends < best.chromosome_ends / 2
    return other.excess < best.excess / 3


def _sentence(taken: str | None, ranked: list[str], tallies: dict[str, Tally], n_regions: int) -> str:
    if taken is None:
        ruled_out = [build for build, of_it in tallies.items() if build not in ranked and of_it.foreign]
        ruled = f" ({', '.join(ruled_out)} ruled out)" if ruled_out else ""
        return f"the build of {n_regions:,} regions cannot be inferred from their places{ruled}"
    best = tallies[taken]
    says = [f"{best.near:.1%} of regions lie within {NEAR:,} bp of a gene's start ({best.expected:.1%} by chance)"]
    if best.chromosome_ends >= 3:
        says.insert(0, f"regions reach the very ends of {best.chromosome_ends} of its chromosomes")
    others = [
        f"{build} cannot have {of_it.foreign:,} of them" if build not in ranked else f"{of_it.near:.1%} in {build}"
        for build, of_it in tallies.items()
        if build != taken and SPECIES[build] == SPECIES[taken]
    ]
    return f"{taken}: {' and '.join(says)}; {'; '.join(others)}"


def _against(given: str, found: BuildEvidence, n_regions: int) -> str:
    of_it = found.tallies[given]
    if _ruled_out(of_it, n_regions):
        return (
            f"{of_it.foreign:,} of {n_regions:,} lie past the ends of its chromosomes or on sequences it does not have"
        )
    return found.sentence
