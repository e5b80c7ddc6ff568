"""What lies in a run's directory, and who may go on with it.

    workdir/config.json     the config, and of the corpus its fingerprint, its data sets, its species and its version of
                            the gene table; and the model that it began from, where it did
    workdir/genes.parquet   the model's gene table: columns id, symbol, measured
    workdir/features.parquet  the features of its corpus: columns id, symbol, modality
    workdir/gene_table.parquet  the species', where the corpus has one of its own
    workdir/network.parquet  the regulatory networks' edges, and which of them training never sees
    workdir/network.json  what became of every line of their tables
    workdir/start.npz       the mean predictors and the linear model that it began from, and what its features are
    workdir/labels.npz      of a run whose labels move the encoder: the heads that it began from (`tuning.py`)
    workdir/checkpoints/    Orbax
    workdir/annotation.*    its annotation head, where one was fitted (`export/heads.py`)
    workdir/metrics.jsonl   and tensorboard/
    workdir/programs/       compiled for its accelerators, so that going on need not compile again; may be deleted
    workdir/rollbacks.json  of a run that went back from a bad step: where to, and which batches it left out
    workdir/damaged/        the batches of its bad steps
    workdir/hang-*.txt      stacks of a process in which no step ended (`watchdog.py`)

A run is resumed by the command that began it. What may differ is what does not change the bits: the mesh, and what is
logged and kept. Everything else that differs is named, and nothing is touched.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mofm.axes import MODALITIES, Modality
from mofm.batch import FeatureSpace
from mofm.corpus.datasets import Corpus
from mofm.corpus.manifest import GENE_TABLE
from mofm.corpus.places import read_file
from mofm.errors import InputError
from mofm.files import written_whole
from mofm.linear.components import Components
from mofm.linear.null import NullModel
from mofm.linear.own_components import OwnComponents
from mofm.linear.profiles import Profile
from mofm.linear.start import Start
from mofm.objectives.translation import Direction
from mofm.omics.features import species_of
from mofm.omics.genome import GeneTable, gene_table
from mofm.training.config import Config, from_dict
from mofm.training.network import FILE as NETWORK
from mofm.training.network import REPORT as NETWORK_REPORT
from mofm.training.network import RunNetwork, save_network
from mofm.training.origin import Origin

FEATURES = "features.parquet"
PARAMETERS = 7
"""Version of a model's parameters in its checkpoints. 1: before the gene table had a module of its own; 2: before genes had
loadings; 3: before rates were those of whole cells, whatever share of their zeros is shown; 4: before loadings had level and
spread; 5: before rates of proteins were of a depth by their geometric mean, and the read-out's centre of its rows; 6: before
it read shares."""


def open_workdir(
    workdir: Path,
    config: Config,
    corpus: Corpus,
    genes: pd.DataFrame,
    network: RunNetwork | None = None,
    origin: Origin | None = None,
) -> None:
    """Make the directory of a new run, or check that an existing one is of this config and corpus.

    Args:
      origin: the model that the run begins from; None for one that begins from nothing.

    Raises:
      InputError: it holds another run; the keys that differ are named with both values.
    """
    path = workdir / "config.json"
    record = {"config": config.to_dict(), "science": config.science(), "corpus_digest": corpus.digest}
    record |= {
        "parameters": PARAMETERS,
        "modalities": corpus.modalities,
        "species": corpus.manifest.species,
        "gene_table": corpus.manifest.gene_table,
        "data_sets": [
            {"name": one.name, "cells": one.n_cells, "modalities": list(one.modalities)} for one in corpus.datasets
        ],
    }
    record |= {} if network is None else {"network_digest": network.digest}
    features = corpus.features
    if origin is not None:  # what it knows of modalities that the corpus lacks stays
        kept = origin.features[~origin.features["modality"].isin(corpus.modalities)]
        features = pd.concat([features, kept[features.columns]], ignore_index=True)
        record |= {"modalities": origin.spec.modalities, "finetuned_from": origin.record()}
    if path.exists():
        there = _read_json(path)
        _check_parameters(there, workdir)
        differing = _differences(there, json.loads(json.dumps(record)))
        if differing:
            raise InputError(
                f"{workdir} holds a run of another config: {'; '.join(differing)}. "
                "Give another --workdir, or the config it began with"
            )
        return
    begun = (
        "genes.parquet",
        FEATURES,
        NETWORK,
        NETWORK_REPORT,
        GENE_TABLE,
        f".{NETWORK}.*.tmp",
        f".{NETWORK_REPORT}.*.tmp",
        f".{path.name}.*.tmp",
    )  # all that a start cut short (a full disk, a kill) can have left
    if workdir.exists() and not all(any(map(item.match, begun)) for item in workdir.iterdir()):
        raise InputError(f"{workdir} is not empty and holds no run (no config.json): give another --workdir")
    workdir.mkdir(parents=True, exist_ok=True)
    genes.to_parquet(workdir / "genes.parquet")
    features.to_parquet(workdir / FEATURES)
    (workdir / NETWORK).unlink(missing_ok=True)
    if network is not None:
        save_network(workdir, network, genes)
    (workdir / GENE_TABLE).unlink(missing_ok=True)  # of a start cut short; this one's corpus may have none
    if (table := read_file(corpus.path, GENE_TABLE, optional=True)) is not None:
        (workdir / GENE_TABLE).write_bytes(table)
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def read_config(workdir: Path) -> Config:
    """The config of a run. InputError where `workdir` is not a run's directory."""
    path = workdir / "config.json"
    if not path.exists():
        raise InputError(
            f"{workdir}: neither a run nor a bundle (no config.json); give the --workdir of a `mofm train` run, or the OUT of "
            "`mofm export`"
        )
    record = _read_json(path)
    _check_parameters(record, workdir)
    return from_dict(Config, record["config"])


def read_origin(workdir: Path) -> dict[str, Any] | None:
    """What a run, or a bundle of it, says of the model that it began from; None where it began from nothing."""
    return _read_json(workdir / "config.json").get("finetuned_from")


def read_modalities(workdir: Path) -> tuple[Modality, ...]:
    """What the model is of: what the run's corpus measured, and the model that it began from."""
    return tuple(_read_json(workdir / "config.json")["modalities"])


def read_data_sets(workdir: Path) -> list[dict[str, Any]]:
    """The data sets that a model (a run or a bundle) was trained on: name, cells, modalities. Empty where it does not say."""
    return list(_read_json(workdir / "config.json").get("data_sets") or [])


def read_gene_table(workdir: Path) -> GeneTable:
    """The gene table of the corpus that the model was trained on; of a run that does not say, of most genes' species."""
    if (workdir / GENE_TABLE).exists():
        return gene_table(workdir / GENE_TABLE)
    said = _read_json(workdir / "config.json").get("species")
    return gene_table(said or next(iter(species_of(read_genes(workdir)["id"]))))


def read_genes(workdir: Path) -> pd.DataFrame:
    """The identities that the rows of the model's gene table stand for: columns id, symbol, measured."""
    genes = pd.read_parquet(workdir / "genes.parquet")
    return genes if "measured" in genes else genes.assign(measured=True)  # of a run before 2026-11-21: all were alike


def read_features(workdir: Path, modality: Modality) -> pd.DataFrame:
    """The features of one modality that the model was trained on, in the order of its space: columns id, symbol."""
    features = pd.read_parquet(workdir / FEATURES)
    return features.loc[features["modality"] == modality, ["id", "symbol"]].reset_index(drop=True)


def config_hash(config: Config) -> str:
    """Twelve hexadecimal digits that name what decides a run's bits."""
    return hashlib.sha256(json.dumps(config.science(), sort_keys=True).encode()).hexdigest()[:12]


def save_start(workdir: Path, start: Start) -> None:
    """Write start.npz, atomically."""
    arrays = start.null._asdict() | start.components._asdict()
    for group in ("profiles", "spaces", "own"):
        for modality, part in getattr(start, group).items():
            arrays |= {f"{group}/{modality}/{name}": leaf for name, leaf in part._asdict().items()}
    arrays |= {f"depths/{modality}": depth for modality, depth in start.depths.items()}
    for group in ("linear", "depth_linear"):
        arrays |= {f"{group}/{source}/{target}": leaf for (source, target), leaf in getattr(start, group).items()}
    with written_whole(workdir / "start.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def load_start(workdir: Path) -> Start | None:
    """The simple models that the run began from, or None where it has not begun."""
    return start_of(read_start_arrays(workdir)) if (workdir / "start.npz").exists() else None


def read_start_arrays(workdir: Path) -> dict[str, np.ndarray]:
    """What start.npz holds, by name."""
    with np.load(workdir / "start.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def start_of(arrays: Mapping[str, np.ndarray]) -> Start:
    """The simple models of these arrays, as `save_start` names them."""
    null, components = (kind(**{name: arrays[name] for name in kind._fields}) for kind in (NullModel, Components))
    profiles, spaces, own = (
        {
            modality: kind(**{name: arrays[f"{group}/{modality}/{name}"] for name in kind._fields})
            for modality in MODALITIES
            if f"{group}/{modality}/{kind._fields[0]}" in arrays
        }
        for group, kind in (("profiles", Profile), ("spaces", FeatureSpace), ("own", OwnComponents))
    )
    depths = {name.removeprefix("depths/"): arrays[name] for name in arrays if name.startswith("depths/")}
    linear, depth_linear = (
        {Direction(*name.split("/")[1:]): arrays[name] for name in arrays if name.startswith(f"{group}/")}
        for group in ("linear", "depth_linear")
    )
    return Start(null, components, profiles, spaces, depths, own, linear, depth_linear)


def _check_parameters(record: dict[str, Any], workdir: Path) -> None:
    version = record.get("parameters", 1)
    if version != PARAMETERS:
        raise InputError(
            f"{workdir}: its checkpoints are of version {version}, this mofm reads version {PARAMETERS}; use the mofm that "
            "trained it, or train again"
        )


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    before, now = (record.get("finetuned_from") or {} for record in (old, new))
    if before.get("digest") != now.get("digest"):
        was, given = (f"{one['name']} of step {one['step']}" if one else "no model" for one in (before, now))
        return [f"it was begun from {was} ({_short(before)}), not from {given} ({_short(now)})"]
    if old.get("corpus_digest") != new["corpus_digest"]:
        return ["the corpus holds other cells than it did"]
    if old.get("network_digest") != new.get("network_digest"):
        return ["network.tables hold other edges than they did"]
    before, after = _flat(old.get("science", {})), _flat(new["science"])
    keys = [key for key in sorted(before | after) if before.get(key) != after.get(key)]
    return [f"{key} was {before.get(key)}, is {after.get(key)}" for key in keys]


def _short(origin: dict[str, Any]) -> str:
    return origin["digest"][:12] if origin else "`mofm train`"


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not readable JSON ({error}): the run's directory is damaged") from error
