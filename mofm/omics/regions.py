"""Region identity: where a peak, a tile or a CpG region lies, whatever its name looks like, and in which genome build.

A region is its place: "chr1:100-200", counted from 0 with the end exclusive (as in BED), chromosomes named as in the
gene tables. A name is read by itself: neither the order of names nor their company changes what it means. Which genome
the place is of is told by the name, "GRCh38_chr1:100-200" (`builds.PREFIX`), or known of many regions together
(`find_build`), and then stands before it.

Choices and their cost:
- Names are taken as BED intervals, as Cell Ranger, MACS and SnapATAC2 write them. Signac and other R tools count from
  1; their names look the same, and come out one base to the right of where they were.
- Columns of `var` speak only for regions whose names tell no place. Columns that carry a GRanges `width` count from 1
  (width = end - start + 1) and are read so.
- A name without a place keeps itself as its identity, is counted and can be listed, and can have no links to genes.
  So does an interval that cannot be: reversed, empty, negative, or longer than `LONGEST`.
- Two names of one interval are one region and are merged, as two names of one gene are.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from mofm.errors import InputError
from mofm.omics.assemblies import NEAR, Tally, chromosome_name, tally
from mofm.omics.builds import PREFIX, SPECIES, build_name, plain_name
from mofm.omics.resolution import ResolvedNames

RULES = {
    "name": "name",  # chr1:1-2, chr1-1-2, chr1_1_2, 1-1-2, chr1.1.2, GRCh38_chr1:1-2, KI270728.1:1,000-2,000
    "columns": "columns",  # chrom, start and end in columns of var
    "reversed": "unresolved",  # ends before it starts
    "empty": "unresolved",  # ends where it starts
    "negative": "unresolved",  # starts before the chromosome
    "too_long": "unresolved",  # longer than LONGEST, or past what any chromosome holds
    "unknown": "unresolved",  # tells no place
}
"""How a region was placed in detail, and the `how` that each counts as."""

LONGEST = 10_000_000
"""bp; no peak, tile or CpG region is longer."""

FEWEST_HITS = 5
"""Regions near genes' starts, beyond those by chance, from which on they tell a build."""

CHROM_COLUMNS = ("chrom", "chr", "chromosome", "seqnames", "seqname", "seqid", "contig", "seq_name")
START_COLUMNS = ("start", "chromstart", "chrom_start", "peak_start", "start_position")
END_COLUMNS = ("end", "stop", "chromend", "chrom_end", "peak_end", "end_position")
NAME_COLUMNS = ("interval", "peak", "peaks", "peak_name", "region", "gene_ids", "coordinates", "location")
"""Columns of `var` in which labs keep the places, or names that tell them; compared in lower case."""

_NAME = (
    rf"^{PREFIX}"
    r"(?P<chrom>[A-Za-z0-9._*]*[A-Za-z0-9*])[:_-](?P<start>-?\d[\d,]*)(?:-|_|\.\.)(?P<end>\d[\d,]*)$"
)
_DOTTED = rf"^{PREFIX}(?P<chrom>chr\w+?|\d{{1,2}}|[XYM]|MT)\.(?P<start>\d+)\.(?P<end>\d+)$"
_CHROM = rf"^{PREFIX}(?P<chrom>.+)$"
_LARGEST = 2**31 - 1


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class RegionResolution(ResolvedNames):
    """Where N names lie (see `ResolvedNames`).

    Attributes:
      ids: "chr1:100-200" where it was placed, else the name itself.
      told: object[N] of str, the build that stands before the place, by mofm's name where it has one; "" for none.
      chrom: str[N], "" where not placed.
      start, end: int64[N], bp from 0, end exclusive; -1 where not placed.
      how: "name", "columns" or "unresolved".
    """

    rules = RULES

    told: np.ndarray
    chrom: np.ndarray
    start: np.ndarray
    end: np.ndarray

    @property
    def symbols(self) -> list[str]:
        """What to call each region: its identity."""
        return self.ids

    @property
    def placed(self) -> np.ndarray:
        """bool[N], True where the place is known."""
        return self.how != "unresolved"


@dataclasses.dataclass(frozen=True)
class BuildEvidence:
    """Which genome build regions are of.

    Attributes:
      build: a name of `builds.SPECIES`, or None where the regions do not tell.
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


class _Places(NamedTuple):
    """Places as written, a row a name: told as in `RegionResolution`; chrom object, "" where not read; int64 bp."""

    told: np.ndarray
    chrom: np.ndarray
    start: np.ndarray
    end: np.ndarray


def resolve_regions(names: Sequence[str], var: pd.DataFrame | None = None) -> RegionResolution:
    """The place of each of `names`, from the name or else from columns of `var` (a row a name). Raises nothing."""
    names = pd.Series([str(name) for name in names], dtype=object)
    places = _read_names(names)
    rule = np.where(places.chrom != "", "name", "unknown").astype("U8")
    if var is not None and (rule == "unknown").any():
        for candidate in _in_columns(var):
            fill = (rule == "unknown") & (candidate.chrom != "")
            for part, given in zip(places, candidate, strict=True):
                part[fill] = given[fill]
            rule[fill] = "columns"
    told, chrom, start, end = places
    read = rule != "unknown"
    rule[read & (end < start)] = "reversed"
    rule[read & (end == start)] = "empty"
    rule[read & (end > start) & ((end - start > LONGEST) | (end > _LARGEST))] = "too_long"
    rule[read & (start < 0)] = "negative"
    how = np.array([RULES[key] for key in rule], dtype="U10")
    lost = how == "unresolved"
    told[lost], chrom[lost], start[lost], end[lost] = "", "", -1, -1
    starts, ends = start.astype(str), end.astype(str)
    ids = [
        own if gone else f"{where}:{first}-{last}"
        for own, gone, where, first, last in zip(names, lost, chrom, starts, ends, strict=True)
    ]
    return RegionResolution(ids=ids, told=told, chrom=chrom.astype(np.str_), start=start, end=end, how=how, rule=rule)


def with_build(regions: RegionResolution, build: str | None) -> list[str]:
    """The regions' ids with their build before the place, "GRCh38_chr1:100-200"; as they are where it is not known.

    Names without a place stay as they are.
    """
    if build is None:
        return regions.ids
    return [f"{build}_{name}" if here else name for name, here in zip(regions.ids, regions.placed, strict=True)]


def build_told(regions: RegionResolution, where: str) -> str | None:
    """The build that stands before the places, as 10x Genomics writes "GRCh38_chr1:100-200"; None where none does.

    Raises:
      InputError: there are several, and the same place in each would be taken for one.
    """
    builds = sorted(set(regions.told) - {""})
    if len(builds) > 1:
        raise InputError(
            f"{where}: holds regions of {' and '.join(builds)}, by their names; write those of each to a file of its own"
        )
    return builds[0] if builds else None


def require_places(regions: RegionResolution, where: str) -> None:
    """Raises `InputError` where not one of the regions of `where` (a file, a modality) is placed."""
    if len(regions.ids) and not regions.placed.any():
        raise InputError(
            f"{where}: none of {len(regions.ids):,} regions tells its place (first: {regions.ids[0]!r}); "
            "name them chrom:start-end, or add columns chrom, start and end to var"
        )


def find_build(regions: RegionResolution, n_sample: int = 20_000) -> BuildEvidence:
    """The genome build that the places speak for: see `assemblies` for what is counted.

    A build is ruled out where more than 1 of 1,000 regions cannot be of it. It is spoken for where regions cover the
    ends of three chromosomes, or lie near gene starts more than expected (by 6 standard deviations and 2% of the
    regions). It is taken where it is spoken for, and every other is ruled out or far behind: at the ends of less than half as
    many chromosomes, or with less than a third of the regions in excess near gene starts.

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
    """The build of the regions of `where` (a file, a modality): as given or told by their names, where the evidence
    allows it, or as found.

    Args:
      build: any name of a build, as a person gave it; None to take it from the names or find it.

    Returns:
      The evidence; its `build` is None where none was given or told and the regions do not tell: such regions are taken
      to be of the build of the gene table.

    Raises:
      InputError: the name is unknown; the regions are not of the build that was given or told; what is given differs
        from what is told; or mofm does not have what is told.
    """
    given, told = build and build_name(build), build_told(regions, where)
    if told is not None and told not in SPECIES:
        raise InputError(
            f"{where}: the regions are of {told}, by their names, a genome build that mofm does not have; convert their "
            f"places to one of {', '.join(SPECIES)} (UCSC liftOver does), or give a gene table of {told} with --species "
            "FILE.parquet"
        )
    if given and told and given != told:
        raise InputError(
            f"{where}: the regions are of {told}, by their names, and --build says {given}; leave --build out, or take "
            "the build off the names where it is wrong"
        )
    found = find_build(regions)
    if not (given or told):
        return found
    said, by = given or told, "told by the names" if told else "given"
    n_placed = int(np.count_nonzero(regions.placed))
    if _ruled_out(found.tallies[said], n_placed) or found.build not in (None, said):
        raise InputError(
            f"{where}: the regions are not of {said}{' as their names tell' if told else ''}: "
            f"{_against(said, found, n_placed)}; {_advice(told is not None, found)}"
        )
    sentence = f"{said}, {by}" + (found.sentence.removeprefix(said) if found.build else "")
    return dataclasses.replace(found, build=said, given=True, sentence=sentence)


def _advice(is_told: bool, found: BuildEvidence) -> str:
    if is_told:
        return "mend the build in the names, or take it off"
    return f"give --build {found.build}" if found.build else "give their own with --build"


def _read_names(names: pd.Series) -> _Places:
    parts = names.str.extract(_NAME)
    unread = parts["chrom"].isna()
    if unread.any():
        parts[unread] = names[unread].str.extract(_DOTTED)
    return _as_places(parts["build"], parts["chrom"], parts["start"], parts["end"])


def _as_places(build: pd.Series, chrom: pd.Series, start: pd.Series, end: pd.Series) -> _Places:
    first, last = (_as_numbers(part) for part in (start, end))
    names = _each(chromosome_name, chrom)
    read = (names != "") & np.isfinite(first) & np.isfinite(last) & (np.abs(first) < 2**53) & (np.abs(last) < 2**53)
    first, last = (np.where(read, part, -1).astype(np.int64) for part in (first, last))
    return _Places(np.where(read, _each(plain_name, build), ""), np.where(read, names, ""), first, last)


def _each(function: Callable[[str], str], texts: pd.Series) -> np.ndarray:
    """object: what the function makes of each text, asked once of equal ones; "" where there is none."""
    codes, distinct = pd.factorize(texts.astype(object).where(texts.notna(), ""))
    return np.array([function(str(text)) if text != "" else "" for text in distinct], dtype=object)[codes]


def _as_numbers(texts: pd.Series) -> np.ndarray:
    """float64; NaN where there is no number. Commas between thousands are left out."""
    if not pd.api.types.is_numeric_dtype(texts):
        texts = texts.astype(object).astype(str).str.replace(",", "", regex=False)
    return pd.to_numeric(texts, errors="coerce").to_numpy(np.float64, na_value=np.nan)


def _in_columns(var: pd.DataFrame) -> list[_Places]:
    """Places that the columns of `var` tell: from three columns, then from columns of names."""
    named = {str(column).lower().lstrip("#"): column for column in reversed(var.columns)}
    kinds = (CHROM_COLUMNS, START_COLUMNS, END_COLUMNS)
    found = [next((named[name] for name in names if name in named), None) for names in kinds]
    places = []
    if None not in found:
        chrom, start, end = (var[column].reset_index(drop=True) for column in found)
        parts = chrom.astype(object).where(chrom.notna(), "").astype(str).str.extract(_CHROM)
        three = _as_places(parts["build"], parts["chrom"], start, end)
        if "width" in named:
            width = pd.to_numeric(var[named["width"]], errors="coerce").to_numpy(np.float64)
            three = three._replace(start=three.start - (width == three.end - three.start + 1).all())
        places.append(three)
    for name in NAME_COLUMNS:
        if name in named:
            places.append(_read_names(var[named[name]].astype(object).astype(str).reset_index(drop=True)))
    return places


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
        return f"the build of {n_regions:,} regions cannot be told from their places{ruled}"
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
