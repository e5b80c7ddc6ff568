"""The genes of a species: one table of identity (Ensembl id), symbol, biotype and place, shipped with mofm or one's own.

Choices and their cost:
- The table is one GENCODE release, bundled as Parquet: no download, the same answer everywhere, and genes that this
  release dropped or named anew are unknown to it. `build_gene_table` makes the table of another release or species.
- A gene is its Ensembl id without the version. Some symbols stand for several ids (both copies of a pseudoautosomal
  gene, readthrough loci, families such as Y_RNA); `row_of_symbol` takes one of them by a fixed rule.
- Chromosomes are named as GENCODE does, "chr1" in UCSC's style; scaffolds keep their accession ("KI270728.1") and
  all of their genes, so that no gene of a data set is unknown because of where it lies.
- A species has the same genes in the same rows in each of its builds; only their places differ. For GRCh37 and GRCm38
  the places were carried over from the newer build (`build_places`), which loses some: 8% of human genes and 2% of
  mouse genes have no place there and can have no links. Regions of an older build are never moved themselves.
"""

import dataclasses
import functools
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mofm.errors import InputError, nearest_name
from mofm.omics.builds import plain_name

COLUMNS = ("gene_id", "symbol", "biotype", "chrom", "start", "end", "strand")
METADATA = ("species", "release", "source", "licence")
PLACES = ("gene_id", "chrom", "start", "end", "strand", "how")
"""Columns of the tables of places in an older build; `how` is "moved" or "annotated" (see `build_places`)."""

OLDER_BUILDS = {"GRCh37": "human", "GRCm38": "mouse"}
"""Builds in which the genes of a bundled table are placed too, and its species."""

_BUNDLED = Path(__file__).with_name("data")
_PRIMARY = re.compile(r"chr(\d+|X|Y|M)")
_BUILD = re.compile(r"\(([^()]+)\)$")


@dataclasses.dataclass(frozen=True, eq=False)
class GeneTable:
    """The genes of one species in one release of its annotation.

    Attributes:
      species: "human", "mouse".
      release: the annotation and the genome build that places are given in, such as "GENCODE 48 (GRCh38)".
      source: where the table came from.
      licence: the source's licence, in full where that licence asks for it.
      frame: a row a gene, ordered by id. `gene_id` (unversioned, unique) and `symbol` (the id itself where the gene
        has no symbol) are strings; `biotype`, `chrom` and `strand` ("+" or "-") are categorical; `start` and `end`
        are int32, counted from 0, `end` exclusive (as in BED). A gene whose place the source does not give has
        `chrom` and `strand` missing and `start` and `end` -1.
    """

    species: str
    release: str
    source: str
    licence: str
    frame: pd.DataFrame

    @property
    def version(self) -> str:
        """What a manifest keeps to name this table: release and source."""
        return f"{self.release}, from {self.source}"

    @property
    def build(self) -> str | None:
        """The genome build of the places, "GRCh38": what `release` ends with in parentheses, "(GRCh38.p14)" or "(hg38)",
        by mofm's name and without its patch, which moves no place; None where it has none."""
        match = _BUILD.search(self.release)
        return plain_name(match[1]) if match else None

    @property
    def builds(self) -> list[str]:
        """The builds in which `in_build` places the genes; its own first, where the table names it."""
        older = [build for build, its_species in OLDER_BUILDS.items() if its_species == self.species]
        return list(dict.fromkeys([*([self.build] if self.build else []), *older]))

    @functools.cached_property
    def gene_ids(self) -> list[str]:
        """Ensembl id of each row."""
        return self.frame["gene_id"].tolist()

    @functools.cached_property
    def symbols(self) -> list[str]:
        """Symbol of each row."""
        return self.frame["symbol"].tolist()

    @functools.cached_property
    def row_of_id(self) -> dict[str, int]:
        """Row of each Ensembl id."""
        return {gene_id: row for row, gene_id in enumerate(self.gene_ids)}

    @functools.cached_property
    def row_of_symbol(self) -> dict[str, int]:
        """Row of each symbol. Of several genes with one symbol: protein-coding before others, then those on a
        chromosome before those on scaffolds, then the lowest id (for pseudoautosomal genes, the copy on X)."""
        primary = [bool(_PRIMARY.fullmatch(name)) for name in self.frame["chrom"].cat.categories]
        codes = self.frame["chrom"].cat.codes.to_numpy()
        elsewhere = ~np.array([*primary, False])[codes]  # code -1 (no place given) takes the last entry
        noncoding = (self.frame["biotype"] != "protein_coding").to_numpy()
        best_first = np.lexsort((np.arange(len(codes)), elsewhere, noncoding))
        return {self.symbols[row]: row for row in best_first[::-1].tolist()}

    @functools.cached_property
    def ambiguous_symbols(self) -> frozenset[str]:
        """Symbols that several genes have."""
        return frozenset(self.frame["symbol"][self.frame["symbol"].duplicated()].tolist())


@functools.cache
def bundled_species() -> tuple[str, ...]:
    """The species whose tables are shipped with mofm."""
    return tuple(sorted(path.stem for path in _BUNDLED.glob("*.parquet")))


def bundled_path(species: str) -> Path:
    """The file of a bundled species' table."""
    return _BUNDLED / f"{species}.parquet"


def gene_table(species: str | Path = "human", build: str | None = None) -> GeneTable:
    """The table of a species: the same object at each call.

    Args:
      species: the name of a bundled one, or the path of a table that `build_gene_table` wrote (.parquet).
      build: see `in_build`; None for the build of the annotation.

    Raises:
      InputError: no such table, or none of that build.
    """
    if species in bundled_species():
        return in_build(_read_once(bundled_path(species), None), build)
    path = Path(species)
    if path.name.lower().endswith((".gtf", ".gtf.gz")):
        name = path.name.split(".")[0]
        raise InputError(
            f"{path}: an annotation, of which a gene table is made once: python -m mofm.omics.build_gene_table "
            f"{name.lower()} {path} {name.lower()}.parquet --release 'NAME (BUILD)'; then give --species "
            f"{name.lower()}.parquet"
        )
    if path.suffix == ".parquet":
        changed = (path.stat().st_mtime_ns, path.stat().st_size) if path.exists() else None
        return in_build(_read_once(path.absolute(), changed), build)
    hint = nearest_name(str(species).lower(), bundled_species())
    raise InputError(
        f"no gene table of species {str(species)!r}: mofm ships {', '.join(bundled_species())}.{hint} Of other species "
        "make one with `python -m mofm.omics.build_gene_table`, and give --species FILE.parquet"
    )


@functools.cache
def _read_once(path: Path, changed: tuple[int, int] | None) -> GeneTable:
    """`changed` distinguishes one content of a path from another."""
    return read_gene_table(path)


@functools.cache
def in_build(table: GeneTable, build: str | None) -> GeneTable:
    """The same genes, in the same rows, placed in another build; None for the table's own.

    Genes that have no place there have `chrom` and `strand` missing and `start` and `end` -1.

    Raises:
      InputError: mofm does not know their places there.
    """
    if build in (None, table.build):
        return table
    if build not in table.builds:
        known = ", ".join(table.builds) or "none"
        raise InputError(f"no {table.species} genes placed in build {build!r}: mofm has {known}")
    return _placed(table, build)


def is_bundled(table: GeneTable) -> bool:
    """Whether mofm ships this very table."""
    return table.species in bundled_species() and same_genes(table, gene_table(table.species))


def same_genes(one: GeneTable, other: GeneTable) -> bool:
    """Whether two tables name the same genes alike, in the same places."""
    same_name = (one.species, one.version) == (other.species, other.version)
    return one is other or (same_name and one.frame.equals(other.frame))


def _placed(table: GeneTable, build: str) -> GeneTable:
    """The same genes with their places in an older build."""
    stored = pq.read_table(_BUNDLED / "places" / f"{build}.parquet")
    source, licence = (stored.schema.metadata[key].decode() for key in (b"source", b"licence"))
    places = stored.to_pandas().set_index("gene_id").reindex(table.frame["gene_id"])
    frame = table.frame.assign(
        chrom=places["chrom"].to_numpy(),
        start=places["start"].fillna(-1).to_numpy(np.int32),
        end=places["end"].fillna(-1).to_numpy(np.int32),
        strand=places["strand"].to_numpy(),
    ).astype({"chrom": "category", "strand": "category"})
    release = f"{_BUILD.sub('', table.release)}placed in another build ({build})"
    placed = GeneTable(table.species, release, f"{table.source}; {source}", f"{table.licence}\n{licence}", frame)
    vars(placed)["row_of_symbol"] = table.row_of_symbol  # which gene a symbol means does not depend on the build
    return placed


def read_gene_table(path: Path | str, content: bytes | None = None) -> GeneTable:
    """A table that `build_gene_table` wrote.

    Args:
      content: of the file, where it has been read; `path` then only names it.

    Raises:
      InputError: the file is not there, or is no gene table.
    """
    try:
        table = pq.read_table(path if content is None else pa.BufferReader(content))
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path}: cannot be read as a gene table ({str(error).splitlines()[0]})") from error
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    missing = [name for name in COLUMNS if name not in table.column_names]
    missing += [key for key in METADATA if key not in metadata]
    if missing:
        raise InputError(
            f"{path}: no gene table, {', '.join(missing)} missing; make one with "
            "`python -m mofm.omics.build_gene_table`"
        )
    return GeneTable(frame=table.select(COLUMNS).to_pandas(), **{key: metadata[key] for key in METADATA})
