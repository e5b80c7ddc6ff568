"""The line a person watches: a bar with the loss, cells a second and the time left."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_EVERY_S = 10.0
"""Where output is a file or a pipe, a plain line this often, instead of a bar."""


class TrainingProgress:
    """Use as a context manager around the loop."""

    def __init__(self, start: int, steps: int, batch_size: int, quiet: bool = False):
        self._console = Console(stderr=True, quiet=quiet)
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  held out {task.fields[heldout]}  {task.fields[rate]} cells/s"),
            TimeRemainingColumn(),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
        )
        self._plain = not quiet and not self._console.is_terminal
        self._task = self._bar.add_task("train", total=steps, completed=start, loss="-", heldout="-", rate="-")
        self._start, self._steps, self._batch_size = start, steps, batch_size
        self._began = self._spoke = None
        self._heldout = "-"

    def __enter__(self):
        self._bar.start()
        return self

    def __exit__(self, *_):
        self._bar.stop()

    def step(self, step: int, loss: float) -> None:
        """A step's loss is known."""
        now = time.perf_counter()
        if self._began is None:  # the first step compiled: its time says nothing of the rest
            self._began, self._spoke, self._start = now, now, step
            return
        rate = (step - self._start) * self._batch_size / max(now - self._began, 1e-9)
        self._bar.update(self._task, completed=step, loss=f"{loss:.4f}", rate=f"{rate:,.0f}")
        if self._plain and (now - self._spoke > PLAIN_EVERY_S or step == self._steps):
            self._spoke = now
            left = (self._steps - step) * self._batch_size / max(rate, 1e-9)
            line = f"step {step}/{self._steps}  loss {loss:.4f}  held out {self._heldout}"
            print(f"{line}  {rate:,.0f} cells/s  {left:,.0f} s left", file=sys.stderr, flush=True)

    def went_back(self, step: int) -> None:
        """The run goes on from an earlier step."""
        self._began = None
        self._bar.update(self._task, completed=step)

    def evaluated(self, heldout_loss: float) -> None:
        """A held-out loss is known."""
        self._heldout = f"{heldout_loss:.4f}"
        self._bar.update(self._task, heldout=self._heldout)
