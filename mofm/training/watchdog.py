"""Ends a run that hangs: a collective that waits for a device that is gone, a file server that no longer answers.

A thread looks whether steps still end. Where none did for `run.watchdog_minutes`, it writes the stacks of all threads of the
process to WORKDIR/hang-HOST-PROCESS.txt and ends the process with code `HUNG`, so that whoever started it can start it again:
the run goes on from its last checkpoint. Each process of a run watches itself.

It watches the loop, not what comes before the first step. What compiles is given `COMPILE_MINUTES`, or four times the limit
where that is more: a large program takes its time, and nothing ends meanwhile. An evaluation, or waiting for a checkpoint,
counts as one step: the limit must be more than either takes.
A thread that holds the interpreter's lock and never lets go stops the watchdog too; waiting for devices, files and other
processes does not hold it.
"""

import faulthandler
import os
import sys
import threading
import time
from pathlib import Path

from mofm.training.goodput import COMPILE, Goodput

HUNG = 5
"""Exit code of a process that hung."""
COMPILE_MINUTES = 60.0
LOOK_S = 5.0
"""The most between two looks."""


class Patience:
    """How long nothing may happen, in seconds.

    Only time that was looked at counts, at most `look_s` at each look: a process that was itself stopped (SIGSTOP, a
    debugger, a laptop's lid) has not waited.
    """

    def __init__(self, limit_s: float, compile_limit_s: float, look_s: float):
        self._limits, self._look_s = {False: limit_s, True: compile_limit_s}, look_s
        self.begin()

    def begin(self) -> None:
        """Something happened."""
        self._waited = {False: 0.0, True: 0.0}

    def has_ended(self, passed_s: float, compiling: bool) -> bool:
        """Whether, with what passed since the last look, it is over."""
        self._waited[compiling] += min(passed_s, self._look_s)
        return self._waited[compiling] > self._limits[compiling]


class Watchdog:
    """Use as a context manager around the loop; it does nothing where `minutes` is 0.

    Args:
      minutes: in which a step must end.
      workdir: where stacks are written.
      clock: knows what the run is at.
      process: number of this one. The first ends a little after the others, which hear of its end.
    """

    def __init__(self, minutes: float, workdir: Path, clock: Goodput, process: int = 0):
        self._minutes, self._clock = minutes, clock
        self._path = workdir / f"hang-{os.uname().nodename}-{process}.txt"
        self._look_s = min(LOOK_S, minutes * 60 / 10)
        more = 2 * LOOK_S if process == 0 else 0.0
        compile_minutes = max(COMPILE_MINUTES, 4 * minutes)
        self._patience = Patience(minutes * 60 + more, compile_minutes * 60 + more, 2 * self._look_s)
        self._over, self._step = threading.Event(), 0

    def __enter__(self) -> "Watchdog":
        if self._minutes:
            threading.Thread(target=self._watch, name="mofm-watchdog", daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()

    def reached(self, step: int) -> None:
        """A step ended, or what follows it: an evaluation, a checkpoint."""
        self._step = step
        self._patience.begin()

    def _watch(self) -> None:
        then = time.monotonic()
        while not self._over.wait(self._look_s):
            now = time.monotonic()
            if self._patience.has_ended(now - then, self._clock.name == COMPILE):
                self._end()
            then = now

    def _end(self) -> None:
        said = (
            f"no step ended for {self._minutes:g} minutes after step {self._step} (the run was at: {self._clock.name}); ending "
            f"with code {HUNG}; the same command goes on from the last checkpoint"
        )
        try:
            with self._path.open("w", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S %z')} {said}\n\n")
                file.flush()
                faulthandler.dump_traceback(file)
            said += f"; the stacks of all threads are in {self._path}"
        except OSError:  # the file server that hangs may be this one's
            faulthandler.dump_traceback(sys.__stderr__)
        print(f"mofm train: {said}", file=sys.__stderr__, flush=True)
        os._exit(HUNG)
