"""What a table of a network or of motif hits holds, held against all genes of a species: what `mofm inspect` shows."""

import gzip
from pathlib import Path

import pandas as pd

from mofm.errors import InputError
from mofm.files import Location
from mofm.omics import motifs
from mofm.omics.features import species_of
from mofm.omics.genome import GeneTable, bundled_species, gene_table
from mofm.omics.motifs import holds_hits, tfs_of_motif
from mofm.omics.network_columns import TF_COLUMNS, names_tf_and_target
from mofm.omics.network_files import TRRUST_WORDS, Cells
from mofm.omics.networks import open_table, read_networks

_SOME = 1 << 16  # bytes
_NAMES = 200


def is_network(path: Location) -> bool:
    """Whether a file is a table whose columns name TFs and targets, or one of motif hits.

    What cannot be read is no network: whoever reads other layouts says what is wrong with it. Of lines that begin with an
    interval, those of fragments and peaks look the same: motif hits they are where half of the names are of genes.
    """
    if not isinstance(path, Path) or not path.is_file() or not _may_be_table(path):
        return False
    try:
        cells = open_table(path)
    except InputError:
        return False
    return holds_hits(cells) or (bool(cells.header) and names_tf_and_target(cells)) or _is_trrust(cells)


def describe_network(path: Path, species: str | None = None, build: str | None = None) -> dict:
    """What a table of a network holds: JSON-able.

    Keys: path, kind ("network" or "motif hits"), usable, why, species, notes, and network, its report as
    `networks.Network` has it.

    Args:
      species: as `gene_table` takes it; None for the bundled one that most TFs are of.
      build: as `networks.read_networks` takes it.

    Raises:
      InputError: the table cannot be read, or `species` is not known. What else is wrong with it is said in "why".
    """
    cells = open_table(path)
    kind = "motif hits" if holds_hits(cells) else "network"
    table = gene_table(species or _species(cells))
    report = {"path": str(path), "kind": kind, "usable": False, "species": table.species, "notes": [], "network": {}}
    try:
        found = read_networks([path], all_genes(table), table, build=build)
    except InputError as error:
        return report | {"why": str(error)}
    counts, (why, *notes) = found.report[found.relations[0]], found.notes
    why = why.removeprefix(f"{found.relations[0]}: ")
    return report | {"usable": True, "why": why, "notes": notes, "network": counts}


def all_genes(table: GeneTable) -> pd.DataFrame:
    """The genes of a species as if a model had them all: columns id, symbol, measured."""
    return pd.DataFrame({"id": table.gene_ids, "symbol": table.symbols, "measured": True})


def _may_be_table(path: Path) -> bool:
    """By its first bytes and suffix; HDF5, MatrixMarket and fragments are not read whole to be refused."""
    if path.suffix == ".parquet":
        return True
    try:
        with path.open("rb") as file:
            head = file.read(_SOME)
        if head[:2] == b"\x1f\x8b":
            with gzip.open(path) as file:
                head = file.read(_SOME)
    except (OSError, EOFError):
        return False
    if not head.strip() or b"\0" in head or head.startswith(b"%%MatrixMarket"):
        return False
    lines = [line.split("\t") for line in head.decode("utf-8", "replace").splitlines() if line[:1] not in ("", "#")]
    names = {line[3] for line in lines if len(line) > 3 and line[1].isdigit() and line[2].isdigit()}
    named = [name for name in sorted(names)[:_NAMES] if _is_motif(name)]
    return 2 * len(named) >= min(len(names), _NAMES)


def _is_motif(name: str) -> bool:
    """Whether a motif's name has a gene of any bundled species in it."""
    tables = [gene_table(species) for species in bundled_species()]
    return any(tf in table.row_of_id for table in tables for tf in tfs_of_motif(name, table))


def _is_trrust(cells: Cells) -> bool:
    return not cells.header and cells.frame.shape[1] >= 3 and set(cells.frame["2"].str.lower()) <= TRRUST_WORDS


def _species(cells: Cells) -> str:
    """The bundled species that most TFs are of; human where nothing shows it."""
    column = cells.first_of(motifs.MOTIF_COLUMNS if holds_hits(cells) else TF_COLUMNS) if cells.header else None
    column = column or ("3" if holds_hits(cells) else "0")
    shares = species_of(cells.frame[column].astype(str).unique())
    return max(bundled_species(), key=lambda name: (shares.get(name, 0.0), name == "human"))
