"""What a file holds and whether it can be used, from samples: what `mofm inspect` shows, as plain values."""

from contextlib import ExitStack

import numpy as np
import pandas as pd

from mofm.axes import FEATURES
from mofm.errors import InputError
from mofm.files import Location
from mofm.omics import fragments
from mofm.omics.anndatas import Member
from mofm.omics.choice import Place, Wanted, load_candidate, matrix_keys
from mofm.omics.hdf5 import read_table
from mofm.omics.layouts import ANNDATAS, MUDATAS, Layout
from mofm.omics.pairing import pair
from mofm.omics.readers import Reading, Tables, find_layout, open_cells, open_members, open_tables
from mofm.omics.soma_cells import select_cells
from mofm.omics.survey import survey


def describe(path: Location, reading: Reading | None = None) -> dict:
    """What a file or folder holds and whether it can be used: JSON-able.

    Keys: path, kind, usable, why, left_out (features that are not modelled, by type), tables (a dict for each modality:
    modality, cells, features, counts_from, hits_from, layout, notes), sets (modalities measured together -> cells),
    parts (a dict for each AnnData: name, cells, obs_columns, var_columns, matrices (name -> layout, shape, dtype, stored
    entries, kind, looks, and for log-normalised values recoverable_share: of a sample of rows, how much inverts to whole
    numbers; or error)), and of a SOMA experiment selected (a dict for each dataset: dataset, cells, about).
    Of a file with one AnnData, its keys stand on top too, and the counts_from of its one table.

    Raises `InputError` only for what is missing or of no known layout.
    """
    reading = reading or Reading()
    layout = find_layout(path, reading)
    report = {
        "path": str(path), "kind": layout.kind, "usable": False, "why": "", "left_out": {}, "tables": [], "sets": {},
        "counts_from": None, "cells": None, "obs_columns": {}, "var_columns": {}, "matrices": {}, "parts": [],
    }  # fmt: skip
    try:
        report["parts"] = _parts(layout, reading)
        if len(report["parts"]) == 1:
            report |= {key: value for key, value in report["parts"][0].items() if key != "name"}
        if layout.soma is not None:
            return report | _describe_soma(layout, reading)
        if layout.fragments is not None:
            return report | _describe_fragments(layout, reading)
        with open_tables(path, reading) as tables:
            return report | _describe_tables(tables)
    except InputError as error:
        return report | {"why": str(error)}


def _describe_tables(tables: Tables) -> dict:
    described = [
        {
            "modality": table.modality, "cells": table.n_cells, "features": table.n_features,
            "counts_from": table.counts_from, "hits_from": table.hits_from, "layout": table.layout,
            "notes": list(table.notes),
        }
        for table in tables
    ]  # fmt: skip
    try:
        cells, doubt = {" + ".join(part.modalities): part.n_cells for part in pair(tables)}, ""
    except InputError as error:
        cells, doubt = {}, str(error)
    why = "; ".join(_sentence(table) for table in described)
    if tables.left_out:
        why += f"; leaving out {sum(tables.left_out.values()):,} features of other kinds"
    return {
        "usable": not doubt, "why": doubt or why, "left_out": tables.left_out, "tables": described, "sets": cells,
        "counts_from": described[0]["counts_from"] if len(described) == 1 else None,
    }  # fmt: skip


def _sentence(table: dict) -> str:
    source = table["counts_from"] if table["hits_from"] in (None, table["counts_from"]) else table["hits_from"]
    what = "methylation is" if table["hits_from"] else "counts are"
    return f"{what} in {source}: {table['cells']:,} cells x {table['features']:,} {FEATURES[table['modality']]}"


def open_some(path: Location, reading: Reading) -> Tables:
    """The tables of a file; of a SOMA experiment, that of its first dataset with selected cells."""
    layout = find_layout(path, reading)
    if layout.soma is None:
        return open_tables(path, reading)
    return open_cells(select_cells(layout.soma, reading.obs_filter, reading.duplicates)[0], reading)


def _describe_soma(layout: Layout, reading: Reading) -> dict:
    """The selected cells of each dataset, and the table of the first."""
    parts = select_cells(layout.soma, reading.obs_filter, reading.duplicates)
    cells = sum(len(part.ids_N) for part in parts)
    with open_cells(parts[0], reading) as tables:
        described = _describe_tables(tables) | {"obs_columns": _columns(tables[0].obs), "cells": cells}
        described["var_columns"] = _columns(tables[0].var)
    if parts[0].dataset is None:
        return described
    why = f"{cells:,} cells selected in {len(parts):,} dataset(s); in the first, {described['why']}"
    selected = [{"dataset": part.dataset, "cells": len(part.ids_N), "about": part.about} for part in parts]
    return described | {"why": why, "selected": selected}


def _describe_fragments(layout: Layout, reading: Reading) -> dict:
    """What a pass over the fragments shows; they are not counted."""
    found = survey(layout.fragments)
    least = reading.min_fragments or fragments.MIN_FRAGMENTS
    cells = int(np.count_nonzero(found.per_barcode >= least))
    where = f"the peaks of {reading.peaks.name}" if reading.peaks else f"tiles of {reading.tile_width or 500} bp"
    table = {
        "modality": "atac", "cells": cells, "features": None, "counts_from": "fragments", "hits_from": None,
        "layout": "fragments", "notes": [],
    }  # fmt: skip
    why = (
        f"{found.fragments:,} fragments of {len(found.per_barcode):,} barcodes on {len(found.lengths)} chromosomes; "
        f"{cells:,} barcodes have {least:,} or more; they will be counted in {where}"
    )
    return {"usable": True, "why": why, "tables": [table], "sets": {"atac": cells}}


def _parts(layout: Layout, reading: Reading) -> list[dict]:
    """The AnnDatas of a file, each with its matrices, even where none can be used."""
    if layout.kind not in ANNDATAS:
        return []
    with ExitStack() as resources:
        members, _ = open_members(layout, reading, resources)
        if layout.kind not in MUDATAS:
            return [_describe_part(members[0], "")]
        return [_describe_part(member, member.group.name.split("/")[-1]) for member in members]


def _describe_part(member: Member, name: str) -> dict:
    described = {"name": name, "cells": len(member.obs), "obs_columns": _columns(member.obs)}
    described["var_columns"] = _columns(read_table(member.group, member.where, "var"))
    described["matrices"] = {
        name: _describe_matrix(member, name, key) for name, key in matrix_keys(member.group, member.where).items()
    }
    return described


def _describe_matrix(member: Member, name: str, key: str) -> dict:
    try:
        wanted = Wanted(member.modalities[0], member.modalities)
        candidate = load_candidate(Place(member.groups, member.where, len(member.obs), wanted), name, key)
    except InputError as error:
        return {"error": str(error)}
    matrix, look = candidate.matrix, candidate.look
    described = {
        "layout": matrix.layout, "shape": list(matrix.shape), "dtype": str(matrix.dtype), "stored": matrix.n_stored,
        "kind": look.kind, "looks": look.words,
    }  # fmt: skip
    recovery = candidate.sampled_recovery() if look.kind == "log-normalised" else None
    return described | ({"recoverable_share": recovery.share} if recovery else {})


def _columns(table: pd.DataFrame) -> dict[str, str]:
    described = {}
    for name, column in table.items():
        categories = getattr(column.dtype, "categories", None)
        many = "category" if categories is not None and len(categories) == 1 else "categories"
        described[str(name)] = str(column.dtype) if categories is None else f"{len(categories):,} {many}"
    return described
