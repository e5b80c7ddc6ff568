"""How well batches are mixed in an embedding, and whether cell types stay apart while they are.

Neither means anything alone: an embedding of pure noise mixes perfectly. Report both.

Mixing counts edges of the k-nearest-neighbour graph (Euclidean, a cell is not its own neighbour). Of cell i, in a batch
of n_i of the N cells,

    o_i = share of its k neighbours from other batches
    e_i = (N - n_i) / (N - 1)             what o_i is on average when batch labels are shuffled
    f_i = max(0, k - (n_i - 1)) / k       what o_i is when batches are apart: its batch may have too few neighbours

    mixing = sum_i (o_i - f_i) / sum_i (e_i - f_i)

1 is what shuffling gives, 0 is batches apart, for any k and any batch sizes; above 1 cells prefer the other batch, as
views of one cell do. It asks what kBET (Buttner et al. 2019) tests, observed against expected shares of batches around
a cell, and what iLISI (Korsunsky et al. 2019) counts, but on a scale that needs no significance level and no
perplexity. Batches that hold different types *should* not mix, so the score within each type is the one to trust where
there are labels, as scIB (Luecken et al. 2022) does by its label-wise batch metrics.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.metrics import silhouette_samples
from sklearn.neighbors import NearestNeighbors

from mofm.errors import InputError

FEWEST_CELLS = 10
"""A type with fewer cells than this says nothing of mixing."""


@dataclass(frozen=True)
class Mixing:
    """Attributes: score; per_batch, the same sum over each batch's cells (NaN where it has none to expect); k."""

    score: float
    per_batch: dict[str, float]
    k: int


@dataclass(frozen=True)
class ConditionalMixing:
    """Mixing among the cells of one type at a time.

    Attributes:
      score: mean of per_label, each type weighing the same; NaN where no type could be scored.
      per_label: the score of each type.
      not_scored: why, for each type left out.
    """

    score: float
    per_label: dict[str, float]
    not_scored: dict[str, str]


@dataclass(frozen=True)
class Silhouette:
    """How compact and apart the types are.

    Attributes:
      score: mean of per_label. 1: every cell far nearer its own type than any other; 0.5: on the border; 0: misplaced.
      per_label: mean of (1 + s_i) / 2 over the type's cells, s_i the silhouette width (Rousseeuw 1987), scaled as in
        scIB's cell-type ASW.
      not_scored: why, for each type left out.
      n_cells: cells used.
    """

    score: float
    per_label: dict[str, float]
    not_scored: dict[str, str]
    n_cells: int


def batch_mixing(X_ND: np.ndarray, batch_labels: Sequence, k: int = 30) -> Mixing:
    """Cross-batch neighbours relative to random mixing: 1 mixed, 0 apart (formula above).

    Args:
      X_ND: embedding, finite.
      batch_labels: one a cell, none missing.
      k: neighbours; lowered to half the cells where there are few, since all cells being neighbours says nothing.

    Raises:
      InputError: fewer than 2 batches or 3 cells, or an embedding and labels that do not fit.
    """
    X_ND, batches = _checked(X_ND, batch_labels, "batch")
    names, codes_N = np.unique(batches, return_inverse=True)
    if len(names) < 2 or len(codes_N) < 3:
        raise InputError(f"mixing needs 2 batches and 3 cells: found {len(names)} and {len(codes_N)}")
    k = min(k, max(1, len(X_ND) // 2))
    above_N, room_N = mixing_edges(X_ND, codes_N, k)
    above, room = (np.bincount(codes_N, values) for values in (above_N, room_N))
    per_batch = np.divide(above, room, out=np.full(len(names), np.nan), where=room > 1e-12)
    return Mixing(_ratio(above.sum(), room.sum()), dict(zip(names.tolist(), per_batch.tolist(), strict=True)), k)


def batch_mixing_within(X_ND: np.ndarray, batch_labels: Sequence, labels: Sequence, k: int = 30) -> ConditionalMixing:
    """`batch_mixing` among the cells of each type, neighbours sought within the type only.

    Types with one batch or fewer than `FEWEST_CELLS` cells are left out and named in `not_scored`, and so are cells
    without a label, under "unlabelled".
    """
    X_ND, batches = _checked(X_ND, batch_labels, "batch")
    types, known = _names(labels, len(X_ND))
    per_label, not_scored = {}, _unlabelled(known)
    for name in np.unique(types[known]).tolist():
        members = known & (types == name)
        held = len(np.unique(batches[members]))
        if members.sum() < FEWEST_CELLS or held < 2:
            not_scored[name] = f"{members.sum()} cells in {held} batch{'es' if held > 1 else ''}"
        else:
            per_label[name] = batch_mixing(X_ND[members], batches[members], k).score
    return ConditionalMixing(_mean(per_label), per_label, not_scored)


def silhouette(X_ND: np.ndarray, labels: Sequence, max_cells: int = 10_000, seed: int = 0) -> Silhouette:
    """Scaled silhouette of each type (Euclidean).

    Args:
      X_ND: embedding, finite.
      labels: one a cell; missing ones are left out and reported.
      max_cells: the cost grows with the square of the cells, so more than this are sampled by `seed`.
    """
    X_ND, _ = _checked(X_ND, np.zeros(len(X_ND), int), "cell")
    types, known = _names(labels, len(X_ND))
    rows = np.flatnonzero(known)
    if len(rows) > max_cells:
        rows = np.sort(np.random.default_rng(seed).choice(rows, max_cells, replace=False))
    names, codes_N, counts = np.unique(types[rows], return_inverse=True, return_counts=True)
    not_scored = _unlabelled(known)
    # A type of one cell has no cohesion; sklearn would count its width as 0 and pull the mean towards the middle.
    not_scored |= {name: "1 cell" for name in names[counts == 1].tolist()}
    rows, codes_N = rows[counts[codes_N] > 1], codes_N[counts[codes_N] > 1]
    if len(np.unique(codes_N)) < 2:
        raise InputError("silhouette needs at least 2 labels of 2 cells each")
    width_N = (1 + silhouette_samples(X_ND[rows], codes_N)) / 2
    per_label = {str(names[code]): float(width_N[codes_N == code].mean()) for code in np.unique(codes_N)}
    return Silhouette(_mean(per_label), per_label, not_scored, len(rows))


def mixing_edges(X_ND: np.ndarray, codes_N: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """o_i - f_i and e_i - f_i of every cell (formula above), float64: mixing is the sum of the first over the second's.

    Args:
      codes_N: each cell's batch, 0, 1, ...
      k: neighbours; fewer than there are cells.
    """
    neighbours_NK = NearestNeighbors(n_neighbors=k).fit(X_ND).kneighbors(return_distance=False)
    observed_N = np.mean(codes_N[neighbours_NK] != codes_N[:, None], axis=1)
    size_N = np.bincount(codes_N)[codes_N]
    expected_N = (len(codes_N) - size_N) / (len(codes_N) - 1)
    floor_N = np.maximum(0, k - (size_N - 1)) / k
    return observed_N - floor_N, expected_N - floor_N


def _ratio(above: float, room: float) -> float:
    return float(above / room) if room > 1e-12 else float("nan")


def _mean(per_label: dict[str, float]) -> float:
    return float(np.mean(list(per_label.values()))) if per_label else float("nan")


def _checked(X_ND: np.ndarray, labels: Sequence, what: str) -> tuple[np.ndarray, np.ndarray]:
    X_ND = np.asarray(X_ND)
    if X_ND.ndim != 2 or not np.isfinite(X_ND).all():
        raise InputError(f"an embedding must be cells x columns of finite numbers; this one has shape {X_ND.shape}")
    names, known = _names(labels, len(X_ND))
    if not known.all():
        raise InputError(f"{np.sum(~known)} cells have no {what} label: name another obs column or drop those cells")
    return X_ND, names


def _names(labels: Sequence, cells: int) -> tuple[np.ndarray, np.ndarray]:
    values = np.asarray(labels, dtype=object)
    if len(values) != cells:
        raise InputError(
            f"an embedding of {cells} cells came with {len(values)} labels: they must be of the same cells"
        )
    return values.astype(str), ~np.asarray(pd.isna(values), bool)


def _unlabelled(known: np.ndarray) -> dict[str, str]:
    return {} if known.all() else {"unlabelled": f"{np.sum(~known)} cells without a label"}
