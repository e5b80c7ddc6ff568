"""Processes that find each other over the network of this machine train one run, stop together and end together."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from runs import final_state

from mofm.training.loop import train

pytestmark = pytest.mark.slow

PATIENCE = 600
"""Seconds: a stop, not a measure."""
SCRIPT = """
import sys, time
from mofm.cli import main
from mofm.training import loop

report = loop._Run.report
def slow(self, step, batch, values):
    report(self, step, batch, values)
    print("step", step, flush=True)
    time.sleep(0.5)
loop._Run.report = slow
{more}
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def several(tiny, tmp_path):
    """A function (folder, overrides..., more=code, count=2) -> processes of `mofm train`, each with two devices and a log."""
    started = []

    def begin(folder, *overrides, more="", count=2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            place = f"127.0.0.1:{probe.getsockname()[1]}"
        script, config = tmp_path / "train.py", tmp_path / "config.py"
        script.write_text(SCRIPT.format(more=more))
        config.write_text(f"def get_config():\n    return {tiny(*overrides).to_dict()!r}\n")
        environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
        for index in range(count):
            log = (tmp_path / f"{folder.name}-{index}.log").open("w+")
            command = [sys.executable, script, "train", "--config", config, "--workdir", folder]
            command += ["--coordinator", place, "--processes", str(count), "--process", str(index)]
            started.append((subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment), log))
        return started[-count:]

    yield begin
    for process, log in started:
        process.kill()
        process.wait()
        log.close()


def told(log):
    log.flush()
    with open(log.name) as file:
        return file.read()


def wait_until(done, processes):
    deadline = time.monotonic() + PATIENCE
    while not done():
        logs = "\n".join(told(log) for _, log in processes)
        assert time.monotonic() < deadline, logs
        assert all(process.poll() in (None, 0) for process, _ in processes), logs
        time.sleep(0.05)


def test_sigterm_of_one_stops_both_and_one_process_goes_on(several, tiny, tmp_path):
    both = several(tmp_path / "run")
    wait_until(lambda: "step 2\n" in told(both[1][1]), both)
    both[1][0].send_signal(signal.SIGTERM)
    wait_until(lambda: all(process.poll() == 0 for process, _ in both), both)
    reached = {int(re.search(r"stopped at step (\d+) of 8 and saved", told(log))[1]) for _, log in both}
    assert len(reached) == 1
    assert 2 <= reached.pop() < 8

    alone = tiny("mesh.data=-1")
    assert train(alone, tmp_path / "run", quiet=True) == 8  # eight devices, one process
    assert train(alone, tmp_path / "alone", quiet=True) == 8
    one, other = (final_state(alone, tmp_path / name) for name in ("run", "alone"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-2), one.params, other.params)
    lines = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("run", "alone")
    ]
    assert [line["step"] for line in lines[0]] == [line["step"] for line in lines[1]]
    losses = [[line["train/loss"] for line in some if "train/loss" in line] for some in lines]
    np.testing.assert_allclose(*losses, rtol=2e-3)


def test_four_train_what_one_does(several, tiny, tmp_path):
    """On a mesh whose every axis crosses from process to process or lies within one."""
    mesh = ("mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2", "run.steps=4")
    four = several(tmp_path / "run", *mesh, count=4)
    wait_until(lambda: all(process.poll() == 0 for process, _ in four), four)
    alone = tiny(*mesh)
    assert train(alone, tmp_path / "alone", quiet=True) == 4
    one, other = (final_state(alone, tmp_path / name) for name in ("run", "alone"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-2), one.params, other.params)


POISON = """
import numpy as np
from mofm.batches.stream import Stream
make = Stream._train_batch
def spoilt(self, step, stop):
    batch = make(self, step, stop)
    if step != 5 or self._host != 1:
        return batch
    return batch._replace(rna=batch.rna._replace(values_BL=batch.rna.values_BL * np.float32("nan")))
Stream._train_batch = spoilt
"""


def test_both_go_back_from_what_one_of_them_read(several, tmp_path):
    both = several(tmp_path / "run", "run.rollbacks=1", more=POISON)
    wait_until(lambda: all(process.poll() == 0 for process, _ in both), both)
    (row,) = json.loads((tmp_path / "run" / "rollbacks.json").read_text())
    assert (row["step"], row["to"], row["offset"]) == (6, 4, 2)
    steps = [
        [line for line in told(log).splitlines() if line.startswith("step ") and "/" not in line] for _, log in both
    ]
    assert steps[0] == steps[1] == [f"step {step}" for step in (1, 2, 3, 4, 5, 5, 6, 7, 8)]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "train/loss" in line] == list(range(1, 9))


def test_a_process_that_is_killed_ends_the_other(several, tmp_path):
    both = several(tmp_path / "run")
    wait_until(lambda: "step 2\n" in told(both[0][1]), both)
    both[1][0].kill()
    ends = {4: "mofm train: another process of the run was lost", -signal.SIGABRT: "indicates that another task died"}
    # Ended by the collective that fails, or by JAX where heartbeats stop before one does.
    code = both[0][0].wait(timeout=PATIENCE)
    assert ends[code] in told(both[0][1])
