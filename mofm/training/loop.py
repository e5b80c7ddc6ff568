"""The run: prepared (`prepare.py`), begun or taken up, then step after step, until the end or until asked to stop.

The loop is one step ahead of what it reads: the metrics of step N are fetched after step N + 1 was dispatched, so the
device never waits for the host to look. The position in the data is the step, and where the run went back from a bad one
what is written of it (see `rollback.py`), so a resumed run sees exactly the batches that an unbroken one would, and ends with
the same bits.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np

from mofm.batch import CellBatch
from mofm.errors import InputError
from mofm.parallel.mesh import keep_programs, one_at_a_time
from mofm.parallel.place import place_batch
from mofm.parallel.processes import all_asked_to_stop, is_first, wait_for_all
from mofm.training.checkpoint import Checkpoints
from mofm.training.config import Config
from mofm.training.goodput import EVALUATE, OTHER, SAVE, STEP, Goodput, seconds_before
from mofm.training.heldout import pooled
from mofm.training.metrics import MetricsWriter, Silent
from mofm.training.optimizer import make_schedule
from mofm.training.origin import Origin
from mofm.training.patience import deciding, is_spent, read_losses
from mofm.training.prepare import Prepared, prepare
from mofm.training.progress import TrainingProgress
from mofm.training.rollback import BadStep, RecentLosses, Rollbacks, way_back
from mofm.training.state import TrainState
from mofm.training.step import eval_links, eval_step, train_step
from mofm.training.stop import stop_asked
from mofm.training.tuning import KnownHeads
from mofm.training.watchdog import Watchdog

_TRAIN = jax.jit(train_step, static_argnums=0, donate_argnums=2)  # here, so that a process compiles a recipe once
_EVALUATE = jax.jit(eval_step, static_argnums=0)
_EVALUATE_LINKS = jax.jit(eval_links, static_argnums=0)

_log = logging.getLogger("mofm")
T = TypeVar("T")


class DivergedError(Exception):
    """The loss is not finite, or a spike. Says at which step, on which cells, and where the last good checkpoint is."""


def train(
    config: Config,
    workdir: Path,
    *,
    quiet: bool = False,
    origin: Origin | None = None,
    frozen: bool = False,
    heads: Callable[[], KnownHeads] | None = None,
    batch_axes: Callable[[], np.ndarray] | None = None,
) -> int:
    """Train, or go on training, in `workdir`. Returns the step reached: less than run.steps if asked to stop, or where
    `run.patience` was spent.

    SIGTERM and Ctrl-C finish the step under way, save, and return.

    Args:
      origin: a pretrained model to begin from (see `adopt.py`); None begins from the simple models alone.
      frozen: no step is taken; what begins from a model is kept as its step 0.
      heads: of a run whose labels move the encoder, fits the heads of labels that it begins from.
      batch_axes: finds the directions of the model's embedding that the run begins without, axes_RE (see `adopt.py`).

    Raises:
      InputError: the corpus, the mesh or the workdir cannot be used; nothing was written.
      DivergedError: the loss became NaN or infinite, or a spike, more often than the run may go back.
    """
    clock = Goodput()
    ready = prepare(config, workdir, origin, heads, batch_axes)
    keep_programs(workdir / "programs")
    quiet = quiet or not is_first()
    if ready.notes and not quiet:
        print(*ready.notes, sep="\n", file=sys.stderr)
    with jax.set_mesh(ready.mesh), stop_asked() as stop:
        run = _Run(config, workdir, ready, clock, quiet=quiet, frozen=frozen, keep_start=origin is not None)
        with run.progress, run.watchdog:
            try:
                reached = run.go(stop)
            finally:
                with clock.span(SAVE):
                    run.checkpoints.close()
                run.metrics.close()
                if lost := ready.stream.n_lost:
                    _log.warning("%s: %s rows are damaged and were left out", config.data.corpus, f"{lost:,}")
    if not quiet and reached > run.start:
        print(clock.summary(), file=sys.stderr)
    return reached


class _Run:
    """The parts of one run while it goes, and the loop over them; begins where its directory says that it stopped."""

    def __init__(
        self,
        config: Config,
        workdir: Path,
        ready: Prepared,
        clock: Goodput,
        *,
        quiet: bool,
        frozen: bool,
        keep_start: bool,
    ):
        self.config, self.batch_size, self.ready, self.clock = config.run, config.data.batch_size, ready, clock
        self.stream, self.damaged = ready.stream, workdir / "damaged"
        self.frozen, self.keep_start = frozen, keep_start
        self.schedule = make_schedule(config.optimizer, config.run.steps)
        recipe, known = ready.recipe, ready.known
        of_heldout = replace(recipe, pairs=ready.stream.heldout_pairs)
        self.step_fn = self.program(partial(_TRAIN, recipe, known))
        self.eval_fn = self.program(partial(_EVALUATE, of_heldout, ready.models.null, known))
        self.link_fn = ready.links and self.program(partial(_EVALUATE_LINKS, recipe, known, ready.links))
        self.objectives = config.objectives

        to_go_back = config.run.checkpoint_every if config.run.rollbacks else None
        self.checkpoints = Checkpoints(
            workdir / "checkpoints", config.run.keep_latest, config.run.keep_best, to_go_back
        )
        self.rollbacks = Rollbacks(workdir)
        self.state, self.start = self.begin()
        self.deciding = deciding(config.objectives)
        self.losses = read_losses(workdir, self.start if self.start else -1, self.deciding)
        if is_first():
            clock.take_up(seconds_before(workdir / "metrics.jsonl", self.start))
        self.metrics = MetricsWriter(workdir, self.start) if is_first() else Silent()
        self.progress = TrainingProgress(self.start, config.run.steps, config.data.batch_size, quiet)
        self.watchdog = Watchdog(config.run.watchdog_minutes, workdir, clock, jax.process_index())
        self.heldout_batches: list[CellBatch] | None = None
        self.last_log = (time.perf_counter(), None)

    def program(self, compiled: Callable[..., T]) -> Callable[..., T]:
        return self.clock.compiling(one_at_a_time(compiled, self.ready.mesh))

    def begin(self) -> tuple[TrainState, int]:
        """The newest state that is saved, or that of step 0, and its step."""
        if self.checkpoints.latest is None:
            return self.ready.fresh(), 0
        return self.checkpoints.restore_newest(self.ready.shape(), self.damaged)

    def go(self, stop: list[int]) -> int:
        """To the end, or until asked to stop. Returns the step reached."""
        state, start = self.state, self.start
        del self.state  # its memory is a step's to reuse
        with self.clock.span(OTHER):
            if start == 0:
                loss = self.evaluate(state, 0)
                if self.keep_start:  # of a model that was trained before, step 0 may stay the best
                    self.checkpoints.save(0, state, loss)
            if self.frozen or is_spent(self.losses, self.config.patience):
                return start
            while True:
                try:
                    return self.go_on(state, start, stop)
                except BadStep as error:
                    bad = error.with_traceback(None)  # which would keep the state of the bad step in memory
                state, start = self.go_back(bad)

    def go_on(self, state: TrainState, start: int, stop: list[int]) -> int:
        with closing(self.rollbacks.batches(self.stream, start, self.config.steps)) as batches:
            return self.steps(state, start, batches, stop)

    def steps(self, state: TrainState, start: int, batches: Iterator[CellBatch], stop: list[int]) -> int:
        pending: tuple[int, CellBatch, dict[str, jax.Array]] | None = None
        step = start
        self.recent = RecentLosses(self.config.spike_factor, self.losses_before(start))
        self.clock.mark(start)
        self.watchdog.reached(start)
        self.last_log = (time.perf_counter(), start)
        for step, batch in enumerate(self.clock.waiting(batches), start + 1):
            with self.clock.span(STEP):
                state, values = self.step_fn(state, place_batch(batch, self.ready.mesh))
            if pending:
                self.report(*pending)
            pending = (step, batch, values)
            stopping = bool(stop) or all_asked_to_stop(step)
            if stopping or self.is_due(step):
                self.report(*pending)  # a state is saved or evaluated only after its loss was seen to be finite
                pending = None
                self.keep(state, step)
            if stopping or is_spent(self.losses, self.config.patience):
                break
        return step

    def losses_before(self, start: int) -> list[float]:
        return self.checkpoints.losses(start) if start and self.config.spike_factor else []

    def go_back(self, bad: BadStep) -> tuple[TrainState, int]:
        """The state and the step to go on from; DivergedError where the run may not go back (again)."""
        if len(self.rollbacks) >= self.config.rollbacks:
            raise DivergedError(bad.last_words(self.stream, self.checkpoints.latest, len(self.rollbacks)))
        to = way_back(self.checkpoints.steps, self.config.checkpoint_every)
        wait_for_all(f"back from step {bad.step} to {to}")  # fails where processes do not agree on it
        self.checkpoints.forget_after(to)
        state, to = self.begin()
        self.losses = {step: loss for step, loss in self.losses.items() if step <= to}
        self.rollbacks.went_back(bad.step, to, bad.reason, bad.some_cells(self.stream))
        if is_first():
            self.rollbacks.save()
            self.metrics.went_back(to)
        self.progress.went_back(to)
        self.clock.went_back(to)
        count = f"rollback {len(self.rollbacks)} of {self.config.rollbacks}"
        _log.warning("%s; back to step %s, leaving out its batches (%s)", bad.in_words(self.stream), to, count)
        return state, to

    def is_due(self, step: int) -> bool:
        evaluate = self.config.eval_every and step % self.config.eval_every == 0
        return bool(evaluate) or step % self.config.checkpoint_every == 0 or step == self.config.steps

    def keep(self, state: TrainState, step: int) -> None:
        """Evaluate and save, as the step asks."""
        heldout_loss = None
        if self.config.eval_every and (step % self.config.eval_every == 0 or step == self.config.steps):
            heldout_loss = self.evaluate(state, step)
        with self.clock.span(SAVE):
            self.checkpoints.save(step, state, heldout_loss, self.recent.kept())
        self.clock.mark(step)
        self.watchdog.reached(step)

    def report(self, step: int, batch: CellBatch, values: dict[str, jax.Array]) -> None:
        """Look at a step's metrics: BadStep if the run must not go on from it, else log them if it is time."""
        with self.clock.span(STEP):
            loss, norm = float(values["loss"]), float(values["gradient_norm"])  # blocks until the step is done
        self.watchdog.reached(step)
        if not np.isfinite(loss) or not np.isfinite(norm):
            raise BadStep(step, batch, f"loss is {loss}" if not np.isfinite(loss) else f"gradient is {norm}")
        if spike := self.recent.spike(loss):
            raise BadStep(step, batch, spike)
        self.recent.add(loss)
        self.progress.step(step, loss)
        if step % self.config.log_every == 0 or step == self.config.steps:
            now, (then, last_step) = time.perf_counter(), self.last_log
            self.last_log = (now, step)
            rate = (step - last_step) * self.batch_size / max(now - then, 1e-9)
            training = {f"train/{name}": float(value) for name, value in values.items()}
            training |= {"learning_rate": float(self.schedule(step - 1)), "cells_per_s": rate}
            training |= {"lost_rows": lost} if (lost := self.stream.n_lost) else {}
            if went_back := self.rollbacks.before(step):
                training |= {"rollbacks": went_back, "left_out_batches": self.rollbacks.offset(step)}
            self.metrics.write(step, training | self.clock.figures())

    def evaluate(self, state: TrainState, step: int) -> float | None:
        """The held-out figure that decides, over the same cells and hidden tokens each time; None without held-out cells."""
        if not self.config.eval_every or not self.config.eval_cells or not self.stream.n_heldout_cells:
            return None
        with self.clock.span(EVALUATE):
            return self._evaluate(state, step)

    def _evaluate(self, state: TrainState, step: int) -> float:
        if self.heldout_batches is None:
            self.heldout_batches = list(self.stream.heldout_batches(self.config.eval_cells))
        heads = {} if state.tuning is None else state.tuning.heads
        rows = [
            self.eval_fn(state.params, place_batch(batch, self.ready.mesh), np.int32(index), heads)
            for index, batch in enumerate(self.heldout_batches)
        ]
        means = pooled(self.objectives, jax.device_get(rows))
        if self.link_fn:
            links = {name: float(value) for name, value in jax.device_get(self.link_fn(state.params)).items()}
            means |= links | {"loss": means["loss"] + self.objectives.link_weight * links["link_nll"]}
        figures = {f"heldout/{name}": value for name, value in means.items()}
        self.metrics.write(step, figures)
        decides = figures.get(self.deciding)
        if decides is None:
            raise InputError(
                f"run.eval_cells={self.config.eval_cells}: none of these held-out cells has a label, and the best step is "
                "chosen by theirs; raise it"
            )
        self.progress.evaluated(decides)
        self.losses[step] = decides
        return decides
