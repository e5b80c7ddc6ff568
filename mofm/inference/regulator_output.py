"""Regulators and in-silico changes of cells written down: tables, a copy of the file, and what AnnData in memory gets."""

import gzip
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from mofm.errors import InputError
from mofm.files import Location, output_file
from mofm.inference.output import Added, rows_of_cells, write_copy
from mofm.inference.perturb import Change, Perturbation
from mofm.inference.regulators import Regulators
from mofm.inference.scverse import table_of

TABLES = (".parquet", ".tsv", ".tsv.gz")
KEY, REPORT_KEY, PERTURBATION_KEY = "mofm_tf_activity", "mofm_regulators", "mofm_perturbation"
NAMED = 10
"""TFs of each group in uns."""


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table of edges or of genes, as .parquet, .tsv or .tsv.gz. It appears whole or not at all.

    Raises:
      InputError: another suffix, or `path` cannot be written.
    """
    path = Path(path)
    if not path.name.endswith(TABLES):
        raise InputError(f"{path}: a table is written as {', '.join(TABLES)}; give one of these suffixes")
    with output_file(path) as temporary:
        if path.suffix == ".parquet":
            table.to_parquet(temporary, index=False)
            return
        text = table.to_csv(sep="\t", index=False, float_format="%.6g").encode()
        temporary.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


def write_cells(source: Location, target: str | Path, found: Regulators) -> None:
    """Copy `source` to `target` with obsm["mofm_tf_activity"] and uns["mofm_regulators"] set; see `write_copy`.

    uns["mofm_regulators"] has tfs (the columns), model, step, config_hash, groupby, groups, group_sizes, of each group in
    `top_tfs` its most active TFs, and `Regulators.top` as the table `top`.
    """
    write_copy(source, Path(target), {found.embedding.modality: found.embedding}, partial(added_activities, found))


def added_activities(found: Regulators, cells: pd.Index) -> Added:
    """What the regulators add to `cells`, as `write_cells` says."""
    return Added({KEY: rows_of_cells(found.activity_NT, found.embedding.cells, cells)}, {REPORT_KEY: report(found)})


def added_regulators(found: Regulators, key: str, cells: pd.Index) -> Added:
    """The same in Python, the activities by `key`: uns["mofm_regulators"] has the table of edges and the notes too."""
    plain = added_activities(found, cells)
    tables = {"edges": table_of(found.edges), "notes": np.array(found.notes, dtype=str)}
    return Added({key: plain.obsm[KEY]}, {REPORT_KEY: plain.uns[REPORT_KEY] | tables})


def report(found: Regulators) -> dict:
    """Plain values, as written to uns["mofm_regulators"]."""
    top = found.top[found.top["rank"] <= NAMED]
    return {
        **found.embedding.report,
        "tfs": np.array(found.tfs, dtype=str),
        "groupby": found.groupby,
        "groups": np.array(found.groups.names, dtype=str),
        "group_sizes": found.groups.sizes,
        "unlabelled_cells": found.groups.unlabelled,
        "groups_left_out": np.array(list(found.groups.too_small), dtype=str),
        "top_tfs": {
            name.replace("/", "|"): np.array(part["tf"].tolist(), dtype=str) for name, part in top.groupby("group")
        },
        "top": table_of(found.top),
    }


def write_perturbed(source: Location, target: str | Path, found: Perturbation) -> None:
    """Copy `source` to `target` with obs["mofm_shift"], obsm["X_mofm"], obsm["X_mofm_perturbed"] and uns["mofm"] set."""
    write_copy(source, Path(target), {found.embedding.modality: found.embedding}, partial(added_perturbation, found))


def added_perturbation(found: Perturbation, cells: pd.Index) -> Added:
    """What a perturbation adds to `cells`, as `write_perturbed` says."""
    arrays = {"X_mofm": found.embedding.embedding_NE, "X_mofm_perturbed": found.changed_NE, "mofm_shift": found.shift_N}
    placed = {key: rows_of_cells(values, found.embedding.cells, cells) for key, values in arrays.items()}
    shift_N = placed.pop("mofm_shift")
    return Added(placed, {"mofm": found.embedding.report}, {"mofm_shift": shift_N})


def added_changes(found: Perturbation, changes: Sequence[Change], cells: pd.Index) -> Added:
    """The same in Python: uns["mofm_perturbation"] has the tables, what was done and the notes."""
    plain = added_perturbation(found, cells)
    tables = {
        "genes": table_of(found.genes),
        "groups": table_of(found.groups),
        "changes": np.array([str(change) for change in changes], dtype=str),
        "notes": np.array(found.notes, dtype=str),
    }
    return plain._replace(uns=plain.uns | {PERTURBATION_KEY: tables})
