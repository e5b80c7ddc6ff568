"""What every plot begins with: Axes to draw on, and what it looks for in the data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from mofm.errors import InputError, nearest_name
from mofm.evaluation.figures import MUTED
from mofm.omics.held import Held, is_held


def axes_for(ax: Axes | None, width: float, height: float) -> Axes:
    """`ax`, or that of a new figure of this many inches, which pyplot knows and so a notebook shows."""
    return plt.subplots(figsize=(width, height), layout="constrained")[1] if ax is None else ax


def axes_for_each(names: Sequence[str], ax: Axes | None, width: float, height: float) -> list[Axes]:
    """An Axes each, beside each other in one new figure. Raises `InputError` where one Axes is given for several."""
    if not names:
        raise InputError("nothing is asked for: give a name, or several")
    if len(names) == 1:
        return [axes_for(ax, width, height)]
    if ax is not None:
        raise InputError(f"one ax cannot hold {len(names)} plots; ask for one at a time")
    return list(plt.subplots(1, len(names), figsize=(width * len(names), height), layout="constrained")[1])


def checked(data: Held) -> Held:
    """AnnData or MuData. Raises `InputError` where it is a path, or something else."""
    if not is_held(data):
        raise InputError(f"{data}: an AnnData is expected; anndata.read_h5ad(PATH) reads it")
    return data


def column(data: Held, key: str, call: str | None = None) -> pd.Series:
    """A column of obs. Raises `InputError`, with the `call` that makes it, where there is none."""
    if key not in data.obs:
        makes = f"; {call} makes it" if call else ""
        raise InputError(f"obs has no column {key!r}{makes}.{nearest_name(key, map(str, data.obs.columns))}")
    return data.obs[key]


def noted(data: Held, key: str, call: str) -> Any:
    """An entry of uns. Raises `InputError`, with the `call` that makes it, where there is none."""
    if key not in data.uns:
        raise InputError(f"uns has no {key!r}: {call} makes it")
    return data.uns[key]


def name_axes(axes: Axes, x: str = "", y: str = "") -> None:
    """Labels in the house's size and colour; "" leaves an axis without."""
    if x:
        axes.set_xlabel(x, fontsize=9, color=MUTED)
    if y:
        axes.set_ylabel(y, fontsize=9, color=MUTED)


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Rows from the top, a name each."""
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def one_or_all(drawn: list[Axes], asked: str | Sequence[str]) -> Axes | list[Axes]:
    """One Axes where one name was asked for, as text; else all."""
    return drawn[0] if isinstance(asked, str) else drawn


def is_path(given: object) -> bool:
    """Whether this names a file or folder."""
    return isinstance(given, str | Path)
