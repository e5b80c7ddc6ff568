"""A run that was stopped, killed or interrupted ends with the same bits as one that was not."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import asked_to_stop_after, final_state, lines_told

from mofm.batches.spaces import corpus_spaces
from mofm.corpus.store import open_corpus
from mofm.errors import InputError
from mofm.omics.genome import METADATA, gene_table
from mofm.training import loop, workdir
from mofm.training.checkpoint import Checkpoints
from mofm.training.loop import DivergedError, train


def assert_same_run(config, ours, theirs):
    one, other = final_state(config, ours), final_state(config, theirs)
    assert int(one.step) == int(other.step) == config.run.steps
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert lines_told(ours) == lines_told(theirs)


@pytest.fixture(scope="module")
def unbroken(tiny, tmp_path_factory):
    config, folder = tiny(), tmp_path_factory.mktemp("run") / "unbroken"
    assert train(config, folder, quiet=True) == config.run.steps
    return config, folder


STOPS = [1, 4, *(pytest.param(step, marks=pytest.mark.slow) for step in (3, 6))]


@pytest.mark.parametrize("stop_at", STOPS)
def test_sigterm_saves_and_the_same_command_goes_on(unbroken, tmp_path, stop_at):
    config, whole = unbroken
    with asked_to_stop_after(stop_at):
        reached = train(config, tmp_path / "stopped", quiet=True)
    assert stop_at <= reached < config.run.steps
    assert train(config, tmp_path / "stopped", quiet=True) == config.run.steps
    assert_same_run(config, whole, tmp_path / "stopped")


def test_killed_without_warning(unbroken, tmp_path):
    config, whole = unbroken
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent(f"""
        import json, time
        from pathlib import Path
        from mofm.training import loop
        from mofm.training.config import Config, from_dict
        report = loop._Run.report
        def slow(self, step, batch, values):
            report(self, step, batch, values)
            time.sleep(0.3)
        loop._Run.report = slow
        values = json.loads({json.dumps(json.dumps(config.to_dict()))})
        loop.train(from_dict(Config, values), Path({str(tmp_path / "killed")!r}))
        """)
    )
    run = subprocess.Popen([sys.executable, script], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    metrics = tmp_path / "killed" / "metrics.jsonl"
    deadline = time.monotonic() + 600  # a stop, not a measure: a crowded machine takes minutes to compile
    while not (metrics.exists() and '"step": 6' in metrics.read_text()):
        assert run.poll() is None, run.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run.kill()
    run.wait()
    run.stderr.close()
    assert train(config, tmp_path / "killed", quiet=True) == config.run.steps
    assert_same_run(config, whole, tmp_path / "killed")


def test_resuming_a_finished_run_changes_nothing(unbroken):
    config, whole = unbroken
    before = (whole / "metrics.jsonl").read_bytes()
    assert train(config, whole, quiet=True) == config.run.steps
    assert (whole / "metrics.jsonl").read_bytes() == before


def damage(checkpoint):
    """Every file of some size loses its second half, as when a disk was full or a copy broke off."""
    for path in checkpoint.rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            os.truncate(path, path.stat().st_size // 2)


def test_a_damaged_checkpoint_is_put_aside_and_the_one_before_goes_on(unbroken, tmp_path, caplog):
    config, whole = unbroken
    shutil.copytree(whole, tmp_path / "copy")
    damage(tmp_path / "copy" / "checkpoints" / "8")
    assert train(config, tmp_path / "copy", quiet=True) == config.run.steps
    assert "checkpoint 8 cannot be read" in caplog.text
    assert [path.name[:2] for path in (tmp_path / "copy" / "damaged").iterdir()] == ["8-"]
    assert_same_run(config, whole, tmp_path / "copy")


def test_a_run_of_damaged_checkpoints_does_not_begin_anew(unbroken, tmp_path):
    config, whole = unbroken
    shutil.copytree(whole, tmp_path / "copy")
    for checkpoint in (tmp_path / "copy" / "checkpoints").iterdir():
        damage(checkpoint)
    with pytest.raises(InputError, match="none of its checkpoints can be read"):
        train(config, tmp_path / "copy", quiet=True)


@pytest.mark.slow
def test_another_mesh_goes_on_with_the_same_run(unbroken, tiny, tmp_path):
    config, whole = unbroken
    short = tiny("mesh.data=1", "mesh.fsdp=4", "mesh.tensor=2")
    assert train(short, tmp_path / "other", quiet=True) == config.run.steps
    one, other = final_state(config, whole), final_state(short, tmp_path / "other")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-2), one.params, other.params)


def test_a_workdir_of_another_config_is_refused_untouched(unbroken, tiny):
    _, whole = unbroken
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"encoder\.ffn was 24, is 32"):
        train(tiny("encoder.ffn=32"), whole, quiet=True)
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before


def test_a_folder_of_something_else_is_refused(tiny, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        train(tiny(), tmp_path, quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_gene_table_of_a_start_cut_short_does_not_stay(tiny, tmp_path):
    """The corpus of the start that was cut short had a table of its own, this one has none."""
    fish = replace(gene_table("human"), species="fish", release="Ensembl 1 (GRCf1)")
    metadata = {key: getattr(fish, key) for key in METADATA}
    content = pa.Table.from_pandas(fish.frame.head(9), preserve_index=False).replace_schema_metadata(metadata)
    (tmp_path / "run").mkdir()
    pq.write_table(content, tmp_path / "run" / "gene_table.parquet")
    config = tiny()
    corpus = open_corpus(config.data.corpus)
    workdir.open_workdir(tmp_path / "run", config, corpus, corpus_spaces(corpus)[0])
    assert not (tmp_path / "run" / "gene_table.parquet").exists()
    assert workdir.read_gene_table(tmp_path / "run") is gene_table("human")


def test_nan_stops_with_the_step_the_cells_and_the_last_good_checkpoint(tiny, tmp_path, monkeypatch):
    place = loop.place_batch
    seen = []

    def poisoned(batch, mesh):
        if np.ndim(batch.rna.cell_B) and len(seen) == 5 and not np.isnan(batch.rna.values_BL).any():
            batch = batch._replace(rna=batch.rna._replace(values_BL=batch.rna.values_BL * np.float32("nan")))
        seen.append(batch.rna.cell_B)
        return place(batch, mesh)

    monkeypatch.setattr(loop, "place_batch", poisoned)
    config = tiny("run.eval_every=0", "run.checkpoint_every=2")
    with pytest.raises(DivergedError, match=r"step 6, on 16 cells \(\w+:cell\d+, .*last good checkpoint is step 4"):
        train(config, tmp_path / "run", quiet=True)
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    assert checkpoints.latest == 4


def test_the_newest_and_the_best_are_kept(tiny, tmp_path, monkeypatch):
    losses = iter([5.0, 1.0, 3.0, 4.0, 2.0])
    monkeypatch.setattr(loop._Run, "evaluate", lambda self, state, step: next(losses))
    config = tiny("run.eval_every=2", "run.checkpoint_every=2", "run.keep_latest=1", "run.keep_best=1")
    train(config, tmp_path / "run", quiet=True)
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    assert checkpoints.steps == [2, 8]
    assert (checkpoints.best, checkpoints.latest) == (2, 8)


def test_metrics_reach_tensorboard(unbroken):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, whole = unbroken
    events = EventAccumulator(str(whole / "tensorboard"))
    events.Reload()
    assert {"train/loss", "heldout/loss", "heldout/rna/null_nll"} <= set(events.Tags()["tensors"])
