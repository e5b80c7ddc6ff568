"""A run in which nothing ends any more is ended, and tells where every thread was; one that goes on is left alone."""

import json
import subprocess
import sys
import textwrap
import threading

import pytest
from runs import final_state

from mofm.errors import InputError
from mofm.training.loop import train
from mofm.training.watchdog import HUNG, Patience


def test_patience_ends_where_nothing_happens():
    patience = Patience(limit_s=10, compile_limit_s=100, look_s=4)
    assert [patience.has_ended(4, False) for _ in range(3)] == [False, False, True]
    patience.begin()
    assert not patience.has_ended(4, False)


def test_what_compiles_has_patience_of_its_own():
    patience = Patience(limit_s=10, compile_limit_s=100, look_s=4)
    assert not any(patience.has_ended(4, True) for _ in range(25))
    assert not patience.has_ended(4, False)  # compiling took nothing of the limit
    assert patience.has_ended(4, True)


def test_a_process_that_was_stopped_has_not_waited():
    patience = Patience(limit_s=10, compile_limit_s=100, look_s=4)
    assert not patience.has_ended(9_999, False)


HANGS = """
import json, sys, time
from mofm.cli import main
from mofm.training import loop
place, placed = loop.place_batch, []
def stuck(batch, mesh):
    placed.append(1)
    while len(placed) > 6:
        time.sleep(1)
    return place(batch, mesh)
loop.place_batch = stuck
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_run_that_hangs_ends_with_its_stacks_and_goes_on_when_it_is_started_again(tiny, tmp_path):
    config = tiny("run.eval_every=0", "run.watchdog_minutes=0.4")
    script, given = tmp_path / "train.py", tmp_path / "config.py"
    script.write_text(textwrap.dedent(HANGS))
    given.write_text(f"def get_config():\n    return {config.to_dict()!r}\n")
    command = [sys.executable, script, "train", "--config", given, "--workdir", tmp_path / "run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == HUNG == 5, done.stderr
    said = done.stderr.splitlines()[-1]
    assert said.startswith(
        "mofm train: no step ended for 0.4 minutes after step 5 (the run was at: step); ending with code 5"
    )
    (path,) = (tmp_path / "run").glob("hang-*-0.txt")
    assert said.endswith(str(path))
    stacks = path.read_text()
    assert "in stuck" in stacks
    assert stacks.count("Thread 0x") > 1
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 5

    config = tiny("run.eval_every=0")  # without a watchdog, too
    assert train(config, tmp_path / "run", quiet=True) == 8  # from the checkpoint of step 4
    assert int(final_state(config, tmp_path / "run").step) == 8


def test_a_run_that_goes_on_is_left_alone(tiny, tmp_path):
    config = tiny("run.steps=4", "run.watchdog_minutes=30")
    assert config.science() == tiny("run.steps=4").science()
    assert train(config, tmp_path / "run", quiet=True) == 4
    assert not list((tmp_path / "run").glob("hang-*"))
    for thread in threading.enumerate():
        if thread.name == "mofm-watchdog":
            thread.join(60)
            assert not thread.is_alive()


def test_a_wrong_limit_is_refused(tiny):
    with pytest.raises(InputError, match=r"run.watchdog_minutes=-1"):
        tiny("run.watchdog_minutes=-1")
