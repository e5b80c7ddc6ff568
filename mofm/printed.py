"""What `mofm inspect` found and what `mofm ingest` did, printed for a person."""

import json
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mofm.axes import FEATURES
from mofm.corpus.ingest import IngestResult
from mofm.corpus.manifest import StoreEntry
from mofm.corpus.names import shared_names
from mofm.corpus.store import open_corpus
from mofm.inspection import UNKNOWN_SHOWN, counts_from, known_percent

DATASETS_SHOWN = 30


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
    _say(console, f"layout: {report['kind']}")
    if "network" in report:
        _render_network(console, report)
        return
    for part in report["parts"]:
        if part["name"]:
            _say(console, f"modality {part['name']}: {part['cells']:,} cells")
        _print_rows(console, [_matrix_row(name, described) for name, described in part["matrices"].items()])
        for name in ("obs_columns", "var_columns"):
            columns = ", ".join(f"{key} ({what})" for key, what in part[name].items()) or "none"
            _say(console, f"{name.removesuffix('_columns')}: {columns}")
    _print_rows(console, report.get("selected", [])[:DATASETS_SHOWN])
    if len(report.get("selected", [])) > DATASETS_SHOWN:
        _say(console, f"and {len(report['selected']) - DATASETS_SHOWN:,} datasets more (--json lists them)")
    _render_tables(console, report)


def _render_network(console: Console, report: dict) -> None:
    """What a table of a network says, and which of its names mean nothing."""
    counts = report["network"]
    if counts:
        _say(console, f"{counts['layout']}; names are read as {report['species']} genes")
        signs = ("activating", "repressing", "sign_unknown", "sign_conflicts", "self_loops", "duplicates")
        keys = ("lines", "edges", "tfs", "targets", *signs)
        _print_rows(console, [{"what": key.replace("_", " "), "count": counts[key]} for key in keys])
        for key in ("unknown_tfs", "unknown_targets"):
            if counts[key]:
                _say(console, f"{key.replace('_', ' ')}: {', '.join(counts[key][:UNKNOWN_SHOWN])}")
    for note in report["notes"]:
        _say(console, note)


def _render_tables(console: Console, report: dict) -> None:
    """What is measured, how its features resolve, which cells have what, and what is left out."""
    if len(report["tables"]) > 1:
        columns = ("modality", "cells", "features", "counts_from")
        _print_rows(console, [{key: table[key] for key in columns} for table in report["tables"]])
        for together, cells in report["sets"].items():
            _say(console, f"cells with {together}: {cells:,}")
    for table in report["tables"]:
        for note in table["notes"]:
            _say(console, f"{table['modality']}: {note}")
    for modality, features in report.get("features", {}).items():
        _say(console, _features_line(modality, features))
        if features["build_evidence"]:
            _say(console, f"build: {features['build_evidence']}")
        if features["unknown"] and modality != "rna":
            _say(console, f"unknown {FEATURES[modality]}: {', '.join(features['unknown'])}")
    for kind, count in report["left_out"].items():
        _say(console, f"left out: {_left_out(kind, count)}")


def render_ingest(results: list[IngestResult], out: str | Path) -> None:
    """Print what each input of an ingest gave."""
    rows = [
        {
            "dataset": entry.name,
            "omics": entry.modality,
            "status": result.status,
            "cells": entry.cells,
            "empty": entry.empty_cells,
            "features": entry.features,
            "known %": known_percent(entry.resolution),
            "cells/s": rate,
        }
        for result in results
        for entry, rate in zip(result.entries, result.cells_per_second, strict=True)
    ]
    console = Console()
    _say(console, f"corpus {out}")
    _print_rows(console, rows)
    for result in results:
        for entry in result.entries:
            _say_of_store(console, entry)
        for kind, count in result.entry.left_out.items():
            _say(console, f"{result.name}: left out {_left_out(kind, count)}")
    new = {entry.name for result in results if result.status == "ingested" for entry in result.entries}
    if new and (shared := shared_names(open_corpus(out), new)):
        one, other = shared.datasets
        _say(
            console,
            f"{shared.cells:,} new cells have a name that another data set has too ({shared.example} in {one} and {other}): "
            f"each is named by both, as {one}:{shared.example}; are they the same cells twice?",
        )


def _say_of_store(console: Console, entry: StoreEntry) -> None:
    if entry.recovered or entry.counts_from not in ("X", "matrix", "fragments", "X/raw"):
        _say(console, f"{entry.name}: {entry.modality} counts from {counts_from(entry.counts_from, entry.recovered)}")
    if entry.build_evidence:
        _say(console, f"{entry.name}: {entry.modality} {entry.build_evidence}")
    for line in entry.notes:
        _say(console, f"{entry.name}: {entry.modality} {line}")
    for line in entry.obs_converted:
        _say(console, f"{entry.name}: obs {line}")


def _left_out(kind: str, count: int) -> str:
    return f"{count:,} {'feature' if count == 1 else 'features'} of type {kind}"


def _dataset_row(dataset: dict) -> dict:
    """What fits a line of 80 characters; the rest is in the JSON."""
    return {
        "dataset": dataset["name"],
        "omics": dataset["modality"],
        "cells": dataset["cells"],
        "empty": dataset["empty_cells"],
        "features": dataset["features"],
        "known %": dataset["known_percent"],
        "counts/cell": dataset["counts_per_cell"],
        "feat./cell": dataset["features_per_cell"],
    }


def _matrix_row(name: str, described: dict) -> dict:
    row = {"matrix": name, "layout": described.get("layout"), "stored": described.get("stored")}
    row["looks like"] = described.get("looks") or described.get("error")
    if "recoverable_share" in described:
        row["looks like"] += f"; {described['recoverable_share']:.0%} of a sample invert to counts"
    return row


def _features_line(modality: str, features: dict) -> str:
    """How the names of one modality resolve, in one line."""
    known = features["names"] - features["unresolved"]
    things = FEATURES[modality]
    is_placed = features["build_evidence"] != ""
    meant = "have a place" if is_placed else f"are {features['species']} genes"
    ways = {"ensembl": "Ensembl ids", "ensembl_versioned": "ids with versions", "symbol": "symbols"}
    if modality == "adt":
        meant, ways = "are known antibodies", {"control": "isotype controls"}
    found = ", ".join(f"{features[how]:,} {what}" for how, what in ways.items() if features.get(how))
    line = f"{things}: {known:,} of {features['names']:,} names in {features['names_from']} {meant}"
    line += f" ({found})" if found else ""
    doubts = {"ambiguous": "ambiguous", "merged": "of one that another column has too"}
    return line + "".join(f", {features[kind]:,} {what}" for kind, what in doubts.items() if features.get(kind))


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
