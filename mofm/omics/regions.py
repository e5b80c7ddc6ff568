"""Region identity: where a peak, a tile or a CpG region lies, whatever its name looks like.

A region is its place: "chr1:100-200", counted from 0 with the end exclusive (as in BED), chromosomes named as in the
gene tables. A name is read by itself: neither the order of names nor their company changes what it means. Which genome
the place is of is in the name, "GRCh38_chr1:100-200" (`builds.PREFIX`), or known of many regions together
(`build_evidence`), and then stands before it.

Choices and their cost:
- Names are taken as BED intervals, as Cell Ranger, MACS and SnapATAC2 write them. Signac and other R tools count from
  1; their names look the same, and come out one base to the right of where they were.
- Columns of `var` speak only for regions whose names hold no place. Columns that carry a GRanges `width` count from 1
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
from mofm.omics.assemblies import chromosome_name
from mofm.omics.builds import PREFIX, build_in_name, plain_name
from mofm.omics.resolution import ResolvedNames

RULES = {
    "name": "name",  # chr1:1-2, chr1-1-2, chr1_1_2, 1-1-2, chr1.1.2, GRCh38_chr1:1-2, KI270728.1:1,000-2,000
    "columns": "columns",  # chrom, start and end in columns of var
    "reversed": "unresolved",  # ends before it starts
    "empty": "unresolved",  # ends where it starts
    "negative": "unresolved",  # starts before the chromosome
    "too_long": "unresolved",  # longer than LONGEST, or past what any chromosome holds
    "unknown": "unresolved",  # holds no place
}
"""How a region was placed in detail, and the `how` that each counts as."""

LONGEST = 10_000_000
"""bp; no peak, tile or CpG region is longer."""

GENOME_COLUMN = "genome"
"""Column of `var` in which 10x Genomics writes the build of each feature. Other names in it than a build's say nothing."""
CHROM_COLUMNS = ("chrom", "chr", "chromosome", "seqnames", "seqname", "seqid", "contig", "seq_name")
START_COLUMNS = ("start", "chromstart", "chrom_start", "peak_start", "start_position")
END_COLUMNS = ("end", "stop", "chromend", "chrom_end", "peak_end", "end_position")
NAME_COLUMNS = ("interval", "peak", "peaks", "peak_name", "region", "gene_ids", "coordinates", "location")
"""Columns of `var` in which labs keep the places, or names that hold them; compared in lower case."""

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
      builds: object[N] of str, the build that stands before the place or in `GENOME_COLUMN`, by mofm's name where it has
        one; "" for none.
      chrom: str[N], "" where not placed.
      start, end: int64[N], bp from 0, end exclusive; -1 where not placed.
      how: "name", "columns" or "unresolved".
    """

    rules = RULES

    builds: np.ndarray
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


class _Places(NamedTuple):
    """Places as written, a row a name: builds as in `RegionResolution`; chrom object, "" where not read; int64 bp."""

    builds: np.ndarray
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
    builds, chrom, start, end = places
    if var is not None and GENOME_COLUMN in var:
        named = pd.Categorical(var[GENOME_COLUMN].astype(object).fillna("").astype(str))
        stated = np.array([build_in_name(name) for name in named.categories], dtype=object)[named.codes]
        builds = np.where(builds == "", stated, builds)
    read = rule != "unknown"
    rule[read & (end < start)] = "reversed"
    rule[read & (end == start)] = "empty"
    rule[read & (end > start) & ((end - start > LONGEST) | (end > _LARGEST))] = "too_long"
    rule[read & (start < 0)] = "negative"
    how = np.array([RULES[key] for key in rule], dtype="U10")
    lost = how == "unresolved"
    builds[lost], chrom[lost], start[lost], end[lost] = "", "", -1, -1
    starts, ends = start.astype(str), end.astype(str)
    ids = [
        own if gone else f"{where}:{first}-{last}"
        for own, gone, where, first, last in zip(names, lost, chrom, starts, ends, strict=True)
    ]
    return RegionResolution(
        ids=ids, builds=builds, chrom=chrom.astype(np.str_), start=start, end=end, how=how, rule=rule
    )


def with_build(regions: RegionResolution, build: str | None) -> list[str]:
    """The regions' ids with their build before the place, "GRCh38_chr1:100-200"; as they are where it is not known.

    Names without a place stay as they are.
    """
    if build is None:
        return regions.ids
    return [f"{build}_{name}" if here else name for name, here in zip(regions.ids, regions.placed, strict=True)]


def require_places(regions: RegionResolution, where: str) -> None:
    """Raises `InputError` where not one of the regions of `where` (a file, a modality) is placed."""
    if len(regions.ids) and not regions.placed.any():
        raise InputError(
            f"{where}: none of {len(regions.ids):,} regions has a place (first: {regions.ids[0]!r}); "
            "name them chrom:start-end, or add columns chrom, start and end to var"
        )


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
    """Places that the columns of `var` hold: from three columns, then from columns of names."""
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
