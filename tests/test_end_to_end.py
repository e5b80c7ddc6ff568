"""The main job as a person does it, through the command line alone: simulate, look, ingest, train, embed; and the same
train command once more, which finds nothing to do."""

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from mofm.cli import main

SMALL = Path(__file__).parent.parent / "configs" / "small.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("story")


@pytest.fixture(scope="module")
def train_command(folder):
    overrides = {
        "data.corpus": folder / "corpus",
        "data.batch_size": 16,
        "data.tokens": 32,
        "data.holdout_fraction": 0.2,
        "encoder.width": 16,
        "encoder.blocks": 1,
        "encoder.heads": 2,
        "encoder.ffn": 24,
        "encoder.cell_width": 8,
        "optimizer.warmup_steps": 2,
        "run.steps": 6,
        "run.log_every": 2,
        "run.eval_every": 3,
        "run.eval_cells": 16,
        "run.checkpoint_every": 3,
    }
    words = [f"--config.{key}={value}" for key, value in overrides.items()]
    return ["train", "--config", str(SMALL), "--workdir", str(folder / "runs" / "mine"), *words]


@pytest.fixture(scope="module")
def story(folder, train_command):
    """The commands, each of which must end well."""
    cells = str(folder / "cells.h5ad")
    simulate = ["simulate", cells, "--cells", "120", "--genes", "80", "--tfs", "8", "--cell-types", "2"]
    commands = [
        simulate,
        ["inspect", cells],
        ["ingest", cells, str(folder / "corpus")],
        ["inspect", str(folder / "corpus")],
        train_command,
        ["embed", str(folder / "runs" / "mine"), cells, str(folder / "embedded.h5ad")],
    ]
    for command in commands:
        assert main(command) == 0, command
    return folder


def test_every_cell_has_an_embedding(story):
    source, embedded = ad.read_h5ad(story / "cells.h5ad"), ad.read_h5ad(story / "embedded.h5ad")
    assert embedded.obs.equals(source.obs)
    assert (embedded.X != source.X).nnz == 0
    assert embedded.obsm["X_mofm"].shape == (120, 8)
    assert np.isfinite(embedded.obsm["X_mofm"]).all()
    assert len(np.unique(embedded.obsm["X_mofm"], axis=0)) == 120
    assert embedded.uns["mofm"]["share_of_counts_known"] == 1.0
    assert embedded.uns["mofm"]["model"] == "mine"


def test_metrics_tell_of_every_step_asked_for(story):
    lines = [json.loads(line) for line in (story / "runs" / "mine" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "train/loss" in line] == [2, 4, 6]
    assert [line["step"] for line in lines if "heldout/loss" in line] == [0, 3, 6]
    assert all(np.isfinite(value) for line in lines for value in line.values())


def test_the_same_train_command_finds_nothing_to_do(story, train_command, snapshot, capsys):
    def lasting():
        kept = snapshot(story / "runs").items()
        return {path: content for path, content in kept if "tensorboard" not in path.parts}

    before = lasting()
    assert main(train_command) == 0
    assert "trained 6 steps; next: mofm embed" in capsys.readouterr().err
    assert lasting() == before


def test_the_same_ingest_finds_nothing_to_do(story, snapshot, capsys):
    before = snapshot(story / "corpus")
    assert main(["ingest", str(story / "cells.h5ad"), str(story / "corpus")]) == 0
    assert "already there" in capsys.readouterr().out
    assert snapshot(story / "corpus") == before
