"""What a result's page shows and gives: a map of the cells, tables, and files to take away.

`Result` gathers them in a job's folder; `result.json`, written last, is the page (`Result.write`). The map is a UMAP of at
most `MOST_POINTS` cells: points.json for the interactive one, and umap.png, which is the same for who has no JavaScript.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mofm.evaluation import figures
from mofm.files import output_file
from mofm.portal.limits import say

MOST_POINTS = 50_000
MOST_KEYS, MOST_LEVELS, MOST_ROWS = 24, 60, 200
MATRIX_VALUES = 2_000_000
"""A matrix of so many values is given as CSV too."""


class Result:
    """What a job makes, in its folder."""

    def __init__(self, folder: Path, title: str):
        self.folder = folder
        self._page: dict = {
            "title": title,
            "lines": [],
            "warnings": [],
            "files": [],
            "tables": [],
            "images": [],
            "map": None,
        }

    def say(self, line: str) -> None:
        """A line for people."""
        self._page["lines"].append(line)

    def warn(self, line: str) -> None:
        """A line that people should not overlook."""
        self._page["warnings"].append(line)

    def add_file(self, name: str, what: str) -> Path:
        """A file to take away; gives where it is to be written."""
        self._page["files"].append({"name": name, "what": what})
        return self.folder / name

    def add_image(self, name: str, alt: str) -> Path:
        """A picture on the page; gives where it is to be written."""
        self._page["images"].append({"name": name, "alt": alt})
        return self.folder / name

    def add_csv(self, name: str, what: str, table: pd.DataFrame) -> None:
        """A table to take away."""
        with output_file(self.add_file(name, what)) as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")

    def add_table(self, title: str, table: pd.DataFrame, about: str = "") -> None:
        """A table on the page: its first rows."""
        numeric = [pd.api.types.is_numeric_dtype(table[key]) for key in table]
        rows = [[_shown(value) for value in row] for row in table.head(MOST_ROWS).itertuples(index=False)]
        shown = {
            "title": title,
            "about": about,
            "columns": list(map(str, table.columns)),
            "numeric": numeric,
            "rows": rows,
        }
        self._page["tables"].append(shown | {"more": max(0, len(table) - MOST_ROWS)})

    def add_map(
        self, what: str, coordinates_NE: np.ndarray, obs: pd.DataFrame, first: Sequence[str] = ()
    ) -> np.ndarray:
        """The map of the cells; coords_N2 of those that are on it, NaN for the others.

        Args:
          what: is mapped.
          coordinates_NE: of the cells, NaN for those that have none.
          obs: what they can be coloured by, indexed by their names.
          first: the columns to show before others.
        """
        say(stage="drawing the map", done=0, total=0)
        coords_N2 = np.full((len(obs), 2), np.nan, np.float32)
        inside = np.flatnonzero(np.isfinite(coordinates_NE).all(axis=1))
        if len(inside) < 4:
            self.say("Fewer than 4 cells: no map is drawn.")
            return coords_N2
        shown = np.sort(np.random.default_rng(0).permutation(inside)[:MOST_POINTS])
        coords_N2[shown] = figures.umap_coordinates(coordinates_NE[shown])
        order = [*[key for key in first if key in obs], *[key for key in obs if key not in first]]
        keys = [key for key in order if _can_colour(obs[key])][:MOST_KEYS]
        part = obs.iloc[shown]
        points = {
            "x": np.round(coords_N2[shown, 0], 3).tolist(), "y": np.round(coords_N2[shown, 1], 3).tolist(),
            "cells": [str(name)[:60] for name in part.index], "keys": [_colouring(key, part[key]) for key in keys],
        }  # fmt: skip
        with output_file(self.folder / "points.json") as temporary:
            temporary.write_text(json.dumps(points), encoding="utf-8")
        drawn = part if keys else part.assign(cells="cells")
        with output_file(self.add_file("umap.png", "The map as a picture")) as temporary:
            figures.umap(coords_N2[shown], drawn, keys[:2] or ["cells"]).savefig(temporary, format="png", dpi=110)
        self._page["map"] = {"what": what, "cells": len(obs), "shown": len(shown), "keys": list(map(str, keys))}
        return coords_N2

    def write(self, name: str = "result.json") -> None:
        """Write the page: the job is done."""
        for file in self._page["files"]:
            file["bytes"] = (self.folder / file["name"]).stat().st_size
        with output_file(self.folder / name) as temporary:
            temporary.write_text(json.dumps(self._page), encoding="utf-8")


def _can_colour(column: pd.Series) -> bool:
    if pd.api.types.is_numeric_dtype(column):
        return bool(column.notna().any())
    return column.nunique() >= 1 and (column.nunique() <= MOST_LEVELS or isinstance(column.dtype, pd.CategoricalDtype))


def _colouring(key: str, column: pd.Series) -> dict:
    """A column for the map: numbers, or codes of its most frequent levels (-1: none, or another one)."""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        values = pd.to_numeric(column).to_numpy(np.float64, na_value=np.nan)
        return {"name": str(key), "values": [float(f"{v:.4g}") if np.isfinite(v) else None for v in values]}
    labels = column.astype(object).map(str, na_action="ignore")
    counts = labels.value_counts()[:MOST_LEVELS]
    levels = sorted(counts.index) if len(counts) == labels.nunique() else list(counts.index)
    codes = pd.Index(levels).get_indexer(labels)
    return {
        "name": str(key), "levels": [level[:60] for level in levels], "counts": [int(counts[one]) for one in levels],
        "codes": codes.tolist(),
    }  # fmt: skip


def _shown(value: object) -> str:
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int | np.integer) and not isinstance(value, bool) else str(value)[:80]
