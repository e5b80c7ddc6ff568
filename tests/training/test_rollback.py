"""A run goes back from a bad step, leaves its batches out, and ends with the same bits however it was stopped on the way."""

import json
import logging
import shutil

import jax
import numpy as np
import pytest
from runs import asked_to_stop_after, final_state, killed_after, lines_told

from mofm.batches.stream import Stream
from mofm.errors import InputError
from mofm.training import rollback
from mofm.training.checkpoint import Checkpoints
from mofm.training.loop import DivergedError, train
from mofm.training.rollback import FILE, RecentLosses, Rollbacks, way_back


class Numbers:
    """A stream whose batches are their numbers."""

    def batches(self, start, stop):
        return iter(range(start, stop))


def seen(rollbacks, start, stop):
    return list(rollbacks.batches(Numbers(), start, stop))


def test_the_batches_up_to_the_bad_step_are_not_served_again(tmp_path):
    rollbacks = Rollbacks(tmp_path)
    assert seen(rollbacks, 0, 5) == [0, 1, 2, 3, 4]
    rollbacks.went_back(6, 4, "loss is nan", ["a"])  # batches 4 and 5
    assert seen(rollbacks, 4, 8) == [6, 7, 8, 9]
    rollbacks.went_back(7, 4, "loss is nan", ["a"])  # 6, 7 and 8, from the same state
    assert seen(rollbacks, 4, 8) == [9, 10, 11, 12]
    rollbacks.went_back(10, 8, "loss is nan", ["a"])  # 13 and 14
    assert seen(rollbacks, 8, 10) == [15, 16]
    # All of it, as from an older checkpoint where the newer ones were damaged: the very same way.
    assert seen(rollbacks, 2, 10) == [2, 3, 9, 10, 11, 12, 15, 16]
    assert [rollbacks.offset(step) for step in (4, 5, 8, 9)] == [0, 5, 5, 7]
    assert [rollbacks.before(step) for step in (4, 5, 9)] == [0, 2, 3]


def test_going_back_behind_an_earlier_rollback_serves_nothing_twice(tmp_path):
    rollbacks = Rollbacks(tmp_path)
    rollbacks.went_back(6, 4, "loss is nan", [])
    before = seen(rollbacks, 0, 5)
    rollbacks.went_back(5, 0, "loss is nan", [])
    assert before == [0, 1, 2, 3, 6]
    assert seen(rollbacks, 0, 6) == [7, 8, 9, 10, 11, 12]


def test_what_is_written_is_read(tmp_path):
    rollbacks = Rollbacks(tmp_path)
    row = rollbacks.went_back(6, 4, "loss is nan", ["one:cell3"])
    assert not (tmp_path / FILE).exists()
    rollbacks.save()
    assert Rollbacks(tmp_path).went_back(9, 8, "x", []).offset == 3
    assert json.loads((tmp_path / FILE).read_text())[0]["cells"] == list(row.cells)
    for text in ("{", '[{"step": 1}]', '[{"step": 1, "cells": [], "what": 2}]'):
        (tmp_path / FILE).write_text(text)
        with pytest.raises(InputError, match=r"rollbacks\.json cannot be read"):
            Rollbacks(tmp_path)


def test_where_a_run_goes_back_to():
    assert way_back([], 4) == way_back([2, 3], 4) == 0
    assert way_back([4, 5], 4) == way_back([2, 4, 6, 7], 4) == 4
    assert way_back([9, 11], 4) == 11  # it was not to go back when it began, and let 8 go


def test_a_spike_is_far_above_the_last_losses():
    rng = np.random.default_rng(0)
    recent = RecentLosses(8.0)
    for loss in 3 + 0.1 * rng.standard_normal(rollback.LEAST - 1):
        assert recent.spike(1e9) is None  # too few to tell
        recent.add(loss)
    recent.add(3.0)
    assert recent.spike(3.5) is None
    assert recent.spike(0.1) is None
    assert "deviations above the median" in recent.spike(5.0)
    assert RecentLosses(0.0, recent.kept()).spike(5.0) is None
    assert RecentLosses(0.0).kept() is None
    again = RecentLosses(8.0, json.loads(json.dumps(recent.kept())))
    assert again.spike(5.0) == recent.spike(5.0)


def test_a_window_moves_on_and_the_same_loss_again_and_again_makes_no_spike_of_a_trifle():
    recent = RecentLosses(8.0)
    for loss in [100.0] * 200 + [2.0] * rollback.WINDOW:
        recent.add(loss)
    assert recent.spike(2.001) is None
    assert recent.spike(2.1) is not None


@pytest.fixture
def poison(monkeypatch):
    """A function (batches, leaf, factor) that spoils these batches of the stream, by their number."""
    make = Stream._train_batch

    def spoil(numbers, leaf="values_BL", factor=np.nan):
        def spoilt(self, step, stop):
            batch = make(self, step, stop)
            if step not in numbers:
                return batch
            return batch._replace(rna=batch.rna._replace(**{leaf: getattr(batch.rna, leaf) * np.float32(factor)}))

        monkeypatch.setattr(Stream, "_train_batch", spoilt)

    return spoil


def train_until(config, folder, stop_step, how):
    """Train, and be stopped after a good step: by "SIGTERM", or by "kill", which saves nothing."""
    if how == "SIGTERM":
        with asked_to_stop_after(stop_step):
            assert stop_step <= train(config, folder, quiet=True) < config.run.steps
    else:
        with killed_after(stop_step):
            train(config, folder, quiet=True)


GUARDED = ("run.eval_every=0", "run.rollbacks=2", "run.checkpoint_every=4")


def assert_same_run(config, ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, final_state(config, ours), final_state(config, theirs))
    assert lines_told(ours) == lines_told(theirs)
    assert (ours / FILE).read_bytes() == (theirs / FILE).read_bytes()


def test_a_bad_step_is_gone_back_from_and_its_batches_left_out(tiny, tmp_path, poison, monkeypatch, caplog):
    config = tiny(*GUARDED)
    poison({5})
    with caplog.at_level(logging.WARNING):
        assert train(config, tmp_path / "run", quiet=True) == 8
    assert "loss is nan at step 6, on 16 cells (" in caplog.text
    assert "back to step 4" in caplog.text
    (row,) = json.loads((tmp_path / "run" / FILE).read_text())
    assert (row["step"], row["to"], row["offset"], len(row["cells"])) == (6, 4, 2, 8)
    lines = lines_told(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert [line.get("left_out_batches") for line in lines] == [None] * 4 + [2] * 4

    make = Stream._train_batch
    monkeypatch.setattr(Stream, "_train_batch", lambda self, step, stop: make(self, step + 2 * (step >= 4), stop + 2))
    shutil.copytree(
        tmp_path / "run", tmp_path / "other", ignore=shutil.ignore_patterns("checkpoints", FILE, "metrics.jsonl")
    )
    assert train(config, tmp_path / "other", quiet=True) == 8  # from the same simple models; never saw those batches
    one, other = (final_state(config, tmp_path / name) for name in ("run", "other"))
    jax.tree.map(np.testing.assert_array_equal, one, other)


STOPS = [(5, "kill"), *(pytest.param(*stop, marks=pytest.mark.slow) for stop in (
    (3, "SIGTERM"), (5, "SIGTERM"), (7, "SIGTERM"), (7, "kill")))]  # fmt: skip


@pytest.mark.parametrize(("step", "how"), STOPS)
def test_stopped_anywhere_it_ends_with_the_same_bits(tiny, tmp_path, poison, step, how):
    """Also where a stop left a checkpoint between the one to go back to and the bad step: it is not gone back to."""
    config = tiny(*GUARDED, "run.steps=10", "run.keep_latest=1", "run.keep_best=0")
    poison({6})  # step 7
    assert train(config, tmp_path / "whole", quiet=True) == 10
    train_until(config, tmp_path / "stopped", step, how)
    assert (tmp_path / "stopped" / FILE).exists() == (step == 7)
    assert train(config, tmp_path / "stopped", quiet=True) == 10
    assert_same_run(config, tmp_path / "whole", tmp_path / "stopped")
    assert json.loads((tmp_path / "stopped" / FILE).read_text())[0]["to"] == 4


def test_before_the_first_checkpoint_it_goes_back_to_its_start(tiny, tmp_path, poison):
    config = tiny(*GUARDED, "run.eval_every=4")
    poison({1})
    assert train(config, tmp_path / "whole", quiet=True) == 8
    assert json.loads((tmp_path / "whole" / FILE).read_text())[0]["to"] == 0
    train_until(config, tmp_path / "killed", 2, "kill")
    assert train(config, tmp_path / "killed", quiet=True) == 8
    assert_same_run(config, tmp_path / "whole", tmp_path / "killed")
    assert [line["step"] for line in lines_told(tmp_path / "whole")] == [0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 8]


@pytest.mark.slow
def test_it_stops_where_its_rollbacks_are_used_up_and_goes_on_with_more(tiny, tmp_path, poison):
    poison({5, 7, 9})
    few, more = (tiny(*GUARDED, f"run.rollbacks={n}") for n in (2, 3))
    for _ in range(2):  # the same command comes to the same end
        with pytest.raises(DivergedError, match=r"loss is nan at step 6, on 16 cells .*went back 2 times before"):
            train(few, tmp_path / "run", quiet=True)
    assert train(more, tmp_path / "run", quiet=True) == 8
    assert train(more, tmp_path / "more", quiet=True) == 8
    assert_same_run(more, tmp_path / "more", tmp_path / "run")
    assert [row["offset"] for row in json.loads((tmp_path / "run" / FILE).read_text())] == [2, 4, 6]


@pytest.mark.slow
def test_a_spike_is_gone_back_from_by_the_losses_of_before_the_stop(tiny, tmp_path, poison, monkeypatch):
    """Five losses are asked for, and the process that meets the spike has seen one: the others lay in the checkpoint."""
    monkeypatch.setattr(rollback, "LEAST", 5)
    config = tiny(*GUARDED, "run.spike_factor=20")
    poison({6}, "counts_BL", 1000)
    assert train(config, tmp_path / "whole", quiet=True) == 8
    (row,) = json.loads((tmp_path / "whole" / FILE).read_text())
    assert "deviations above the median" in row["reason"]
    assert (row["step"], row["to"]) == (7, 4)
    train_until(config, tmp_path / "stopped", 4, "SIGTERM")
    assert train(config, tmp_path / "stopped", quiet=True) == 8
    assert_same_run(config, tmp_path / "whole", tmp_path / "stopped")
    told = [line["train/loss"] for line in lines_told(tmp_path / "whole") if "train/loss" in line]
    checkpoints = Checkpoints(tmp_path / "whole" / "checkpoints")
    assert checkpoints.losses(8) == told
    checkpoints.close()

    unguarded = tiny(*GUARDED)
    assert train(unguarded, tmp_path / "unguarded", quiet=True) == 8
    assert not (tmp_path / "unguarded" / FILE).exists()


def test_what_decides_the_bits(tiny):
    """How often a run may go back is not what it computes; from which loss on it does, is."""
    assert tiny().science() == tiny("run.rollbacks=3").science()
    assert tiny("run.spike_factor=9").science()["run"]["spike_factor"] == 9.0
    for key in ("rollbacks", "spike_factor"):
        with pytest.raises(InputError, match=f"run.{key}=-1.*must not be negative"):
            tiny(f"run.{key}=-1")
