"""AnnData and MuData in memory, opened so that the code that reads files reads them too.

The readers ask a file for groups, tables and arrays by their keys. Here the same keys give what AnnData holds: its own
arrays and tables, of which nothing is copied. What a backed AnnData left in its file is read from there, in blocks.

Choices and their cost:
- A view is read as what it shows, which copies its matrices (AnnData makes a copy at every look).
- Arrays that are computed when they are looked at (dask) are refused: counts are read several times.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import h5py
import numpy as np
import scipy.sparse as sp

from mofm.errors import InputError

if TYPE_CHECKING:
    import mudata

    Held = anndata.AnnData | mudata.MuData
else:
    Held = Any  # importing mudata takes a second


class HeldGroup(Mapping):
    """Members by name, as a group of HDF5 or zarr gives them; "raw/X" is the member "X" of the member "raw".

    Attributes:
      name: for messages.
      attrs: by name, as of a file.
    """

    def __init__(self, name: str, members: Mapping[str, Any], attrs: Mapping[str, Any] | None = None):
        self.name, self.attrs, self._members = name, dict(attrs or {}), dict(members)

    def __getitem__(self, key: str) -> Any:
        first, _, rest = key.partition("/")
        return self._members[first][rest] if rest else self._members[first]

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


def is_held(data: object) -> bool:
    """Whether this is an AnnData or MuData, and not the name of a file."""
    if isinstance(data, str | Path):
        return False
    if isinstance(data, anndata.AnnData) or _is_mudata(data):
        return True
    raise InputError(f"a {type(data).__name__} is none of AnnData, MuData and the path of a file; give one of them")


def _is_mudata(data: object) -> bool:
    return type(data).__name__ == "MuData" and isinstance(getattr(data, "mod", None), Mapping)


def group_of(data: Held) -> HeldGroup:
    """What an AnnData or MuData holds, under the keys of a file.

    Raises:
      InputError: it holds arrays that are neither numpy's nor scipy's, nor its file's.
    """
    if isinstance(data, anndata.AnnData):
        return _of_anndata(data, "AnnData")
    members = {name: _of_anndata(adata, name) for name, adata in data.mod.items()}
    mod = HeldGroup("mod", members, {"mod-order": list(members)})
    return HeldGroup("MuData", {"mod": mod, "obs": data.obs})


def _of_anndata(adata: anndata.AnnData, name: str) -> HeldGroup:
    named = {key: layer for key, layer in adata.layers.items() if key is not None}  # from anndata 0.13 on, None is X
    layers = {key: _matrix(name, f"layers/{key}", layer) for key, layer in named.items()}
    members = {"obs": adata.obs, "var": adata.var, "layers": HeldGroup("layers", layers)}
    in_file = adata.isbacked and not adata.is_view
    x = adata.X  # of a backed one this opens its file, where it was closed
    if x is not None:
        members["X"] = adata.file["X"] if in_file else _matrix(name, "X", x)
    if adata.raw is not None:
        if in_file and "raw" in adata.file:
            members["raw"] = adata.file["raw"]
        else:
            members["raw"] = HeldGroup("raw", {"X": _matrix(name, "raw/X", adata.raw.X), "var": adata.raw.var})
    return HeldGroup(name, members)


def _matrix(name: str, key: str, values: Any) -> HeldGroup | np.ndarray | h5py.Dataset:
    """A matrix as the readers find it in a file: dense, or the three arrays of CSR or CSC."""
    if sp.issparse(values):
        values = values if values.format in ("csr", "csc") else values.tocsr()
        attrs = {"encoding-type": f"{values.format}_matrix", "shape": values.shape}
        return HeldGroup(key, {part: getattr(values, part) for part in ("data", "indices", "indptr")}, attrs)
    if isinstance(values, h5py.Dataset):
        return values
    if isinstance(values, np.ndarray) and not isinstance(values, np.ma.MaskedArray):
        return np.asarray(values)
    raise InputError(
        f"{name}: {key} is a {type(values).__module__.split('.')[0]} {type(values).__name__}, which is read from nowhere yet; "
        "give a numpy array or a scipy matrix, as adata.to_memory() makes them"
    )
