"""One step of training and of evaluation: module-level pure functions, callable without a loop."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import optax

from mofm.axes import Modality
from mofm.batch import CellBatch, Spaces, TokenBatch
from mofm.nn import model
from mofm.nn.decoder import Prediction
from mofm.nn.model import ModelSpec, Outputs, Params
from mofm.objectives.total import ObjectivesConfig, Predictor, total
from mofm.training.null import NullModel
from mofm.training.state import TrainState

EVALUATION_KEY = 0x5EED
"""Evaluation hides the same tokens at every step of every run, so that its losses compare."""


@dataclass(frozen=True)
class Recipe:
    """What a step needs beside its data: hashable, one compilation for each."""

    spec: ModelSpec
    objectives: ObjectivesConfig
    optimizer: optax.GradientTransformation
    seed: int


def train_step(
    recipe: Recipe, spaces: Spaces, state: TrainState, batch: CellBatch
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One optimizer step. Pure: (state, batch) -> (state, metrics), its key derived from (seed, state.step).

    `spaces` tells what the features of the batch are, where they are not genes.

    Metrics are float32 scalars on device: the objective's parts and "gradient_norm" before clipping.
    """
    key = jax.random.fold_in(jax.random.key(recipe.seed), state.step)
    gradients, metrics = jax.grad(
        lambda params: total(recipe.objectives, predictor(recipe.spec, spaces, params), batch, key), has_aux=True
    )(state.params)
    updates, opt_state = recipe.optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, opt_state), metrics | {"gradient_norm": optax.tree.norm(gradients)}


def eval_step(
    recipe: Recipe, null: NullModel, spaces: Spaces, params: Params, batch: CellBatch, index: jax.Array
) -> dict[str, jax.Array]:
    """The objective's parts on a held-out batch, and "null_nll", the mean predictor's on the very same hidden tokens.

    `index` (int32) tells the batches of one evaluation apart.
    """
    key = jax.random.fold_in(jax.random.key(EVALUATION_KEY), index)
    metrics = total(recipe.objectives, predictor(recipe.spec, spaces, params), batch, key)[1]
    baseline = total(recipe.objectives, partial(null_predictor, null, spaces), batch, key)[1]
    nulls = {name.replace("token_nll", "null_nll"): value for name, value in baseline.items() if "token_nll" in name}
    return metrics | nulls


def predictor(spec: ModelSpec, spaces: Spaces, params: Params) -> Predictor:
    """The model as the objectives call it."""
    return lambda view, hidden_BL, modality: model.apply(spec, params, view, hidden_BL, modality, spaces.get(modality))


def null_predictor(
    null: NullModel, spaces: Spaces, view: TokenBatch, hidden_BL: jax.Array, modality: Modality
) -> Outputs:
    """The mean predictor as the objectives call it: a feature's rate, whatever the cell."""
    base_F, spread_F = (
        (null.log_rate_G, null.log_dispersion_G)
        if modality == "rna"
        else (spaces[modality].base_F, spaces[modality].spread_F)
    )
    base_BL, spread_BL = (jnp.asarray(leaf)[view.features_BL] for leaf in (base_F, spread_F))
    cells = view.mask_BL.shape[0]
    prediction = Prediction(base_BL, base_BL, spread_BL, base_BL, jnp.zeros_like(base_BL))
    nothing_B0 = jnp.zeros((cells, 0))
    return Outputs(nothing_B0, nothing_B0, nothing_B0[..., None], prediction)
