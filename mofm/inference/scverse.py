"""Between scverse's customs and the functions of the command line: arguments one way, results and messages the other."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from mofm.axes import Modality
from mofm.errors import InputError, nearest_name
from mofm.inference.model import Options
from mofm.inference.output import Added
from mofm.omics.held import Held, is_held
from mofm.omics.readers import Reading

READING = tuple(field.name for field in dataclasses.fields(Reading))
OPTIONS = tuple(field.name for field in dataclasses.fields(Options) if field.name != "quiet")


def as_names(given: str | Iterable[str]) -> list[str]:
    """One name or several."""
    return [given] if isinstance(given, str) else list(given)


def asked_for(layer: str | None, modality: Modality | None, progress: bool, options: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the functions that the command line calls. Raises `InputError` for an option that there is not."""
    for name in options:
        if name not in (*READING, *OPTIONS):
            raise InputError(f"no option {name!r}.{nearest_name(name, (*READING, *OPTIONS))}")
    if layer is not None and options.get("counts_from") is not None:
        raise InputError("layer and counts_from both say where the counts are; give one")
    reading = {name: options[name] for name in READING if name in options} | {"modality": modality}
    reading |= {} if layer is None else {"counts_from": f"layers/{layer}"}
    return {
        "reading": Reading(**reading),
        "quiet": not progress,
        **{name: options[name] for name in OPTIONS if name in options},
    }


def checked(data: Held, copy: bool | None = None) -> Held:
    """What is given, where it can be used.

    Args:
      copy: whether a copy of it will be written to, or it itself; None: it is read alone.

    Raises:
      InputError: it is neither AnnData nor MuData, or cannot be written to, or copied.
    """
    if isinstance(data, str | Path):
        raise InputError(
            f"{data}: an AnnData or MuData is expected; anndata.read_h5ad(PATH, backed='r') reads it in blocks"
        )
    is_held(data)
    if copy is not None and getattr(data, "isbacked", False):
        if not copy and data.is_view:
            raise InputError("a view of a backed AnnData cannot be written to; give copy=True, or its to_memory()")
        if copy and not hasattr(data, "to_memory"):
            raise InputError(
                "a backed MuData cannot be copied into memory; read it without `backed`, or leave copy out"
            )
    return data


def write_to(data: Held, add: Callable[[pd.Index], Added], copy: bool) -> Held | None:
    """Write what `add` gives for the cells to `data`, or to a copy that is given back."""
    if copy:
        data = data.to_memory() if getattr(data, "isbacked", False) else data.copy()
    added = add(data.obs_names)
    for key, values in added.obsm.items():
        data.obsm[key] = values
    for key, values in added.uns.items():
        data.uns[key] = values
    for key, values in added.obs.items():
        data.obs[key] = values
    return data if copy else None


def table_of(frame: pd.DataFrame) -> pd.DataFrame:
    """As AnnData writes it: names of rows are text."""
    return frame.set_axis(frame.index.astype(str))


@contextmanager
def said_for_python() -> Iterator[None]:
    """Messages that name an option of the command line name the argument instead."""
    try:
        yield
    except InputError as error:
        said = re.sub(r"--([a-z]+(?:-[a-z]+)*)(?![\w.-])", lambda found: f"{found[1].replace('-', '_')}=", str(error))
        raise InputError(said) from error
