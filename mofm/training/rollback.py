"""Going back from a bad step: what counts as one, where a run goes back to, and which batches it then leaves out.

A step is bad where its loss or gradient is not finite, or where its loss is a spike. The run goes back to its newest
checkpoint at a multiple of `run.checkpoint_every`, or to its start, and goes on there with the batch after the bad one: the
batches from the checkpoint to the bad step, that one with them, are not served again. All else is as ever; a step has its own
random key and learning rate whatever batch it sees.

So the position in the data is the step and an offset, and which offset holds from which step on is kept in
workdir/rollbacks.json: a run that is stopped after it went back, or killed while it did, ends with the bits of one that was
not. For the same end checkpoints that a stop left between are no place to go back to, and the losses that a spike is measured
by lie in the checkpoints.
"""

import dataclasses
import itertools
import json
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mofm.batch import CellBatch
from mofm.batches.stream import Stream
from mofm.errors import InputError
from mofm.files import written_whole

FILE = "rollbacks.json"
WINDOW = 128
"""Losses of good steps that a spike is measured by: the last so many."""
LEAST = 32
"""As long as there are fewer, nothing is a spike."""
DEVIATION = 1.4826
"""Of a normal distribution, over its median absolute deviation."""
NAMED = 8
"""Cells of a bad step that are named."""
FLOOR = 1e-3
"""The least that counts as a deviation, as a share of the median: losses that hardly vary make no spike of a trifle."""


@dataclass(frozen=True)
class Rollback:
    """One time that a run went back.

    Attributes:
      step: the bad step.
      to: step of the state that it went back to.
      offset: step s > `to` sees batch s - 1 + offset of the stream, until a later rollback says otherwise.
      reason: such as "loss is nan".
      cells: how some of the bad step's cells are called, of those of the first process.
    """

    step: int
    to: int
    offset: int
    reason: str
    cells: tuple[str, ...] = ()


class Rollbacks:
    """Those of one run, in the order in which they happened.

    Raises:
      InputError: rollbacks.json cannot be read.
    """

    def __init__(self, workdir: Path):
        self._path = workdir / FILE
        try:
            rows = json.loads(self._path.read_text(encoding="utf-8")) if self._path.exists() else []
            self._rows = [Rollback(**row | {"cells": tuple(row["cells"])}) for row in rows]
        except (json.JSONDecodeError, TypeError, KeyError) as error:
            raise InputError(
                f"{self._path} cannot be read ({error}), and holds which batches the run left out: restore it from a copy, or "
                "begin anew in another --workdir"
            ) from error

    def __len__(self) -> int:
        return len(self._rows)

    def offset(self, step: int) -> int:
        """How many batches before that of this step (1, 2, ...) were left out."""
        return next((row.offset for row in reversed(self._rows) if row.to < step), 0)

    def before(self, step: int) -> int:
        """How often the run went back to a state before this step."""
        return sum(row.to < step for row in self._rows)

    def went_back(self, step: int, to: int, reason: str, cells: Iterable[str]) -> Rollback:
        """From bad `step` to the state of step `to`: this is remembered, and written by `save`."""
        row = Rollback(step, to, self.offset(step) + step - to, reason, tuple(cells))
        self._rows.append(row)
        return row

    def save(self) -> None:
        """Write the file, atomically."""
        with written_whole(self._path) as temporary:
            rows = [dataclasses.asdict(row) for row in self._rows]
            temporary.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")

    def batches(self, stream: Stream, start: int, stop: int) -> Iterator[CellBatch]:
        """The batches of the steps after `start` up to `stop`."""
        turns = [start, *sorted({row.to for row in self._rows if start < row.to < stop}), stop]
        for first, last in itertools.pairwise(turns):
            offset = self.offset(first + 1)
            yield from stream.batches(first + offset, last + offset)


class RecentLosses:
    """The losses of the last good steps, and whether another is a spike above them.

    Args:
      factor: so many robust standard deviations (of the median absolute deviation) above their median; 0: nothing is one.
      losses: what a checkpoint kept of them.
    """

    def __init__(self, factor: float, losses: Iterable[float] = ()):
        self._factor, self._losses = factor, deque(losses, WINDOW)

    def spike(self, loss: float) -> str | None:
        """What there is to say of a loss that is a spike; None of one that is not."""
        if not self._factor or len(self._losses) < LEAST:
            return None
        median = float(np.median(self._losses))
        deviation = DEVIATION * float(np.median(np.abs(np.asarray(self._losses) - median)))
        above = (loss - median) / max(deviation, FLOOR * abs(median), np.finfo(np.float32).tiny)
        if above <= self._factor:
            return None
        return (
            f"loss is {loss:.6g}, {above:.1f} deviations above the median {median:.6g} of the last {len(self._losses)}"
        )

    def add(self, loss: float) -> None:
        """The loss of a good step."""
        self._losses.append(loss)

    def kept(self) -> list[float] | None:
        """What a checkpoint keeps of them; None where nothing is a spike."""
        return list(self._losses) if self._factor else None


class BadStep(Exception):
    """A step that the run must not go on from."""

    def __init__(self, step: int, batch: CellBatch, reason: str):
        super().__init__(reason)
        self.step, self.reason = step, reason
        self.cells = np.unique(np.concatenate([view.cell_B for view in batch if view is not None]))  # this host's

    def some_cells(self, stream: Stream) -> list[str]:
        """What the corpus calls the first `NAMED` of its cells."""
        return stream.cell_names(self.cells[:NAMED])

    def in_words(self, stream: Stream) -> str:
        """What happened, when, and on which cells."""
        named = ", ".join(self.some_cells(stream)) + (", ..." if len(self.cells) > NAMED else "")
        return f"{self.reason} at step {self.step}, on {len(self.cells)} cells ({named})"

    def last_words(self, stream: Stream, good: int | None, rollbacks: int) -> str:
        """The same where the run ends at it, its last checkpoint being of step `good`, and what to do."""
        kept = "no checkpoint was saved before" if good is None else f"the last good checkpoint is step {good}"
        kept += f", and the run went back {rollbacks} times before" if rollbacks else ""
        return (
            f"{self.in_words(stream)}; {kept}. Lower optimizer.learning_rate or optimizer.clip_norm, look at these cells with "
            "`mofm inspect`, or let the run leave such batches out with a higher run.rollbacks"
        )


def way_back(saved: list[int], every: int) -> int:
    """The step to go back to, of those that are saved: the newest at a multiple of `every`; 0 is the start of the run."""
    regular = [step for step in saved if step % every == 0]
    if regular:
        return max(regular)
    return max(saved, default=0) if max(saved, default=0) > every else 0  # a run that now may go back has let them go
