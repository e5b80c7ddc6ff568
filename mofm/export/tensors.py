"""Arrays by name in safetensors files: bytes with a table of contents, which no reader can make run anything.

A tree that passes `shard_bytes` is several files with an index of which array lies in which, by the names that the hub
and its tools know: `STEM-00001-of-00002.safetensors` and `STEM.safetensors.index.json`. An array is never cut, so one
that is larger than a shard is a shard of its own.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from mofm.errors import InputError

SHARD_BYTES = 5_000_000_000
"""The hub's own custom."""


def by_name(tree: Any) -> dict[str, Any]:
    """The leaves of nested dicts by their keys, joined by dots."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {".".join(str(key.key) for key in path): leaf for path, leaf in flat}


def save_tensors(folder: Path, stem: str, arrays: Mapping[str, Any], shard_bytes: int = SHARD_BYTES) -> list[str]:
    """Write arrays of any shape below `folder`; returns the names of the files."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, array in arrays.items():
        if shards[-1] and filled + array.nbytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += array.nbytes
    files = [f"{stem}.safetensors"]
    if len(shards) > 1:
        files = [f"{stem}-{number + 1:05}-of-{len(shards):05}.safetensors" for number in range(len(shards))]
    for file, names in zip(files, shards, strict=True):
        # safetensors writes the buffer as it lies: it must lie in C's order.
        save_file({name: np.asarray(arrays[name], order="C") for name in names}, folder / file, {"format": "np"})
        (folder / file).chmod(0o644)  # it is made for its owner alone
    if len(shards) == 1:
        return files
    index = f"{stem}.safetensors.index.json"
    weight_map = {name: file for file, names in zip(files, shards, strict=True) for name in names}
    total = sum(array.nbytes for array in arrays.values())
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2, sort_keys=True)
    (folder / index).write_text(text + "\n", encoding="utf-8")
    return [index, *files]


def load_tensors(folder: Path, stem: str) -> dict[str, np.ndarray]:
    """The arrays that `save_tensors` wrote.

    Raises:
      InputError: a file is missing or damaged, or the index names one that is not in the folder itself.
    """
    index, files = folder / f"{stem}.safetensors.index.json", [f"{stem}.safetensors"]
    if index.exists():
        try:
            files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise InputError(f"{index}: no index of safetensors files ({error}); copy the bundle again") from error
        if strange := [file for file in files if Path(file).name != file]:
            raise InputError(f"{index}: names {strange[0]!r}, which is not beside it: not a bundle to be trusted")
    arrays = {}
    for file in files:
        try:
            arrays |= load_file(folder / file)
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{folder / file}: cannot be read as safetensors ({error}); copy the bundle again"
            ) from error
    return arrays


def as_tree(arrays: Mapping[str, np.ndarray], like: Any, where: Path) -> Any:
    """The arrays as the leaves of a tree.

    Args:
      like: a tree of anything with shape and dtype.
      where: what the arrays are from, for messages.

    Raises:
      InputError: arrays are missing or too many, or are of another shape or dtype.
    """
    wanted = by_name(like)
    for name, leaf in wanted.items():
        if name not in arrays:
            raise InputError(f"{where}: the array {name!r} is missing, so it is of another model than its config says")
        found = arrays[name]
        if (found.shape, found.dtype) != (leaf.shape, leaf.dtype):
            raise InputError(
                f"{where}: {name} is {found.dtype}{list(found.shape)}, by its config it is {leaf.dtype}{list(leaf.shape)}"
            )
    if more := sorted(set(arrays) - set(wanted)):
        raise InputError(f"{where}: {more[0]!r} is no array of the model that its config describes")
    return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in wanted])
