"""Which edges of a regulatory network are kept from training, what stands beside them as no edge, and a null network.

A network is a DataFrame of edges: tf and target, int32 rows of a gene table; relation, int16; sign, int8, 0 where it is
not known; weight, float32; confidence, str. A pair is a distinct (tf, target) over all relations.

Choices and their cost:
- A pair is held out with its edges of all relations, else what one relation hides another shows.
- Held-out TFs are whole: all pairs from them, not those to them. How a model does on a TF of which it knows no target
  is the question that a user with a new TF asks; held-out edges of known TFs are the easier one, and are kept apart.
- Negatives are matched: those of a positive have its TF, and the target of an edge drawn by lot from a pool. Give the
  positives of the same part as the pool. A network's degrees are as much those of what has been studied as of the cell;
  of DoRothEA (29,086 edges, a tenth held out) the degrees of the pairs alone reach an AUROC of 0.93 against uniform
  negatives among 20,000 genes. A target's in-degree among the training edges reaches 0.52 where the pool is the part.
  It reaches 0.43 where it is the whole network: an edge held out is missing from its own target's count, and a
  model can learn that. The 0.02 above chance are hubs: the more TFs one has, the fewer others can be its negatives.
- A negative is no known edge, which is not to say that the cell has no such edge. It costs every method the same.
- Lots are drawn over sorted pairs: the order of the rows, and a row given twice, change nothing.
"""

import numba
import numpy as np
import pandas as pd

from mofm.errors import InputError

TRAIN, HELD_OUT_EDGE, HELD_OUT_TF = "train", "held_out_edge", "held_out_tf"
LEAST_TARGETS = 10
"""TFs with fewer targets are not held out whole: of so few edges no score of a TF can be computed."""

Pairs = tuple[np.ndarray, np.ndarray]
"""(tf, target), integers, one each a pair."""


def hold_out(edges: pd.DataFrame, edge_fraction: float, tf_fraction: float, seed: int) -> np.ndarray:
    """What each edge is for: `TRAIN`, `HELD_OUT_EDGE` or `HELD_OUT_TF`, str, in the order of the rows.

    Args:
      edge_fraction: of the pairs of the TFs that are not held out. Every such TF keeps at least one pair for training,
        so it may be less where most TFs have but one.
      tf_fraction: of the TFs with `LEAST_TARGETS` targets; at least one, unless it is 0 or there are none.

    Raises:
      InputError: fractions outside [0, 1), no edges, or none left to train on.
    """
    for name, fraction in (("edge_fraction", edge_fraction), ("tf_fraction", tf_fraction)):
        if not 0 <= fraction < 1:
            raise InputError(f"{name}={fraction}: must be at least 0 and less than 1")
    if not len(edges):
        raise InputError("the network has no edges: there is nothing to hold out or to train on")
    pairs, place = np.unique(edges[["tf", "target"]].to_numpy(np.int64), axis=0, return_inverse=True)
    tf_rng, edge_rng = (np.random.default_rng([seed, stream]) for stream in range(2))
    part = np.full(len(pairs), TRAIN, dtype=f"<U{len(HELD_OUT_EDGE)}")

    tfs, targets = np.unique(pairs[:, 0], return_counts=True)
    eligible = tfs[targets >= LEAST_TARGETS]
    count = min(max(round(tf_fraction * len(eligible)), 1), len(eligible)) if tf_fraction else 0
    part[np.isin(pairs[:, 0], tf_rng.permutation(eligible)[:count])] = HELD_OUT_TF

    drawn = edge_rng.permutation(np.flatnonzero(part == TRAIN))
    if not len(drawn):
        raise InputError(
            f"tf_fraction={tf_fraction} holds out all {len(tfs)} TFs of the network and leaves no edge to train on: "
            "lower it or give a network of more TFs"
        )
    _, kept = np.unique(pairs[drawn, 0], return_index=True)  # the first drawn of each TF
    part[np.delete(drawn, kept)[: round(edge_fraction * len(drawn))]] = HELD_OUT_EDGE
    return part[place.ravel()]


def matched_negatives(positives: Pairs, pool: Pairs, known: Pairs, genes: int, seed: int) -> Pairs:
    """For each positive a pair of the same TF that is not known, its target that of an edge of the pool.

    Targets are drawn in proportion to their in-degree in the pool, exactly and with replacement: among those that the
    TF is not known to regulate, and not the TF itself. Which negative a positive gets follows from the sets of
    pairs, not from their order.

    Args:
      pool: the edges that in-degrees are taken from: all positives of this part, see above.
      known: what may not be drawn. Those of the pool and the positives are not known by themselves.
      genes: G, the rows of the gene table.

    Returns:
      (tf, target), int32, in the order of the positives; target is -1 where the pool has none that the TF does not
      regulate. It is for the caller to leave these positives out, and to report how many.
    """
    rng = np.random.default_rng(seed)
    tf, target = (np.asarray(rows, np.int32) for rows in positives)
    order = np.lexsort((target, tf))
    pool_targets = np.sort(np.asarray(pool[1], np.int64))
    known_tf, known_target = (np.asarray(rows, np.int64) for rows in known)
    by_tf = np.argsort(known_tf, kind="stable")
    known_tf, known_target = known_tf[by_tf], known_target[by_tf]

    drawn = np.full(len(tf), -1, np.int32)
    present, starts, counts = np.unique(tf[order], return_index=True, return_counts=True)
    ends = [np.searchsorted(known_tf, present, side) for side in ("left", "right")]
    for regulator, start, count, first, last in zip(present, starts, counts, *ends, strict=True):
        is_free = np.ones(genes, bool)
        is_free[known_target[first:last]] = False
        is_free[regulator] = False
        free = pool_targets[is_free[pool_targets]]
        if len(free):
            drawn[order[start : start + count]] = free[rng.integers(len(free), size=count)]
    return tf, drawn


def uniform_negatives(count: int, tfs: np.ndarray, known: Pairs, genes: int, seed: int) -> Pairs:
    """`count` different pairs of a random TF and a random gene that are not known, as papers draw them.

    For comparison only: most such genes have few known regulators, so degrees alone separate these from edges.

    Args:
      tfs: rows of the TFs, each as likely as any.

    Returns:
      (tf, target), int32.

    Raises:
      InputError: there are not so many.
    """
    tfs = np.unique(np.asarray(tfs, np.int64))
    own = np.arange(len(tfs)) * genes + tfs
    known_tf, known_target = (np.asarray(rows, np.int64) for rows in known)
    is_of_them = np.isin(known_tf, tfs)
    taken = np.union1d(own, np.searchsorted(tfs, known_tf[is_of_them]) * genes + known_target[is_of_them])
    free = len(tfs) * genes - len(taken)
    if count > free:
        raise InputError(f"{count:,} negatives are asked for, and {len(tfs)} TFs x {genes:,} genes leave {free:,}")
    rank = np.random.default_rng(seed).choice(free, count, replace=False)
    cell = rank + np.searchsorted(taken - np.arange(len(taken)), rank, side="right")  # the rank-th that is not taken
    return tfs[cell // genes].astype(np.int32), (cell % genes).astype(np.int32)


def rewired(edges: pd.DataFrame, seed: int, swaps_per_edge: int = 10) -> pd.DataFrame:
    """A random network of the same degrees: within each relation, pairs of edges exchange their targets.

    Maslov & Sneppen (Science 2002). Every TF's number of targets and every target's number of TFs stay as they are in
    each relation, and what else an edge has stays with its TF. A swap that would make an edge of a gene onto itself,
    or one that is there already, is not made; an edge onto itself that the network has may be swapped away.

    Args:
      swaps_per_edge: swaps tried. Of DoRothEA 10 leave 6.4% of the edges where they were, and 100 6.3%.

    Returns:
      The same columns and index, other targets.

    Raises:
      InputError: an edge that a relation has twice.
    """
    if edges.duplicated(["tf", "target", "relation"]).any():
        raise InputError("a relation of the network has an edge twice: drop duplicates before rewiring it")
    tf, target, relation = (edges[name].to_numpy() for name in ("tf", "target", "relation"))
    order, swapped = np.lexsort((target, tf, relation)), target.copy()
    for number in np.unique(relation):
        rows = order[relation[order] == number]
        tries = np.random.default_rng([seed, number]).integers(len(rows), size=(swaps_per_edge * len(rows), 2))
        regulators, tf_code = np.unique(tf[rows], return_inverse=True)
        targets, target_code = np.unique(target[rows], return_inverse=True)
        is_self = regulators[:, None] == targets
        _swap(tf_code, target_code, is_self, tries)
        swapped[rows] = targets[target_code]
    return edges.assign(target=swapped)


@numba.njit(nogil=True)
def _swap(tf, target, is_self, tries):
    """Exchanges targets in place. A table of TFs x targets, a byte a cell, says what is taken: 4 MB of DoRothEA."""
    taken = is_self.copy()
    for edge in range(len(tf)):
        taken[tf[edge], target[edge]] = True
    for attempt in range(len(tries)):
        one, other = tries[attempt]
        if taken[tf[one], target[other]] or taken[tf[other], target[one]]:  # so it is where they share an end
            continue
        for edge in (one, other):
            taken[tf[edge], target[edge]] = is_self[tf[edge], target[edge]]
        target[one], target[other] = target[other], target[one]
        taken[tf[one], target[one]] = taken[tf[other], target[other]] = True
