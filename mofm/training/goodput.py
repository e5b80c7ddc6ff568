"""Where the wall time of a run went: a clock with named spans, written in every log line and in one line at the end.

At every moment one span is charged, the innermost: the time in them adds up to the time since `train` was called. The host
only waits, as the device is fed one step ahead: "step" is what the host spent placing a batch, dispatching its step and
being blocked until the metrics of the step before had come, not what the device computed.

A run that was stopped takes up the seconds that its last log line has. What it did after the checkpoint that it goes on
from is lost; what passed after its last line, and while no process ran, is not known.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

START, STEP, DATA, SAVE, EVALUATE, COMPILE, LOST, OTHER = SPANS = (
    "start",
    "step",
    "data",
    "save",
    "evaluate",
    "compile",
    "lost",
    "other",
)
"""start: corpus, simple models and checkpoint, before the first step. data: waiting for a batch. compile: the first call of
each program in a process. lost: what was done and had to be done again. other: the loop itself, logging."""
_SAID = {
    START: "starting",
    STEP: "in steps",
    DATA: "waiting for data",
    SAVE: "saving",
    EVALUATE: "evaluating",
    COMPILE: "compiling",
    LOST: "lost",
    OTHER: "other",
}
_PREFIX = "time/"


class Goodput:
    """The clock of one run in this process; it starts in the span "start". `name` is the span that is charged."""

    def __init__(self, now: Callable[[], float] = time.perf_counter):
        self._now = now
        self._seconds = dict.fromkeys(SPANS, 0.0)
        self.name, self._since = START, now()
        self._marks: dict[int, dict[str, float]] = {}

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Within it time is charged to `name`, or to spans within it."""
        before = self._switch(name)
        try:
            yield
        finally:
            self._switch(before)

    def waiting(self, items: Iterator[T]) -> Iterator[T]:
        """The same items; waiting for each is charged to "data"."""
        while True:
            with self.span(DATA):
                item = next(items, None)
            if item is None:
                return
            yield item

    def compiling(self, program: Callable[..., T]) -> Callable[..., T]:
        """`program`, whose first call is charged to "compile"."""
        called = False

        def call(*arguments) -> T:
            nonlocal called
            if called:
                return program(*arguments)
            with self.span(COMPILE):
                result = program(*arguments)
            called = True
            return result

        return call

    def take_up(self, before: dict[str, float]) -> None:
        """Add what earlier processes of the run spent (see `seconds_before`)."""
        for name, seconds in before.items():
            self._seconds[name] += seconds

    def mark(self, step: int) -> None:
        """Remember what had been spent when this step was reached, should the run go back to it."""
        self._marks[step] = self.seconds()

    def went_back(self, step: int) -> None:
        """What this process spent in steps and on data since it was last at `step` (or began after it) was lost."""
        known = [marked for marked in self._marks if marked <= step] or list(self._marks)[:1]
        now, then = self.seconds(), self._marks[max(known)]
        for name in (STEP, DATA):
            self._seconds[name] -= now[name] - then[name]
            self._seconds[LOST] += now[name] - then[name]
        self._marks = {marked: spent for marked, spent in self._marks.items() if marked < step}
        self.mark(step)

    def seconds(self) -> dict[str, float]:
        """Seconds in each of SPANS so far."""
        self._switch(self.name)
        return dict(self._seconds)

    def figures(self) -> dict[str, float]:
        """For a log line: "time/SPAN" in seconds since the run began, and "time/goodput", the share of steps that counted."""
        seconds = self.seconds()
        return {_PREFIX + name: value for name, value in seconds.items()} | {_PREFIX + "goodput": _share(seconds, STEP)}

    def summary(self) -> str:
        """One line, largest shares first; what is less than half a hundredth is left out."""
        seconds = self.seconds()
        shares = {name: _share(seconds, name) for name in SPANS if name != STEP}
        rest = sorted((name for name in shares if shares[name] >= 0.005), key=shares.__getitem__, reverse=True)
        parts = [f"{shares[name]:.0%} {_SAID[name]}" for name in rest]
        said = f"goodput {_share(seconds, STEP):.0%} of {_duration(sum(seconds.values()))}"
        return f"{said}: {', '.join(parts)}" if parts else said

    def _switch(self, name: str) -> str:
        now, before = self._now(), self.name
        self._seconds[before] += now - self._since
        self.name, self._since = name, now
        return before


def seconds_before(path: Path, resume_step: int) -> dict[str, float]:
    """What a run spent before it goes on at `resume_step`, of its metrics.jsonl as it is before it is cut.

    All that was spent after the last line that stays is "lost". Empty for a run that has written nothing, or is older.
    """
    kept, last = {}, {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:  # killed in the middle of it
            break
        seconds = {name: entry[_PREFIX + name] for name in SPANS if _PREFIX + name in entry}
        if seconds:
            last = seconds
            kept = seconds if 0 < entry["step"] <= resume_step else kept
    lost = max(sum(last.values()) - sum(kept.values()), 0.0)
    return kept | {LOST: kept.get(LOST, 0.0) + lost} if last else {}


def _share(seconds: dict[str, float], name: str) -> float:
    return seconds[name] / max(sum(seconds.values()), 1e-9)


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{hours:.1f} h" if hours >= 2 else f"{minutes:.0f} min" if minutes >= 2 else f"{seconds:.0f} s"
