"""`mofm inspect`: what a file or a corpus holds, and whether mofm can use it, told to a person or as JSON."""

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mofm.corpus.ingest import IngestResult
from mofm.corpus.manifest import MANIFEST
from mofm.corpus.store import open_corpus
from mofm.errors import InputError
from mofm.omics.features import resolve_var, species_of
from mofm.omics.genome import bundled_species, gene_table
from mofm.omics.readers import describe_h5ad, open_h5ad


def inspect(path: Path) -> dict:
    """A JSON-able report with "usable" and "why" on top.

    Raises:
      InputError: nothing is there, or it is neither HDF5 nor a corpus.
    """
    if path.is_dir():
        if not (path / MANIFEST).exists():
            raise InputError(f"{path}: a folder without a {MANIFEST}, so no corpus; give an .h5ad file or a corpus")
        return _inspect_corpus(path)
    report = describe_h5ad(path)
    if report["usable"]:
        report["genes"] = _resolution(path, report["counts_from"])
    return report


def _inspect_corpus(path: Path) -> dict:
    corpus = open_corpus(path)
    entries = corpus.manifest.stores
    return {
        "path": str(path),
        "usable": bool(entries),
        "why": f"{corpus.n_cells:,} cells in {len(entries)} dataset(s), {len(corpus.features):,} features",
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
                "counts_from": entry.counts_from + (" (recovered)" if entry.recovered else ""),
                "unresolved_names": entry.resolution.get("unresolved", 0),
            }
            for entry in entries
        ],
    }


def _resolution(path: Path, counts_from: str) -> dict:
    """How the file's gene names resolve, under the species that most of them belong to."""
    with open_h5ad(path, counts_from=counts_from) as table:
        shares = species_of(list(table.var.index))
        species = max(bundled_species(), key=lambda name: shares.get(name, 0.0))
        names_from, resolution = resolve_var(table.var, gene_table(species))
        return {"species": species, "names_from": names_from, **resolution.summary()}


def render(report: dict, *, as_json: bool = False) -> None:
    """Print a report of `inspect` on stdout."""
    if as_json:
        print(json.dumps(report, indent=1))
        return
    console = Console()
    verdict = "[green]usable[/]" if report["usable"] else "[red]not usable as it is[/]"
    console.print(f"{verdict}: ", end="")
    console.print(report["why"], markup=False, highlight=False, soft_wrap=True)
    if "datasets" in report:
        _print_rows(console, "datasets", report["datasets"])
        return
    matrices = [{"matrix": name, **described} for name, described in report["matrices"].items()]
    _print_rows(console, "matrices", matrices)
    if report.get("genes"):
        known = ", ".join(f"{key} {value}" for key, value in report["genes"].items())
        console.print(f"genes: {known}", markup=False, highlight=False, soft_wrap=True)
    for name in ("obs_columns", "var_columns"):
        columns = ", ".join(f"{key} ({what})" for key, what in report[name].items()) or "none"
        console.print(f"{name.removesuffix('_columns')}: {columns}", markup=False, highlight=False, soft_wrap=True)


def render_ingest(results: list[IngestResult], out: Path) -> None:
    """Print what each input of an ingest gave."""
    rows = [
        {
            "dataset": result.name,
            "": result.status,
            "cells": result.cells,
            "genes": result.genes,
            "counts_from": result.counts_from + (" (recovered)" if result.recovered else ""),
            "unresolved": result.resolution.get("unresolved", 0),
            "empty_cells": result.entry.empty_cells,
            "cells_per_s": result.cells_per_second,
        }
        for result in results
    ]
    console = Console()
    _print_rows(console, f"corpus {out}", rows)
    for result in results:
        for line in result.entry.obs_converted:
            console.print(f"{result.name}: obs {line}", markup=False, highlight=False, soft_wrap=True)
        for kind, count in result.entry.left_out.items():
            console.print(f"{result.name}: left out {count:,} features of type {kind}", markup=False, highlight=False)


def _print_rows(console: Console, title: str, rows: list[dict]) -> None:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(title=title, title_justify="left")
    for key in keys:
        table.add_column(key.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_shown(row.get(key, "")) for key in keys))
    console.print(table)


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
