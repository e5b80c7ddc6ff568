"""Embeddings that others put in obsm of the judged file: read, and refused where they cannot be judged."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import NamedTuple

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from mofm.axes import Modality
from mofm.errors import InputError, nearest_name
from mofm.omics.hdf5 import open_hdf5, read_table
from mofm.omics.held import is_held
from mofm.omics.layouts import MUDATAS, Layout
from mofm.omics.modalities import modality_of
from mofm.omics.readers import Source
from mofm.omics.zarrs import open_zarr

FILES = ("h5ad", "h5mu", "zarr", "zarr mudata")
"""Layouts whose obsm is read."""


class Holder(NamedTuple):
    """An AnnData or MuData that has an obsm.

    Attributes:
      modality: whose it is; None of a whole.
      names: of its cells.
      keys: of its obsm.
      read: key -> array.
    """

    modality: Modality | None
    names: pd.Index
    keys: tuple[str, ...]
    read: Callable[[str], object]


class Peer(NamedTuple):
    """Attributes: modality, whose it is (None: of whole cells); frame, a row a cell, the index their names."""

    modality: Modality | None
    frame: pd.DataFrame


def read_peers(source: Source, layout: Layout, compare: Mapping[str, str]) -> dict[str, list[Peer]]:
    """name -> the embeddings under its key, of the modalities and of the whole.

    Raises:
      InputError: the file has no obsm, or no such key; or what is there is no matrix of numbers.
    """
    if not compare:
        return {}
    with ExitStack() as resources:
        holders = _held(source) if is_held(source) else _of_file(layout, resources)
        return {name: _read(name, key, holders, str(layout.path)) for name, key in compare.items()}


def peers_of(peers: Mapping[str, list[Peer]], modality: Modality, names: pd.Index) -> tuple[dict, frozenset[str]]:
    """name -> embedding_ND of these cells, the modality's own where it has one; and the names of those that are its own.

    Raises:
      InputError: a cell has no finite embedding.
    """
    found, own = {}, set()
    for name, some in peers.items():
        usable = [one for one in some if one.modality in (modality, None)]
        if not usable:
            continue
        one = next((one for one in usable if one.modality == modality), usable[0])
        x_ND = one.frame.reindex(names).to_numpy(np.float64)
        if bad := int(np.sum(~np.isfinite(x_ND).all(axis=1))):
            raise InputError(
                f"--compare {name}: {bad:,} of {len(names):,} cells of {modality} have no finite embedding; all are judged on "
                "the same cells, so leave those cells out of the file or the embedding out"
            )
        found[name] = x_ND
        if one.modality == modality:
            own.add(name)
    return found, frozenset(own)


def _held(source) -> list[Holder]:
    parts = [(None, source)] + [(modality_of(name), one) for name, one in getattr(source, "mod", {}).items()]
    return [
        Holder(modality, one.obs_names.astype(str), tuple(one.obsm.keys()), one.obsm.__getitem__)
        for modality, one in parts
    ]


def _of_file(layout: Layout, resources: ExitStack) -> list[Holder]:
    if layout.kind not in FILES:
        raise InputError(
            f"{layout.path}: is {layout.kind}, which has no obsm for --compare to read; give h5ad, h5mu or one AnnData in zarr"
        )
    hdf5 = layout.kind in ("h5ad", "h5mu")
    root = resources.enter_context(open_hdf5(layout.path)) if hdf5 else open_zarr(layout.path)
    groups = [(None, root)]
    if layout.kind in MUDATAS:
        groups += [(modality_of(name), root["mod"][name]) for name in root["mod"]]
    holders = []
    for modality, group in groups:
        names = read_table(group, layout.path, "obs").index.astype(str)
        obsm = group.get("obsm", {})

        def read(key: str, obsm=obsm) -> object:
            return anndata.io.read_elem(obsm[key])

        holders.append(Holder(modality, names, tuple(obsm), read))
    return holders


def _read(name: str, key: str, holders: list[Holder], where: str) -> list[Peer]:
    found = [holder for holder in holders if key in holder.keys]
    if not found:
        known = list(dict.fromkeys(one for holder in holders for one in holder.keys))
        has = f"it has {', '.join(known[:12])}" if known else "it has none"
        raise InputError(f"{where}: --compare {name}={key}: no obsm[{key!r}]; {has}.{nearest_name(key, known)}")
    peers = []
    for holder in found:
        values = holder.read(key)
        values = values.toarray() if sp.issparse(values) else np.asarray(values)
        if values.ndim != 2 or not np.issubdtype(values.dtype, np.number) or not values.shape[1]:
            raise InputError(
                f"{where}: --compare {name}={key}: obsm[{key!r}] is no matrix of numbers, a row a cell; give another key"
            )
        peers.append(Peer(holder.modality, pd.DataFrame(values, index=holder.names)))
    return peers
