"""The regulatory networks of a model as one padded graph: what `omics/networks.py` read, in the form of `batch.GeneGraph`.

Padded once, when a run starts, to a fixed number of edges: one shape, one compilation, divisible over a mesh.
"""

import numpy as np
import pandas as pd

from mofm.batch import ACTIVATES, NO_EDGE, REGULATES, REPRESSES, GeneGraph, LinkQuestions
from mofm.errors import InputError

EDGE_MULTIPLE = 1_024
"""Edges are padded to a multiple of this, so that they divide over as many devices."""
NOTHING = np.iinfo(np.int32).max
"""Key of no pair."""
ANSWER_OF_SIGN = {1: ACTIVATES, -1: REPRESSES, 0: REGULATES}


def make_graph(edges: pd.DataFrame, genes: int, budget: int | None = None) -> GeneGraph:
    """The graph of some edges, numpy.

    Args:
      edges: columns tf, target, relation, sign, weight, as `omics/networks.py: Network` has them.
      genes: G, rows of the gene table.
      budget: edges to pad to; None for as few as EDGE_MULTIPLE allows.

    Raises:
      InputError: more edges than the budget, or more TFs and genes than pairs can be numbered.
    """
    edges, count = edges.sort_values("relation", kind="stable"), len(edges)
    padded = -(-max(count, 1) // EDGE_MULTIPLE) * EDGE_MULTIPLE if budget is None else budget
    if count > padded:
        raise InputError(
            f"network.edge_budget={budget}: the networks have {count:,} edges; raise it, leave it out, or keep fewer with "
            "network.confidences"
        )
    tf_M, target_M = (edges[name].to_numpy(np.int32) for name in ("tf", "target"))
    tfs = np.unique(tf_M)
    if len(tfs) * genes >= NOTHING:
        raise InputError(
            f"network: {len(tfs):,} TFs x {genes:,} genes are more pairs than 2^31; use networks of fewer TFs"
        )
    regulator_G = np.full(genes, -1, np.int32)
    regulator_G[tfs] = np.arange(len(tfs), dtype=np.int32)
    known_P, pair_M = np.unique(regulator_G[tf_M] * np.int64(genes) + target_M, return_inverse=True)

    def pad(x_M, fill=0):
        return np.pad(x_M, (0, padded - len(x_M)), constant_values=fill)

    columns = [edges[name].to_numpy(dtype) for name, dtype in (("relation", np.int32), ("sign", np.int32))]
    weight_M = pad(edges["weight"].to_numpy(np.float32))
    pair_M, known_M = pad(pair_M.astype(np.int32)), pad(known_P.astype(np.int32), NOTHING)
    return GeneGraph(pad(tf_M), pad(target_M), *map(pad, columns), weight_M, pair_M, regulator_G, known_M)


def ask_about(edges: pd.DataFrame, others: tuple[np.ndarray, np.ndarray]) -> LinkQuestions:
    """Questions about some edges, and about pairs that are none, (tf, target) of one for each edge.

    A target of -1 says that an edge has no such pair beside it; neither is asked.
    """
    tf_Q, target_Q = (
        np.concatenate([edges[name], other]) for name, other in zip(("tf", "target"), others, strict=True)
    )
    answer_Q = np.concatenate([edges["sign"].map(ANSWER_OF_SIGN), np.full(len(edges), NO_EDGE)])
    relation_Q = np.tile(edges["relation"], 2)
    columns = (np.maximum(x, 0).astype(np.int32) for x in (tf_Q, target_Q, relation_Q, answer_Q))
    return LinkQuestions(*columns, np.tile(others[1] >= 0, 2))
