"""Regulation: does the model separate the edges of a table from pairs of the same TF that the table does not have?

Judged are the edges of `--network` that training was not shown in any network. Each stands beside a pair of its TF with the
target of another such edge (`network_splits.matched_negatives`), which degrees hardly separate. Beside the model stand
the degrees of the training edges, Pearson's correlation of the two mRNAs in the judged cells, and that of the target with
the TF's known regulon; of signs, each TF's commonest among the training edges. Intervals resample TFs, not edges
(`regulation.py` says why).
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from mofm.errors import InputError
from mofm.evaluation.baselines import log_normalised
from mofm.evaluation.regulation import edge_scores, sign_accuracy
from mofm.evaluation.regulation_baselines import degree_scores, pearson_scores, regulon_scores
from mofm.evaluation.resample import Estimate
from mofm.evaluation.tasks.matching import gene_counts
from mofm.evaluation.tasks.score import OURS, Judged, Kind, Score, Situation, Subject
from mofm.inference.links import link_blocks, network_of
from mofm.inference.model import PretrainedModel
from mofm.omics.network_splits import TRAIN, matched_negatives
from mofm.omics.networks import read_networks

LEAST_EDGES, LEAST_TFS = 10, 2
Said = tuple[np.ndarray, np.ndarray]
"""Of (tf, target) pairs: how likely an edge, and its sign; real numbers."""


def check(situation: Situation) -> None:
    """Raises `InputError` where there is no table, the model has no network, there is no RNA, or no edge to judge."""
    if situation.settings.network is None:
        raise InputError("needs a table of TF -> target edges to judge by: give one with --network")
    network_of(situation.model)
    if "rna" not in situation.shown:
        raise InputError(f"needs RNA; the data has {', '.join(situation.shown)}")
    _edges(situation.model, situation.settings)


def _edges(model: PretrainedModel, settings) -> tuple[pd.DataFrame, int]:
    """Pairs of the table that training was not shown: tf, target, sign; and how many it was shown."""
    table = read_networks([settings.network], model.genes, model.named_by).edges
    pairs = table.groupby(["tf", "target"], as_index=False)["sign"].agg(lambda signs: np.sign(signs.sum()))
    trained = model.network.edges[model.network.edges["split"] == TRAIN]
    known = set(zip(trained["tf"], trained["target"], strict=True))
    is_shown = np.array([pair in known for pair in zip(pairs["tf"], pairs["target"], strict=True)], bool)
    new = pairs[~is_shown].reset_index(drop=True)
    if len(new) < LEAST_EDGES or new["tf"].nunique() < LEAST_TFS:
        raise InputError(
            f"{settings.network}: {len(new):,} of its {len(pairs):,} edges of the model's genes were not shown in training, of "
            f"{new['tf'].nunique()} TFs: too few to judge; give a table of other edges, or hold some out of training "
            "(--config.network.held_out_edges)"
        )
    return new, int(is_shown.sum())


def judge(subject: Subject) -> Judged:
    """The model's links beside those of the baselines."""
    model, settings = subject.model, subject.settings
    new, shown = _edges(model, settings)
    everything = pd.concat([model.network.edges[["tf", "target"]], new[["tf", "target"]]])
    positives = new["tf"].to_numpy(), new["target"].to_numpy()
    known = everything["tf"].to_numpy(), everything["target"].to_numpy()
    tf, none = matched_negatives(positives, positives, known, len(model.genes), settings.seed)
    kept = np.flatnonzero(none >= 0)
    if len(kept) < LEAST_EDGES:
        return Judged([], [f"beside {len(kept)} edges alone can a pair be set that is none: not judged"])
    pair_tf = np.concatenate([positives[0][kept], tf[kept]]).astype(np.int64)
    pair_target = np.concatenate([positives[1][kept], none[kept]]).astype(np.int64)
    sign = np.concatenate([new["sign"].to_numpy()[kept], np.zeros(len(kept), np.int64)])
    methods = _methods(subject, pair_tf, pair_target)
    scores = _scores(methods, np.arange(len(pair_tf)) < len(kept), sign, pair_tf, settings, subject)
    notes = [
        f"{len(kept):,} edges of {settings.network.name} judged, of {len(np.unique(pair_tf)):,} TFs; {shown:,} more were shown "
        f"in training and are not judged; beside {len(new) - len(kept):,} no pair could be set.",
        "Intervals are over TFs. A pair that no table has may still be an edge; it costs every method the same.",
    ]
    return Judged(scores, notes)


def _methods(subject: Subject, tf: np.ndarray, target: np.ndarray) -> list[tuple[str, Kind, Said]]:
    model = subject.model
    trained = model.network.edges[model.network.edges["split"] == TRAIN]
    values_NG = log_normalised(gene_counts(subject, "rna", subject.views["rna"]))
    pearson = pearson_scores(values_NG, tf, target)
    regulon = regulon_scores(values_NG, trained, tf, target)
    sums = trained.groupby("tf")["sign"].sum()
    commonest = np.where(sums.reindex(tf).fillna(0).to_numpy() < 0, -1.0, 1.0)
    return [
        (OURS, "mofm", _links(model, tf, target)),
        ("degrees", "trivial", (degree_scores(trained, len(model.genes), tf, target), commonest)),
        ("Pearson", "linear", (np.abs(pearson), pearson)),
        ("regulon", "linear", (np.abs(regulon), regulon)),
    ]


def _links(model: PretrainedModel, tf: np.ndarray, target: np.ndarray) -> Said:
    network = network_of(model)
    exists, sign = np.zeros(len(tf)), np.zeros(len(tf))
    for block, probability_TGA in link_blocks(model, network, np.unique(tf).astype(np.int32)):
        of = np.flatnonzero(np.isin(tf, block))
        said_QA = probability_TGA[np.searchsorted(block, tf[of]), target[of]]
        exists[of], sign[of] = said_QA.sum(axis=1), said_QA[:, 0] - said_QA[:, 1]
    return exists, sign


def _scores(methods, is_edge: np.ndarray, sign: np.ndarray, tf: np.ndarray, settings, subject: Subject) -> list[Score]:
    draws = _tf_draws(tf, settings.bootstrap, settings.seed)
    cells = subject.views["rna"].adata.n_obs
    metrics: dict[str, Callable[[Said, np.ndarray], float]] = {
        "AUROC of edges": lambda said, rows: edge_scores(
            said[0][rows[is_edge[rows]]], said[0][rows[~is_edge[rows]]])["auroc"],
        "balanced accuracy of signs": lambda said, rows: sign_accuracy(
            said[1][rows[is_edge[rows]]], sign[rows[is_edge[rows]]]),
    }  # fmt: skip
    scores = []
    for metric, score in metrics.items():
        for method, kind, said in methods:
            values = np.array([_or_nan(score, said, rows) for rows in draws])
            if np.isfinite(values[0]):
                scores.append(Score("rna", metric, method, kind, Estimate(values), cells, int(is_edge.sum())))
    return scores


def _or_nan(score: Callable, said: Said, rows: np.ndarray) -> float:
    try:
        return score(said, rows)
    except InputError:  # as where no repression is drawn
        return float("nan")


def _tf_draws(tf: np.ndarray, draws: int, seed: int) -> list[np.ndarray]:
    """Rows of all pairs, and of `draws` draws of TFs with all their pairs."""
    code_N = np.unique(tf, return_inverse=True)[1]
    of_tf = np.split(np.argsort(code_N, kind="stable"), np.cumsum(np.bincount(code_N))[:-1])
    rng = np.random.default_rng(seed)
    drawn = [np.concatenate([of_tf[one] for one in rng.integers(len(of_tf), size=len(of_tf))]) for _ in range(draws)]
    return [np.arange(len(tf)), *drawn]
