"""Embeddings written beside the cells they are of: a copy of the user's file with one key more, whole or not at all."""

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import anndata
import h5py
import numpy as np
import pandas as pd

from mofm.axes import Modality
from mofm.corpus.tables import writable_obs
from mofm.files import Location, location, output_file
from mofm.inference.model import Embedded, Embedding
from mofm.omics.hdf5 import open_hdf5, read_table
from mofm.omics.layouts import ANNDATAS
from mofm.omics.readers import Reading, find_layout, open_members

BOOKKEEPING_BYTES = 2**20
"""What HDF5 may need to write an embedding, beside the values."""


def write_embedding(source: Location, target: Path, found: Embedded, key_added: str = "X_mofm") -> None:
    """Copy `source` to `target` with obsm[key_added] and uns["mofm"] set. `target` appears whole or not at all.

    Of several modalities, obsm[key_added] is the joint embedding of a cell (see `joint.py`), obsm[key_added + "_rna"] and so
    on each, NaN where a cell was not measured; uns["mofm"] has a report for each. Of an h5mu file these are the obsm and uns
    of the whole. Of AnnData in zarr, `target` is an h5ad file of its obs and the embeddings. Where `source` is no AnnData or
    MuData, it is one of the cells' names and embeddings alone.

    Raises:
      InputError: the disk is full, or `target` cannot be written for another reason.
    """
    write_copy(source, target, found.views, partial(added_embedding, found, key_added))


class Added(NamedTuple):
    """What a copy has more than its source.

    Attributes:
      obsm: by key, a row a cell.
      uns: by key, plain values and arrays, nested.
      obs: by column, a number a cell.
    """

    obsm: dict[str, np.ndarray]
    uns: dict[str, dict]
    obs: dict[str, np.ndarray] = {}  # noqa: RUF012


def added_embedding(found: Embedded, key_added: str, cells: pd.Index) -> Added:
    """What embeddings add to `cells`, as `write_embedding` says."""
    views, joint = found.views, found.joint
    joint_NE = rows_of_cells(joint.embedding_NE, joint.cells, cells)
    if len(views) == 1:
        (only,) = views.values()
        return Added({key_added: joint_NE}, {"mofm": only.report})
    reports = {modality: one.report for modality, one in views.items()}
    if joint.fused is not None:
        reports["joint"] = {"fused_cells": joint.fused, "columns": joint.embedding_NE.shape[1]}
    each = {f"{key_added}_{m}": rows_of_cells(one.embedding_NE, one.cells, cells) for m, one in views.items()}
    return Added({key_added: joint_NE} | each, {"mofm": reports})


def rows_of_cells(values_NX: np.ndarray, names: pd.Index, cells: pd.Index) -> np.ndarray:
    """Of the values of the cells `names` those of `cells`, float32; NaN for one that is not among them."""
    place_N = names.get_indexer(cells)
    found_NX = np.full((len(cells), *values_NX.shape[1:]), np.nan, np.float32)
    found_NX[place_N >= 0] = values_NX[place_N[place_N >= 0]]
    return found_NX


def write_copy(
    source: Location, target: Path, embeddings: Mapping[Modality, Embedding], add: Callable[[pd.Index], Added]
) -> None:
    """Copy `source` to `target` with what `add` gives for the copy's cells. `target` appears whole or not at all.

    Args:
      embeddings: of the source, by modality: which cells there are, where it is no AnnData or MuData.

    Raises:
      InputError: the disk is full, or `target` cannot be written for another reason.
    """
    source, target = location(source), Path(target)
    kind = find_layout(source).kind
    with output_file(target) as temporary:
        if kind in ("h5ad", "h5mu"):
            shutil.copyfile(source, temporary)
            os.chmod(temporary, 0o644)
            with open_hdf5(source) as file:
                cells = read_table(file, source, "obs").index
        elif kind in ANNDATAS:
            layout = Reading(next(iter(embeddings)) if len(embeddings) == 1 else None)  # a file may not show what it is
            obs, _ = writable_obs(_obs_of(source, layout))
            cells = obs.index
            anndata.AnnData(obs=obs).write_h5ad(temporary)
        else:
            cells = pd.Index(dict.fromkeys(name for one in embeddings.values() for name in one.cells))
            anndata.AnnData(obs=pd.DataFrame(index=cells.astype(str))).write_h5ad(temporary)
        added = add(cells)
        _reserve(temporary, _bytes_added({**added.obsm, **added.obs}, embeddings) + _bytes_of(added.uns))
        with h5py.File(temporary, "r+") as file:
            for group in {"obsm", "uns"} - set(file):
                anndata.io.write_elem(file, group, {})
            for key, values in added.obsm.items():
                anndata.io.write_elem(file["obsm"], key, values)
            for key, values in added.uns.items():
                anndata.io.write_elem(file["uns"], key, values)
            if added.obs:
                obs = read_table(file, target, "obs").assign(**added.obs)
                anndata.io.write_elem(file, "obs", obs)


def _obs_of(source: Path, reading: Reading) -> pd.DataFrame:
    """The cells of zarr stores; of MuData, all of them, with nothing but their names."""
    with ExitStack() as resources:
        members, _ = open_members(find_layout(source), reading, resources)
    if len(members) == 1:
        return members[0].obs
    return pd.DataFrame(index=pd.Index(dict.fromkeys(name for member in members for name in member.obs.index)))


def _bytes_added(arrays: Mapping[str, np.ndarray], embeddings: Mapping[Modality, Embedding]) -> int:
    """More bytes than a file grows by when the embeddings are written to it."""
    names = [embedding.report["unmatched_features"] for embedding in embeddings.values()]
    return BOOKKEEPING_BYTES + sum(a.nbytes for a in arrays.values()) + sum(64 * len(n) + n.nbytes for n in names)


def _bytes_of(values: object) -> int:
    """More bytes than nested values take."""
    if isinstance(values, Mapping):
        return sum(4096 + _bytes_of(value) for value in values.values())
    return 64 * np.size(values) + np.asarray(values).nbytes


def _reserve(path: Path, n_bytes: int) -> None:
    """Grow a file, so that a full disk is met here: in HDF5 it ends the process. What is unused HDF5 cuts off again."""
    with path.open("ab") as file:
        for _ in range(-(-n_bytes // BOOKKEEPING_BYTES)):
            file.write(bytes(BOOKKEEPING_BYTES))
        file.flush()
        os.fsync(file.fileno())
