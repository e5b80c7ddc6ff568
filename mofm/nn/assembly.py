"""The modules put together: a cell's path from tokens to likelihood, and its ways between views.

A cell's path: `Tokenizer` (feature, value, modality -> tokens) -> `Encoder` (tokens see each other: in blocks of their
modality's own, where it has such, then in those that all share) -> `AttentionPool` and `LinearReadout` (states and tokens ->
cell embedding) -> `Decoder` (states and embedding -> likelihood of each token's measurement). What a gene is, `Genes` says
once for all cells of a batch. `Translator` answers in the place of a view that was not measured; `Fusion` has the views of a
cell that were measured see each other.
"""

from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mofm.axes import CELL_EMBED, EMBED, Modality
from mofm.batch import FeatureSpace, GeneGraph, Spaces, TokenBatch, log_exposure
from mofm.nn.attention import AttentionPool
from mofm.nn.decoder import Decoder, Prediction
from mofm.nn.encoder import Encoder
from mofm.nn.fusion import Fusion
from mofm.nn.grn import Genes, GeneStates
from mofm.nn.layers import declare
from mofm.nn.linear import LinearAnswer
from mofm.nn.links import LinkScorer
from mofm.nn.readout import LinearReadout
from mofm.nn.spec import ModelSpec
from mofm.nn.tokenizer import Tokenizer
from mofm.nn.translator import Translator


class Outputs(NamedTuple):
    """What the model says of B views.

    Attributes:
      embedding_BE: float32 cell embedding.
      pooled_BD: float32, the attention pool's part of it, before it is brought to width E.
      states_BLD: token states, in the compute dtype.
      prediction: the likelihood of each token's measurement.
      linear_BR: float32, the linear profile, where a model has a linear translation.
    """

    embedding_BE: jax.Array
    pooled_BD: jax.Array
    states_BLD: jax.Array
    prediction: Prediction
    linear_BR: jax.Array | None = None


class Translation(NamedTuple):
    """What the model says of features of a modality that it was not shown, of B cells.

    Attributes:
      prediction: the likelihood of each feature's measurement.
      embedding_BE: float32, where the embedding of the target's own view would lie; private columns are 0.
    """

    prediction: Prediction
    embedding_BE: jax.Array


class Assembly(nn.Module):
    """Every module of a model, and the ways through them that `model.py` offers; shapes are given there.

    Attributes:
      spec: which modules there are, and their sizes.
    """

    spec: ModelSpec

    def setup(self):
        """Declares what the spec asks for."""
        config, genes = self.spec.encoder, self.spec.genes
        dtype = jnp.dtype(config.compute_dtype)
        self.genes = Genes(genes, config.width, self.spec.grn, self.spec.relations)
        if self.spec.relations:
            self.links = LinkScorer(self.spec.relations, self.spec.grn.width)
        self.tokenizer = Tokenizer(config.width, config.bins, config.region_rows, dtype)
        stack = (config.heads, config.ffn, config.remat)
        if config.modality_blocks:
            self.own = {modality: Encoder(config.modality_blocks, *stack) for modality in self.spec.modalities}
        self.encoder = Encoder(config.blocks, *stack)
        self.readout = LinearReadout(genes)
        self.pool = AttentionPool(config.heads)
        shape, axes = (config.width, config.cell_width), (EMBED, CELL_EMBED)
        self.to_cell = declare(self, "to_cell", shape, axes, "identity")
        self.decoder = Decoder(genes, config.width, config.cell_width, config.ffn)
        if self.spec.translates:
            self.translator = Translator(
                self.spec.translator, *stack, self.spec.modalities, config.width, self.spec.shared_width
            )
        if self.spec.fuses:
            self.fusion = Fusion(self.spec.fusion, *stack, self.spec.modalities, config.width)
        if self.spec.contrasts:
            self.log_temperature = declare(self, "log_temperature", (), (), 0)

    def gene_states(self, graph: GeneGraph | None) -> GeneStates:
        """What the genes are, by the edges of `graph`."""
        return self.genes(graph)

    def score_links(self, genes: GeneStates, tf_Q: jax.Array, target_Q: jax.Array, relation_Q: jax.Array) -> jax.Array:
        """logit_QA of TF -> target pairs."""
        return self.links(genes.regulator_GR[tf_Q], genes.tendency_GN[tf_Q], genes.target_GR[target_Q], relation_Q)

    def score_every_link(self, genes: GeneStates, tf_T: jax.Array, relation: int) -> jax.Array:
        """logit_TGA of some TFs with every gene."""
        return self.links.every_pair(genes.regulator_GR[tf_T], genes.tendency_GN[tf_T], genes.target_GR, relation)

    def cell_factors(self, embedding_BE: jax.Array, modality: Modality) -> jax.Array:
        """factor_BD of embeddings."""
        return self.decoder.factors(embedding_BE, modality)

    def everything(self, graph: GeneGraph, view: TokenBatch) -> None:
        """Touches every weight, so that all are declared."""
        genes = self.gene_states(graph)
        outputs = self(genes.rows_GD, view, view.mask_BL, "rna", None)
        if self.spec.encoder.modality_blocks:
            for encoder in self.own.values():
                encoder(outputs.states_BLD, view.mask_BL)
        if self.spec.translates:
            for source, target in self.translator.one_of_each_stack():
                of = (outputs.states_BLD, outputs.states_BLD, view.mask_BL, outputs.embedding_BE)
                self.translator(*of, source, target)
        if self.spec.fuses:
            for modality in self.fusion.one_of_each_stack():
                self.fusion(outputs.states_BLD, outputs.states_BLD, view.mask_BL, modality)
        if self.spec.relations:
            self.score_links(genes, graph.tf_M, graph.target_M, graph.relation_M)

    def __call__(
        self,
        genes_GD: jax.Array,
        view: TokenBatch,
        hidden_BL: jax.Array,
        modality: Modality,
        space: FeatureSpace | None,
    ) -> Outputs:
        """The outputs of a view whose values are hidden where `hidden_BL` is True."""
        tokens_BLD, rows_BLD, by_genes_BLD = self.tokenizer(genes_GD, view, hidden_BL, modality, space)
        if self.spec.encoder.modality_blocks:
            tokens_BLD = self.own[modality](tokens_BLD, view.mask_BL)
        states_BLD = self.encoder(tokens_BLD, view.mask_BL)
        pooled_BD = self.pool(states_BLD, view.mask_BL).astype(jnp.float32)
        profile_BD = self.readout(view, hidden_BL, by_genes_BLD, genes_GD, modality, space)
        embedding_BE = (profile_BD + pooled_BD) @ self.to_cell
        depth_B = log_exposure(view.library_B)
        prediction = self.decoder(states_BLD, embedding_BE, rows_BLD, view.features_BL, depth_B, modality, space)
        return Outputs(embedding_BE, pooled_BD, states_BLD, prediction)

    def translate(
        self,
        genes_GD: jax.Array,
        outputs: Outputs,
        shown_BM: jax.Array,
        asked: TokenBatch,
        source: Modality,
        target: Modality,
        space: FeatureSpace | None,
        linear: LinearAnswer | None,
    ) -> Translation:
        """What cells would show of the features of `asked`, from what was made of their views in `source`."""
        tokens_BLD, rows_BLD, _ = self.tokenizer(genes_GD, asked, jnp.ones_like(asked.mask_BL), target, space)
        states_BLD, embedding_BE, spread_BL = self.translator(
            tokens_BLD, outputs.states_BLD, shown_BM, outputs.embedding_BE, source, target
        )
        depth_B = log_exposure(asked.library_B)
        prediction = self.decoder(states_BLD, embedding_BE, rows_BLD, asked.features_BL, depth_B, target, space)
        prediction = prediction._replace(spread_BL=prediction.spread_BL + spread_BL)
        if linear is not None:
            prediction = prediction._replace(
                token_BL=prediction.token_BL + linear.predictor_BL,
                cell_BL=prediction.cell_BL + linear.predictor_BL,
                spread_BL=prediction.spread_BL + linear.spread_BL,
            )
        return Translation(prediction, embedding_BE)

    def fuse(
        self,
        genes_GD: jax.Array,
        outputs: Mapping[Modality, Outputs],
        views: Mapping[Modality, TokenBatch],
        spaces: Spaces,
    ) -> dict[Modality, Outputs]:
        """The outputs of views once those of one cell have seen each other."""
        shared, common, fused = self.spec.shared_width, {}, {}
        for modality, view in views.items():
            was = outputs[modality]
            seen = [other for other in views if other != modality]
            seen_BMD = jnp.concatenate([outputs[other].states_BLD for other in seen], axis=1)
            mask_BM = jnp.concatenate(
                [views[other].mask_BL & _same_cell(view, views[other])[:, None] for other in seen], axis=1
            )
            states_BLD = self.fusion(was.states_BLD, seen_BMD, mask_BM, modality)
            pooled_BD = self.pool(states_BLD, view.mask_BL).astype(jnp.float32)
            added_BE = (pooled_BD - was.pooled_BD) @ self.to_cell  # exactly 0 where nothing was added
            common[modality] = (was.embedding_BE + added_BE)[:, :shared]
            fused[modality] = was._replace(pooled_BD=pooled_BD, states_BLD=states_BLD)
        for modality, view in views.items():
            joint_BS = self.fusion.joint(common, _there(modality, views))
            embedding_BE = jnp.concatenate([joint_BS, outputs[modality].embedding_BE[:, shared:]], axis=1)
            space = spaces.get(modality)
            rows_BLD = self.tokenizer.rows(genes_GD, view.features_BL, space)
            of = (rows_BLD, view.features_BL, log_exposure(view.library_B), modality, space)
            prediction = self.decoder(fused[modality].states_BLD, embedding_BE, *of)
            fused[modality] = fused[modality]._replace(embedding_BE=embedding_BE, prediction=prediction)
        return fused


def _same_cell(one: TokenBatch, other: TokenBatch) -> jax.Array:
    """bool, B: whether a row of both is of one cell."""
    return (one.cell_B == other.cell_B) & (one.cell_B >= 0)


def _there(modality: Modality, views: Mapping[Modality, TokenBatch]) -> dict[Modality, jax.Array]:
    """Which views are of the cells of one of them: those of the same cell that have tokens, and itself where none has."""
    there = {other: view.mask_BL.any(axis=1) & _same_cell(views[modality], view) for other, view in views.items()}
    return there | {modality: there[modality] | ~jnp.stack([*there.values()]).any(axis=0)}
