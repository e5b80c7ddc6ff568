"""The state of a run, made sharded: no parameter ever exists whole on one device.

eval_shape gives every leaf its shape, the model its logical axes, the rules say where it lies, and
jit(init, out_shardings) makes each device compute its own part.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mofm.axes import MODALITIES, Modality
from mofm.linear.start import Start
from mofm.nn import model
from mofm.nn.model import Params
from mofm.nn.spec import ModelSpec
from mofm.objectives.labels import LinearHead
from mofm.parallel.rules import check_fits, sharding
from mofm.training.tuning import KnownHeads, Tuning, TuningSpec, fresh_tuning, trained, tuning_axes


class TrainState(NamedTuple):
    """What a checkpoint holds. The data's position is the step, and every random key is derived from it.

    Attributes:
      step: int32, batches seen.
      params: the model's float32 parameters.
      opt_state: the optimizer's.
      tuning: of a run whose labels move the encoder: its heads, and its adapters, whose products `params` holds; else None.
    """

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    tuning: Tuning | None = None


def state_shardings(
    spec: ModelSpec, optimizer: optax.GradientTransformation, mesh: Mesh, tuned: TuningSpec | None = None
) -> TrainState:
    """The sharding of every leaf. The optimizer's moments lie as what they are of.

    Args:
      tuned: of a run whose labels move the encoder.

    Raises:
      InputError: the mesh does not divide the model.
    """
    replicated = NamedSharding(mesh, PartitionSpec())
    is_axes = lambda leaf: type(leaf) is tuple  # noqa: E731
    logical = model.logical_axes(spec)
    axes = [logical, tuned and tuning_axes(tuned, logical)]
    weights = jax.eval_shape(lambda key: _weights(spec, tuned, key), jax.random.key(0))
    jax.tree.map(lambda axes, leaf: check_fits(mesh, leaf.shape, axes), axes, [*weights], is_leaf=is_axes)
    params, tuning = jax.tree.map(lambda axes: sharding(mesh, axes), axes, is_leaf=is_axes)
    opt_state = optax.tree_map_params(
        optimizer,
        lambda _, place: place,
        jax.eval_shape(optimizer.init, trained(*weights)),
        trained(params, tuning),
        transform_non_params=lambda _: replicated,
    )
    return TrainState(replicated, params, opt_state, tuning)


def abstract_state(
    spec: ModelSpec, optimizer: optax.GradientTransformation, mesh: Mesh, tuned: TuningSpec | None = None
) -> TrainState:
    """Shapes, dtypes and shardings of the state, with nothing allocated: what a checkpoint is restored into."""

    def build(key: jax.Array) -> TrainState:
        params, tuning = _weights(spec, tuned, key)
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(trained(params, tuning)), tuning)

    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        jax.eval_shape(build, jax.random.key(0)),
        state_shardings(spec, optimizer, mesh, tuned),
    )


def _weights(spec: ModelSpec, tuned: TuningSpec | None, key: jax.Array) -> tuple[Params, Tuning | None]:
    params = model.init(spec, key)
    return params, tuned and fresh_tuning(tuned, model.logical_axes(spec), params, key)


def create_state(
    spec: ModelSpec, optimizer: optax.GradientTransformation, mesh: Mesh, seed: int, start: Start
) -> TrainState:
    """A fresh state at step 0: its decoder is the mean predictor, its embedding the linear model."""
    with jax.set_mesh(mesh):
        return _builder(spec, optimizer, mesh)(jax.random.key(seed), start)


@lru_cache(maxsize=16)
def _builder(
    spec: ModelSpec, optimizer: optax.GradientTransformation, mesh: Mesh
) -> Callable[[jax.Array, Start], TrainState]:
    """The program that makes a state where it lies."""

    def build(key: jax.Array, start: Start) -> TrainState:
        params = linear_start(model.init(spec, key), start)
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    return jax.jit(build, out_shardings=state_shardings(spec, optimizer, mesh))


def begin_tuning(
    state: TrainState,
    spec: ModelSpec,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    tuned: TuningSpec,
    heads: KnownHeads,
    seed: int,
) -> TrainState:
    """A state that labels tune from here on: its parameters as they are, the heads those that are known."""
    places, logical = state_shardings(spec, optimizer, mesh, tuned), model.logical_axes(spec)
    known = {modality: LinearHead(head.weight_EC, head.bias_C) for modality, head in heads.items()}

    def build(params: Params, heads: dict[Modality, LinearHead], key: jax.Array) -> tuple[optax.OptState, Tuning]:
        tuning = fresh_tuning(tuned, logical, params, key)._replace(heads=heads)
        return optimizer.init(trained(params, tuning)), tuning

    with jax.set_mesh(mesh):
        made = jax.jit(build, out_shardings=(places.opt_state, places.tuning))
        return TrainState(state.step, state.params, *made(state.params, known, jax.random.key(seed)))


def linear_start(params: Params, start: Start) -> Params:
    """Fresh parameters with the simple models of `start` in their places."""
    null, components = start.null, start.components
    decoder = params["decoder"] | {"gene_log_rate": null.log_rate_G, "gene_log_dispersion": null.log_dispersion_G}
    table_GD = params["genes"]["table"]
    table_GD = table_GD.at[:, : components.rows_GK.shape[1]].add(components.rows_GK)
    scale_MD, average_GM = params["readout"]["scale"], params["readout"]["average"]
    rna = MODALITIES.index("rna")
    scale_MD, average_GM = scale_MD.at[rna].set(components.scale), average_GM.at[:, rna].set(components.mean_weight_G)
    for modality, profile in start.profiles.items():
        which = MODALITIES.index(modality)
        components_K = slice(len(profile.scale_K))
        scale_MD = scale_MD.at[which].set(profile.scale).at[which, components_K].set(profile.scale_K)
        average_GM = average_GM.at[:, which].set(profile.mean_weight_G)
    readout = {"log_gain": components.log_gain_G, "scale": scale_MD, "average": average_GM}
    genes = params["genes"] | {"table": table_GD}
    if "loadings" in genes:
        width = min(genes["loadings"].shape[1], components.others_GK.shape[1])
        genes |= {"loadings": genes["loadings"].at[:, :width].set(components.others_GK[:, :width])}
    return params | {"decoder": decoder, "genes": genes, "readout": readout}
