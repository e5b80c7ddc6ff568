"""Genes that know whom they regulate and who regulates them: the gene table, and messages along the regulatory network.

The rows of the gene table are what every token of every omics type is made of (`tokenizer.py`). In a network a gene is
two things, a regulator and a target, and has a state for each:

    row_R       = the first R columns of row_D + loadings_R
    regulon_R   = sum over kinds of  against(kind)_R * mean over its targets of  target_R          TFs hear their targets
    regulator_R = own_R * row_R + regulon_R
    target_R    = row_R + sum over kinds of  along(kind)_R * mean over its regulators of  regulon_R       and the reverse
    row_D      += up(regulator_R) + up'(target_R)                                      what the tokens are made of

A *kind* of edge is its network and its sign: activates, represses, not known. A mean is over all neighbours in one
network, weighted by the edges' weights, and then split by sign, so that a TF can be given the mean of what it activates
less the mean of what it represses. This is a relational convolution (Schlichtkrull et al. 2018) whose matrices are diagonal
(as those of DistMult, Yang et al. 2015); attention (after Velickovic et al. 2018) weighs the neighbours of a mean by what
they are as well.

Choices and their cost:
- It starts as a known estimate. Against the edges, a TF takes the signed mean of its targets, its regulon, which shows
  what it does better than its own few mRNAs (VIPER, Alvarez et al. 2016); along them, a target loses a part of what its
  regulators explain of it, so that what is left can be ascribed to another. `up` starts at zero.
- Diagonals. A network of some thousand edges is learned by heart by full matrices: simulated cells, held-out edges beside
  pairs of the same TF that are none, AUROC from .649 at the start to .683 with diagonals and down to .615 with matrices.
  Feed-forward layers learn by heart as well, and so does a matrix from rows to states: at the start the first columns
  of a row are its loadings on components of expression, and those after them random, by which genes can be distinguished.
  The cost is that components do not mix in the network.
- The network reads the rows and does not write them; what the tokens learn of a gene is what it starts from. Where link
  prediction wrote to the rows, it wrote its answers there: AUROC of held-out edges .604 against .616 after 600 steps, and
  hidden counts were predicted alike. Cells and links share the rows, and what `up` makes of the network for the tokens.
- A row starts as loadings where its gene is among those of most signal; for all others the network has loadings of its
  own, which nothing learns (`training/components.py`). Else it read noise at most genes of a real data set.
- The graph passes once a step for all cells, so its cost does not grow with the batch.
- Attention starts uniform, so that it begins as the convolution and departs from it.
- float32 throughout: the states are few, and links are distinguished by small differences of them.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph
import numpy as np

from mofm.axes import EDGES, EMBED, GENES, HEADS, NETWORK, NETWORK_OUT
from mofm.batch import GeneGraph
from mofm.errors import InputError, check_at_least
from mofm.nn.layers import declare
from mofm.parallel.rules import constrain

ROW_START = 0.03
"""Deviation of fresh gene rows; what is known of a gene before training is added to it (`training/state.py`)."""
SIGNS = 3
"""Represses, not known, activates: an edge's sign + 1 numbers them."""
AGAINST = (-1.0, 1.0, 1.0)
"""By sign: what the mean of its targets starts as in a TF's regulon. Most edges of unknown sign activate."""
ALONG = (0.5, -0.5, -0.5)
"""By sign: what the mean of its regulators' regulons starts as in a target's state; training moves it."""
ROLES = ("regulator", "target")
NOT_SEEN = -1e9
"""Logit of an edge that is not there."""


@dataclass(frozen=True)
class GrnConfig:
    """Sizes of the graph network. It is used where `network.tables` names a network.

    Attributes:
      width: R, of a gene's states in the network: the first columns of its row, where its loadings on components of
        expression stand (32 at most). At most `encoder.width`, and a multiple of `heads`.
      layers: how often regulators and targets hear each other.
      kind: "convolution" (a mean over neighbours) or "attention" (weighed by what they are).
      heads: of attention.
    """

    width: int = 32
    layers: int = 1
    kind: Literal["convolution", "attention"] = "convolution"
    heads: int = 4

    def __post_init__(self):
        check_at_least("grn", self, ("width", "layers", "heads"), 1)
        if self.width % self.heads:
            raise InputError(f"grn.width={self.width} is not divisible by grn.heads={self.heads}")


class GeneStates(NamedTuple):
    """What the genes are in a step, float32.

    Attributes:
      rows_GD: what tokens are made of.
      regulator_GR, target_GR: what a gene is as a regulator and as a target, which links are scored by; None where there
        is no network.
      tendency_GN: mean sign of the edges that leave a gene in each network, in [-1, 1]; 0 for one that regulates nothing.
    """

    rows_GD: jax.Array
    regulator_GR: jax.Array | None = None
    target_GR: jax.Array | None = None
    tendency_GN: jax.Array | None = None


class Genes(nn.Module):
    """The gene table, and the network over it where there is one: graph -> GeneStates.

    Attributes:
      relations: networks in the graph; 0 for none.
    """

    genes: int
    width: int
    config: GrnConfig
    relations: int

    @nn.compact
    def __call__(self, graph: GeneGraph | None) -> GeneStates:
        table_GD = declare(self, "table", (self.genes, self.width), (GENES, EMBED), ROW_START)
        if not self.relations:
            return GeneStates(table_GD)
        inner = self.config.width
        loadings_GR = declare(self, "loadings", (self.genes, inner), (GENES, None), 0)
        row_GR = jax.lax.stop_gradient(table_GD[:, :inner] + loadings_GR)
        target_GR = row_GR
        for layer in range(self.config.layers):
            own_R = declare(self, f"own_{layer}", (inner,), (NETWORK,), "ones")
            regulon_GR = Hearing(self.config, self.relations, AGAINST, name=f"against_{layer}")(
                _as_jraph(target_GR, graph, graph.target_M, graph.tf_M)
            )
            regulator_GR = own_R * row_GR + regulon_GR
            target_GR = row_GR + Hearing(self.config, self.relations, ALONG, name=f"along_{layer}")(
                _as_jraph(regulon_GR, graph, graph.tf_M, graph.target_M)
            )
        up = {role: declare(self, f"up_{role}", (inner, self.width), (NETWORK_OUT, EMBED), 0) for role in ROLES}
        rows_GD = table_GD + regulator_GR @ up["regulator"] + target_GR @ up["target"]
        return GeneStates(rows_GD, regulator_GR, target_GR, _tendencies(graph, self.genes, self.relations))


def _tendencies(graph: GeneGraph, genes: int, relations: int) -> jax.Array:
    """See `GeneStates`: of the edges that are seen, weighted."""
    kind_M = graph.relation_M * genes + graph.tf_M
    signed, total = (
        jraph.segment_sum(x, kind_M, relations * genes) for x in (graph.weight_M * graph.sign_M, graph.weight_M)
    )
    return (signed / jnp.where(total > 0, total, 1.0)).reshape(relations, genes).T


def _as_jraph(state_GR: jax.Array, graph: GeneGraph, senders_M: jax.Array, receivers_M: jax.Array) -> jraph.GraphsTuple:
    """The graph with its edges in one direction; padding is an edge of weight 0."""
    return jraph.GraphsTuple(
        nodes=state_GR,
        senders=senders_M,
        receivers=receivers_M,
        edges={"weight": graph.weight_M, "relation": graph.relation_M, "sign": graph.sign_M},
        globals=None,
        n_node=jnp.array([state_GR.shape[0]]),
        n_edge=jnp.array([graph.weight_M.shape[0]]),
    )


class Hearing(nn.Module):
    """What each gene hears of its neighbours: jraph.GraphsTuple -> heard_GR, 0 for a gene that has none.

    Attributes:
      start: by sign, the factor of each mean at the start, shared between the networks.
    """

    config: GrnConfig
    relations: int
    start: tuple[float, float, float]

    @nn.compact
    def __call__(self, graph: jraph.GraphsTuple) -> jax.Array:
        inner, kinds = graph.nodes.shape[1], self.relations * SIGNS
        start_K1 = np.tile(np.array(self.start, np.float32) / self.relations, self.relations)[:, None]
        factor_KR = declare(self, "factor", (kinds, inner), (None, NETWORK), 0) + start_K1
        kind_M, share_MH = graph.edges["relation"] * SIGNS + graph.edges["sign"] + 1, self._shares(graph)

        def message(_edges, sent_MR, _received, _globals):
            by_head_MHR = sent_MR.reshape(*share_MH.shape, -1) * share_MH[..., None]
            return constrain(by_head_MHR.reshape(sent_MR.shape) * factor_KR[kind_M], (EDGES, None))

        def replace(_nodes, _sent, received_GR, _globals):
            return received_GR

        return jraph.GraphNetwork(message, replace)(graph).nodes

    def _shares(self, graph: jraph.GraphsTuple) -> jax.Array:
        """share_MH of each edge in its receiver's mean in its network: they sum to 1 over the edges that are seen."""
        weight_M, relation_M, genes = graph.edges["weight"], graph.edges["relation"], graph.nodes.shape[0]
        mean_M, means = relation_M * genes + graph.receivers, self.relations * genes
        if self.config.kind == "convolution":
            total = jraph.segment_sum(weight_M, mean_M, means)
            return (weight_M / jnp.where(total > 0, total, 1.0)[mean_M])[:, None]
        shape, axes = (self.config.width, self.config.heads), (NETWORK, HEADS)
        sender_GH = graph.nodes @ declare(self, "sender", shape, axes, self.config.width**-0.5)
        receiver_GH = graph.nodes @ declare(self, "receiver", shape, axes, self.config.width**-0.5)
        slope_NH = declare(self, "slope", (self.relations, self.config.heads), (None, HEADS), 0)
        asked_MH = nn.leaky_relu(sender_GH[graph.senders] + receiver_GH[graph.receivers], 0.2)
        is_seen_M = weight_M > 0
        logit_MH = asked_MH * slope_NH[relation_M] + jnp.log(jnp.where(is_seen_M, weight_M, 1.0))[:, None]
        share_MH = jraph.segment_softmax(jnp.where(is_seen_M[:, None], logit_MH, NOT_SEEN), mean_M, means)
        return share_MH * is_seen_M[:, None]
