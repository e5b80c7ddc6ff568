"""Genes of one species as those of another, through a table of orthologs that the user gives with `--orthologs`.

A model knows the genes of one species. Mouse cells can be put through a human model only as far as their genes have
one human counterpart each, and which that is, is a choice of the person who asks: mofm ships no such table.

The table is text, tab- or comma-separated, gzipped or not:
- as BioMart exports it: columns such as "Gene stable ID", "Gene name", "Human gene stable ID", "Human gene name" and
  "Human homology type", in any order; those whose header names the target species are the target's, and those of a
  third species beside them are passed over;
- or of two columns, source and target, ids or symbols, with or without a header.

Choices and their cost:
- One to one only. A gene with two counterparts, and a counterpart of two genes, are left out and counted: summing or
  sharing them would make counts that no cell had. BioMart's homology type, where given, must be "ortholog_one2one".
- The target must be in the gene table of the model's species; what is not is left out and counted.
- A source gene is known by its id and by its symbol, as the table gives them and as the bundled table of its species
  does, if there is one.
"""

import collections
import csv
import dataclasses
import gzip
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mofm.errors import InputError
from mofm.omics.features import GeneResolution, resolve_genes, species_of
from mofm.omics.genome import GeneTable, bundled_species, gene_table
from mofm.sampling import evenly

_VERSION = re.compile(r"(ENS[A-Z]{0,6}G\d{11})\.\d+")
_OF_SOURCE = re.compile(r"gene (stable id( version)?|name)")  # as BioMart writes them, in lower case
_OF_ANOTHER = re.compile(rf".+ {_OF_SOURCE.pattern}")
_SAMPLED = 2000


@dataclasses.dataclass(frozen=True, eq=False)
class Orthologs:
    """One-to-one orthologs of a species' genes.

    Attributes:
      path: the file they came from.
      target_of: row in the gene table of the target by each name (id or symbol) of the source gene.
      pairs: how many pairs of genes are used.
      left_out: how many were not, by reason: "several" (not one to one), "unknown" (target not in the gene table).
    """

    path: Path
    target_of: dict[str, int]
    pairs: int
    left_out: dict[str, int]

    def summary(self) -> dict[str, int]:
        """For a manifest: the pairs that can be used, and those left out by reason."""
        return {"pairs": self.pairs} | {f"left_out_{reason}": count for reason, count in self.left_out.items()}

    def note(self, found: GeneResolution) -> str:
        """For a person: what came of the names of a file, and what of the table was left out."""
        through, lost = (int(np.count_nonzero(found.how == how)) for how in ("ortholog", "unresolved"))
        return (
            f"{through:,} of {len(found.ids):,} genes through their one-to-one orthologs in {self.path.name}, "
            f"{lost:,} mean no gene of the species and keep their names; of the table {self.pairs:,} pairs can be used, "
            f"{self.left_out['several']:,} that are not one to one and {self.left_out['unknown']:,} whose gene is not "
            "known are left out"
        )


def read_orthologs(path: Path | str, table: GeneTable) -> Orthologs:
    """The orthologs of a file, into the species of `table`.

    Raises:
      InputError: the file cannot be read, has no two columns, or no pair of it leads into `table`.
    """
    path = Path(path)
    rows = _read_rows(path)
    sources, targets, one_to_one = _pairs(path, rows, table)
    pairs = {}
    unknown = 0
    resolved = resolve_genes([target for target, _ in targets], table)
    second = resolve_genes([symbol for _, symbol in targets], table)
    for source, first, other, single in zip(sources, resolved.ids, second.ids, one_to_one, strict=True):
        gene = first if first in table.row_of_id else other
        if gene not in table.row_of_id:
            unknown += 1
            continue
        pairs.setdefault((source[0], gene), (source, single))
    of_source = collections.Counter(source for source, _ in pairs)
    of_target = collections.Counter(target for _, target in pairs)
    used = {
        key: source
        for key, (source, single) in pairs.items()
        if single and of_source[key[0]] == 1 and of_target[key[1]] == 1
    }
    if not used:
        raise InputError(
            f"{path}: none of {len(rows):,} lines pairs a gene with one {table.species} gene; give BioMart's columns or "
            "two columns, source and target, in --orthologs"
        )
    target_of = {name: table.row_of_id[target] for (_, target), source in used.items() for name in source if name}
    for species in _others(table):
        there = resolve_genes([source for source, _ in used], gene_table(species))
        for (_, target), gene, how in zip(used, there.ids, there.how, strict=True):
            if how != "unresolved":
                target_of.setdefault(gene, table.row_of_id[target])
    return Orthologs(path, target_of, len(used), {"several": len(pairs) - len(used), "unknown": unknown})


def resolve_through(names: Sequence[str], table: GeneTable, orthologs: Orthologs) -> GeneResolution:
    """Like `resolve_genes`, but each of `names` is a gene of another species, and means its ortholog in `table`.

    A name that is a gene of `table` as it stands means itself. `how` and `rule` are "ortholog" where one was used. For
    a whole `var`, `resolve_var(var, table, functools.partial(resolve_through, orthologs=orthologs))`.
    """
    names = [str(name) for name in names]
    own = resolve_genes(names, table)
    rows = _source_rows(names, table, orthologs)
    found = (rows >= 0) & ~np.isin(own.rule, ["id", "version", "symbol"])
    ids = [table.gene_ids[row] if here else was for row, here, was in zip(rows, found, own.ids, strict=True)]
    symbols = [table.symbols[row] if here else was for row, here, was in zip(rows, found, own.symbols, strict=True)]
    how = np.where(found, "ortholog", own.how).astype(np.str_)
    rule = np.where(found, "ortholog", own.rule).astype(np.str_)
    return GeneResolution(ids=ids, symbols=symbols, how=how, rule=rule, ambiguous=own.ambiguous & ~found)


def check_species(names: Sequence[str], table: GeneTable, where: str, tried: Orthologs | None = None) -> None:
    """Raises `InputError` where the genes of `where` (a file) are those of another species.

    Another species' they are when at least half of `names` (of an evenly spaced 2,000) are its ids or symbols, and more
    than twice as many as are the table's.

    Args:
      tried: the orthologs through which not one of them is a gene of `table`, where there are any; for the message.
    """
    if other := other_species(names, table):
        species, share = other
        none = f", and {tried.path.name} has an ortholog of none of them" if tried else ""
        raise InputError(
            f"{where}: {share:.0%} of the genes are {species} genes (first: {str(names[0])!r}), and "
            f"{table.species} ones are expected{none}; give a table of orthologs with --orthologs TABLE, or use --species "
            f"{species} with a corpus or model of that species"
        )


def other_species(names: Sequence[str], table: GeneTable) -> tuple[str, float] | None:
    """The bundled species whose genes `names` are, and the share of them that are; None where it is that of `table`, or
    none: see `check_species`."""
    if not len(names):
        return None
    sampled = [names[place] for place in evenly(len(names), _SAMPLED)]
    shares = species_of(sampled)
    likeliest = next(iter(shares))
    own = shares.get(
        table.species, np.mean([name in table.row_of_id or name in table.row_of_symbol for name in sampled])
    )
    is_other = likeliest != table.species and shares[likeliest] >= 0.5 and shares[likeliest] > 2 * own
    return (likeliest, shares[likeliest]) if is_other else None


def _source_rows(names: list[str], table: GeneTable, orthologs: Orthologs) -> np.ndarray:
    """int64: row in `table` of each name's ortholog, -1 where it has none."""
    bare = [match[1] if (match := _VERSION.fullmatch(name)) else name for name in names]
    rows = np.array([orthologs.target_of.get(name, -1) for name in bare], np.int64)
    for species in _others(table):
        there = resolve_genes(names, gene_table(species))
        for place in np.flatnonzero((rows < 0) & (there.how != "unresolved")):
            row = orthologs.target_of.get(there.ids[place], -1)
            if row < 0 and there.how[place] == "symbol":  # an id means one gene, and not another of the same symbol
                row = orthologs.target_of.get(there.symbols[place], -1)
            rows[place] = row
    return rows


def _others(table: GeneTable) -> list[str]:
    return [species for species in bundled_species() if species != table.species]


def _read_rows(path: Path) -> list[list[str]]:
    try:
        with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
            text = file.read()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a table of orthologs ({str(error).splitlines()[0]})") from error
    lines = text.splitlines()
    mark = "\t" if lines and "\t" in lines[0] else ","
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=mark) if any(row)]
    if not rows or len(rows[0]) < 2:
        raise InputError(
            f"{path}: no table of orthologs, two columns or BioMart's are expected, tab- or comma-separated"
        )
    width = len(rows[0])
    return [[*row, *[""] * (width - len(row))] for row in rows]


def _pairs(
    path: Path, rows: list[list[str]], table: GeneTable
) -> tuple[list[tuple[str, str]], list[tuple[str, str]], list[bool]]:
    """(id, symbol) of each line's source and target ("" where not given), and whether it says one to one."""
    header = [cell.lower() for cell in rows[0]]
    of_genes = [
        place for place, name in enumerate(header) if "gene" in name and ("id" in name.split() or "name" in name)
    ]
    targets = [place for place in of_genes if table.species in header[place]]
    homologies = {
        name.split("homology type")[0].strip(): at for at, name in enumerate(header) if "homology type" in name
    }
    sources = _source_columns(path, header, [place for place in of_genes if place not in targets], set(homologies))
    if targets and sources:
        # One without a species stands for all; that of another species says nothing of these pairs.
        homology = next((at for name, at in homologies.items() if table.species in name), homologies.get(""))
        body = [row for row in rows[1:] if any(row[place] for place in targets)]
        single = [homology is None or row[homology] in ("", "ortholog_one2one") for row in body]
        ids, symbols = _id_first(header, sources), _id_first(header, targets)
        return [_named(row, ids) for row in body], [_named(row, symbols) for row in body], single
    body = [row for row in rows if row[0] and row[1]]
    return [(_named(row, [0, 0])) for row in body], [_named(row, [1, 1]) for row in body], [True] * len(body)


def _source_columns(path: Path, header: list[str], places: list[int], species: set[str]) -> list[int]:
    """Those of the source species. BioMart names only the others: beside "Gene name", "Rat gene name" is no source.

    Args:
      places: of the columns of genes that are not the target's.
      species: that the header names, beside the bundled ones.

    Raises:
      InputError: the columns are of several species, and which is the source is unknown.
    """
    if any(_OF_SOURCE.fullmatch(header[place]) for place in places):
        return [place for place in places if not _OF_ANOTHER.fullmatch(header[place])]
    named = [name for name in {*species, *bundled_species()} - {""} if any(name in header[place] for place in places)]
    if len(named) > 1:
        raise InputError(
            f"{path}: its header names genes of {' and of '.join(sorted(named))}, which the file's are is unknown; "
            "give the columns of one in --orthologs"
        )
    return places


def _id_first(header: list[str], places: list[int]) -> list[int]:
    """The column of ids and that of symbols; one column stands for both where there is no other."""
    ordered = sorted(places, key=lambda place: "name" in header[place])
    return [ordered[0], ordered[-1]]


def _named(row: list[str], places: list[int]) -> tuple[str, str]:
    first, second = (_VERSION.sub(r"\1", row[place]) for place in places)
    return first or second, second
