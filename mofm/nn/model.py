"""The whole model behind one seam: pure functions over plain pytrees. Nobody outside `nn` sees flax.

    params = init(spec, key)                                           float32 arrays in nested dicts
    outputs = apply(spec, params, view, hidden_BL, modality, space)    Outputs
    logical_axes(spec)                                                 for every leaf of params, the names of its axes

A cell's path: `Tokenizer` (feature, value, modality -> tokens) -> `Encoder` (tokens see each other) -> `AttentionPool`
and `LinearReadout` (states and tokens -> cell embedding) -> `Decoder` (states and embedding -> likelihood of each
token's measurement). It is the same for every omics type: one encoder, one space.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mofm.axes import CELL_EMBED, EMBED, Modality
from mofm.batch import FeatureSpace, TokenBatch, log_exposure
from mofm.errors import InputError, check_at_least
from mofm.nn.attention import AttentionPool
from mofm.nn.decoder import Decoder, Prediction
from mofm.nn.encoder import Encoder, Remat
from mofm.nn.layers import declare
from mofm.nn.readout import LinearReadout
from mofm.nn.tokenizer import Tokenizer

Params = dict[str, Any]

ROW_MULTIPLE = 128
"""The gene table is padded to a multiple of this, so that it divides over any mesh axis up to 128."""


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of the model.

    Attributes:
      width: D, of the residual stream and of a gene's row. Divisible by `heads`.
      blocks: X, depth.
      heads: H, attention heads.
      ffn: F, inner width of the SwiGLU layers (about 8/3 of width costs what a 4x ReLU layer does).
      cell_width: E, width of the cell embedding, what `mofm embed` writes.
      bins: V, soft bins of a token's value.
      region_rows: hashed rows of their own that regions and proteins have beside their genes' rows; 0 for none, so that
        a region of a new data set is known as well as one of training.
      compute_dtype: "bfloat16" or "float32", of activations and products; parameters and reductions are float32.
      remat: what the backward pass keeps: "none" (everything), "dots" or "full" (least memory).
    """

    width: int = 256
    blocks: int = 6
    heads: int = 8
    ffn: int = 704
    cell_width: int = 128
    bins: int = 16
    region_rows: int = 0
    compute_dtype: str = "bfloat16"
    remat: Remat = "none"

    def __post_init__(self):
        check_at_least("encoder", self, ("width", "blocks", "heads", "ffn", "cell_width"), 1)
        check_at_least("encoder", self, ("region_rows",), 0)
        if self.bins < 2:
            raise InputError(f"encoder.bins={self.bins}: at least 2 are needed to place a value between them")
        if self.width % self.heads:
            raise InputError(f"encoder.width={self.width} is not divisible by encoder.heads={self.heads}")
        for name, allowed in (("compute_dtype", ("bfloat16", "float32")), ("remat", ("none", "dots", "full"))):
            if getattr(self, name) not in allowed:
                raise InputError(f"encoder.{name}={getattr(self, name)!r}: must be one of {', '.join(allowed)}")


class ModelSpec(NamedTuple):
    """All that fixes a model's shapes: the config and the number of genes it knows. Hashable: a static argument."""

    encoder: EncoderConfig
    known_genes: int

    @property
    def genes(self) -> int:
        """G, rows of the gene table: the genes known, padded."""
        return -(-self.known_genes // ROW_MULTIPLE) * ROW_MULTIPLE


class Outputs(NamedTuple):
    """What the model says of B views.

    Attributes:
      embedding_BE: float32 cell embedding.
      pooled_BD: float32, the attention pool's part of it, before it is brought to width E.
      states_BLD: token states, in the compute dtype.
      prediction: the likelihood of each token's measurement.
    """

    embedding_BE: jax.Array
    pooled_BD: jax.Array
    states_BLD: jax.Array
    prediction: Prediction


class _Model(nn.Module):
    spec: ModelSpec

    def setup(self):
        config, genes = self.spec.encoder, self.spec.genes
        dtype = jnp.dtype(config.compute_dtype)
        self.tokenizer = Tokenizer(genes, config.width, config.bins, config.region_rows, dtype)
        self.encoder = Encoder(config.blocks, config.heads, config.ffn, config.remat)
        self.readout = LinearReadout(genes)
        self.pool = AttentionPool(config.heads)
        shape, axes = (config.width, config.cell_width), (EMBED, CELL_EMBED)
        self.to_cell = declare(self, "to_cell", shape, axes, "identity")
        self.decoder = Decoder(genes, config.ffn)

    def __call__(
        self, view: TokenBatch, hidden_BL: jax.Array, modality: Modality, space: FeatureSpace | None
    ) -> Outputs:
        tokens_BLD, rows_BLD = self.tokenizer(view, hidden_BL, modality, space)
        states_BLD = self.encoder(tokens_BLD, view.mask_BL)
        pooled_BD = self.pool(states_BLD, view.mask_BL).astype(jnp.float32)
        embedding_BE = (self.readout(view, hidden_BL, rows_BLD, modality, space) + pooled_BD) @ self.to_cell
        depth_B = log_exposure(view.library_B)
        prediction = self.decoder(states_BLD, embedding_BE, rows_BLD, view.features_BL, depth_B, modality, space)
        return Outputs(embedding_BE, pooled_BD, states_BLD, prediction)


def init(spec: ModelSpec, key: jax.Array) -> Params:
    """Fresh parameters. Run it under `jax.jit` with `out_shardings`, so that none ever exists unsharded."""
    return nn.meta.unbox(_init_boxed(spec, key))


def logical_axes(spec: ModelSpec) -> Params:
    """The params' tree with each leaf replaced by the tuple of its logical axis names. Allocates nothing."""
    boxed = jax.eval_shape(lambda key: _init_boxed(spec, key), jax.random.key(0))
    is_box = lambda leaf: isinstance(leaf, nn.meta.AxisMetadata)  # noqa: E731
    return jax.tree.map(lambda leaf: tuple(leaf.names), boxed, is_leaf=is_box)


def apply(
    spec: ModelSpec,
    params: Params,
    view: TokenBatch,
    hidden_BL: jax.Array,
    modality: Modality,
    space: FeatureSpace | None = None,
) -> Outputs:
    """The model's outputs for a view whose values are hidden where `hidden_BL` is True.

    `space` tells what the features of a modality other than RNA are; any space over the model's gene rows serves.
    """
    return _Model(spec).apply({"params": params}, view, hidden_BL, modality, space)


def embed(
    spec: ModelSpec, params: Params, view: TokenBatch, modality: Modality, space: FeatureSpace | None = None
) -> jax.Array:
    """embedding_BE of a view with nothing hidden."""
    return apply(spec, params, view, jnp.zeros_like(view.mask_BL), modality, space).embedding_BE


def _init_boxed(spec: ModelSpec, key: jax.Array) -> Params:
    ints, floats = jnp.zeros((1, 2), jnp.int32), jnp.zeros((1, 2), jnp.float32)
    view = TokenBatch(ints, floats, floats, floats > 0, floats[:, 0], ints[:, 0], ints[:, 0])
    return _Model(spec).init(key, view, floats > 0, "rna", None)["params"]
