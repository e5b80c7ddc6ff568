"""Every second of a run is charged once, to the innermost span, and what had to be done again is told as lost."""

import json

import pytest
from runs import killed_after

from mofm.training.goodput import (
    COMPILE,
    DATA,
    EVALUATE,
    LOST,
    OTHER,
    SAVE,
    SPANS,
    START,
    STEP,
    Goodput,
    seconds_before,
)
from mofm.training.loop import train


class Hands:
    """A clock that goes when it is told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def spend(self, seconds):
        self.now += seconds


@pytest.fixture
def hands():
    return Hands()


@pytest.fixture
def clock(hands):
    return Goodput(hands)


def spent(clock):
    return {name: seconds for name, seconds in clock.seconds().items() if seconds}


def test_the_innermost_span_is_charged(clock, hands):
    hands.spend(5)
    with clock.span(OTHER):
        hands.spend(1)
        with clock.span(EVALUATE):
            hands.spend(2)
            with clock.span(COMPILE):
                hands.spend(8)
            hands.spend(2)
        hands.spend(1)
    assert spent(clock) == {START: 5, OTHER: 2, EVALUATE: 4, COMPILE: 8}


def test_a_span_that_ends_in_an_error_ends(clock, hands):
    def fail():
        with clock.span(STEP):
            hands.spend(3)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    hands.spend(1)
    assert spent(clock) == {STEP: 3, START: 1}


def test_waiting_for_batches_is_not_working_on_them(clock, hands):
    def batches():
        for number in range(3):
            hands.spend(2)
            yield number

    with clock.span(OTHER):
        for _ in clock.waiting(batches()):
            hands.spend(10)
    assert spent(clock) == {DATA: 6, OTHER: 30}


def test_the_first_call_of_a_program_compiles(clock, hands):
    program = clock.compiling(lambda seconds: hands.spend(seconds) or seconds)
    with clock.span(STEP):
        assert [program(60), program(1), program(1)] == [60, 1, 1]
    assert spent(clock) == {COMPILE: 60, STEP: 2}


def test_steps_that_are_done_again_are_lost(clock, hands):
    with clock.span(STEP):
        clock.mark(0)
        hands.spend(4)
        clock.mark(10)
        hands.spend(3)
        with clock.span(DATA):
            hands.spend(2)
        with clock.span(SAVE):
            hands.spend(1)
        clock.went_back(10)
        assert spent(clock) == {STEP: 4, SAVE: 1, LOST: 5}
        hands.spend(1)
        clock.went_back(10)
        assert spent(clock) == {STEP: 4, SAVE: 1, LOST: 6}
        clock.went_back(0)
        assert spent(clock) == {SAVE: 1, LOST: 10}
    assert clock.figures()["time/goodput"] == 0


def test_going_back_behind_where_the_process_began_loses_all_that_it_did(clock, hands):
    clock.mark(5)
    with clock.span(STEP):
        hands.spend(4)
    clock.went_back(4)
    assert spent(clock) == {LOST: 4}


def test_the_line_at_the_end(clock, hands):
    for name, seconds in ((STEP, 7000), (DATA, 2000), (COMPILE, 1000), (SAVE, 1)):
        with clock.span(name):
            hands.spend(seconds)
    assert clock.summary() == "goodput 70% of 2.8 h: 20% waiting for data, 10% compiling"


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def timed(folder):
    return [line for line in lines(folder) if "time/step" in line]


def test_a_run_tells_where_its_time_went_and_takes_it_up(tiny, tmp_path, capsys):
    config, folder = tiny("run.steps=8"), tmp_path / "run"
    train(config, folder)
    assert "goodput " in capsys.readouterr().err.splitlines()[-1]
    told = timed(folder)
    assert [line["step"] for line in told] == list(range(1, 9))
    for line in told:
        assert {key for key in line if key.startswith("time/")} == {f"time/{name}" for name in (*SPANS, "goodput")}
        assert all(line[f"time/{name}"] >= 0 for name in SPANS)
        total = sum(line[f"time/{name}"] for name in SPANS)
        assert line["time/goodput"] == pytest.approx(line["time/step"] / total)
    assert told[0]["time/start"] == told[-1]["time/start"] > 0
    assert told[-1]["time/step"] > told[0]["time/step"]
    assert told[-1]["time/evaluate"] > 0

    path = folder / "metrics.jsonl"
    at_4, last = (sum(told[step - 1][f"time/{name}"] for name in SPANS) for step in (4, 8))
    before = seconds_before(path, 4)
    assert before == {name: told[3][f"time/{name}"] for name in SPANS} | {LOST: pytest.approx(last - at_4)}
    assert seconds_before(path, 8)[LOST] == 0
    assert seconds_before(path, 0) == {LOST: pytest.approx(last)}  # it begins anew
    assert seconds_before(tmp_path / "none.jsonl", 0) == {}


def test_a_run_that_goes_on_counts_on(tiny, tmp_path):
    config, folder = tiny("run.steps=8"), tmp_path / "run"
    with killed_after(6):
        train(config, folder, quiet=True)
    killed = timed(folder)[-1]
    train(config, folder, quiet=True)
    told = timed(folder)
    assert [line["step"] for line in told] == list(range(1, 9))
    assert told[3]["time/lost"] == 0 < told[4]["time/lost"]
    assert sum(told[4][f"time/{name}"] for name in SPANS) > sum(killed[f"time/{name}"] for name in SPANS)


def test_a_line_cut_short_and_an_older_run_are_no_hindrance(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2, "train/loss": 1.0}\n')
    assert seconds_before(path, 2) == {}
    path.write_text('{"step": 2, "time/step": 3.0, "time/data": 1.0}\n{"step": 4, "time/st')
    assert seconds_before(path, 2) == {STEP: 3.0, DATA: 1.0, LOST: 0.0}
