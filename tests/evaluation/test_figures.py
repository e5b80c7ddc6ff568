"""Figures are drawn without pyplot, show what they were given, and come out as pictures that are not blank."""

import io
import sys

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from mofm.errors import InputError
from mofm.evaluation import figures


def texts(figure):
    """Every word of the figure that is drawn."""
    figure.canvas.draw()
    found = [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]
    return " | ".join(text for text in found if text)


def assert_picture(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=60)
    assert buffer.getvalue().startswith(b"\x89PNG")
    buffer.seek(0)
    pixels = matplotlib.image.imread(buffer)[..., :3]
    assert min(pixels.shape[:2]) > 50
    assert 0.002 < np.mean(pixels < 0.9) < 0.9  # some ink, and paper left


@pytest.fixture
def metrics():
    steps = np.arange(10, 210, 10)
    rows = [
        {
            "step": s,
            "train/rna/token_nll": 3 / s,
            "train/rna/cell_nll": 4 / s,
            "learning_rate": 1e-3,
            "cells_per_s": 9.0,
        }
        for s in steps
    ]
    rows += [
        {"step": s, "heldout/rna/token_nll": 3.3 / s, "heldout/rna/cell_nll": 4.4 / s, "heldout/rna/null_nll": 0.5}
        for s in (100, 200)
    ]
    return pd.DataFrame(rows)


def test_loss_curves(metrics):
    figure = figures.loss_curves(metrics)
    assert_picture(figure)
    words = texts(figure)
    for expected in ("their tokens (rna)", "cell embedding (rna)", "mean predictor 0.500", f"held out {3.3 / 200:.3f}"):
        assert expected in words
    assert {"Cells per second", "Learning rate"} <= set(words.split(" | "))


def test_loss_curves_of_a_run_that_was_not_evaluated(metrics):
    figure = figures.loss_curves(metrics[["step", "train/rna/token_nll"]].dropna())
    assert_picture(figure)
    assert len(figure.axes) == 1
    assert "held out" not in texts(figure)


def test_loss_curves_of_one_line(metrics):
    assert_picture(figures.loss_curves(metrics[:1].dropna(axis=1)))


def test_no_loss_no_figure():
    with pytest.raises(InputError, match="no loss to draw"):
        figures.loss_curves(pd.DataFrame({"step": [1], "learning_rate": [0.1]}))


@pytest.fixture
def obs():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"type": rng.choice(["B", "$T_cell$", None], 200), "score": rng.normal(size=200)})
    frame["many"] = [f"kind{i % 37}" for i in range(200)]
    frame.loc[3, "score"] = np.nan
    return frame


def test_umap(obs):
    coordinates = np.random.default_rng(1).normal(size=(200, 2))
    figure = figures.umap(coordinates, obs, ["type", "score", "many"])
    assert_picture(figure)
    words = texts(figure)
    for kind, count in obs["type"].value_counts().items():
        assert f"{kind}  {count}" in words
    assert f"unlabelled  {obs['type'].isna().sum()}" in words
    assert "kind36  5" in words


def test_umap_draws_every_cell_once(obs):
    coordinates = np.random.default_rng(1).normal(size=(200, 2))
    (axes,) = figures.umap(coordinates, obs, ["type"]).axes
    drawn = np.concatenate([points.get_offsets() for points in axes.collections])
    np.testing.assert_allclose(np.sort(drawn, axis=0), np.sort(coordinates, axis=0))


def test_umap_needs_what_fits(obs):
    with pytest.raises(InputError, match="'celltype'; it has type, score, many"):
        figures.umap(np.zeros((200, 2)), obs, ["celltype"])
    with pytest.raises(InputError, match="do not fit 200 cells"):
        figures.umap(np.zeros((199, 2)), obs, ["type"])


def test_scores():
    rows = [
        {"representation": name, "metric": metric, "value": value, "low": value - 0.05, "high": value + 0.05}
        for metric in ("15-NN accuracy", "probe accuracy", "mixing")
        for name, value in (("mofm", 0.9125), ("PCA (30)", 0.875))
    ]
    rows[-1] |= {"low": np.nan, "high": np.nan}
    figure = figures.scores(pd.DataFrame(rows[:-2] + rows[-1:]))  # one representation lacks one metric
    assert_picture(figure)
    words = texts(figure)
    for expected in ("0.912", "0.875", "mofm", "PCA (30)", "mixing", "95% bootstrap interval"):
        assert expected in words
    assert len(figure.axes) == 3
    bare = figures.scores(pd.DataFrame(rows).assign(low=np.nan, high=np.nan))
    assert "dots: score" in texts(bare)
    assert "whiskers" not in texts(bare)


@pytest.mark.slow
def test_umap_coordinates_are_reproducible_and_keep_neighbours():
    rng = np.random.default_rng(0)
    X_ND = np.concatenate([rng.normal(size=(40, 5)), rng.normal(size=(40, 5)) + 30])
    one, other = figures.umap_coordinates(X_ND), figures.umap_coordinates(X_ND)
    np.testing.assert_array_equal(one, other)
    assert one.shape == (80, 2)
    assert one.dtype == np.float32
    within = np.linalg.norm(one[:40] - one[:40].mean(axis=0), axis=1).max()
    assert np.linalg.norm(one[:40].mean(axis=0) - one[40:].mean(axis=0)) > within
    with pytest.raises(InputError, match="at least 4 cells"):
        figures.umap_coordinates(X_ND[:3])


def test_nothing_was_left_in_pyplot(metrics):
    figures.loss_curves(metrics)
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []
