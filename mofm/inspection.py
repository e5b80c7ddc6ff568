"""`mofm inspect`: what a file or a corpus holds, and whether mofm can use it, told to a person or as JSON."""

import json
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

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
                "counts_from": _counts_from(entry.counts_from, entry.recovered),
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
    _say(console, report["why"])
    if "datasets" in report:
        _print_rows(console, [_dataset_row(dataset) for dataset in report["datasets"]])
        return
    _print_rows(console, [_matrix_row(name, described) for name, described in report["matrices"].items()])
    if genes := report.get("genes"):
        _say(console, _genes_line(genes))
    for name in ("obs_columns", "var_columns"):
        columns = ", ".join(f"{key} ({what})" for key, what in report[name].items()) or "none"
        _say(console, f"{name.removesuffix('_columns')}: {columns}")


def render_ingest(results: list[IngestResult], out: Path) -> None:
    """Print what each input of an ingest gave."""
    rows = [
        {
            "dataset": result.name,
            "status": result.status,
            "cells": result.cells,
            "empty": result.entry.empty_cells,
            "genes": result.genes,
            "unknown": result.resolution.get("unresolved", 0),
            "counts from": _counts_from(result.counts_from, result.recovered),
            "cells/s": result.cells_per_second,
        }
        for result in results
    ]
    console = Console()
    _say(console, f"corpus {out}")
    _print_rows(console, rows)
    for result in results:
        for line in result.entry.obs_converted:
            _say(console, f"{result.name}: obs {line}")
        for kind, count in result.entry.left_out.items():
            _say(console, f"{result.name}: left out {count:,} features of type {kind}")


def _dataset_row(dataset: dict) -> dict:
    """What fits a line of 80 characters; the rest is in the JSON."""
    return {
        "dataset": dataset["name"],
        "cells": dataset["cells"],
        "empty": dataset["empty_cells"],
        "genes": dataset["features"],
        "unknown": dataset["unresolved_names"],
        "counts/cell": dataset["counts_per_cell"],
        "genes/cell": dataset["features_per_cell"],
        "counts from": dataset["counts_from"],
    }


def _matrix_row(name: str, described: dict) -> dict:
    row = {"matrix": name, "layout": described.get("layout"), "stored": described.get("stored")}
    row["looks like"] = described.get("looks") or described.get("error")
    if "recoverable_share" in described:
        row["looks like"] += f"; {described['recoverable_share']:.0%} of a sample invert to counts"
    return row


def _genes_line(genes: dict) -> str:
    known = genes["names"] - genes["unresolved"]
    ways = {"ensembl": "Ensembl ids", "ensembl_versioned": "ids with versions", "symbol": "symbols"}
    found = ", ".join(f"{genes[how]:,} {what}" for how, what in ways.items() if genes[how])
    line = f"genes: {known:,} of {genes['names']:,} names in {genes['names_from']} are {genes['species']} genes"
    line += f" ({found})" if found else ""
    doubts = {"ambiguous": "ambiguous", "merged": "of a gene that another column has too"}
    return line + "".join(f", {genes[kind]:,} {what}" for kind, what in doubts.items() if genes[kind])


def _counts_from(name: str, recovered: bool) -> str:
    return f"{name} (recovered)" if recovered else name


def _say(console: Console, line: str) -> None:
    """A line as it is: neither wrapped nor read as markup."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _print_rows(console: Console, rows: list[dict]) -> None:
    """A light table: numbers right and whole, words left and folded where the line is too short for them."""
    if not rows:
        return
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for key in rows[0]:
        is_number = all(row[key] is None or isinstance(row[key], int | float) for row in rows)
        justify = "right" if is_number else "left"
        table.add_column(key, justify=justify, no_wrap=is_number, overflow="fold", header_style="bold")
    for row in rows:
        table.add_row(*(Text(_shown(value)) for value in row.values()))
    console.print(table)


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
