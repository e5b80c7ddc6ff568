"""One step of training and of evaluation: module-level pure functions, callable without a loop."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from mofm.axes import MODALITIES, Modality
from mofm.batch import CellBatch, GeneGraph, Kinship, LinkQuestions, Paired, Spaces, TokenBatch
from mofm.linear.null import NullModel
from mofm.linear.translation import LinearTranslation
from mofm.nn import model
from mofm.nn.assembly import Outputs, Translation
from mofm.nn.decoder import Prediction
from mofm.nn.grn import GeneStates
from mofm.nn.linear import Reader, linear_answer, linear_profile
from mofm.nn.model import Params
from mofm.nn.spec import ModelSpec
from mofm.objectives.labels import Classes, LinearHead
from mofm.objectives.link_prediction import ask, link_prediction
from mofm.objectives.masked import masked_modelling
from mofm.objectives.total import Answers, ObjectivesConfig, total
from mofm.parallel.rules import constrain
from mofm.training.accumulate import Parts, cut, sum_over
from mofm.training.state import TrainState
from mofm.training.tuning import opened, trained

EVALUATION_KEY = 0x5EED
"""Evaluation hides the same tokens at every step of every run, so that its losses compare."""


@dataclass(frozen=True)
class Recipe:
    """What a step needs beside its data: hashable, one compilation for each.

    `pairs` says which rows of a batch's views are of the same cells; `mesh` over which they lie, None for one device;
    `accumulate` into how many parts they are cut.
    """

    spec: ModelSpec
    objectives: ObjectivesConfig
    optimizer: optax.GradientTransformation
    seed: int
    pairs: tuple[Paired, ...] = ()
    mesh: Mesh | None = None
    accumulate: int = 1


class Knowledge(NamedTuple):
    """What is known beside the cells, the same at every step.

    Attributes:
      spaces: what the features of a batch are, where they are not genes.
      graph: the regulatory network of the genes, less what is held out; None where there is none.
      linear: loadings of the linear translation of each direction that has one.
      readers: how it reads each modality.
      classes: of a run whose labels move the encoder, what the head of each modality distinguishes.
      kinship: of genes and of labels, where the alignment asks for it.
    """

    spaces: Spaces
    graph: GeneGraph | None = None
    linear: LinearTranslation = {}  # noqa: RUF012
    readers: dict[Modality, Reader] = {}  # noqa: RUF012
    classes: dict[Modality, Classes] = {}  # noqa: RUF012
    kinship: Kinship = Kinship()


Heads = Mapping[Modality, LinearHead]
NO_HEADS: Heads = MappingProxyType({})


def train_step(
    recipe: Recipe, known: Knowledge, state: TrainState, batch: CellBatch
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One optimizer step. Pure: (state, batch) -> (state, metrics), its key derived from (seed, state.step).

    Metrics are float32 scalars on device: the objective's parts and "gradient_norm" before clipping.
    """
    key = jax.random.fold_in(jax.random.key(recipe.seed), state.step)
    of = (batch, key, state.step)

    def loss(moved: Params) -> tuple[jax.Array, dict[str, jax.Array]]:
        params, tuning = opened(state.params, state.tuning, moved)
        return training_loss(recipe, known, params, *of, NO_HEADS if tuning is None else tuning.heads)

    moved = trained(state.params, state.tuning)
    if recipe.accumulate == 1:
        gradients, metrics = jax.grad(loss, has_aux=True)(moved)
    else:
        gradients, metrics = accumulated_gradient(recipe, known, state.params, *of)
    updates, opt_state = recipe.optimizer.update(gradients, state.opt_state, moved)
    params, tuning = opened(state.params, state.tuning, optax.apply_updates(moved, updates))
    norm = optax.tree.norm(gradients)
    return TrainState(state.step + 1, params, opt_state, tuning), metrics | {"gradient_norm": norm}


def training_loss(
    recipe: Recipe,
    known: Knowledge,
    params: Params,
    batch: CellBatch,
    key: jax.Array,
    step: jax.Array,
    heads: Heads = NO_HEADS,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(loss, metrics): the objectives of the batch, and link prediction of the edges that this step hides.

    The network gives the genes' states once, for all cells and for all links.
    """
    graph, questions = _ask(recipe.objectives, known, key)
    genes = model.gene_states(recipe.spec, params, graph)
    loss, metrics = total(recipe.objectives, answers(recipe, known, params, genes, heads), batch, key, recipe.pairs)
    if questions is None:
        return loss, metrics
    links = link_answers(recipe.spec, params, genes, questions)
    loss += recipe.objectives.link_weight_at(step) * links["link_nll"]
    return loss, metrics | links | {"loss": loss}


def accumulated_gradient(
    recipe: Recipe, known: Knowledge, params: Params, batch: CellBatch, key: jax.Array, step: jax.Array
) -> tuple[Params, dict[str, jax.Array]]:
    """(gradient, metrics) of `training_loss`, summed over `recipe.accumulate` parts of the batch (see `accumulate.py`)."""
    graph, questions = _ask(recipe.objectives, known, key)
    genes, genes_to_params = jax.vjp(lambda params: model.gene_states(recipe.spec, params, graph), params)
    parts = cut(batch, recipe.objectives.hidden_tokens(batch, key), recipe.accumulate, recipe.mesh)
    gradient = jax.grad(partial(_part_loss, recipe, known), argnums=(0, 1), has_aux=True)
    axes, zeros = model.logical_axes(recipe.spec), jax.tree.map(jnp.zeros_like, (params, genes))
    pinned = jax.tree.map(
        lambda axes, leaf: constrain(leaf, axes), axes, zeros[0], is_leaf=lambda a: isinstance(a, tuple)
    )
    zeros = (pinned, zeros[1])  # the sum lies as the parameters do, and never whole on a device
    (of_params, of_genes), metrics = sum_over(partial(gradient, params, genes), parts, zeros)
    if questions is not None:

        def link_loss(params: Params, genes: GeneStates) -> tuple[jax.Array, dict[str, jax.Array]]:
            links = link_answers(recipe.spec, params, genes, questions)
            return recipe.objectives.link_weight_at(step) * links["link_nll"], links

        (loss, links), more = jax.value_and_grad(link_loss, argnums=(0, 1), has_aux=True)(params, genes)
        of_params, of_genes = jax.tree.map(jnp.add, (of_params, of_genes), more)
        metrics |= links | {"loss": metrics["loss"] + loss}
    return jax.tree.map(jnp.add, of_params, genes_to_params(of_genes)[0]), metrics


def _ask(
    objectives: ObjectivesConfig, known: Knowledge, key: jax.Array
) -> tuple[GeneGraph | None, LinkQuestions | None]:
    """The network of a step, and what it asks of the edges that are hidden; None where there is none."""
    if known.graph is None:
        return None, None
    link_key = jax.random.fold_in(key, len(MODALITIES))
    return ask(link_key, known.graph, objectives.links_per_step, objectives.edge_dropout)


def _part_loss(
    recipe: Recipe, known: Knowledge, params: Params, genes: GeneStates, part: Parts
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """What one part adds to the loss and the metrics of its batch: masked modelling."""
    see, loss, metrics = answers(recipe, known, params, genes).see, jnp.zeros(()), {}
    for modality, hidden_BL in part.hidden.items():
        view, tokens, cells = getattr(part.batch, modality), part.tokens[modality], part.cells[modality]
        parts = masked_modelling(see(view, hidden_BL, modality), view, hidden_BL, modality)
        of_tokens, of_cells = recipe.objectives.masked_losses(parts)
        loss += tokens * of_tokens + cells * of_cells
        weights = {"token_nll": tokens, "cell_nll": tokens, "pool_size": cells, "hidden": 1}
        metrics |= {f"{modality}/{name}": weights[name] * value for name, value in parts.items()}
    return loss, {"loss": loss, **metrics}


def link_answers(spec: ModelSpec, params: Params, genes: GeneStates, questions: LinkQuestions) -> dict[str, jax.Array]:
    """How well a model answers questions about links, as `link_prediction` measures it."""
    logit_QA = model.score_links(spec, params, genes, questions.tf_Q, questions.target_Q, questions.relation_Q)
    return link_prediction(logit_QA, questions)


def eval_links(recipe: Recipe, known: Knowledge, questions: LinkQuestions, params: Params) -> dict[str, jax.Array]:
    """`link_answers` about held-out edges, by all edges of training."""
    return link_answers(recipe.spec, params, model.gene_states(recipe.spec, params, known.graph), questions)


def eval_step(
    recipe: Recipe,
    null: NullModel,
    known: Knowledge,
    params: Params,
    batch: CellBatch,
    index: jax.Array,
    heads: Heads = NO_HEADS,
) -> dict[str, jax.Array]:
    """The objective's parts on a held-out batch, and "null_nll", the mean predictor's on the very same hidden tokens.

    `index` (int32) distinguishes the batches of one evaluation.
    """
    key = jax.random.fold_in(jax.random.key(EVALUATION_KEY), index)
    genes = model.gene_states(recipe.spec, params, known.graph)
    metrics = total(recipe.objectives, answers(recipe, known, params, genes, heads), batch, key, recipe.pairs)[1]
    baseline = total(recipe.objectives, Answers(partial(null_predictor, null, known.spaces)), batch, key)[1]
    nulls = {name.replace("token_nll", "null_nll"): value for name, value in baseline.items() if "token_nll" in name}
    return metrics | nulls


def answers(recipe: Recipe, known: Knowledge, params: Params, genes: GeneStates, heads: Heads = NO_HEADS) -> Answers:
    """The model as the objectives call it, its genes' states being known already."""
    spec, spaces = recipe.spec, known.spaces

    def see(view: TokenBatch, hidden_BL: jax.Array, modality: Modality) -> Outputs:
        outputs = model.apply(spec, params, genes.rows_GD, view, hidden_BL, modality, spaces.get(modality))
        if modality not in known.readers:
            return outputs
        # Of all that is there: what is hidden is asked of this view, and the profile answers for others alone. Profiles that
        # were noisier in training than in use would be learned away.
        return outputs._replace(linear_BR=linear_profile(known.readers[modality], view, modality))

    def translate(
        outputs: Outputs, shown_BM: jax.Array, asked: TokenBatch, source: Modality, target: Modality
    ) -> Translation:
        linear = None
        if (source, target) in known.linear:
            linear = linear_answer(outputs.linear_BR, known.linear[source, target], asked.features_BL, target)
        of = (outputs, shown_BM, asked, source, target, spaces.get(target), linear)
        return model.translate(spec, params, genes.rows_GD, *of)

    def fuse(outputs: Mapping[Modality, Outputs], views: Mapping[Modality, TokenBatch]) -> dict[Modality, Outputs]:
        return model.fuse(spec, params, genes.rows_GD, outputs, views, spaces)

    log_temperature = model.log_temperature(spec, params)
    translated = translate if spec.translates else None
    of = (log_temperature, recipe.mesh, heads, known.classes, known.kinship, fuse if spec.fuses else None)
    return Answers(see, translated, spaces, spec.shared_width, *of)


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
