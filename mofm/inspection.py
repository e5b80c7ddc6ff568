"""`mofm inspect`: what a file or a corpus holds, and whether mofm can use it, as plain values (`printed.py` prints them)."""

from pathlib import Path

from mofm.corpus.manifest import MANIFEST
from mofm.corpus.places import read_file
from mofm.corpus.store import open_corpus
from mofm.errors import InputError
from mofm.files import Location
from mofm.omics.build_evidence import check_build
from mofm.omics.describe import describe, open_some
from mofm.omics.describe_network import describe_network, is_network
from mofm.omics.features import names_in, species_of
from mofm.omics.genome import bundled_species, gene_table
from mofm.omics.identity import holds_regions, resolve
from mofm.omics.orthologs import read_orthologs
from mofm.omics.readers import Reading, Tables
from mofm.omics.regions import resolve_regions

UNKNOWN_SHOWN = 20
"""So many unknown names are listed."""


def inspect(
    path: Location,
    reading: Reading | None = None,
    species: str | None = None,
    build: str | None = None,
    orthologs: Path | None = None,
) -> dict:
    """A JSON-able report with "usable" and "why" on top; of files, "features" says how those of each modality resolve.

    Args:
      path: a file, a folder that is one's layout, a table of a gene regulatory network, or a corpus; or the URL of a
        corpus or a SOMA experiment.
      species: whose gene table resolves them, as `gene_table` takes it; None for the bundled one that fits best, human
        where there are `orthologs`.
      build, orthologs: as `mofm.corpus.ingest.ingest` takes them.

    Raises:
      InputError: nothing is there, or it is neither a file of a known layout nor a corpus.
    """
    if _is_corpus(path):
        return _inspect_corpus(path)
    if is_network(path):
        return describe_network(path, species, build)
    report = describe(path, reading)
    if report["usable"] and report["kind"] != "fragments":
        try:
            report["features"] = _resolutions(path, reading or Reading(), species, build, orthologs)
        except InputError as error:
            report |= {"usable": False, "why": str(error)}
    return report


def _is_corpus(path: Location) -> bool:
    """Of URLs, those of a web server can be nothing else; in a bucket, there may be a SOMA experiment."""
    if isinstance(path, Path):
        return (path / MANIFEST).exists()
    if path.startswith(("s3://", "gs://", "file://")):
        return read_file(path, MANIFEST, optional=True) is not None
    return path.startswith("http")


def _inspect_corpus(path: Location) -> dict:
    corpus = open_corpus(path)
    entries = corpus.manifest.stores
    return {
        "path": str(path),
        "usable": bool(entries),
        "why": f"{corpus.n_cells:,} cells in {len(corpus.datasets)} dataset(s), {len(corpus.features):,} features",
        "species": corpus.manifest.species,
        "gene_table": corpus.manifest.gene_table,
        "datasets": [
            {
                "name": entry.name,
                "modality": entry.modality,
                "cells": entry.cells,
                "features": entry.features,
                "counts_per_cell": entry.total_counts / max(entry.cells, 1),
                "features_per_cell": entry.entries / max(entry.cells, 1),
                "empty_cells": entry.empty_cells,
                "source": entry.source,
                "counts_from": counts_from(entry.counts_from, entry.recovered),
                "build": entry.build,
                "unresolved_names": entry.resolution.get("unresolved", 0),
                "known_percent": known_percent(entry.resolution),
            }
            for entry in entries
        ],
    }


def _resolutions(
    path: Location, reading: Reading, species: str | None, build: str | None, orthologs: Path | None
) -> dict[str, dict]:
    """How the features of each modality resolve, under `species` or that which most of the genes belong to."""
    with open_some(path, reading) as tables:
        genes = gene_table(species or ("human" if orthologs else _species(tables)))
        other = None if orthologs is None else read_orthologs(orthologs, genes)
        resolved = {table.modality: (table, resolve(table, genes, build, other)) for table in tables}
        return {
            modality: {
                "species": genes.species,
                "names_from": found.features_from,
                "build": found.build,
                "build_evidence": found.build_evidence,
                "unknown": [
                    str(name) for name, how in zip(table.var.index, found.how, strict=True) if how == "unresolved"
                ][:UNKNOWN_SHOWN],
                **found.summary(),
            }
            for modality, (table, found) in resolved.items()
        }


def _species(tables: Tables) -> str:
    """That of most gene names; where there are none, that of the regions' build; human where nothing shows it."""
    regions = next((table for table in tables if holds_regions(table)), None)
    named = next((names_in(table.var) for table in tables if not holds_regions(table)), [])
    shares = species_of(name for _, names in named for name in names)
    if not named and regions is not None:
        found = resolve_regions(regions.var.index, regions.var)
        return check_build(found, None, regions.where).species or "human"
    return max(bundled_species(), key=lambda name: (shares.get(name, 0.0), name == "human"))


def known_percent(resolution: dict) -> float:
    """Share of names whose identity is known, in percent."""
    names = resolution.get("names", 0)
    return 100 * (names - resolution.get("unresolved", 0)) / max(names, 1)


def counts_from(name: str, recovered: bool) -> str:
    """Where the counts were, in words for a person."""
    return f"{name} (recovered)" if recovered else name
