"""Link prediction: which TF regulates which gene, asked of edges that the graph network is not shown.

At every step some edges are drawn and asked about. They are taken out of the graph for that step, in every network that
has the same pair, so that an answer can only come from what the genes are: how they are expressed, and who else regulates
them or is regulated by them. Of any two genes that are asked about, so is an edge the other way round: left where it is,
it would separate edges from pairs that are none, the reverse of which is an edge that was taken out. Other edges are dropped
at random, so that no regulon is ever learned by heart.

Each edge is asked beside pairs that are no edges and that its degrees in its network do not separate from it:
- the same TF with the target of another edge (drawn by in-degree, the TF's out-degree being the same);
- the same target with the TF of another edge (drawn by out-degree);
- where the target is a TF itself, the edge the other way round.
Other edges are those of the same network: a gene that is in another alone would have one answer, whatever it is asked.
A pair drawn by chance that is an edge is not asked. Random pairs, against which papers report, are separated by their
degrees alone: most genes are regulated by nothing, and most TFs have few targets.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mofm.batch import ACTIVATES, NO_EDGE, REGULATES, REPRESSES, GeneGraph, LinkQuestions
from mofm.nn.links import answer_log_probabilities
from mofm.objectives.likelihoods import masked_mean

LARGEST_SHARE = 0.25
"""Of the edges, at most this share is asked about at a step: the others have to say who the genes are."""


def ask(key: jax.Array, graph: GeneGraph, asked: int, edge_dropout: float) -> tuple[GeneGraph, LinkQuestions]:
    """Draw the edges to ask about at a step.

    Args:
      key: PRNG key; the same key asks the same on any number of devices.
      graph: as `make_graph` gives it, no edge taken out.
      asked: edges to draw, with replacement; fewer are asked where that is more than LARGEST_SHARE of all.
      edge_dropout: chance of every other pair to be out of the graph as well.

    Returns:
      The graph to pass messages on, and 4 * asked questions: the edges, and beside each edge three that are none.
    """
    by_edge, by_target, by_tf, drop = jax.random.split(key, 4)
    edges = jnp.sum(graph.weight_M > 0)
    is_asked_Q = jnp.arange(asked) < jnp.maximum(LARGEST_SHARE * edges, 1)
    edge_Q = jax.random.randint(by_edge, (asked,), 0, edges)
    tf_Q, target_Q, relation_Q = graph.tf_M[edge_Q], graph.target_M[edge_Q], graph.relation_M[edge_Q]
    ascending_M = jnp.where(graph.weight_M > 0, graph.relation_M, np.iinfo(np.int32).max)
    network_Q = [jnp.searchsorted(ascending_M, relation_Q, side) for side in ("left", "right")]
    other_Q, third_Q = (jax.random.randint(one, (asked,), *network_Q) for one in (by_target, by_tf))

    tfs_4Q = jnp.stack([tf_Q, tf_Q, graph.tf_M[third_Q], target_Q])
    targets_4Q = jnp.stack([target_Q, graph.target_M[other_Q], target_Q, tf_Q])
    pair_4Q, reverse_4Q = pair_number(graph, tfs_4Q, targets_4Q), pair_number(graph, targets_4Q, tfs_4Q)
    sign_Q = graph.sign_M[edge_Q]
    answer_Q = jnp.where(sign_Q > 0, ACTIVATES, jnp.where(sign_Q < 0, REPRESSES, REGULATES))
    answers_4Q = jnp.stack([answer_Q, *[jnp.full_like(answer_Q, NO_EDGE)] * 3])
    is_none_4Q = (pair_4Q < 0) & (tfs_4Q != targets_4Q) & (graph.regulator_G[tfs_4Q] >= 0)
    mask_4Q = is_asked_Q & is_none_4Q.at[0].set(True)

    pairs = len(graph.pair_M)
    is_out_P = jax.random.uniform(drop, (pairs,)) < edge_dropout
    for number_4Q in (pair_4Q, reverse_4Q):
        is_out_P = is_out_P.at[jnp.where(mask_4Q & (number_4Q >= 0), number_4Q, pairs)].set(True, mode="drop")
    seen = graph._replace(weight_M=jnp.where(is_out_P[graph.pair_M], 0.0, graph.weight_M))

    relations_4Q = jnp.tile(relation_Q, (4, 1))
    return seen, LinkQuestions(*(x.ravel() for x in (tfs_4Q, targets_4Q, relations_4Q, answers_4Q, mask_4Q)))


def pair_number(graph: GeneGraph, tf: jax.Array, target: jax.Array) -> jax.Array:
    """int32, of the shape of `tf` and `target`: as in `GeneGraph.pair_M`; -1 where no network of the graph has the edge."""
    regulator = graph.regulator_G[tf]
    key = regulator * len(graph.regulator_G) + target
    place = jnp.minimum(jnp.searchsorted(graph.known_M, key), len(graph.known_M) - 1)
    return jnp.where((regulator >= 0) & (graph.known_M[place] == key), place, -1)


def link_prediction(logit_QA: jax.Array, questions: LinkQuestions) -> dict[str, jax.Array]:
    """How well the questions are answered.

    Returns:
      "link_nll": negative log-likelihood of the answers in nats, edges and what is none counting half each.
      "link_auroc": chance that an edge scores above a pair that is none; 0.5 knows nothing.
      "link_sign_accuracy": share of the edges of known sign whose likelier sign is the right one.
    """
    log_QS = answer_log_probabilities(logit_QA)
    exists_Q = jnp.logaddexp(log_QS[:, ACTIVATES], log_QS[:, REPRESSES])
    right_Q = jnp.stack([log_QS[:, NO_EDGE], log_QS[:, ACTIVATES], log_QS[:, REPRESSES], exists_Q], axis=1)
    right_Q = jnp.take_along_axis(right_Q, questions.answer_Q[:, None], axis=1)[:, 0]
    is_link_Q = questions.mask_Q & (questions.answer_Q != NO_EDGE)
    is_none_Q = questions.mask_Q & (questions.answer_Q == NO_EDGE)
    is_signed_Q = is_link_Q & (questions.answer_Q != REGULATES)
    is_right_Q = (logit_QA[:, 0] > logit_QA[:, 1]) == (questions.answer_Q == ACTIVATES)
    return {
        "link_nll": -(masked_mean(right_Q, is_link_Q) + masked_mean(right_Q, is_none_Q)) / 2,
        "link_auroc": _auroc(jnp.logaddexp(logit_QA[:, 0], logit_QA[:, 1]), is_link_Q, is_none_Q),
        "link_sign_accuracy": masked_mean(is_right_Q, is_signed_Q),
    }


def _auroc(score_Q: jax.Array, is_one_Q: jax.Array, is_other_Q: jax.Array) -> jax.Array:
    """Chance that one of the first scores above one of the second; equals count half."""
    others = jnp.sort(jnp.where(is_other_Q, score_Q, np.inf))
    below_Q, not_above_Q = (jnp.searchsorted(others, score_Q, side) for side in ("left", "right"))
    return masked_mean((below_Q + not_above_Q) / 2, is_one_Q) / jnp.maximum(is_other_Q.sum(), 1)
