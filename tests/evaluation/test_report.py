"""A report is one page that needs nothing beside it, holds every figure, table and fact, treats all text as text, and
is there whole or as it was before."""

import base64
import errno
import html.parser
import json
import os
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure as Canvas

from mofm.errors import InputError
from mofm.evaluation.report import Figure, Table, read_metrics, shown, write_report

PNG = b"\x89PNG\r\n\x1a\n"
NASTY = '<script>alert("x")</script> & <b>T cell</b>'


def drawing(value=1.0):
    figure = Canvas(figsize=(2, 1))
    figure.subplots().plot([0, value])
    return figure


class Page(html.parser.HTMLParser):
    """What a browser would find: tags with their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def arguments():
    frame = pd.DataFrame({"cell type": ["B", NASTY], "accuracy": [0.91234, np.nan], "cells": np.array([12_345, 6])})
    return {
        "title": "A run",
        "lead": "It went well.",
        "facts": {"cells": np.int64(12_345), "loss": np.float32(0.5), "is new": True, "absent": None, "note": NASTY},
        "figures": [Figure("loss", "Loss by step", drawing()), Figure("umap_0", NASTY, drawing(2.0))],
        "tables": [Table("Scores", "A note of mine.", frame), Table(NASTY, "", frame[:0])],
        "command": "mofm demo --workdir runs/demo && echo done",
    }


def test_the_page_stands_alone(arguments, tmp_path):
    page = Page(write_report(tmp_path / "report", **arguments).read_text(encoding="utf-8"))
    images = page.all("img")
    assert len(images) == 2
    for image, name in zip(images, ("loss", "umap_0"), strict=True):
        kind, data = image["src"].split(",", 1)
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data) == (tmp_path / "report" / f"{name}.png").read_bytes()
        assert base64.b64decode(data).startswith(PNG)
        assert int(image["width"]) > 0
        assert image["alt"]
    addresses = [value for _, attributes in page.tags for key, value in attributes.items() if key in ("src", "href")]
    assert all(address.startswith("data:") for address in addresses)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert any("default-src 'none'" in (meta.get("content") or "") for meta in page.all("meta"))


def test_all_that_was_given_is_on_the_page(arguments, tmp_path):
    text = " ".join(Page(write_report(tmp_path, **arguments).read_text(encoding="utf-8")).text)
    expected = ["A run", "It went well.", "12,345", "0.500", "yes", "Loss by step", "Scores", "A note of mine."]
    expected += ["cell type", "accuracy", "0.912", "mofm demo --workdir runs/demo && echo done"]
    for words in expected:
        assert words in text, words


def test_text_is_never_markup(arguments, tmp_path):
    for key in ("title", "lead", "command"):
        arguments[key] = NASTY
    frame = pd.DataFrame({NASTY: [NASTY]})
    arguments["tables"].append(Table("t", NASTY, frame))
    page = Page(write_report(tmp_path, **arguments).read_text(encoding="utf-8"))
    assert not page.all("script")
    assert not page.all("b")
    # title twice, lead, fact, caption, cell, table title, its column, cell and note, command
    assert sum(part.count(NASTY) for part in page.text) >= 11
    assert page.all("img")[1]["alt"] == NASTY


def test_the_record_for_programs(arguments, tmp_path):
    write_report(tmp_path, **arguments)
    record = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert record["facts"] == {"cells": 12_345, "loss": 0.5, "is new": True, "absent": None, "note": NASTY}
    assert record["tables"][0]["rows"] == [["B", 0.91234, 12_345], [NASTY, None, 6]]
    assert record["tables"][0]["columns"] == ["cell type", "accuracy", "cells"]
    assert [figure["file"] for figure in record["figures"]] == ["loss.png", "umap_0.png"]
    assert all((tmp_path / figure["file"]).is_file() for figure in record["figures"])


def test_the_same_report_is_the_same_bytes(arguments, tmp_path):
    write_report(tmp_path / "one", **arguments)
    write_report(tmp_path / "other", **arguments)
    for name in ("index.html", "report.json", "loss.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_a_report_that_fails_leaves_the_one_before(arguments, tmp_path, snapshot, monkeypatch):
    write_report(tmp_path / "report", **arguments)
    before = snapshot(tmp_path)
    fails = Canvas()
    monkeypatch.setattr(fails, "savefig", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(tmp_path / "report", **arguments | {"figures": [Figure("bad", "", fails)]})
    assert snapshot(tmp_path) == before


def test_a_full_disk_is_told_in_a_line(arguments, tmp_path, snapshot, monkeypatch):
    write_report(tmp_path / "report", **arguments)
    before = snapshot(tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(InputError, match="No space left"):
        write_report(tmp_path / "report", **arguments | {"title": "another"})
    assert snapshot(tmp_path) == before


def test_a_file_in_the_way(arguments, tmp_path):
    (tmp_path / "report").write_text("words")
    with pytest.raises(InputError, match="is a file"):
        write_report(tmp_path / "report", **arguments)
    with pytest.raises(InputError, match="cannot be written"):
        write_report(tmp_path / "report" / "deeper", **arguments)


@pytest.mark.parametrize("names", [("a/b",), ("",), ("../up",), ("same", "same"), ("a.png",)])
def test_names_of_figures(arguments, tmp_path, names):
    arguments["figures"] = [Figure(name, "", drawing()) for name in names]
    with pytest.raises(ValueError, match="must be unique"):
        write_report(tmp_path / "report", **arguments)
    assert not (tmp_path / "report").exists()


def test_a_report_of_nothing_but_words(arguments, tmp_path):
    page = write_report(tmp_path, **arguments | {"facts": {}, "figures": [], "tables": []})
    assert "It went well." in page.read_text(encoding="utf-8")
    assert not re.search(r"<(dl|figure|table)", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234567, "1,234,567"),
        (np.int32(7), "7"),
        (12345.6, "12,346"),
        (0.12345, "0.123"),
        (0.000123456, "0.0001235"),
        (float("nan"), "-"),
        (np.float32("inf"), "-"),
        (None, "-"),
        (pd.NA, "-"),
        (True, "yes"),
        (np.bool_(False), "no"),
        ("as it is", "as it is"),
        (0.0, "0"),
    ],
)
def test_values_as_shown(value, text):
    assert shown(value) == text


def test_metrics_are_read_line_by_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "train/loss": 2.0}\n{"step": 2, "heldout/loss": 1.5}\n{"step": 3, "tra')
    with pytest.warns(UserWarning, match="line 3"):
        metrics = read_metrics(path)
    assert metrics["step"].tolist() == [1, 2]
    assert metrics["train/loss"].tolist()[0] == 2.0
    assert np.isnan(metrics["heldout/loss"][0])


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (None, "no such metrics file"),
        ("", "no whole line"),
        ('{"step": 1}\nnonsense\n{"step": 2}\n', "line 2 is not JSON"),
        ('{"loss": 1}\n{"step": 2}\n', "line 1 is not an object"),
        ('[1]\n{"step": 2}\n', "line 1 is not an object"),
    ],
)
def test_metrics_that_are_none(tmp_path, text, what):
    if text is not None:
        (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(InputError, match=what):
        read_metrics(tmp_path / "metrics.jsonl")
