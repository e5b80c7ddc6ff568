"""Feature identity: which gene a name means, whatever the lab calls it.

A gene is its unversioned Ensembl id, so that data sets named by id, by versioned id and by symbol share the rows of
one model. A name is resolved by itself: neither the order of names nor their company changes what it means.

Choices and their cost:
- The literal name is tried first, as an id and then as a symbol. Only a name that means nothing as it stands is read
  more freely, by the rules in `RULES`, in their order; each takes a name only where exactly one symbol fits it.
- A symbol that several genes have goes to one of them (`GeneTable.row_of_symbol`) and is counted as ambiguous.
- Nothing is forgiven to a name that is, as written, a symbol of another bundled species: mouse "Cd3d" must not pass
  for human CD3D by its letter case. The cost is that human genes in mouse spelling stay unresolved.
- "TBCE-1" and "TBCE.1" are how anndata and R number the repeats of TBCE; both become TBCE, and are summed with it.
- What cannot be resolved keeps its own name as its identity, is counted, and can be listed. An Ensembl id that the
  table does not know (retired, or of another species) is unresolved too, but loses its version.
- Symbols that have since been given up, and other aliases ("FAM46A", "LAG-3"), are known where they mean one gene
  (`aliases`); which gene that is was decided by Ensembl after the data were made, and is now and then another.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd

from mofm.omics.aliases import aliases_of
from mofm.omics.genome import GeneTable, bundled_species, gene_table
from mofm.omics.resolution import ResolvedNames

RULES = {
    "id": "ensembl",  # ENSG00000167286
    "version": "ensembl_versioned",  # ENSG00000167286.12
    "par_y": "ensembl_versioned",  # ENSG00000182378.15_PAR_Y, ENSGR0000182378: the Y copy, named after the gene on X
    "symbol": "symbol",  # CD3D
    "id_in_name": "ensembl_versioned",  # CD3D_ENSG00000167286, ENSG00000167286.12|CD3D
    "alias": "symbol",  # FAM46A: TENT5A by its name until 2018
    "case": "symbol",  # cd3d
    "punctuation": "symbol",  # HLA.A, X7SK, Y-RNA: HLA-A, 7SK, Y_RNA as R or Seurat write them
    "ortholog": "ortholog",  # Cd3d as CD3D, by the table of orthologs that was given
    "repeat": "symbol",  # TBCE-1, TBCE.1: the second gene named TBCE
    "unknown_id": "unresolved",  # an Ensembl id that is not in the table
    "unknown": "unresolved",
}
"""How a name was resolved in detail, in the order in which the ways are tried, and the `how` that each counts as.

A genome in front of a name (GRCh38_CD3D, mm10___Cd3d) is taken off first where it is a genome of the table's species.
"""

ID_COLUMNS = (
    *("gene_ids", "gene_id", "ensembl_id", "ensembl_ids", "ensembl_gene_id", "ensembl", "ensemblid", "ensg"),
    *("feature_id", "feature_ids", "geneid", "id", "accession"),
)
SYMBOL_COLUMNS = (
    *("gene_symbols", "gene_symbol", "symbol", "symbols", "gene_name", "gene_names", "gene_short_name", "hgnc_symbol"),
    *("feature_name", "feature_names", "genesymbol", "genename", "gene", "genes", "name", "names", "features", "index"),
)
"""Columns of `var` in which labs keep gene ids and symbols; compared in lower case, with "_" for other punctuation."""

_GENOMES = {"human": "GRCh38|GRCh37|hg38|hg19", "mouse": "GRCm39|GRCm38|mm39|mm10|mm9"}
_GENE_ID = r"ENS[A-Z]{0,6}G\d{11}"
_ID = re.compile(rf"({_GENE_ID})(?:\.\d+)?(_PAR_Y)?")
_OLD_PAR_Y = re.compile(r"ENSGR(\d{10})(?:\.\d+)?")  # GENCODE until release 24
_ID_IN_NAME = re.compile(rf"(?:.*[^A-Za-z0-9])?({_GENE_ID})(?:\.\d+)?(?:[^A-Za-z0-9.].*)?")
_ORF = re.compile(r"^(C(?:\d+|X|Y))orf(\d+)$")  # Ensembl writes the aliases C1ORF228, HGNC wrote the symbols C1orf228
_REPEAT = re.compile(r"(.+)[-.]\d{1,3}")
_PUNCTUATION = re.compile(r"[^A-Za-z0-9]")
_NAMES_KEPT = 2**16  # an ingest resolves each file's names twice, and files share most of theirs


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class GeneResolution(ResolvedNames):
    """Which genes N names mean (see `ResolvedNames`).

    Attributes:
      ids: the unversioned Ensembl id where it was resolved, else the name itself (an Ensembl id unknown to the table
        loses its version).
      symbols: the gene's symbol where it was resolved, else the name itself.
      how: "ensembl", "ensembl_versioned", "symbol", "ortholog" (see `orthologs`) or "unresolved".
      ambiguous: bool[N], True where the name is a symbol that several genes have.
    """

    rules = RULES

    symbols: list[str]
    ambiguous: np.ndarray

    def summary(self) -> dict[str, int | dict[str, int]]:
        """Counts for a manifest, those of ambiguous symbols among them."""
        return super().summary() | {"ambiguous": int(np.count_nonzero(self.ambiguous))}


def resolve_genes(names: Sequence[str], table: GeneTable) -> GeneResolution:
    """The identity of each of `names`: ids, versioned ids and symbols, mixed as they come. Raises nothing."""
    names = [str(name) for name in names]
    lookups = _lookups(table)
    found = [_resolve(name, lookups) for name in names]
    rows = [row for row, _ in found]
    rule = np.array([rule for _, rule in found], dtype=np.str_)
    how = np.array([RULES[rule] for _, rule in found], dtype=np.str_)
    ids = [table.gene_ids[row] if row >= 0 else _own_name(name) for name, row in zip(names, rows, strict=True)]
    symbols = [table.symbols[row] if row >= 0 else name for name, row in zip(names, rows, strict=True)]
    shared = [symbol in table.ambiguous_symbols for symbol in symbols]
    ambiguous = np.array(shared, dtype=bool) & (how == "symbol")
    return GeneResolution(ids=ids, symbols=symbols, how=how, rule=rule, ambiguous=ambiguous)


def resolve_var(
    var: pd.DataFrame,
    table: GeneTable,
    resolve: Callable[[Sequence[str], GeneTable], GeneResolution] | None = None,
) -> tuple[str, GeneResolution]:
    """Resolves the features of `var` by whichever of its index and its columns of names resolves most of them.

    Of equals the one with most Ensembl ids is taken (a symbol can be ambiguous), then the index.

    Args:
      resolve: how names are resolved; None for `resolve_genes`.

    Returns:
      "var_names" or the name of the column taken, and what its names mean.
    """
    resolve = resolve or resolve_genes
    candidates = [(source, resolve(names, table)) for source, names in names_in(var)]
    return max(candidates, key=lambda named: _merit(named[1]))


def names_in(var: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """What may name the features of `var`: ("var_names", the index), then each of its columns of ids or symbols.

    Where a column has no name (missing or empty), the index speaks for it.
    """
    index_names = [str(name) for name in var.index]
    found = [("var_names", index_names)]
    for column in var.columns:
        if _PUNCTUATION.sub("_", str(column).lower()).strip("_") in (*ID_COLUMNS, *SYMBOL_COLUMNS):
            given = var[column].astype(object)
            known = given.notna() & (given.astype(str) != "")
            names = [
                str(name) if is_known else own for name, is_known, own in zip(given, known, index_names, strict=True)
            ]
            found.append((str(column), names))
    return found


def merge_columns(ids: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Where each column goes when columns of one identity are summed.

    Returns:
      unique_ids: the distinct ids, in order of first appearance.
      column_to_unique: int32, for each of `ids` its position in unique_ids.
    """
    position = {feature: place for place, feature in enumerate(dict.fromkeys(ids))}
    return list(position), np.fromiter((position[feature] for feature in ids), dtype=np.int32, count=len(ids))


def places_among(known: Iterable[str], asked: Sequence[str]) -> np.ndarray:
    """int32 place of each of `asked` among the known identities; -1 where it is not."""
    place = {identity: number for number, identity in enumerate(known)}
    return np.array([place.get(identity, -1) for identity in asked], np.int32)


def species_of(names: Iterable[str]) -> dict[str, float]:
    """For each bundled species, the share (0 to 1) of `names` that are its gene ids or, as written, its symbols.

    The likeliest species comes first. Shares need not sum to 1: a name can belong to both species, or to neither.
    """
    names = [str(name) for name in names]
    shares = {}
    for species in bundled_species():
        lookups = _lookups(gene_table(species))
        known = sum(_is_of(name, lookups) for name in names)
        shares[species] = known / max(1, len(names))
    return dict(sorted(shares.items(), key=lambda share: -share[1]))


@dataclasses.dataclass(frozen=True, eq=False)
class _Lookups:
    """What resolving needs of one table: rows by id, and by symbol read ever more freely."""

    species: str
    row_of_id: dict[str, int]
    row_of_symbol: dict[str, int]
    row_of_alias: dict[str, int]
    row_of_folded: dict[str, int]
    row_of_punctuated: dict[str, int]
    genome: re.Pattern[str] | None
    id_prefix: str


@functools.cache
def _lookups(table: GeneTable) -> _Lookups:
    symbols = table.row_of_symbol
    folded = _where_unique((symbol.lower(), row) for symbol, row in symbols.items())
    punctuated = _where_unique((_punctuated(symbol), row) for symbol, row in symbols.items())
    genome = _GENOMES.get(table.species)
    pattern = re.compile(rf"(?:{genome})_+(?=.)") if genome else None
    id_prefix = table.gene_ids[0].rstrip("0123456789")
    ids = table.row_of_id
    aliases = {alias: ids[gene_id] for alias, gene_id in aliases_of(table.species).items() if gene_id in ids}
    return _Lookups(table.species, ids, symbols, aliases, folded, punctuated, pattern, id_prefix)


@functools.lru_cache(_NAMES_KEPT)
def _resolve(name: str, lookups: _Lookups) -> tuple[int, str]:
    """Row of a name (-1 where unresolved), and the rule that applied."""
    if lookups.genome and (genome := lookups.genome.match(name)):
        name = name[genome.end() :]
    if (row := lookups.row_of_id.get(name, -1)) >= 0:
        return row, "id"
    if name.startswith("ENS"):
        row, rule = _resolve_decorated_id(name, lookups.row_of_id)
        if rule != "unknown":
            return row, rule
    if (row := lookups.row_of_symbol.get(name, -1)) >= 0:
        return row, "symbol"
    if "ENS" in name and (match := _ID_IN_NAME.fullmatch(name)) and match[1] in lookups.row_of_id:
        return lookups.row_of_id[match[1]], "id_in_name"
    if name in _symbols_elsewhere(lookups.species):
        return -1, "unknown"
    if (row := lookups.row_of_alias.get(_ORF.sub(r"\1ORF\2", name), -1)) >= 0:
        return row, "alias"
    row, rule = _resolve_symbol_freely(name, lookups)
    if row < 0 and (match := _REPEAT.fullmatch(name)):
        base = match[1]
        row = lookups.row_of_symbol.get(base, -1)
        row = row if row >= 0 else _resolve_symbol_freely(base, lookups)[0]
        rule = "repeat" if row >= 0 else "unknown"
    return row, rule


def _resolve_decorated_id(name: str, row_of_id: dict[str, int]) -> tuple[int, str]:
    if match := _OLD_PAR_Y.fullmatch(name):
        row = row_of_id.get(f"ENSG0{match[1]}", -1)
        return row, "par_y" if row >= 0 else "unknown_id"
    if match := _ID.fullmatch(name):
        row = row_of_id.get(match[1], -1)
        return row, "unknown_id" if row < 0 else "par_y" if match[2] else "version"
    return -1, "unknown"


def _resolve_symbol_freely(name: str, lookups: _Lookups) -> tuple[int, str]:
    if (row := lookups.row_of_folded.get(name.lower(), -1)) >= 0:
        return row, "case"
    row = lookups.row_of_punctuated.get(_punctuated(name), -1)
    return row, "punctuation" if row >= 0 else "unknown"


@functools.cache
def _symbols_elsewhere(species: str) -> frozenset[str]:
    return frozenset().union(*(gene_table(other).symbols for other in bundled_species() if other != species))


def _is_of(name: str, lookups: _Lookups) -> bool:
    if lookups.genome and lookups.genome.match(name):
        return True
    is_id = name.startswith(lookups.id_prefix) and name[len(lookups.id_prefix) :][:1].isdigit()
    return is_id or name in lookups.row_of_symbol


def _own_name(name: str) -> str:
    match = _ID.fullmatch(name) if name.startswith("ENS") else None
    return match[1] if match else name


def _punctuated(name: str) -> str:
    """A name as R's make.names leaves it, with every other punctuation mark made a dot too, as Seurat has its own."""
    dotted = _PUNCTUATION.sub(".", name)
    return f"X{dotted}" if dotted[:1].isdigit() else dotted


def _where_unique(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """The pairs as a dict, less the keys that occur with more than one row."""
    row_of, repeated = {}, set()
    for key, row in pairs:
        if row_of.setdefault(key, row) != row:
            repeated.add(key)
    return {key: row for key, row in row_of.items() if key not in repeated}


def _merit(resolution: GeneResolution) -> tuple[int, int]:
    by_id = np.isin(resolution.how, ["ensembl", "ensembl_versioned"])
    return int(np.count_nonzero(resolution.how != "unresolved")), int(np.count_nonzero(by_id))
