"""Families of genes: by a table that the user gives, or else by what their symbols have in common.

A table is TSV, CSV or Parquet, gzipped or not, with a column of genes and one of families, known by their names: HGNC's
complete set (symbol, gene_group, of which a gene has several joined by "|"), HGNC's gene groups (Approved symbol, Group name, a
line for each of a gene's groups), or one's own. mofm ships none: HGNC's changes monthly. Choices and their cost:

- A gene has one family. Of several the smallest among the model's genes counts, by name where two are as small: keratins
  are "Keratins, type II" rather than "Intermediate filaments". A family that then has one gene is dropped, and the gene
  takes its next; one without a family has -1.
- A gene of the table is known by its symbol, also an alias, or else by its Ensembl id.
- By symbols (`stem`), a family is what is left of a symbol without the number and letter at its end: KRT5 and KRT14 are
  KRT, RPL10A and RPL3 are RPL, HLA-A and HLA-DRA are HLA-. It is a guess: it parts HOXA from HOXB, joins all CYP and
  ZNF, and misses kin that are named apart (MYOD1 and MYF5). Numbered placeholders (C1orf43, FAM3A, TMEM14, LINC, LOC),
  the CD numbers, names of clones, and antisense genes say nothing of kinship and have none.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from mofm.errors import InputError
from mofm.omics.genome import GeneTable
from mofm.omics.network_files import Cells, read_cells
from mofm.omics.network_names import meanings, some_of

SYMBOL_COLUMNS = ("symbol", "approved_symbol", "gene_symbol", "hgnc_symbol", "gene", "gene_name")
ID_COLUMNS = ("ensembl_gene_id", "ensembl_id", "gene_stable_id", "gene_id")
FAMILY_COLUMNS = (
    *("gene_group", "gene_group_name", "group_name", "gene_family", "gene_family_name", "family", "family_name"),
    "group",
)
"""Columns by their plain names (`network_files.plain`); of several the first of these lists is taken."""

PREFIXES = ("HLA-", "MT-", "H2-")
"""Beginnings of symbols that name a family by themselves; the last is the mouse's MHC."""

_NO_KIN = frozenset(["FAM", "TMEM", "CCDC", "LINC", "LOC", "KIAA", "CD", "GM", "ENSG", "ENSMUSG"])
_NUMBERED = re.compile(r"([A-Z][A-Z0-9]*?[A-Z])\d+[A-Z]?\d{0,2}(-\d+[A-Z]?)?")
_LETTERED = re.compile(r"([A-Z]+\d[A-Z0-9]*[A-Z])[A-Z]")
_PLACEHOLDER = re.compile(r"C([\dXY]+)ORF\d+|.*RIK|.*-(AS|IT|OT|DT)\d*|(RP|CT[ABCD])\d*-.*|.*\..*")
_LARGEST = 10
_UNKNOWN, _ABSENT = -2, -1


class GeneFamilies(NamedTuple):
    """The families of the G genes of a model.

    Attributes:
      family_G: int32. Place in `names`; -1 for a gene without a family. Every family has at least two genes.
      names: ascending.
      report: JSON-able: genes, in_families, families, largest (name -> genes); of a table also lines, unknown (names that
        mean no gene of the species), absent (lines of genes that the model has not), several (genes of several families).
      notes: what a person should know, a line each.
    """

    family_G: np.ndarray
    names: tuple[str, ...]
    report: dict
    notes: tuple[str, ...]


def families_by_symbol(genes: pd.DataFrame) -> GeneFamilies:
    """Families by the stems of symbols.

    Args:
      genes: the rows of the model's gene table, a column symbol.
    """
    symbols = [str(symbol).upper() for symbol in genes["symbol"]]
    stems = [stem(symbol) for symbol in symbols]
    there = {name for name in stems if name}
    named = [symbol if name is None and symbol in there else name for symbol, name in zip(symbols, stems, strict=True)]
    row, family = np.arange(len(named)), np.array(named, dtype=object)
    is_named = np.array([name is not None for name in named], bool)
    return _made(
        pd.DataFrame({"row": row[is_named], "family": family[is_named]}), len(genes), {}, "by their symbols", ()
    )


def stem(symbol: str) -> str | None:
    """What a symbol in capitals has in common with its family; None where it says nothing of one.

    A gene whose symbol is the stem of others (TUBB of TUBB3) is of their family; that is for who sees them all.
    """
    if prefix := next((prefix for prefix in PREFIXES if symbol.startswith(prefix)), None):
        return prefix
    if _PLACEHOLDER.fullmatch(symbol):
        return None
    found = _NUMBERED.fullmatch(symbol) or _LETTERED.fullmatch(symbol)
    return found[1] if found and found[1] not in _NO_KIN else None


def read_families(path: str | Path, genes: pd.DataFrame, species: GeneTable) -> GeneFamilies:
    """Families by a table.

    Args:
      genes: the rows of the model's gene table, columns id and symbol.
      species: the genes of the model's species.

    Raises:
      InputError: the table cannot be read, has no column of genes or none of families, or no two genes of the model are
        in one of its families.
    """
    path = Path(path)
    cells = read_cells(path, frozenset([*SYMBOL_COLUMNS, *ID_COLUMNS, *FAMILY_COLUMNS]))
    symbol, identity = cells.first_of(SYMBOL_COLUMNS), cells.first_of(ID_COLUMNS)
    family = cells.first_of(FAMILY_COLUMNS)
    if family is None or (symbol or identity) is None:
        missing = " and ".join(
            what for what, column in (("genes", symbol or identity), ("families", family)) if not column
        )
        raise InputError(
            f"{path}: no column names the {missing}, its columns are {', '.join(cells.header) or 'without names'}; "
            "name them gene and family in its header"
        )
    rows = np.full(len(cells.frame), _UNKNOWN)
    for column in filter(None, (symbol, identity)):
        rows = np.where(rows == _UNKNOWN, _rows(cells, column, genes, species), rows)
    listed = pd.DataFrame({"row": rows, "family": cells.frame[family].astype(str).str.split("|")})
    listed = listed.explode("family", ignore_index=True)
    listed["family"] = listed["family"].str.strip()
    pairs = listed[(listed["row"] >= 0) & (listed["family"] != "")].drop_duplicates()
    said = cells.frame[family].astype(str) != ""
    unknown = sorted(set(cells.frame.loc[said & (rows == _UNKNOWN), symbol or identity].astype(str)))
    report = {
        "lines": len(rows),
        "unknown": len(unknown),
        "absent": int(np.count_nonzero(said & (rows == _ABSENT))),
        "several": int(np.count_nonzero(np.bincount(pairs["row"].to_numpy(np.int64)) > 1)),
    }
    notes = [f"{len(unknown):,} names mean no {species.species} gene ({some_of(unknown)})"] if unknown else []
    found = _made(pairs, len(genes), report, f"by {path.name}", notes)
    if not found.names:
        first = cells.frame[symbol or identity].astype(str).tolist()
        raise InputError(
            f"{path}: no two genes of the model are in one of its families (it names {some_of(first[:3])}, the model "
            f"{some_of(genes['symbol'].astype(str)[:3])}); give a table of {species.species} genes, by symbol or Ensembl id"
        )
    return found


def _rows(cells: Cells, column: str, genes: pd.DataFrame, species: GeneTable) -> np.ndarray:
    """Row in the model of each line's gene, _ABSENT where the model has it not, _UNKNOWN where it is no one gene."""
    codes, names = pd.factorize(cells.frame[column].astype(str))
    meant = meanings(names, genes, species)
    row = np.full(len(names), _UNKNOWN)
    row[meant.place] = meant.row
    row[np.bincount(meant.place, minlength=len(names)) > 1] = _UNKNOWN  # a complex
    return row[codes]


def _made(pairs: pd.DataFrame, genes: int, report: dict, how: str, notes: list[str] | tuple[str, ...]) -> GeneFamilies:
    """One family for each gene of some (row, family) pairs, each there once."""
    chosen = _smallest(pairs)
    names, number = np.unique(chosen["family"].to_numpy(str), return_inverse=True)
    family_G = np.full(genes, -1, np.int32)
    family_G[chosen["row"].to_numpy(np.int64)] = number
    sizes = chosen["family"].value_counts().sort_index(kind="stable").sort_values(ascending=False, kind="stable")
    largest = {str(name): int(count) for name, count in sizes.head(_LARGEST).items()}
    report = {"genes": genes, "in_families": len(chosen), "families": len(names), "largest": largest} | report
    made = f"{len(chosen):,} of {genes:,} genes are in {len(names):,} families {how}"
    if largest:
        made += ", the largest " + ", ".join(f"{name} ({count:,})" for name, count in list(largest.items())[:3])
    return GeneFamilies(family_G, tuple(map(str, names)), report, ("; ".join([made, *notes]),))


def _smallest(pairs: pd.DataFrame) -> pd.DataFrame:
    """Of each gene the smallest of its families, less those that only one gene would have."""
    members = {name: rows.tolist() for name, rows in pairs.groupby("family")["row"]}
    family_of: dict[int, str] = {}
    for name in sorted(members, key=lambda name: (len(members[name]), name)):
        mine = [row for row in members[name] if row not in family_of]
        family_of |= dict.fromkeys(mine, name) if len(mine) > 1 else {}
    return pd.DataFrame({"row": list(family_of), "family": np.array(list(family_of.values()), dtype=object)})
