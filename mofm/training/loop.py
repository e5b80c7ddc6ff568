"""The run, told in order: corpus, mesh, state, restore; then step after step, until the end or until asked to stop.

The loop is one step ahead of what it reads: the metrics of step N are fetched after step N + 1 was dispatched, so the
device never waits for the host to look. The position in the data is the step, so a resumed run sees exactly the batches
that an unbroken one would, and ends with the same bits.
"""

import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mofm.batch import CellBatch, LinkQuestions, Spaces
from mofm.batches.spaces import corpus_spaces
from mofm.batches.stream import Stream
from mofm.corpus.cache import ShardCache
from mofm.corpus.contents import read_gene_table_of
from mofm.corpus.datasets import Corpus
from mofm.corpus.store import open_corpus
from mofm.errors import InputError
from mofm.nn.model import ModelSpec
from mofm.parallel.mesh import check_batch, check_views, make_mesh, one_at_a_time
from mofm.parallel.place import place_batch, place_graph
from mofm.parallel.processes import all_asked_to_stop, is_first, wait_for_all
from mofm.training import workdir as workdirs
from mofm.training.adopt import adopt_network, adopt_start, begin_from, known_basis, rows_of
from mofm.training.checkpoint import Checkpoints
from mofm.training.config import Config, make_spec
from mofm.training.linear_translation import make_readers
from mofm.training.metrics import MetricsWriter, Silent
from mofm.training.network import RunNetwork, read_network
from mofm.training.optimizer import make_optimizer, make_schedule
from mofm.training.origin import Origin, check_corpus, told_genes
from mofm.training.patience import is_spent, read_losses
from mofm.training.progress import TrainingProgress
from mofm.training.start import start_models
from mofm.training.state import Start, TrainState, abstract_state, create_state, state_shardings
from mofm.training.step import Knowledge, Recipe, eval_links, eval_step, train_step

_TRAIN = jax.jit(train_step, static_argnums=0, donate_argnums=2)  # here, so that a process compiles a recipe once
_EVALUATE = jax.jit(eval_step, static_argnums=0)
_EVALUATE_LINKS = jax.jit(eval_links, static_argnums=0)

_log = logging.getLogger("mofm")


class DivergedError(Exception):
    """The loss is not finite. Says at which step, on which cells, and where the last good checkpoint is."""


def train(
    config: Config, workdir: Path, *, quiet: bool = False, origin: Origin | None = None, frozen: bool = False
) -> int:
    """Train, or go on training, in `workdir`. Returns the step reached: less than run.steps if asked to stop, or where
    `run.patience` was spent.

    SIGTERM and Ctrl-C finish the step under way, save, and return.

    Args:
      origin: a pretrained model to begin from (see `adopt.py`); None begins from the simple models alone.
      frozen: no step is taken; what begins from a model is kept as its step 0.

    Raises:
      InputError: the corpus, the mesh or the workdir cannot be used; nothing was written.
      DivergedError: the loss became NaN or infinite.
    """
    mesh = make_mesh(config.mesh)
    check_batch(mesh, config.data.batch_size)
    cache = ShardCache(config.data.cache_dir, int(config.data.cache_gb * 1e9)) if config.data.cache_dir else None
    corpus = open_corpus(config.data.corpus, damaged=config.data.damaged, cache=cache)
    stream = Stream(corpus, config.data, config.seed, host=jax.process_index(), hosts=jax.process_count())
    check_views(mesh, stream.rows)
    genes, spaces, network, spec, row_G, notes = _model_of(config, corpus, origin)
    optimizer = make_optimizer(config.optimizer, config.run.steps)
    graph = network and place_graph(network.graph(spec.genes, config.network.edge_budget), mesh)
    state_shardings(spec, optimizer, mesh)  # a mesh that does not fit is told before anything is written
    if config.run.patience and not stream.n_heldout_cells:
        raise InputError(f"run.patience={config.run.patience}: no cell is held out; set data.holdout_fraction above 0")
    if is_first() or (workdir / "config.json").exists():  # all refuse what is another's, one writes
        workdirs.open_workdir(workdir, config, corpus, genes, network, origin)
    wait_for_all("the directory of the run")

    recipe = Recipe(spec, config.objectives, optimizer, config.seed, stream.pairs, mesh)

    def fit() -> Start:
        if origin is None:
            return start_models(corpus, stream, config, spec, spaces)
        basis = known_basis(origin, row_G, spec.genes), origin.start.profiles
        return adopt_start(start_models(corpus, stream, config, spec, spaces, basis), origin, corpus.features, row_G)

    models = _start_of(workdir, fit)
    # Arguments, not constants: compiled into the program, the links of 200,000 regions would make it large.
    everywhere = NamedSharding(mesh, PartitionSpec())
    readers = models.linear and make_readers(corpus.modalities, models.spaces, models.components, models.profiles)
    known = jax.device_put(Knowledge(models.spaces, None, models.linear, readers), everywhere)._replace(graph=graph)
    if notes and not quiet and is_first():
        print(*notes, sep="\n", file=sys.stderr)
    checkpoints = Checkpoints(workdir / "checkpoints", config.run.keep_latest, config.run.keep_best)
    if checkpoints.latest is None:
        state, start = create_state(spec, optimizer, mesh, config.seed, models), 0
        if origin is not None:
            state = begin_from(state, origin, spec, optimizer, row_G, models.null)
    else:
        state, start = checkpoints.restore_newest(abstract_state(spec, optimizer, mesh), workdir / "damaged")

    metrics = MetricsWriter(workdir, start) if is_first() else Silent()
    progress = TrainingProgress(start, config.run.steps, config.data.batch_size, quiet or not is_first())
    with jax.set_mesh(mesh), _stop_asked() as stop, progress:
        links = network and network.held_out(len(genes), config.seed)
        run = _Run(config, mesh, stream, recipe, known, models, links, checkpoints, metrics, progress)
        run.frozen = frozen
        run.losses, run.keep_start = read_losses(workdir, start if start else -1), origin is not None
        try:
            return run.go(state, start, stop)
        finally:
            checkpoints.close()
            metrics.close()
            if lost := stream.n_lost:
                _log.warning("%s: %s rows are damaged and were left out", config.data.corpus, f"{lost:,}")


class _Model(NamedTuple):
    """What a run's model is of.

    Attributes:
      row_G: of a run that begins from a model, that model's row of each gene, or -1; else None.
      notes: what a person is told of it, a line each.
    """

    genes: pd.DataFrame
    spaces: Spaces
    network: RunNetwork | None
    spec: ModelSpec
    row_G: np.ndarray | None
    notes: tuple[str, ...]


def _model_of(config: Config, corpus: Corpus, origin: Origin | None) -> _Model:
    """The model of a config and a corpus, or the one that it begins from over the genes of both. Raises `InputError`."""
    if origin is None:
        genes, spaces = corpus_spaces(corpus)
        network = read_network(config.network, genes, read_gene_table_of(corpus.path, corpus.manifest), config.seed)
        modalities, row_G, notes = corpus.modalities, None, network.notes if network else ()
    else:
        check_corpus(origin, corpus)
        genes, spaces = corpus_spaces(corpus, origin.genes)
        row_G = rows_of(origin, genes)
        network, modalities = adopt_network(origin, row_G), origin.spec.modalities
        notes = tuple(told_genes(origin, corpus, spaces, row_G))
    spec = make_spec(config, len(genes), 0 if network is None else len(network.relations), modalities)
    return _Model(genes, spaces, network, spec, row_G, notes)


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
        metrics: MetricsWriter | Silent,
        progress: TrainingProgress,
    ):
        self.config, self.mesh, self.stream = config.run, mesh, stream
        self.checkpoints, self.metrics, self.progress = checkpoints, metrics, progress
        self.batch_size = config.data.batch_size
        self.schedule = make_schedule(config.optimizer, config.run.steps)
        of_heldout = replace(recipe, pairs=stream.heldout_pairs)
        self.step_fn = one_at_a_time(partial(_TRAIN, recipe, known), mesh)
        self.eval_fn = one_at_a_time(partial(_EVALUATE, of_heldout, models.null, known), mesh)
        self.link_fn = links and one_at_a_time(partial(_EVALUATE_LINKS, recipe, known, links), mesh)
        self.link_weight = config.objectives.link_weight
        self.heldout_batches: list[CellBatch] | None = None
        self.last_log = (time.perf_counter(), None)
        self.losses: dict[int, float] = {}
        self.keep_start = self.frozen = False

    def go(self, state: TrainState, start: int, stop: list[int]) -> int:
        pending: tuple[int, CellBatch, dict[str, jax.Array]] | None = None
        step = start
        if start == 0:
            loss = self.evaluate(state, 0)
            if self.keep_start:  # of a model that was trained before, step 0 may stay the best
                self.checkpoints.save(0, state, loss)
        self.last_log = (time.perf_counter(), start)
        if self.frozen or is_spent(self.losses, self.config.patience):
            return start
        batches = self.stream.batches(start, self.config.steps)
        for step, batch in enumerate(batches, start + 1):
            state, values = self.step_fn(state, place_batch(batch, self.mesh))
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
        batches.close()
        return step

    def is_due(self, step: int) -> bool:
        evaluate = self.config.eval_every and step % self.config.eval_every == 0
        return bool(evaluate) or step % self.config.checkpoint_every == 0 or step == self.config.steps

    def keep(self, state: TrainState, step: int) -> None:
        """Evaluate and save, as the step asks."""
        heldout_loss = None
        if self.config.eval_every and (step % self.config.eval_every == 0 or step == self.config.steps):
            heldout_loss = self.evaluate(state, step)
        self.checkpoints.save(step, state, heldout_loss)

    def report(self, step: int, batch: CellBatch, values: dict[str, jax.Array]) -> None:
        """Look at a step's metrics: stop if they are not finite, log them if it is time."""
        loss = float(values["loss"])
        if not np.isfinite(loss) or not np.isfinite(float(values["gradient_norm"])):
            raise DivergedError(self.describe_divergence(step, batch, loss))
        self.progress.step(step, loss)
        if step % self.config.log_every == 0 or step == self.config.steps:
            now, (then, last_step) = time.perf_counter(), self.last_log
            self.last_log = (now, step)
            rate = (step - last_step) * self.batch_size / max(now - then, 1e-9)
            training = {f"train/{name}": float(value) for name, value in values.items()}
            training |= {"learning_rate": float(self.schedule(step - 1)), "cells_per_s": rate}
            training |= {"lost_rows": lost} if (lost := self.stream.n_lost) else {}
            self.metrics.write(step, training)

    def evaluate(self, state: TrainState, step: int) -> float | None:
        """The mean held-out loss, over the same cells and hidden tokens each time; None without held-out cells."""
        if not self.config.eval_every or not self.config.eval_cells or not self.stream.n_heldout_cells:
            return None
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
        self.losses[step] = means["loss"]
        return means["loss"]

    def describe_divergence(self, step: int, batch: CellBatch, loss: float) -> str:
        views = [view for view in batch if view is not None]
        cells = np.unique(np.concatenate([view.cell_B for view in views]))
        named = ", ".join(self.stream.cell_names(cells[:8]))
        good = self.checkpoints.latest
        kept = "no checkpoint was saved before" if good is None else f"the last good checkpoint is step {good}"
        return (
            f"loss is {loss} at step {step}, on {len(cells)} cells ({named}{', ...' if len(cells) > 8 else ''}); {kept}. "
            "Lower optimizer.learning_rate or optimizer.clip_norm, or look at these cells with `mofm inspect`"
        )


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


@contextmanager
def _stop_asked() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT instead of dying of them; a second Ctrl-C is obeyed at once."""
    asked: list[int] = []
    several = jax.process_count() > 1  # then JAX's coordination service hears SIGTERM, as all must stop at one step

    def ask(number: int, frame) -> None:
        if several:
            signal.raise_signal(signal.SIGTERM)  # which reaches all
        elif asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    handled = (signal.SIGINT,) if several else (signal.SIGTERM, signal.SIGINT)
    try:
        before = {number: signal.signal(number, ask) for number in handled}
    except ValueError:  # not the main thread (a notebook's worker): signals are not ours to take
        yield asked
        return
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
