"""A task's head on disk: STEM.json, what it says of itself with the version of its form, and STEM.safetensors, its arrays."""

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mofm.errors import InputError
from mofm.export.tensors import load_tensors, save_tensors
from mofm.files import written_whole

Head = TypeVar("Head")


def save_head(
    folder: Path, stem: str, version: int, record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    """Write a head beside a model; what was there before is replaced, the arrays first."""
    path = folder / f"{stem}.json"
    path.unlink(missing_ok=True)  # never the table of one head with the arrays of another
    save_tensors(folder, stem, arrays)
    text = json.dumps({"version": version, **record}, indent=2, allow_nan=False)
    with written_whole(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def load_head(
    folder: Path, stem: str, versions: Collection[int], read: Callable[[dict, dict[str, np.ndarray]], Head]
) -> Head | None:
    """The head beside a model; None where it has none.

    Args:
      versions: those that can be read, the newest last.
      read: makes it of its record and its arrays; where these do not fit, a ValueError, KeyError or TypeError.

    Raises:
      InputError: it is damaged, or of another version.
    """
    path = folder / f"{stem}.json"
    if not path.exists():
        return None
    arrays = load_tensors(folder, stem)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["version"] in versions:
            return read(record, arrays)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not the head of a model ({error!r}): damaged; fit it again") from error
    known = f"version{'s' if len(versions) > 1 else ''} {' and '.join(map(str, versions))}"
    raise InputError(f"{path}: of version {record['version']}, this mofm reads {known}")
