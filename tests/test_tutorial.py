"""The tutorial runs from its first cell to its last in an empty folder, with few steps of training; as it is kept, it shows its
figures, and nothing of the machine that drew them."""

import json
import os
import re
import sys
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbclient is not installed (mofm[dev]): the tutorial was NOT run")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (mofm[dev]): the tutorial was NOT run")
pytest.importorskip("ipykernel", reason="ipykernel is not installed (mofm[dev]): the tutorial was NOT run")

DOCS = Path(__file__).parent.parent / "docs"
STEPS = 8


def run(notebook, folder, monkeypatch):
    """Runs a notebook in a folder, with this Python's commands and one device; raises where a cell does."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XLA_FLAGS", "")
    nbclient.NotebookClient(notebook, timeout=1_800, resources={"metadata": {"path": str(folder)}}).execute()


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def pictures(notebook):
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


@pytest.fixture(scope="module")
def kept():
    return nbformat.read(DOCS / "tutorial.ipynb", as_version=4)


@pytest.mark.slow  # a model of two omics types and a network compiles for a minute
def test_every_cell_runs_in_an_empty_folder(kept, tmp_path, monkeypatch):
    notebook = nbformat.from_dict(kept)
    (steps,) = (cell for cell in notebook.cells if cell.source.startswith("%env STEPS="))
    steps.source = f"%env STEPS={STEPS}"
    for cell in notebook.cells:
        assert "raises-exception" not in cell.metadata.get("tags", [])
        if cell.cell_type == "code":
            cell.outputs = []
    wanted = pictures(kept)
    run(notebook, tmp_path, monkeypatch)
    assert pictures(notebook) == wanted >= 8
    lines = [json.loads(line) for line in (tmp_path / "runs" / "tiny" / "metrics.jsonl").read_text().splitlines()]
    assert max(line["step"] for line in lines) == STEPS
    assert (tmp_path / "figures.png").read_bytes().startswith(b"\x89PNG")


def test_a_command_that_fails_stops_the_notebook(tmp_path, monkeypatch):
    cell = nbformat.v4.new_code_cell("%%bash\nmofm inspect nowhere.h5ad")
    with pytest.raises(nbclient.exceptions.CellExecutionError, match=r"nowhere\.h5ad"):
        run(nbformat.v4.new_notebook(cells=[cell]), tmp_path, monkeypatch)


def test_what_is_kept_shows_its_figures_and_no_machine(kept):
    assert pictures(kept) >= 8
    assert all(cell.execution_count for cell in kept.cells if cell.cell_type == "code")
    for output in outputs(kept):
        assert output.output_type != "error"
        assert not re.search(r"site-packages|/home/|Warning", str(output.get("text", "")))
    assert (DOCS / "tutorial.ipynb").stat().st_size < 1_000_000
    assert (DOCS / "figures.png").stat().st_size < 200_000
