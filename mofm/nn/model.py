"""The whole model behind one seam: pure functions over plain pytrees. Nobody outside `nn` sees flax.

    params = init(spec, key)                                    float32 arrays in nested dicts
    genes = gene_states(spec, params, graph)                    GeneStates: once a step
    outputs = apply(spec, params, genes.rows_GD, view, ...)     Outputs: of each view
    answer = translate(spec, params, genes.rows_GD, outputs, ...) Translation: of features of another modality
    fused = fuse(spec, params, genes.rows_GD, ...)         Outputs: of each view of cells of several, having seen the others
    logit_QA = score_links(spec, params, genes, ...)            of TF -> target pairs
    factor_BD = cell_factors(spec, params, ...)                 of embeddings: factor_BD @ genes.rows_GD.T is expression
    logical_axes(spec)                                          for every leaf of params, the names of its axes

How a cell goes through the modules, `assembly.py` says.
"""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mofm.axes import Modality
from mofm.batch import FeatureSpace, GeneGraph, Spaces, TokenBatch
from mofm.nn.assembly import Assembly, Outputs, Translation
from mofm.nn.grn import GeneStates
from mofm.nn.linear import LinearAnswer
from mofm.nn.spec import ModelSpec

Params = dict[str, Any]

TEMPERATURE_START = 0.3
"""Temperature of a fresh contrast. At 0.1 cosines of noisy views are taken for certainties, and what lowers the loss first is
to make all cells alike far from each other (FOSCTTM of two simulations after 200 steps, a tenth of the cells paired: without
contrast .221 and .289, from 0.1 .243 and .306, from 0.3 .222 and .284, from 1 .219 and .285)."""


def init(spec: ModelSpec, key: jax.Array) -> Params:
    """Fresh parameters. Run it under `jax.jit` with `out_shardings`, so that none ever exists unsharded."""
    return nn.meta.unbox(_init_boxed(spec, key))


def logical_axes(spec: ModelSpec) -> Params:
    """The params' tree with each leaf replaced by the tuple of its logical axis names. Allocates nothing."""
    boxed = jax.eval_shape(lambda key: _init_boxed(spec, key), jax.random.key(0))
    is_box = lambda leaf: isinstance(leaf, nn.meta.AxisMetadata)  # noqa: E731
    return jax.tree.map(lambda leaf: tuple(leaf.names), boxed, is_leaf=is_box)


def gene_states(spec: ModelSpec, params: Params, graph: GeneGraph | None = None) -> GeneStates:
    """What the genes are, by the edges of `graph`: once a step, whatever the number of cells.

    `graph` is that of the model's relations; None for a model of no network.
    """
    return Assembly(spec).apply({"params": params}, graph, method="gene_states")


def score_links(
    spec: ModelSpec, params: Params, genes: GeneStates, tf_Q: jax.Array, target_Q: jax.Array, relation_Q: jax.Array
) -> jax.Array:
    """logit_QA of each TF -> target pair (rows of the gene table) to activate and to repress, against no edge's 0."""
    return Assembly(spec).apply({"params": params}, genes, tf_Q, target_Q, relation_Q, method="score_links")


def score_every_link(spec: ModelSpec, params: Params, genes: GeneStates, tf_T: jax.Array, relation: int) -> jax.Array:
    """logit_TGA of some TFs with every gene, as `score_links`, in one of the model's networks."""
    return Assembly(spec).apply({"params": params}, genes, tf_T, relation, method="score_every_link")


def cell_factors(spec: ModelSpec, params: Params, embedding_BE: jax.Array, modality: Modality = "rna") -> jax.Array:
    """factor_BD, float32: all that the decoder's cell predictor takes of a cell, whatever the gene.

    It is linear from here on, so sums over cells or genes need not be taken in G columns (see `expression`).
    """
    return Assembly(spec).apply({"params": params}, embedding_BE, modality, method="cell_factors")


def expression(
    spec: ModelSpec, params: Params, genes_GD: jax.Array, embedding_BE: jax.Array, modality: Modality = "rna"
) -> jax.Array:
    """deviation_BG, nats: each gene's log rate by the cell embedding alone, above the mean predictor's. Denoised expression."""
    return cell_factors(spec, params, embedding_BE, modality) @ genes_GD.T


def apply(
    spec: ModelSpec,
    params: Params,
    genes_GD: jax.Array,
    view: TokenBatch,
    hidden_BL: jax.Array,
    modality: Modality,
    space: FeatureSpace | None = None,
) -> Outputs:
    """The model's outputs for a view whose values are hidden where `hidden_BL` is True, the genes being `genes_GD`.

    `space` says what the features of a modality other than RNA are; any space over the model's gene rows serves.
    """
    return Assembly(spec).apply({"params": params}, genes_GD, view, hidden_BL, modality, space)


def translate(
    spec: ModelSpec,
    params: Params,
    genes_GD: jax.Array,
    outputs: Outputs,
    shown_BM: jax.Array,
    asked: TokenBatch,
    source: Modality,
    target: Modality,
    space: FeatureSpace | None = None,
    linear: LinearAnswer | None = None,
) -> Translation:
    """What cells would show of features of `target`, from what the model made of their views in `source`.

    Args:
      outputs: of `apply` on the source's views.
      shown_BM: bool, the tokens of these views that are no padding.
      asked: the features asked for, and the depth at which (`features_BL`, `mask_BL`, `library_B`); no value is looked at.
      space: what the target's features are; None for RNA.
      linear: what the linear translation says of each feature (`nn/linear.py`); None for nothing.
    """
    of = ({"params": params}, genes_GD, outputs, shown_BM, asked, source, target, space, linear)
    return Assembly(spec).apply(*of, method="translate")


def fuse(
    spec: ModelSpec,
    params: Params,
    genes_GD: jax.Array,
    outputs: Mapping[Modality, Outputs],
    views: Mapping[Modality, TokenBatch],
    spaces: Spaces,
) -> dict[Modality, Outputs]:
    """What the model says of the views of cells once those of one cell have seen each other.

    Rows i of all views are of one cell where they say the same `cell_B`; a view that a cell lacks has a row without tokens.
    A row that is of no other's cell, or whose others are absent, comes out as it was, to the bit.

    Args:
      outputs: of `apply` on the views, two or more.
      spaces: what the features are, where they are not genes.

    Returns:
      Of each view: `embedding_BE` is the joint embedding in its shared columns, and the view's own in its private ones.
    """
    return Assembly(spec).apply({"params": params}, genes_GD, outputs, views, spaces, method="fuse")


def log_temperature(spec: ModelSpec, params: Params) -> jax.Array | None:
    """Of the contrast between views, as it is learned; None for a model that does not contrast them."""
    return params["log_temperature"] + math.log(TEMPERATURE_START) if spec.contrasts else None


def embed(
    spec: ModelSpec,
    params: Params,
    genes_GD: jax.Array,
    view: TokenBatch,
    modality: Modality,
    space: FeatureSpace | None = None,
) -> jax.Array:
    """embedding_BE of a view with nothing hidden."""
    return apply(spec, params, genes_GD, view, jnp.zeros_like(view.mask_BL), modality, space).embedding_BE


def embed_together(
    spec: ModelSpec, params: Params, genes_GD: jax.Array, views: Mapping[Modality, TokenBatch], spaces: Spaces
) -> jax.Array:
    """joint_BS of cells of which `views` has two or more, rows as `fuse` takes them, with nothing hidden."""
    outputs = {
        modality: apply(spec, params, genes_GD, view, jnp.zeros_like(view.mask_BL), modality, spaces.get(modality))
        for modality, view in views.items()
    }
    fused = fuse(spec, params, genes_GD, outputs, views, spaces)
    return next(iter(fused.values())).embedding_BE[:, : spec.shared_width]


def _init_boxed(spec: ModelSpec, key: jax.Array) -> Params:
    ints, floats = jnp.zeros((1, 2), jnp.int32), jnp.zeros((1, 2), jnp.float32)
    view = TokenBatch(ints, floats, floats, floats > 0, floats[:, 0], ints[:, 0], ints[:, 0])
    nothing_M = ints[0]
    regulator_G = jnp.zeros(spec.genes, jnp.int32)
    graph = GeneGraph(*[nothing_M] * 4, floats[0], nothing_M, regulator_G, nothing_M)
    return Assembly(spec).init(key, graph, view, method="everything")["params"]
