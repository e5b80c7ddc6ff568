"""What a result's page is told: a map of the cells that have a place, colours that fit a legend, tables of first rows."""

import json

import numpy as np
import pandas as pd
import pytest

from mofm.portal import results
from mofm.portal.results import Result


@pytest.fixture(autouse=True)
def _plain_umap(monkeypatch):
    """UMAP is long to compile; the first two columns do."""
    monkeypatch.setattr(results.figures, "umap_coordinates", lambda X_ND: np.asarray(X_ND[:, :2], np.float32))


def written(result: Result) -> tuple[dict, dict]:
    result.write()
    points = result.folder / "points.json"
    page = json.loads((result.folder / "result.json").read_text())
    return page, json.loads(points.read_text()) if points.exists() else {}


def test_cells_without_a_place_are_not_on_the_map(tmp_path):
    rng = np.random.default_rng(0)
    place_NE = rng.normal(size=(20, 3))
    place_NE[[2, 7]] = np.nan
    obs = pd.DataFrame(
        {
            "type": pd.Categorical(["b", "a", None, "a"] * 5), "depth": np.where(np.arange(20) == 3, np.nan, np.arange(20.0)),
            "ok": [True, False] * 10, "id": [f"cell{n}" for n in range(20)], "empty": [np.nan] * 20,
        }, index=[f"c{n}" for n in range(20)],
    )  # fmt: skip
    result = Result(tmp_path, "Title")
    coords_N2 = result.add_map("cells", place_NE, obs, first=["depth"])
    assert np.flatnonzero(np.isnan(coords_N2).any(axis=1)).tolist() == [2, 7]
    page, points = written(result)
    assert page["map"] == {"what": "cells", "cells": 20, "shown": 18, "keys": ["depth", "type", "ok", "id"]}
    assert points["cells"] == [f"c{n}" for n in range(20) if n not in (2, 7)]
    np.testing.assert_allclose(points["x"], place_NE[np.isfinite(place_NE[:, 0]), 0], atol=1e-3)
    depth, kind, ok, _ = points["keys"]
    assert depth["values"][2] is None  # cell 3, as 2 is not there
    assert depth["values"][0] == 0
    assert kind["levels"] == ["a", "b"]
    assert [kind["levels"][code] if code >= 0 else None for code in kind["codes"][:4]] == ["b", "a", "a", "b"]
    assert sum(kind["counts"]) == sum(code >= 0 for code in kind["codes"])
    assert ok["levels"] == ["False", "True"]
    assert {"umap.png"} == {file["name"] for file in page["files"]}


def test_of_many_levels_the_most_frequent_have_a_colour_and_of_many_cells_a_sample_is_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "MOST_POINTS", 300)
    labels = np.repeat([f"type {n}" for n in range(100)], np.r_[np.full(50, 9), np.full(50, 1)])
    obs = pd.DataFrame({"type": pd.Categorical(labels)}, index=[f"c{n}" for n in range(len(labels))])
    result = Result(tmp_path, "Title")
    result.add_map("cells", np.random.default_rng(0).normal(size=(len(labels), 2)), obs)
    page, points = written(result)
    assert (page["map"]["cells"], page["map"]["shown"]) == (500, 300)
    (key,) = points["keys"]
    assert len(key["levels"]) == results.MOST_LEVELS
    assert max(key["codes"]) == results.MOST_LEVELS - 1
    assert min(key["codes"]) == -1


def test_too_few_cells_make_no_map_and_none_to_colour_by_is_no_error(tmp_path):
    few = Result(tmp_path, "Title")
    few.add_map("cells", np.zeros((3, 2)), pd.DataFrame(index=list("abc")))
    page, points = written(few)
    assert page["map"] is None
    assert points == {}
    assert "no map" in page["lines"][0]
    plain = Result(tmp_path, "Title")
    plain.add_map("cells", np.arange(10.0).reshape(5, 2), pd.DataFrame(index=list("abcde")))
    page, points = written(plain)
    assert points["keys"] == []
    assert (tmp_path / "umap.png").stat().st_size > 1000


def test_a_table_shows_its_first_rows_and_numbers_that_can_be_read(tmp_path):
    result = Result(tmp_path, "Title")
    table = pd.DataFrame(
        {"name": ["x" * 200] * 300, "share": [0.123456] * 300, "count": [1234567] * 300, "none": [np.nan] * 300}
    )
    result.add_table("Genes", table)
    result.add_csv("genes.csv", "All", table)
    page, _ = written(result)
    (told,) = page["tables"]
    assert len(told["rows"]) == results.MOST_ROWS
    assert told["more"] == 100
    assert told["numeric"] == [False, True, True, True]
    assert told["rows"][0] == ["x" * 80, "0.123", "1,234,567", ""]
    assert page["files"][0]["bytes"] == (tmp_path / "genes.csv").stat().st_size
    assert len(pd.read_csv(tmp_path / "genes.csv")) == 300
