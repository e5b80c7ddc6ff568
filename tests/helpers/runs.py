"""Runs that are stopped, and what a run has left behind: for tests that compare runs."""

import json
import os
import signal
from contextlib import contextmanager

import jax
import pytest

from mofm.parallel.mesh import make_mesh
from mofm.training import loop, workdir
from mofm.training.checkpoint import Checkpoints
from mofm.training.config import make_spec
from mofm.training.network import load_network
from mofm.training.optimizer import make_optimizer
from mofm.training.state import abstract_state


def asked_to_stop_after(stop_step):
    """Runs trained within get a SIGTERM once the metrics of that step were looked at."""
    return _after(stop_step, lambda: os.kill(os.getpid(), signal.SIGTERM))


@contextmanager
def killed_after(stop_step):
    """What is trained within has to be broken off there, saving nothing."""

    def break_off():
        raise KeyboardInterrupt

    with _after(stop_step, break_off), pytest.raises(KeyboardInterrupt):
        yield


@contextmanager
def _after(stop_step, happens):
    report = loop._Run.report

    def report_then(self, step, batch, values):
        report(self, step, batch, values)
        if step == stop_step:
            happens()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop._Run, "report", report_then)
        yield


def final_state(config, folder):
    """The newest TrainState of the run in `folder`, on the host."""
    network = load_network(folder)
    relations = 0 if network is None else len(network.relations)
    spec = make_spec(config, len(workdir.read_genes(folder)), relations, workdir.read_modalities(folder))
    abstract = abstract_state(spec, make_optimizer(config.optimizer, config.run.steps), make_mesh(config.mesh))
    checkpoints = Checkpoints(folder / "checkpoints")
    state = jax.device_get(checkpoints.restore(checkpoints.latest, abstract))
    checkpoints.close()
    return state


def lines_told(folder):
    """What metrics.jsonl of the run in `folder` tells, less what hangs on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "cells_per_s" and not k.startswith("time/")} for line in lines]
