"""What the studies make of their rows: a curve, a table of differences, a table of methods, and figures that are there."""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("mofm.configs", reason="mofm is not installed: benchmarks need its configs")
sys.path.append(str(Path(__file__).parent))  # benchmarks are scripts that import each other by their names

import ablations
import paper
import peers
import scaling_study

from mofm.corpus.store import open_corpus


def test_the_curve_that_points_were_drawn_from_is_found():
    drawn = scaling_study.Curve(1.5, 2e3, 0.4, 30.0, 0.3)
    params, cells = (x.ravel() for x in np.meshgrid([2e4, 2e5, 2e6], [500.0, 2_000.0, 8_000.0]))
    table = pd.DataFrame({"parameters": params, "cells": cells, "nll": drawn(params, cells)})
    curve, draws = scaling_study.fitted(table)
    assert curve.floor == pytest.approx(1.5, abs=1e-3)
    assert [curve.params_power, curve.cells_power] == pytest.approx([0.4, 0.3], abs=1e-2)
    assert len(draws) == scaling_study.DRAWS
    swapped = drawn._replace(params_power=0.3, cells_power=0.4)
    assert np.abs(swapped(params, cells) - curve(params, cells)).max() > 0.01


def test_a_difference_is_from_the_whole_of_the_same_seed():
    whole, less = ((1.0, 2.0, 6.0), (0.5, 1.0, 5.0))
    rows = [
        {
            "data": "d",
            "steps": 1,
            "seed": seed,
            "variant": variant,
            "matching / rna / FOSCTTM": value,
            "x / y / other": 0.0,
        }
        for variant, values in (("whole", whole), ("contrast", less))
        for seed, value in enumerate(values)
    ]
    (row,) = ablations.differences(pd.DataFrame(rows))
    assert row["the whole"] == "3.000 ± 2.646"
    assert row["without contrast"] == f"-0.833 ± {np.std([0.5, 1.0, 1.0], ddof=1) / np.sqrt(3):.3f}"


@pytest.mark.parametrize("variant", ["whole", "pairs", "links of features"])
def test_the_cells_of_every_variant_can_be_ingested(variant, tmp_path):
    asked = argparse.Namespace(cells=120, genes=80)
    of = ablations.given("simulated", variant, 1, asked, tmp_path)
    stores = open_corpus(ablations.corpus_of(of, variant, tmp_path)).manifest.stores
    both = set(of.train["rna"].obs_names) & set(of.train["atac"].obs_names)
    assert bool(both) == (variant != "pairs")
    assert sum(entry.cells for entry in stores) == sum(table.n_obs for table in of.train.values())


def test_what_a_variant_cannot_be_judged_by_is_a_dash():
    rows = [
        {"data": "d", "steps": 1, "seed": 0, "variant": "whole", "regulation / rna / AUROC of edges": 0.6},
        {"data": "d", "steps": 1, "seed": 0, "variant": "network"},
    ]
    (row,) = ablations.differences(pd.DataFrame(rows))
    assert row["without network"] == "-"


def test_the_best_of_a_row_is_bold_where_less_is_better_too():
    rows = [
        {"data": "d", "task": "t", "metric": metric, "method": method, "value": value}
        for metric in ("FOSCTTM", "Pearson")
        for method, value in (("mofm", 0.2), ("ridge", 0.3))
    ]
    aligned, told = peers.table(rows)
    assert (aligned["mofm"], aligned["ridge"]) == ("**0.200**", "0.300")
    assert (told["mofm"], told["ridge"]) == ("0.200", "**0.300**")


def test_a_figure_is_made_once_and_again_after_an_interruption(tmp_path):
    script = tmp_path / "figure.py"
    script.write_text("import sys; print('row', sys.argv[1])")
    figure = paper.Figure(str(script), ("OUT/x",), "a row")
    assert paper.is_made("one", figure, tmp_path)
    assert (tmp_path / "one.txt").read_text() == f"row {tmp_path}/x\n{paper.DONE}"
    script.write_text("raise SystemExit('no')")
    assert paper.is_made("one", figure, tmp_path)  # it is there
    (tmp_path / "one.txt").write_text("row")
    assert not paper.is_made("one", figure, tmp_path)
    assert "no" in (tmp_path / "one.txt").read_text()


def test_every_figure_has_its_script():
    for figure in paper.FIGURES.values():
        assert (paper.HERE / figure.script).exists()
