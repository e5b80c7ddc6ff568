"""A look at an upload, in a process of its own: what the file holds, whether mofm can use it, and whether it fits the model.

The checks are those of `mofm inspect` and of inference itself (`inference.matching`), without a pass over the counts: a
value that is no count is found by the job that reads it. No JAX is loaded.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from mofm.axes import FEATURES
from mofm.errors import InputError
from mofm.inference.matching import match_names
from mofm.inspection import inspect
from mofm.omics.genome import gene_table
from mofm.omics.readers import Reading, open_tables
from mofm.omics.table import CountTable
from mofm.portal.contained import check_contained
from mofm.portal.limits import die_with_parent, limit_cpu, limit_memory, say
from mofm.portal.model_card import read_card, read_known
from mofm.portal.wording import in_portal_words

KINDS = ("h5ad", "h5mu", "10x h5")
MOST_GROUPS = 200
COLUMNS_SHOWN = 60
RECOVERABLE = 0.99


def look(path: Path, name: str, model_dir: Path, asked: dict, max_cells: int) -> dict:
    """What an upload is to a model.

    Args:
      path: where it lies.
      name: what its user calls it; used in what is said.
      asked: of `modality`, `build` and `recover_counts`, how it is to be read; absent: found.

    Returns: JSON-able. usable, why; kind; cells; needs_recovery (its counts can only be recovered, and that was not asked
      for); modalities (of each: modality, cells, features, known, share, counts_from, build, fits, why, notes); sets;
      left_out; obs (column -> what it is); groups (columns of obs that can be groups, and how many); asked.
    """
    report = {
        "usable": False, "why": "", "kind": "", "cells": 0, "needs_recovery": False, "modalities": [], "sets": {},
        "left_out": {}, "obs": {}, "groups": {}, "asked": asked,
    }  # fmt: skip
    try:
        check_contained(path)
        report |= _look(path, model_dir, asked, max_cells)
    except InputError as error:
        report |= {"usable": False, "why": str(error)}
    except MemoryError:
        report |= {"usable": False, "why": "understanding it takes more memory than this server allows for a look"}
    return in_portal_words(report, path, name)


def _look(path: Path, model_dir: Path, asked: dict, max_cells: int) -> dict:
    card = read_card(model_dir)
    genes, species = read_known(model_dir, card)
    reading = Reading(asked.get("modality"), recover_counts=bool(asked.get("recover_counts")))
    seen = inspect(path, reading, species, asked.get("build"))
    report = {"kind": seen["kind"], "usable": seen["usable"], "why": seen["why"], "left_out": seen["left_out"]}
    columns = {name: what for part in reversed(seen["parts"]) for name, what in part["obs_columns"].items()}
    report["obs"] = dict(list(columns.items())[:COLUMNS_SHOWN])
    if seen["kind"] not in KINDS:
        raise InputError(f"{path}: is {seen['kind']}; give an h5ad, h5mu or 10x HDF5 file")
    shares = [one.get("recoverable_share", 0) for part in seen["parts"] for one in part["matrices"].values()]
    if not seen["usable"]:
        return report | {"needs_recovery": not reading.recover_counts and max(shares, default=0) > RECOVERABLE}
    with open_tables(path, reading) as tables:
        report["cells"] = len(pd.Index(np.unique(np.concatenate([table.obs.index for table in tables]))))
        if report["cells"] > max_cells:
            raise InputError(
                f"{path}: has {report['cells']:,} cells, this server takes {max_cells:,}; give a part of them, or use the "
                "command line"
            )
        report["modalities"] = [
            _fit(table, card.modalities, genes, gene_table(species), asked.get("build")) for table in tables
        ]
        report |= {"sets": seen["sets"], "groups": _groups(tables[0].obs)}
    if not any(one["fits"] for one in report["modalities"]):
        report |= {"usable": False, "why": report["modalities"][0]["why"]}
    return report


def _fit(table: CountTable, trained: tuple[str, ...], genes: pd.DataFrame, species, build: str | None) -> dict:
    """What one modality of a file is to the model."""
    found = {
        "modality": table.modality, "cells": table.n_cells, "features": table.n_features, "what": FEATURES[table.modality],
        "counts_from": table.counts_from, "known": 0, "share": 0.0, "build": "", "fits": False, "why": "",
        "notes": list(table.notes),
    }  # fmt: skip
    if table.modality not in trained:
        return found | {"why": f"the model was trained on {', '.join(trained)}, not on {table.modality}"}
    try:
        matching = match_names(table, genes, species, build)
    except InputError as error:
        return found | {"why": str(error)}
    known = table.n_features - len(matching.unmatched)
    return found | {
        "known": known, "share": known / max(table.n_features, 1), "build": matching.build or "", "fits": True,
        "notes": [*found["notes"], *matching.notes],
    }  # fmt: skip


def _groups(obs: pd.DataFrame) -> dict[str, int]:
    """Columns that say cells' groups, and how many groups each has."""
    groups = {}
    for name, column in list(obs.items())[:COLUMNS_SHOWN]:
        if pd.api.types.is_float_dtype(column) or not 2 <= (count := column.nunique()) <= MOST_GROUPS:
            continue
        if count < len(column):
            groups[str(name)] = int(count)
    return groups


def main() -> int:
    """Wait for a line of JSON on stdin that names a file; look at it; the report is the line on stdout."""
    if not (line := sys.stdin.buffer.readline()):
        return 0  # the portal ended before a file came
    given = json.loads(line)
    die_with_parent()
    limit_memory(given["gigabytes"])
    limit_cpu(given["seconds"])
    paths = Path(given["path"]), given["name"], Path(given["model_dir"])
    say(result=look(*paths, given["asked"], given["max_cells"]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
