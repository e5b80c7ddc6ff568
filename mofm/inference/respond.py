"""What a treatment would do to a file's cells, by the responses that a model keeps (`response_head.py`), in memory or a file.

Of every cell: its own log1p of counts per 10,000 (X), the same after the treatment (layers["response"]: X and the predicted
change, 0 where that is below), its embedding, and that moved by the groups' moves with the same weights. Genes are those of
the head that the file has. A batch of cells is in memory.

Only means were fitted and judged: a predicted cell has the noise of its own measurement, not that of a treated cell.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import anndata
import h5py
import numpy as np
import pandas as pd

import mofm
from mofm.corpus.tables import writable_obs
from mofm.errors import InputError
from mofm.export.responses import Response, ResponseHead
from mofm.files import output_file
from mofm.inference.groups import Groups, read_groups
from mofm.inference.matching import Matching
from mofm.inference.model import RNA, Options, PretrainedModel, encode
from mofm.inference.perturb import EVERY_CELL
from mofm.inference.profiles import normalised
from mofm.inference.response import Recipe, weigh
from mofm.inference.response_head import mean_figures, response_of
from mofm.inference.scverse import table_of
from mofm.omics.readers import Reading, Source
from mofm.omics.table import CountTable
from mofm.progress import cells_progress
from mofm.training import workdir as workdirs

LAYER, MOVED, REPORT_KEY = "response", "X_mofm_response", "mofm_response"


@dataclass(frozen=True, eq=False)
class Responded:
    """What was predicted, for people.

    Attributes:
      groups: a row a group: group, cells, likest (the known group of most weight), weight.
      genes: a row a gene and group: group, gene, gene_id, control, response, change; the largest |change| of a group first.
      report: plain values and tables, as written to uns["mofm_response"].
      notes: what a person should know, a line each.
      adata: the cells, where they were not written to a file.
    """

    groups: pd.DataFrame
    genes: pd.DataFrame
    report: dict
    notes: tuple[str, ...]
    adata: anndata.AnnData | None = None


class _Asked(NamedTuple):
    """Attributes: known, rows (of the model's genes) and change_KF of the F genes that head and file share; var, of these."""

    known: Response
    rows: np.ndarray
    change_KF: np.ndarray
    var: pd.DataFrame


class _Sinks(NamedTuple):
    """Where the cells' rows go: arrays, or datasets of a file."""

    control: np.ndarray | h5py.Dataset
    response: np.ndarray | h5py.Dataset
    embedding: np.ndarray
    moved: np.ndarray


def respond(
    model: PretrainedModel,
    source: Source,
    treatment: str,
    groupby: str | None = None,
    reading: Reading = RNA,
    *,
    output: Path | None = None,
    min_cells: int = 10,
    **options,
) -> Responded:
    """A file's cells and what the treatment would do to them.

    Args:
      groupby: a column of obs, for the tables; None for all cells as one group.
      output: an h5ad that is written in blocks, and appears whole or not at all; None gives an AnnData back, which holds
        cells x genes x 8 bytes.
      min_cells: groups of fewer are left out of the tables.
      options: fields of `Options`.

    Raises:
      InputError: as `embed`, `read_groups` and `response_of`; or the file has no gene of the head.
    """
    head, known = response_of(model, treatment)
    chosen = Options(**options)
    with model.opened(source, reading, chosen) as [(table, matching)]:
        asked, groups = _asked(model, head, known, table, matching), _groups(table, groupby, min_cells)
        obs, shape = writable_obs(table.obs)[0], (table.n_cells, len(asked.var))

        def fill(control, response) -> tuple[Responded, dict[str, np.ndarray]]:
            sinks = _sinks(model, table.n_cells, control, response)
            found = _fill(sinks, model, head, treatment, table, matching, asked, groups, chosen)
            return found, {"X_mofm": sinks.embedding, MOVED: sinks.moved}

        if output is None:
            control, response = (np.empty(shape, np.float32) for _ in range(2))
            found, obsm = fill(control, response)
            rest = {"obsm": obsm, "layers": {LAYER: response}, "uns": {REPORT_KEY: found.report}}
            return replace(found, adata=anndata.AnnData(control, obs, asked.var, **rest))
        with output_file(Path(output)) as temporary, h5py.File(temporary, "w") as file:
            found, obsm = fill(*_begin(file, table.n_cells, asked.var))
            for key, part in {"obs": obs, "obsm": obsm, "uns": {REPORT_KEY: found.report}}.items():
                anndata.io.write_elem(file, key, part)
        return found


def _asked(
    model: PretrainedModel, head: ResponseHead, known: Response, table: CountTable, matching: Matching
) -> _Asked:
    """The genes that head and file share, by the file's own names."""
    name_of = {}
    for name, row in zip(table.var.index.astype(str), matching.rows_F[matching.feature_C], strict=True):
        name_of.setdefault(int(row), name)
    there = np.isin(head.genes, list(name_of))
    if not there.any():
        raise InputError(f"{table.where}: has none of the {len(head.genes):,} genes whose response {model.name} knows")
    rows = head.genes[there]
    genes = model.genes.iloc[rows]
    var = pd.DataFrame(
        {"gene_id": genes["id"].astype(str).to_numpy(object), "symbol": genes["symbol"].astype(str).to_numpy(object)},
        index=pd.Index([name_of[int(row)] for row in rows], dtype=object),
    )
    return _Asked(known, rows, known.change_KG[:, there].astype(np.float64), var)


def _groups(table: CountTable, groupby: str | None, min_cells: int) -> Groups:
    if groupby is not None:
        return read_groups(table, groupby, min_cells)
    return Groups((EVERY_CELL,), np.zeros(table.n_cells, np.int64), np.array([table.n_cells]), 0, {})


def _begin(file: h5py.File, cells: int, var: pd.DataFrame) -> tuple[h5py.Dataset, h5py.Dataset]:
    """The parts of an h5ad file that are known beforehand, and its X and layer, to be filled row by row."""
    file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    anndata.io.write_elem(file, "var", var)
    for key in ("layers", "obsp", "varm", "varp"):
        anndata.io.write_elem(file, key, {})
    shape, chunks = (cells, len(var)), (min(64, cells), min(2048, len(var)))
    filled = [
        file.create_dataset(key, shape, np.float32, chunks=chunks, compression="lzf")
        for key in ("X", f"layers/{LAYER}")
    ]
    for dataset in filled:
        dataset.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return filled[0], filled[1]


def _sinks(model: PretrainedModel, cells: int, control, response) -> _Sinks:
    width = model.config.encoder.cell_width
    return _Sinks(control, response, *(np.empty((cells, width), np.float32) for _ in range(2)))


def _fill(
    sinks: _Sinks,
    model: PretrainedModel,
    head: ResponseHead,
    treatment: str,
    table: CountTable,
    matching: Matching,
    asked: _Asked,
    groups: Groups,
    options: Options,
) -> Responded:
    """Fills the cells' rows, a batch at a time, and sums them up by group."""
    known, start = asked.known, 0
    recipe = Recipe(known.how, known.strength)
    sums_2CF = np.zeros((2, len(groups.names), len(asked.var)))
    weight_CK = np.zeros((len(groups.names), len(known.groups)))
    centre_KE = known.centre_KE.astype(np.float64)
    with cells_progress(f"predicting the response to {treatment}", table.n_cells, options.quiet) as advance:
        for part, view in model.views(table, matching, options):
            rows = slice(start, start + part.n_cells)
            start += part.n_cells
            said_BE = encode(model.spec, model.params, model.states.rows_GD, view, "rna", matching.space)
            embedding_BE = np.asarray(said_BE)[: part.n_cells]
            weight_BK = weigh(embedding_BE, centre_KE, recipe)
            control_BF = normalised(part, matching.rows_F, len(model.genes))[:, asked.rows].toarray()
            response_BF = np.maximum(control_BF + weight_BK @ asked.change_KF, 0)
            sinks.control[rows], sinks.response[rows] = control_BF.astype(np.float32), response_BF.astype(np.float32)
            sinks.embedding[rows], sinks.moved[rows] = embedding_BE, embedding_BE + weight_BK @ known.move_KE
            code_B = groups.code_N[rows]
            inside = np.flatnonzero(code_B >= 0)
            for sums, values in ((*sums_2CF[:1], control_BF), (*sums_2CF[1:], response_BF), (weight_CK, weight_BK)):
                np.add.at(sums, code_B[inside], values[inside])
            advance(part.n_cells)
    return _summary(model, head, treatment, matching, asked, groups, sums_2CF, weight_CK)


def _summary(
    model: PretrainedModel,
    head: ResponseHead,
    treatment: str,
    matching: Matching,
    asked: _Asked,
    groups: Groups,
    sums_2CF: np.ndarray,
    weight_CK: np.ndarray,
) -> Responded:
    known, sizes_C1 = asked.known, groups.sizes[:, None]
    control_CF, response_CF = sums_2CF / sizes_C1
    weight_CK = weight_CK / sizes_C1
    best_C = weight_CK.argmax(axis=1)
    likest = pd.DataFrame(
        {
            "group": list(groups.names),
            "cells": groups.sizes,
            "likest": [known.groups[best] for best in best_C],
            "weight": weight_CK[np.arange(len(best_C)), best_C],
        }
    )
    parts = []
    for name, control_F, response_F in zip(groups.names, control_CF, response_CF, strict=True):
        part = pd.DataFrame({"group": name, "gene": asked.var.index, "gene_id": asked.var["gene_id"].to_numpy(object)})
        part = part.assign(control=control_F, response=response_F, change=response_F - control_F)
        parts.append(part.iloc[np.argsort(-np.abs(part["change"].to_numpy()), kind="stable")])
    missing = len(head.genes) - len(asked.rows)
    notes = (
        [f"{missing:,} of the {len(head.genes):,} genes whose response is known are not in the file"] if missing else []
    )
    report = {
        "version": mofm.__version__,
        "model": model.name,
        "step": model.step,
        "config_hash": workdirs.config_hash(model.config),
        "treatment": treatment,
        "condition_key": head.condition_key,
        "control": head.control,
        "groups_key": head.groups_key,
        "recipe": known.how,
        "strength": known.strength,
        "held_out": table_of(pd.DataFrame(known.held_out)),
        "held_out_mean": mean_figures(known),
        "groups": table_of(likest),
        "unmatched_features": np.array(matching.unmatched, dtype=str),
        "notes": np.array([*matching.notes, *notes], dtype=str),
    }
    return Responded(likest, pd.concat(parts, ignore_index=True), report, tuple(notes))
