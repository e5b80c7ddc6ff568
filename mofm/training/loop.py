"""The run, told in order: corpus, mesh, state, restore; then step after step, until the end or until asked to stop.

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
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mofm.batch import CellBatch, LinkQuestions
from mofm.batches.spaces import corpus_spaces
from mofm.batches.stream import Stream
from mofm.corpus.cache import ShardCache
from mofm.corpus.contents import read_gene_table_of
from mofm.corpus.store import open_corpus
from mofm.errors import InputError
from mofm.parallel.mesh import check_batch, check_views, make_mesh, one_at_a_time
from mofm.parallel.place import place_batch, place_graph
from mofm.parallel.processes import all_asked_to_stop, is_first, wait_for_all
from mofm.training import workdir as workdirs
from mofm.training.checkpoint import Checkpoints
from mofm.training.config import Config, make_spec
from mofm.training.goodput import EVALUATE, OTHER, SAVE, STEP, Goodput, seconds_before
from mofm.training.linear_translation import make_readers
from mofm.training.metrics import MetricsWriter, Silent
from mofm.training.network import read_network
from mofm.training.optimizer import make_optimizer, make_schedule
from mofm.training.progress import TrainingProgress
from mofm.training.rollback import BadStep, RecentLosses, Rollbacks, way_back
from mofm.training.start import start_models
from mofm.training.state import Start, TrainState, abstract_state, create_state, state_shardings
from mofm.training.step import Knowledge, Recipe, eval_links, eval_step, train_step
from mofm.training.stop import stop_asked
from mofm.training.watchdog import Watchdog

_TRAIN = jax.jit(train_step, static_argnums=0, donate_argnums=2)  # here, so that a process compiles a recipe once
_EVALUATE = jax.jit(eval_step, static_argnums=0)
_EVALUATE_LINKS = jax.jit(eval_links, static_argnums=0)

_log = logging.getLogger("mofm")
T = TypeVar("T")


class DivergedError(Exception):
    """The loss is not finite, or a spike. Says at which step, on which cells, and where the last good checkpoint is."""


def train(config: Config, workdir: Path, *, quiet: bool = False) -> int:
    """Train, or go on training, in `workdir`. Returns the step reached: less than run.steps if asked to stop.

    SIGTERM and Ctrl-C finish the step under way, save, and return.

    Raises:
      InputError: the corpus, the mesh or the workdir cannot be used; nothing was written.
      DivergedError: the loss became NaN or infinite, or a spike, more often than the run may go back.
    """
    clock, mesh = Goodput(), make_mesh(config.mesh)
    check_batch(mesh, config.data.batch_size, config.optimizer.accumulate)
    cache = ShardCache(config.data.cache_dir, int(config.data.cache_gb * 1e9)) if config.data.cache_dir else None
    corpus = open_corpus(config.data.corpus, damaged=config.data.damaged, cache=cache)
    stream = Stream(corpus, config.data, config.seed, host=jax.process_index(), hosts=jax.process_count())
    check_views(mesh, stream.rows, config.optimizer.accumulate)
    genes, spaces = corpus_spaces(corpus)
    network = read_network(config.network, genes, read_gene_table_of(corpus.path, corpus.manifest), config.seed)
    spec = make_spec(config, len(genes), 0 if network is None else len(network.relations), corpus.modalities)
    optimizer = make_optimizer(config.optimizer, config.run.steps)
    graph = network and place_graph(network.graph(spec.genes, config.network.edge_budget), mesh)
    state_shardings(spec, optimizer, mesh)  # a mesh that does not fit is told before anything is written
    if is_first() or (workdir / "config.json").exists():  # all refuse what is another's, one writes
        workdirs.open_workdir(workdir, config, corpus, genes, network)
    wait_for_all("the directory of the run")

    recipe = Recipe(spec, config.objectives, optimizer, config.seed, stream.pairs, mesh, config.optimizer.accumulate)
    models = _start_of(workdir, lambda: start_models(corpus, stream, config, spec, spaces))
    # Arguments, not constants: compiled into the program, the links of 200,000 regions would make it large.
    everywhere = NamedSharding(mesh, PartitionSpec())
    readers = models.linear and make_readers(corpus.modalities, models.spaces, models.components, models.profiles)
    known = jax.device_put(Knowledge(models.spaces, None, models.linear, readers), everywhere)._replace(graph=graph)
    if network and not quiet and is_first():
        print(*network.notes, sep="\n", file=sys.stderr)
    to_go_back = config.run.checkpoint_every if config.run.rollbacks else None
    checkpoints = Checkpoints(workdir / "checkpoints", config.run.keep_latest, config.run.keep_best, to_go_back)
    rollbacks = Rollbacks(workdir)

    def begin() -> tuple[TrainState, int]:
        if checkpoints.latest is None:
            return create_state(spec, optimizer, mesh, config.seed, models), 0
        return checkpoints.restore_newest(abstract_state(spec, optimizer, mesh), workdir / "damaged")

    state, start = begin()
    if is_first():
        clock.take_up(seconds_before(workdir / "metrics.jsonl", start))
    metrics = MetricsWriter(workdir, start) if is_first() else Silent()
    progress = TrainingProgress(start, config.run.steps, config.data.batch_size, quiet or not is_first())
    watchdog = Watchdog(config.run.watchdog_minutes, workdir, clock, jax.process_index())
    with jax.set_mesh(mesh), stop_asked() as stop, progress, watchdog:
        links = network and network.held_out(len(genes), config.seed)
        run = _Run(
            config,
            mesh,
            stream,
            recipe,
            known,
            models,
            links,
            checkpoints,
            rollbacks,
            metrics,
            progress,
            clock,
            watchdog,
        )
        try:
            reached = run.go(state, start, stop, begin)
        finally:
            with clock.span(SAVE):
                checkpoints.close()
            metrics.close()
            if lost := stream.n_lost:
                _log.warning("%s: %s rows are damaged and were left out", config.data.corpus, f"{lost:,}")
    if is_first() and not quiet and reached > start:
        print(clock.summary(), file=sys.stderr)
    return reached


class _Run:
    """The parts of one run while it goes, and the loop over them."""

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        stream: Stream,
        recipe: Recipe,
        known: Knowledge,
        models: Start,
        links: LinkQuestions | None,
        checkpoints: Checkpoints,
        rollbacks: Rollbacks,
        metrics: MetricsWriter | Silent,
        progress: TrainingProgress,
        clock: Goodput,
        watchdog: Watchdog,
    ):
        self.config, self.mesh, self.stream, self.clock, self.watchdog = config.run, mesh, stream, clock, watchdog
        self.checkpoints, self.rollbacks, self.metrics, self.progress = checkpoints, rollbacks, metrics, progress
        self.batch_size = config.data.batch_size
        self.schedule = make_schedule(config.optimizer, config.run.steps)
        of_heldout = replace(recipe, pairs=stream.heldout_pairs)
        self.step_fn = self.program(partial(_TRAIN, recipe, known))
        self.eval_fn = self.program(partial(_EVALUATE, of_heldout, models.null, known))
        self.link_fn = links and self.program(partial(_EVALUATE_LINKS, recipe, known, links))
        self.link_weight = config.objectives.link_weight
        self.heldout_batches: list[CellBatch] | None = None
        self.last_log = (time.perf_counter(), None)

    def program(self, compiled: Callable[..., T]) -> Callable[..., T]:
        return self.clock.compiling(one_at_a_time(compiled, self.mesh))

    def go(self, state: TrainState, start: int, stop: list[int], begin: Callable[[], tuple[TrainState, int]]) -> int:
        """To the end, or until asked to stop. `begin` gives the newest state that is saved, or that of the start."""
        with self.clock.span(OTHER):
            if start == 0:
                self.evaluate(state, 0)
            while True:
                try:
                    return self.go_on(state, start, stop)
                except BadStep as error:
                    bad = error.with_traceback(None)  # which would keep the state of the bad step in memory
                state, start = self.go_back(bad, begin)

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
                state, values = self.step_fn(state, place_batch(batch, self.mesh))
            if pending:
                self.report(*pending)
            pending = (step, batch, values)
            stopping = bool(stop) or all_asked_to_stop(step)
            if stopping or self.is_due(step):
                self.report(*pending)  # a state is saved or evaluated only after its loss was seen to be finite
                pending = None
                self.keep(state, step)
            if stopping:
                break
        return step

    def losses_before(self, start: int) -> list[float]:
        return self.checkpoints.losses(start) if start and self.config.spike_factor else []

    def go_back(self, bad: BadStep, begin: Callable[[], tuple[TrainState, int]]) -> tuple[TrainState, int]:
        """The state and the step to go on from; DivergedError where the run may not go back (again)."""
        if len(self.rollbacks) >= self.config.rollbacks:
            raise DivergedError(bad.last_words(self.stream, self.checkpoints.latest, len(self.rollbacks)))
        to = way_back(self.checkpoints.steps, self.config.checkpoint_every)
        wait_for_all(f"back from step {bad.step} to {to}")  # fails where processes do not agree on it
        self.checkpoints.forget_after(to)
        state, to = begin()
        self.rollbacks.went_back(bad.step, to, bad.reason, bad.some_cells(self.stream))
        if is_first():
            self.rollbacks.save()
            self.metrics.went_back(to)
        self.progress.went_back(to)
        self.clock.went_back(to)
        count = f"rollback {len(self.rollbacks)} of {self.config.rollbacks}"
        _log.warning("%s; back to step %s, leaving out its batches (%s)", bad.told(self.stream), to, count)
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
            self.metrics.write(step, training | self.clock.told())

    def evaluate(self, state: TrainState, step: int) -> float | None:
        """The mean held-out loss, over the same cells and hidden tokens each time; None without held-out cells."""
        if not self.config.eval_every or not self.config.eval_cells or not self.stream.n_heldout_cells:
            return None
        with self.clock.span(EVALUATE):
            return self._evaluate(state, step)

    def _evaluate(self, state: TrainState, step: int) -> float:
        if self.heldout_batches is None:
            self.heldout_batches = list(self.stream.heldout_batches(self.config.eval_cells))
        rows = [
            self.eval_fn(state.params, place_batch(batch, self.mesh), np.int32(index))
            for index, batch in enumerate(self.heldout_batches)
        ]
        means = _mean_over_tokens(jax.device_get(rows))
        if self.link_fn:
            links = {name: float(value) for name, value in jax.device_get(self.link_fn(state.params)).items()}
            means |= links | {"loss": means["loss"] + self.link_weight * links["link_nll"]}
        self.metrics.write(step, {f"heldout/{name}": value for name, value in means.items()})
        self.progress.evaluated(means["loss"])
        return means["loss"]


def _start_of(workdir: Path, fit: Callable[[], Start]) -> Start:
    """The simple models of the run, the very same to all processes and after every stop: the first fits and keeps them."""
    models = workdirs.load_start(workdir)
    if models is None and is_first():
        models = fit()
        workdirs.save_start(workdir, models)
    wait_for_all("the start of the run")
    models = models or workdirs.load_start(workdir)
    if models is None:
        raise InputError(
            f"{workdir}: not the directory that the first process of the run writes; all hosts must see one"
        )
    return models


def _mean_over_tokens(rows: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """Means of an evaluation's batches, each weighted by how many tokens it scored (a last batch may be part padding)."""
    weights = np.array([sum(float(v) for name, v in row.items() if name.endswith("/hidden")) for row in rows])
    names = [name for name in rows[0] if not name.endswith("/hidden")]
    return {name: float(np.average([row[name] for row in rows], weights=weights)) for name in names}
