"""How well scores of (tf, target) pairs separate edges of a regulatory network from pairs that are none.

Choices and their cost:
- Ranked edges are judged by AUROC, by average precision and by BEELINE's early precision (Pratapa et al., Nat Methods
  2020). The last two depend on the share of positives, so what a random ranking gets stands beside them.
- Ties count as the mean over their orders, but in average precision, where scikit-learn takes them as one step. A
  method that has nothing to say of a pair may score it 0; NaN is an error, as leaving pairs out unseen would flatter.
- Intervals resample TFs, not edges: the edges of a TF come of one experiment or one review of it and are not
  independent. Intervals over edges would be several times too narrow.
"""

from collections.abc import Callable, Mapping

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from mofm.errors import InputError
from mofm.evaluation.scores import BOOTSTRAP_DRAWS, Interval


def edge_scores(positive_scores: np.ndarray, negative_scores: np.ndarray) -> dict[str, float]:
    """How high edges rank among pairs that are none.

    Returns:
      auroc: the chance that an edge scores above a pair that is none; 0.5 for a random ranking.
      auprc: average precision; auprc_random: the share of positives, which it is for a random ranking of many.
      early_precision: the share of edges among the k pairs ranked first, k being the number of edges.
      early_precision_ratio: that over what a random ranking gets, which is the share of positives too.

    Raises:
      InputError: no positives or no negatives, or scores that are not finite.
    """
    positive, negative = (np.asarray(scores, np.float64).ravel() for scores in (positive_scores, negative_scores))
    if not len(positive) or not len(negative):
        raise InputError(f"edges cannot be ranked: {len(positive)} positives and {len(negative)} negatives, need both")
    scores = _finite(np.concatenate([positive, negative]))
    is_edge = np.arange(len(scores)) < len(positive)
    share, early = len(positive) / len(scores), _early_precision(is_edge, scores)
    return {
        "auroc": float(roc_auc_score(is_edge, scores)),
        "auprc": float(average_precision_score(is_edge, scores)),
        "auprc_random": share,
        "early_precision": early,
        "early_precision_ratio": early / share,
    }


def sign_accuracy(score_sign: np.ndarray, sign: np.ndarray) -> float:
    """Balanced accuracy of the signs of edges: the mean of the shares of activations and of repressions named right.

    0.5 is what naming every edge an activation gets, and what a coin gets.

    Args:
      score_sign: real; its sign is what is said of the edge. 0 says nothing and counts half.
      sign: 1, -1, or 0 where it is not known: such edges are left out.

    Raises:
      InputError: no activation or no repression is known, or a score is not finite.
    """
    said, sign = np.sign(_finite(score_sign)), np.asarray(sign)
    _same_length(said, sign)
    if not (np.any(sign == 1) and np.any(sign == -1)):
        raise InputError("signs cannot be judged: among these edges no activation or no repression is known")
    return float(np.mean([np.mean((1 + known * said[sign == known]) / 2) for known in (1, -1)]))


def direction_accuracy(forward: np.ndarray, backward: np.ndarray) -> float:
    """Share of directed pairs whose score tf -> target is above that of target -> tf; ties count half.

    The caller leaves out pairs that regulate each other. A score that is symmetric, such as a correlation, gets 0.5.

    Raises:
      InputError: no pairs, or scores that are not finite.
    """
    forward, backward = _finite(forward), _finite(backward)
    _same_length(forward, backward)
    if not len(forward):
        raise InputError("directions cannot be judged: there are no pairs")
    return float(np.mean((1 + np.sign(forward - backward)) / 2))


def tf_bootstrap(
    statistic: Callable[[np.ndarray], Mapping[str, float]], tf: np.ndarray, seed: int, draws: int = BOOTSTRAP_DRAWS
) -> dict[str, Interval]:
    """Scores with 95% intervals over TFs: TFs are drawn with replacement, each with all its pairs.

    Args:
      statistic: named scores of the pairs at these places (int64, repeated where a TF is drawn twice).
      tf: of each pair, positive or negative.

    Returns:
      Of each name its value of all pairs and its interval. Draws of which the statistic cannot be computed (it raises
      `InputError`, as where no repression is drawn) are left out.

    Raises:
      InputError: fewer than 2 TFs, the statistic cannot be computed for all pairs, or for most draws.
    """
    _, code = np.unique(tf, return_inverse=True)
    order, counts = np.argsort(code, kind="stable"), np.bincount(code)
    if len(counts) < 2:
        raise InputError(f"an interval over TFs needs at least 2 of them, not {len(counts)}")
    of_tf = np.split(order, np.cumsum(counts)[:-1])
    observed, drawn, rng = statistic(np.arange(len(code))), [], np.random.default_rng(seed)
    for _ in range(draws):
        rows = np.concatenate([of_tf[place] for place in rng.integers(len(of_tf), size=len(of_tf))])
        try:
            drawn.append(statistic(rows))
        except InputError:
            continue
    if len(drawn) <= draws / 2:
        raise InputError(
            f"an interval over {len(of_tf)} TFs: of {draws - len(drawn)} of {draws} draws there is no score"
        )
    ends = {name: np.quantile([scores[name] for scores in drawn], (0.025, 0.975)) for name in observed}
    return {name: Interval(float(value), *map(float, ends[name])) for name, value in observed.items()}


def _early_precision(is_edge: np.ndarray, scores: np.ndarray) -> float:
    """Expected over the orders of ties: those at the last score that still counts are as likely in as out."""
    k = np.count_nonzero(is_edge)
    last = np.partition(scores, -k)[-k]
    above, tied = scores > last, scores == last
    found = np.count_nonzero(is_edge & above) + (k - np.count_nonzero(above)) * np.mean(is_edge[tied])
    return float(found / k)


def _finite(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, np.float64).ravel()
    if bad := np.count_nonzero(~np.isfinite(scores)):
        raise InputError(
            f"{bad:,} of {len(scores):,} scores are not finite: score every pair, 0 where nothing is known"
        )
    return scores


def _same_length(one: np.ndarray, other: np.ndarray) -> None:
    if len(one) != len(other):
        raise InputError(f"{len(one):,} and {len(other):,} values cannot be of the same pairs")
