"""From a config to a run that can take its first step, in order: mesh, corpus, model, directory, simple models.

All that can be wrong with a config is found here, before anything is written.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import jax
import numpy as np
import optax
import pandas as pd
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mofm.batch import LinkQuestions, Spaces
from mofm.batches.spaces import corpus_spaces
from mofm.batches.stream import Stream
from mofm.corpus.cache import ShardCache
from mofm.corpus.contents import read_gene_table_of
from mofm.corpus.store import Corpus, open_corpus
from mofm.errors import InputError
from mofm.linear.start import Start
from mofm.linear.translation import make_readers
from mofm.nn.spec import ModelSpec
from mofm.parallel.mesh import check_batch, check_views, make_mesh
from mofm.parallel.place import place_graph
from mofm.parallel.processes import is_first, wait_for_all
from mofm.training import workdir as workdirs
from mofm.training.adopt import adopt_network, adopt_start, begin_from, known_basis, rows_of
from mofm.training.config import Config, check_untuned, make_spec
from mofm.training.fit_start import fit_start
from mofm.training.kinship import read_kinship
from mofm.training.network import RunNetwork, read_network
from mofm.training.off_batches import begin_off_batches, load_batch_axes, save_batch_axes
from mofm.training.optimizer import make_optimizer
from mofm.training.origin import Origin, check_corpus, genes_known
from mofm.training.state import TrainState, abstract_state, begin_tuning, create_state, state_shardings
from mofm.training.step import Knowledge, Recipe
from mofm.training.tuning import KnownHeads, TuningSpec, classes_of, load_heads, save_heads

T = TypeVar("T")


class Prepared(NamedTuple):
    """A run before its first step.

    Attributes:
      mesh: of the devices that it has.
      stream: its batches.
      recipe: what a step is compiled for.
      known: what a step is given beside its batch and state, on the devices.
      models: the simple models that it begins from.
      links: held-out edges of its network, as questions; None where there is none.
      shape: gives that of its state: shapes, dtypes, places. Only a run that has a checkpoint asks.
      fresh: makes the state of step 0.
      notes: what a person should know of its genes, networks and pairs, a line each.
    """

    mesh: Mesh
    stream: Stream
    recipe: Recipe
    known: Knowledge
    models: Start
    links: LinkQuestions | None
    shape: Callable[[], TrainState]
    fresh: Callable[[], TrainState]
    notes: tuple[str, ...]


def prepare(
    config: Config,
    workdir: Path,
    origin: Origin | None,
    heads: Callable[[], KnownHeads] | None = None,
    batch_axes: Callable[[], np.ndarray] | None = None,
) -> Prepared:
    """Opens the corpus, and makes the directory of a new run or checks that it is of this one.

    Args:
      heads: of a run whose labels move the encoder, fits the heads that it begins from; asked where the run begins.
      batch_axes: finds the directions of the model's embedding that the run begins without, axes_RE; asked there too.

    Raises:
      InputError: the corpus, the mesh, the model that it begins from or the workdir cannot be used.
    """
    if heads is None:
        check_untuned(config)
    mesh = make_mesh(config.mesh)
    check_batch(mesh, config.data.batch_size, config.optimizer.accumulate)
    cache = ShardCache(config.data.cache_dir, int(config.data.cache_gb * 1e9)) if config.data.cache_dir else None
    corpus = open_corpus(config.data.corpus, damaged=config.data.damaged, cache=cache)
    stream = Stream(corpus, config.data, config.seed, host=jax.process_index(), hosts=jax.process_count())
    check_views(mesh, stream.rows, config.optimizer.accumulate)
    if config.run.patience and not stream.n_heldout_cells:
        raise InputError(f"run.patience={config.run.patience}: no cell is held out; set data.holdout_fraction above 0")
    made = _model_of(config, corpus, origin)
    spec, network = made.spec, made.network
    species = partial(read_gene_table_of, corpus.path, corpus.manifest)
    kinship, of_kin = read_kinship(config.objectives.alignment, made.genes, stream.labels, species)
    optimizer = make_optimizer(config.optimizer, config.run.steps)
    graph = network and place_graph(network.graph(spec.genes, config.network.edge_budget), mesh)
    state_shardings(spec, optimizer, mesh)  # a mesh that does not fit is refused before anything is written
    if is_first() or (workdir / "config.json").exists():  # all refuse what is another's, one writes
        workdirs.open_workdir(workdir, config, corpus, made.genes, network, origin)
    wait_for_all("the directory of the run")

    notes = [*made.notes, *of_kin]
    if spec.fuses and not stream.pairs:
        notes.append("fusion: no cell of the corpus was measured in two modalities, and it learns nothing")
    fit = partial(_fit, config, corpus, stream, made, origin, notes.append, begins_off_batches=batch_axes is not None)
    models = _once(workdir, workdirs.load_start, workdirs.save_start, fit, "the start of the run")
    begun = None if heads is None else _once(workdir, load_heads, save_heads, heads, "the heads of the run")
    axes_RE = batch_axes and _once(workdir, load_batch_axes, save_batch_axes, batch_axes, "the batches of the run")
    tuned = begun and TuningSpec(config.adapters.rank, tuple((name, len(head.names)) for name, head in begun.items()))
    # Arguments, not constants: compiled into the program, the links of 200,000 regions would make it large.
    everywhere = NamedSharding(mesh, PartitionSpec())
    readers = models.linear and make_readers(corpus.modalities, models.spaces, models.basis)
    classes = classes_of(begun, stream) if begun else {}
    known = Knowledge(models.spaces, None, models.linear, readers, classes, kinship)
    known = jax.device_put(known, everywhere)
    known = known._replace(graph=graph)

    def fresh() -> TrainState:
        of_params = optimizer if tuned is None else optax.identity()  # moments of all would not fit where adapters do
        state = create_state(spec, of_params, mesh, config.seed, models)
        if origin is not None:
            state = begin_from(state, origin, spec, of_params, made.row_G, models.null)
        if axes_RE is not None:
            state = begin_off_batches(state, axes_RE)
        return state if tuned is None else begin_tuning(state, spec, optimizer, mesh, tuned, begun, config.seed)

    return Prepared(
        mesh,
        stream,
        Recipe(spec, config.objectives, optimizer, config.seed, stream.pairs, mesh, config.optimizer.accumulate),
        known,
        models,
        network and network.held_out(len(made.genes), config.seed),
        partial(abstract_state, spec, optimizer, mesh, tuned),
        fresh,
        tuple(notes),
    )


class _Model(NamedTuple):
    """What a run's model is of.

    Attributes:
      row_G: of a run that begins from a model, that model's row of each gene, or -1; else None.
      notes: what a person should know of it, a line each.
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
        modalities, row_G, notes = corpus.modalities, None, ()
    else:
        check_corpus(origin, corpus)
        genes, spaces = corpus_spaces(corpus, origin.genes)
        row_G = rows_of(origin, genes)
        network, modalities = adopt_network(origin, row_G), origin.spec.modalities
        notes = genes_known(origin, corpus, spaces, row_G)
    spec = make_spec(config, len(genes), 0 if network is None else len(network.relations), modalities)
    if origin is not None and spec.fuses and not origin.spec.fuses:
        notes = [*notes, f"fusion: {origin.name} has none; it begins as the mean of a cell's views"]
    return _Model(genes, spaces, network, spec, row_G, (*notes, *(network.notes if network else ())))


def _fit(
    config: Config,
    corpus: Corpus,
    stream: Stream,
    made: _Model,
    origin: Origin | None,
    report: Callable[[str], object],
    *,
    begins_off_batches: bool,
) -> Start:
    """The simple models that a run begins from."""
    if origin is None:
        return fit_start(corpus, stream, config, made.spec, made.spaces, report=report)
    if config.data.batch_key and not begins_off_batches:
        report(
            f"data.batch_key={config.data.batch_key!r}: the embedding begins as the model's, with what that says of batches; "
            "objectives.alignment.batch_weight trains them together"
        )
    basis = known_basis(origin, made.spaces, corpus.features, made.row_G, made.spec.genes)
    fitted = fit_start(corpus, stream, config, made.spec, made.spaces, basis, report)
    return adopt_start(fitted, origin, corpus.features, made.row_G)


def _once(
    workdir: Path, load: Callable[[Path], T | None], save: Callable[[Path, T], None], fit: Callable[[], T], what: str
) -> T:
    """What a run begins from, the very same to all processes and after every stop: the first fits and keeps it."""
    found = load(workdir)
    if found is None and is_first():
        found = fit()
        save(workdir, found)
    wait_for_all(what)
    found = load(workdir) if found is None else found
    if found is None:
        raise InputError(
            f"{workdir}: not the directory that the first process of the run writes; all hosts must see one"
        )
    return found
