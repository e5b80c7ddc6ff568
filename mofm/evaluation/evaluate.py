"""`mofm evaluate`: what a model is worth on a file of cells, beside trivial and linear baselines, with intervals.

    look at the data -> refuse what it cannot bear -> counts into memory -> folds -> embeddings -> each task -> Evaluation

A task is a module of `tasks/`: `check` says, before any work is done, why the data or the model cannot serve it; `judge`
scores every method on the same cells and the same bootstrap draws. A task that was named and cannot be done is refused; of
those that nobody named, the reason is kept.

The same data, model, settings and machine give the same numbers to the bit.
"""

import dataclasses
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy
import sklearn

import mofm
from mofm.axes import Modality
from mofm.corpus.digests import digest_of_paths
from mofm.errors import InputError, nearest_name
from mofm.evaluation import subject as subjects
from mofm.evaluation.peers import peers_of, read_peers
from mofm.evaluation.seen import Seen, seen_cells
from mofm.evaluation.subject import BY_CELL, UNSEEN, Cells, Settings, View
from mofm.evaluation.tasks import annotation, integration, matching, perturbation, regulation, scib, translation
from mofm.evaluation.tasks.score import Judged, Situation, Subject
from mofm.inference.model import EVERYTHING, Options, PretrainedModel
from mofm.omics.readers import Reading, Source, Tables, open_tables
from mofm.training import workdir as workdirs

TASKS: dict[str, ModuleType] = {
    "integration": integration,
    "scib": scib,
    "annotation": annotation,
    "translation": translation,
    "matching": matching,
    "regulation": regulation,
    "perturbation": perturbation,
}
Say = Callable[[str], None]


class Evaluation(NamedTuple):
    """What was found.

    Attributes:
      judged: task -> its scores and notes, in the order of `TASKS`.
      skipped: task -> why it was not judged.
      subject: the cells and their embeddings.
      seen: which of the cells the model's training saw.
      notes: what else a person is to know.
      about: of the data, the model, the versions and the settings; plain values.
    """

    judged: dict[str, Judged]
    skipped: dict[str, str]
    subject: Subject
    seen: Seen
    notes: list[str]
    about: dict[str, Any]


def evaluate(
    model: PretrainedModel,
    source: Source,
    settings: Settings,
    reading: Reading = EVERYTHING,
    *,
    say: Say = lambda line: None,
    **options,
) -> Evaluation:
    """Judge a model on the cells of a file, or of an AnnData or MuData.

    Args:
      reading: how the file is read.
      say: called with what is being done, a line each.
      options: fields of `inference.model.Options`.

    Raises:
      InputError: the data cannot be used, a task that was named cannot be done, no task can, or a column or key is missing.
    """
    _check_names(settings)
    Options(**options)
    with open_tables(source, reading) as tables:
        shown, notes = _modalities(model, tables)
        names = subjects.by_lot(subjects.all_names(shown), settings.max_cells, settings.seed)
        everyone = len(subjects.all_names(shown))
        if len(names) < everyone:
            notes.append(f"{len(names):,} of {everyone:,} cells are judged, by lot (--max-cells).")
        columns = _columns(shown, names, settings)
        cells_of = {one.modality: names.intersection(one.obs.index.astype(str)) for one in shown}
        chosen, skipped = _choose(Situation(model, cells_of, settings, columns))
        peers = read_peers(source, tables.layout, settings.compare)
        about_data = _about_data(source, tables, names)
        say(f"reading {len(names):,} cells")
        held = {table.modality: subjects.in_memory(table, names) for table in shown}
    seen = seen_cells(model, names, _totals(held, len(names)), settings.corpus)
    cells = _cells(names, columns, settings, seen)
    views = _views(model, held, peers, say, options)
    subject = Subject(model, settings, cells, views, options)
    judged = {}
    for name in chosen:
        say(f"judging {name}")
        judged[name] = TASKS[name].judge(subject)
    notes += [seen.in_words(cells.fold_N >= 0), *_labels_seen(model)]
    if settings.compare:
        named = ", ".join(f"{name} (obsm[{key!r}])" for name, key in settings.compare.items())
        notes.append(f"{named}: made by others; from which cells, the judged ones maybe among them, is unknown here.")
    about = {"data": about_data, "model": _about_model(model), **_about_run(settings, options, judged)}
    return Evaluation(judged, skipped, subject, seen, notes, about)


def _check_names(settings: Settings) -> None:
    for name in settings.tasks or ():
        if name not in TASKS:
            raise InputError(
                f"--tasks: {name!r} is not a task; choose from {', '.join(TASKS)}.{nearest_name(name, TASKS)}"
            )
    if settings.tasks == ():
        raise InputError(f"--tasks: none is named; choose from {', '.join(TASKS)}")


def _modalities(model: PretrainedModel, tables: Tables) -> tuple[list, list[str]]:
    """The tables that the model was trained to read; and a note of the others."""
    there = model.spec.modalities
    shown = [table for table in tables if table.modality in there]
    if not shown:
        has = ", ".join(table.modality for table in tables)
        raise InputError(
            f"{tables[0].path}: has {has}, of which {model.name} was trained on nothing: {', '.join(there)}"
        )
    left = [table.modality for table in tables if table not in shown]
    return shown, [f"{', '.join(left)}: left out, as the model was not trained on it."] if left else []


def _choose(situation: Situation) -> tuple[list[str], dict[str, str]]:
    """The tasks that are done, and why others are not."""
    asked, chosen, skipped = situation.settings.tasks, [], {}
    for name, task in TASKS.items():
        if asked is not None and name not in asked:
            skipped[name] = "was not asked for"
            continue
        try:
            task.check(situation)
        except InputError as error:
            if asked is not None:
                raise InputError(f"--tasks {name}: {error}") from error
            skipped[name] = str(error)
        else:
            chosen.append(name)
    if not chosen:
        reasons = "; ".join(f"{name}: {why}" for name, why in skipped.items())
        raise InputError(f"no task can be done with this data and model. {reasons}")
    return chosen, skipped


def _columns(tables: list, names, settings: Settings) -> dict[str, np.ndarray | None]:
    """The obs columns that are asked for, by what they are for."""
    asked = {"labels": ("--label-key", settings.label_key), "batches": ("--batch-key", settings.batch_key)}
    asked["conditions"] = ("--condition-key", settings.condition_key)
    asked["groups"] = ("--split", None if settings.split in (BY_CELL, UNSEEN) else settings.split)
    return {
        use: None if key is None else subjects.column(tables, names, key, option)
        for use, (option, key) in asked.items()
    }


def _cells(names, columns: dict[str, np.ndarray | None], settings: Settings, seen: Seen) -> Cells:
    fold_N = subjects.deal(settings.split, len(names), columns["labels"], columns["groups"], settings, seen.is_seen_N)
    return Cells(names, **columns, fold_N=fold_N)


def _totals(held: Mapping[Modality, tuple], cells: int) -> dict[Modality, np.ndarray]:
    totals = {}
    for modality, (adata, place_N) in held.items():
        totals[modality] = np.full(cells, np.nan)
        totals[modality][place_N] = np.asarray(adata.X.sum(axis=1, dtype=np.float64)).ravel()
    return totals


def _views(model: PretrainedModel, held: Mapping[Modality, tuple], peers, say: Say, options) -> dict[Modality, View]:
    found = {name: peers_of(peers, name, adata.obs_names) for name, (adata, _) in held.items()}
    views = {}
    for modality, (adata, place_N) in held.items():
        say(f"embedding {modality}")
        embedding = model.embed(adata, subjects.reading_of(modality), **options)
        beside, own = found[modality]
        views[modality] = View(adata, place_N, embedding.embedding_NE, beside, own, embedding.report)
    return views


def _labels_seen(model: PretrainedModel) -> list[str]:
    key = model.config.data.label_key
    if key is None:
        return []
    return [f"Training read labels (data.label_key={key!r}): what it was given of them it need not have found out."]


def _about_data(source: Source, tables: Tables, names) -> dict[str, Any]:
    files = [path for path in tables.layout.all_files if isinstance(path, Path) and path.is_file()]
    return {
        "path": str(tables[0].path),
        "kind": tables.layout.kind,
        "bytes": sum(path.stat().st_size for path in files) if files else None,
        "blake3": digest_of_paths(files) if files else None,
        "cells_judged": len(names),
        "modalities": {table.modality: {"cells": table.n_cells, "features": table.n_features} for table in tables},
    }


def _about_model(model: PretrainedModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "step": model.step,
        "config_hash": workdirs.config_hash(model.config),
        "modalities": list(model.spec.modalities),
        "translates": bool(model.spec.translates),
        "networks": [] if model.network is None else list(model.network.relations),
    }


def _about_run(settings: Settings, options: Mapping[str, Any], judged: Mapping[str, Judged]) -> dict[str, Any]:
    asked = dataclasses.asdict(settings) | {key: value for key, value in options.items() if key != "quiet"}
    device = jax.devices()[0]
    return {
        "settings": {key: str(value) if isinstance(value, Path) else value for key, value in asked.items()},
        "versions": {
            "mofm": mofm.__version__,
            "python": platform.python_version(),
            "jax": jax.__version__,
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "scikit-learn": sklearn.__version__,
            "anndata": version("anndata"),
            **({"scib-metrics": version("scib-metrics")} if "scib" in judged else {}),
        },
        "device": device.platform if device.platform == "cpu" else device.device_kind,
    }


__all__ = ["TASKS", "Evaluation", "Settings", "evaluate"]
