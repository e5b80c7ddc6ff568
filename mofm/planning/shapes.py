"""The step of a config as shapes: what would be compiled and run, with nothing allocated, and with no need of the corpus.

Where the corpus is there, its genes, features and strata are read. Where it is not, they are assumed: RNA of 20,000 genes,
or what the caller says; several modalities are all measured in every cell, or as `data.quotas` has them.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from mofm.axes import CELLS, MODALITIES, Modality
from mofm.batch import PLACES, CellBatch, FeatureSpace, GeneGraph, Kinship, Paired, TokenBatch
from mofm.batches.graph import EDGE_MULTIPLE
from mofm.batches.mixture import make_strata, paired_rows, parse_stratum, rows_of_views
from mofm.batches.spaces import LINKS, corpus_spaces
from mofm.batches.stream import Stream
from mofm.corpus.store import open_corpus
from mofm.errors import InputError, nearest_name
from mofm.nn.spec import ModelSpec
from mofm.parallel.mesh import check_batch, check_views
from mofm.parallel.place import graph_places
from mofm.parallel.rules import sharding
from mofm.training.config import Config, check_untuned, make_spec
from mofm.training.optimizer import make_optimizer
from mofm.training.state import abstract_state
from mofm.training.step import Knowledge, Recipe, train_step

GENES = 20_000
"""Assumed where nothing is known: about as many as code for proteins."""
EDGES = 40_000
"""Assumed of each regulatory network: about as many as CollecTRI has."""
NO_CORPUS = ""
"""`data.corpus` of a config that names none."""


class Facts(NamedTuple):
    """What a step's shapes depend on beside the config.

    Attributes:
      genes: known ones.
      features: modality -> how many.
      rows, tokens: of each modality's view in a global batch.
      pairs: rows of the same cells.
      edges: of all regulatory networks together, padded; 0 for none.
      source: where this is from, in words.
    """

    genes: int
    features: dict[Modality, int]
    rows: dict[Modality, int]
    tokens: dict[Modality, int]
    pairs: tuple[Paired, ...]
    edges: int
    source: str


class Step(NamedTuple):
    """`function(*arguments)` is the train step; arguments are shapes with their places on the mesh.

    The second argument, the state, is given up for the result.
    """

    function: partial
    arguments: tuple
    spec: ModelSpec
    recipe: Recipe


def find_facts(config: Config, features: Mapping[str, int], edges: int | None) -> Facts:
    """The facts of a config: its corpus's where that is there, and assumed ones where not.

    Args:
      features: what to assume instead of GENES of RNA; modality -> how many. Empty: nothing is said.
      edges: of all networks together; None: as many as `network.edge_budget` or EDGES a network.

    Raises:
      InputError: an unknown modality, `features` beside a corpus that is there, or a corpus that cannot be read.
    """
    edges = _edges(config, edges)
    name = config.data.corpus
    if name != NO_CORPUS and ("://" in name or Path(name).exists()):
        if features:
            raise InputError(f"--features: {name} is there and says what it has; leave the option out")
        corpus = open_corpus(name, damaged=config.data.damaged)
        stream = Stream(corpus, config.data, config.seed)
        genes, _ = corpus_spaces(corpus)
        return Facts(len(genes), stream.features, stream.rows, stream.tokens, stream.pairs, edges, f"corpus {name}")
    assumed = _assumed(config, features or {"rna": GENES}, edges)
    missing = "" if name == NO_CORPUS else f"{name} is not there; "
    return assumed._replace(source=f"{missing}{assumed.source}")


def _edges(config: Config, edges: int | None) -> int:
    if not config.network.tables:
        return 0
    if edges is None:
        edges = config.network.edge_budget or EDGES * len(config.network.tables)
    return config.network.edge_budget or -(-edges // EDGE_MULTIPLE) * EDGE_MULTIPLE


def _assumed(config: Config, features: Mapping[str, int], edges: int) -> Facts:
    for name, count in features.items():
        if name not in MODALITIES:
            near = nearest_name(name, MODALITIES)
            raise InputError(f"--features {name}={count}: no such modality; there are {', '.join(MODALITIES)}.{near}")
        if count < 1:
            raise InputError(f"--features {name}={count}: must be at least 1")
    data, there = config.data, tuple(modality for modality in MODALITIES if modality in features)
    strata = [parse_stratum(name) for name in data.quotas] or [there]
    if {modality for some in strata for modality in some} != set(there):
        raise InputError(f"data.quotas names {', '.join(data.quotas)}: give --features for the modalities of these")
    made = make_strata(
        strata,
        [1] * len(strata),
        batch_size=data.batch_size,
        quotas=data.quotas,
        temperature=data.temperature,
        multiple=data.quota_multiple,
    )
    own = {"rna": data.tokens, "atac": data.atac_tokens, "adt": data.adt_tokens, "methylation": data.methylation_tokens}
    tokens = {modality: own[modality] or min(data.tokens, features[modality]) for modality in there}
    said = "assumed: " + ", ".join(f"{features[modality]:,} features of {modality}" for modality in there)
    genes = features.get("rna", GENES)
    return Facts(genes, {m: features[m] for m in there}, rows_of_views(made), tokens, paired_rows(made), edges, said)


def make_step(config: Config, facts: Facts, mesh: Mesh) -> Step:
    """The train step that `mofm train` would run on this mesh.

    Raises:
      InputError: the mesh does not divide the model, the batch or the network.
    """
    check_untuned(config)
    check_batch(mesh, config.data.batch_size, config.optimizer.accumulate)
    check_views(mesh, facts.rows, config.optimizer.accumulate)
    relations = len(config.network.tables)
    spec = make_spec(config, facts.genes, relations, list(facts.features))
    optimizer = make_optimizer(config.optimizer, config.run.steps)
    recipe = Recipe(spec, config.objectives, optimizer, config.seed, facts.pairs, mesh, config.optimizer.accumulate)
    batch = CellBatch(**{modality: _view(config, facts, modality, mesh) for modality in facts.rows})
    spaces = {modality: _space(facts.features[modality], mesh) for modality in facts.features if modality != "rna"}
    graph = _graph(facts.edges, spec.genes, mesh) if facts.edges else None
    state = abstract_state(spec, optimizer, mesh)
    families = jax.ShapeDtypeStruct((facts.genes,), jnp.int32, sharding=NamedSharding(mesh, PartitionSpec()))
    kinship = Kinship(families if config.objectives.alignment.families else None)
    known = Knowledge(spaces, graph, kinship=kinship)
    return Step(partial(train_step, recipe), (known, state, batch), spec, recipe)


def on_mesh(mesh: Mesh | AbstractMesh):
    """A context in which a step is traced for the mesh, also where that has no devices."""
    return jax.set_mesh(mesh) if isinstance(mesh, Mesh) else jax.sharding.use_abstract_mesh(mesh)


def with_remat(config: Config, remat: str) -> Config:
    """The same with another `encoder.remat`."""
    return dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, remat=remat))


def _view(config: Config, facts: Facts, modality: Modality, mesh: Mesh) -> TokenBatch:
    rows, tokens, place = facts.rows[modality], facts.tokens[modality], sharding(mesh, (CELLS,))

    def leaf(dtype, *more: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, *more), dtype, sharding=place)

    return TokenBatch(
        features_BL=leaf(jnp.int32, tokens),
        values_BL=leaf(jnp.float32, tokens),
        counts_BL=leaf(jnp.float32, tokens),
        mask_BL=leaf(jnp.bool_, tokens),
        library_B=leaf(jnp.float32),
        cell_B=leaf(jnp.int32),
        dataset_B=leaf(jnp.int32),
        totals_BL=leaf(jnp.float32, tokens) if modality == "methylation" else None,
        label_B=leaf(jnp.int32) if config.data.label_key else None,
        batch_B=leaf(jnp.int32) if config.data.batch_key else None,
        zero_weight_B=leaf(jnp.float32),
    )


def _space(features: int, mesh: Mesh) -> FeatureSpace:
    whole = sharding(mesh, ())

    def leaf(dtype, *more: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((features, *more), dtype, sharding=whole)

    floats, ints = np.float32, np.int32
    return FeatureSpace(
        leaf(ints, LINKS), leaf(floats, LINKS), leaf(floats, PLACES), leaf(ints), leaf(floats), leaf(floats)
    )


def _graph(edges: int, genes: int, mesh: Mesh) -> GeneGraph:
    places = graph_places(edges, mesh)._asdict()
    return GeneGraph(
        **{
            name: jax.ShapeDtypeStruct(
                (genes if name == "regulator_G" else edges,),
                np.float32 if name == "weight_M" else np.int32,
                sharding=place,
            )
            for name, place in places.items()
        }
    )
