"""How well the response of a group of cells to a treatment is predicted, of which only control cells are shown.

Predicted is the change: mean log1p of counts per 10,000 of treated cells less that of control cells. The level of a gene is no
achievement, as the control cells show it: correlation of treated profiles is .95 and more for who says that nothing happens.
Of the change, who says so has 0 (Pearson, skill) or 0.5 (direction).

- Pearson of the change, over all judged genes.
- skill on the genes that change most: 1 - squared error / squared change, of TOP genes; 1 is without error, below 0 is
  worse than no change.
- direction: the share of the genes that surely change (Welch's t, Benjamini-Hochberg at FDR, and by LEAST_CHANGE) whose
  direction is predicted; no change predicted counts half.
- energy distance (Szekely and Rizzo 2013; 0: one distribution) between the control cells, each moved as predicted, and the
  treated cells, over the TOP genes; of at most MOST_CELLS of each.

A predicted profile below 0 is 0. Draws resample the control and the treated cells of the group; which genes are judged is
held. As a draw has the noise of its sample twice, draws of these scores lie below the score itself: they are centred on it
again, and their spread is what counts.
"""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.spatial.distance import cdist
from scipy.stats import false_discovery_control, ttest_ind_from_stats

from mofm.evaluation.resample import Estimate, draw_weights
from mofm.inference.response import TOP

FDR, LEAST_CHANGE = 0.05, 0.1
MOST_CELLS = 300
PEARSON, SKILL, DIRECTION, ENERGY = (
    "Pearson of the change",
    f"skill on the {TOP} genes that change most",
    "direction of changed genes",
    "energy distance of cells",
)


class Answer(NamedTuple):
    """What a method predicts of a group: its control cells change as weighted sums of K known changes.

    Attributes:
      weight_NK: of each control cell.
      change_KG: that are known.
    """

    weight_NK: np.ndarray
    change_KG: np.ndarray


class Held(NamedTuple):
    """A group that is predicted from others, and its truth under draws.

    Attributes:
      control, treated: CSR, log1p of counts per 10,000, a row a cell.
      weights_DN, weights_DM: draws of control and of treated cells.
      control_DG, change_DG: mean of control cells, and that of treated cells less it.
      top: genes that change most.
      changed: genes that surely change.
      near: cells of control and of treatment by which the energy distance is taken.
    """

    control: sp.csr_matrix
    treated: sp.csr_matrix
    weights_DN: np.ndarray
    weights_DM: np.ndarray
    control_DG: np.ndarray
    change_DG: np.ndarray
    top: np.ndarray
    changed: np.ndarray
    near: tuple[np.ndarray, np.ndarray]


def hold(control: sp.csr_matrix, treated: sp.csr_matrix, draws: int, seed: int) -> Held:
    """The truth of a group by its cells."""
    weights = [draw_weights(x.shape[0], draws, seed + place) for place, x in enumerate((control, treated))]
    control_DG, treated_DG = (w @ x / x.shape[0] for w, x in zip(weights, (control, treated), strict=True))
    change_G = treated_DG[0] - control_DG[0]
    top = np.sort(np.argsort(-np.abs(change_G), kind="stable")[:TOP])
    rng = np.random.default_rng([seed, 4])
    near = tuple(
        np.sort(rng.choice(x.shape[0], min(x.shape[0], MOST_CELLS), replace=False)) for x in (control, treated)
    )
    changed = _surely_changed(control, treated, change_G)
    return Held(control, treated, *weights, control_DG, treated_DG - control_DG, top, changed, near)


def _surely_changed(control: sp.csr_matrix, treated: sp.csr_matrix, change_G: np.ndarray) -> np.ndarray:
    sides = []
    for x in (control, treated):
        cells = x.shape[0]
        mean_G = np.asarray(x.mean(axis=0)).ravel()
        square_G = np.asarray(x.multiply(x).mean(axis=0)).ravel()
        sides += [mean_G, np.sqrt(np.maximum(square_G - mean_G**2, 0) * cells / max(cells - 1, 1)), cells]
    with np.errstate(invalid="ignore", divide="ignore"):
        p_G = np.nan_to_num(ttest_ind_from_stats(*sides, equal_var=False).pvalue, nan=1.0)
    return np.flatnonzero((false_discovery_control(p_G) < FDR) & (np.abs(change_G) >= LEAST_CHANGE))


def score(held: Held, answer: Answer) -> dict[str, Estimate]:
    """Every metric of an answer. NaN where a group has no gene that surely changes."""
    weight_DK = held.weights_DN @ answer.weight_NK / len(answer.weight_NK)
    predicted_DG = np.maximum(held.control_DG + weight_DK @ answer.change_KG, 0) - held.control_DG
    error_DT, change_DT = (predicted_DG - held.change_DG)[:, held.top], held.change_DG[:, held.top]
    right_DH = np.sign(predicted_DG[:, held.changed]) * np.sign(held.change_DG[0, held.changed])
    nothing = np.full(len(predicted_DG), np.nan)
    found = {
        PEARSON: row_correlations(held.change_DG, predicted_DG),
        SKILL: 1 - (error_DT**2).sum(axis=1) / np.maximum((change_DT**2).sum(axis=1), 1e-12),
        DIRECTION: (1 + right_DH).mean(axis=1) / 2 if len(held.changed) else nothing,
        ENERGY: _energy(held, answer),
    }
    return {metric: Estimate(_centred(draws_D)) for metric, draws_D in found.items()}


def _centred(draws_D: np.ndarray) -> np.ndarray:
    """The draws with their mean at the score."""
    return np.append(draws_D[:1], draws_D[1:] - draws_D[1:].mean() + draws_D[0])


def row_correlations(truth_DG: np.ndarray, predicted_DG: np.ndarray) -> np.ndarray:
    """r_D over genes; 0 where all values are equal."""
    truth_DG, predicted_DG = (x - x.mean(axis=1, keepdims=True) for x in (truth_DG, predicted_DG))
    size_D = np.linalg.norm(truth_DG, axis=1) * np.linalg.norm(predicted_DG, axis=1)
    return np.divide((truth_DG * predicted_DG).sum(axis=1), size_D, out=np.zeros(len(size_D)), where=size_D > 1e-12)


def _energy(held: Held, answer: Answer) -> np.ndarray:
    near_N, near_M = held.near
    change_NT = answer.weight_NK[near_N] @ answer.change_KG[:, held.top]
    predicted_NT = np.maximum(held.control[near_N][:, held.top].toarray() + change_NT, 0)
    real_MT = held.treated[near_M][:, held.top].toarray()
    share_DN, share_DM = (
        w / np.maximum(w.sum(axis=1, keepdims=True), 1)
        for w in (held.weights_DN[:, near_N], held.weights_DM[:, near_M])
    )

    def mean_distance(one_DX, x_XT, other_DY, y_YT):
        return ((one_DX @ cdist(x_XT, y_YT)) * other_DY).sum(axis=1)

    def within(one_DX, x_XT):  # a cell's distance to itself is none
        return mean_distance(one_DX, x_XT, one_DX, x_XT) * len(x_XT) / max(len(x_XT) - 1, 1)

    across_D = mean_distance(share_DN, predicted_NT, share_DM, real_MT)
    return 2 * across_D - within(share_DN, predicted_NT) - within(share_DM, real_MT)


def agreement(control: sp.csr_matrix, treated: sp.csr_matrix, seed: int) -> float:
    """About how well as many new cells would agree on the change, Pearson: two halves, by Spearman and Brown's formula."""
    rng, sides = np.random.default_rng([seed, 5]), ([], [])
    for x in (control, treated):
        order = rng.permutation(x.shape[0])
        for side, part in zip(sides, np.array_split(order, 2), strict=True):
            side.append(np.asarray(x[np.sort(part)].mean(axis=0)).ravel())
    one_G, other_G = (treated_G - control_G for control_G, treated_G in sides)
    half = float(row_correlations(one_G[None], other_G[None])[0])
    return 2 * half / (1 + half) if half > 0 else half


def over_groups(estimates: list[Estimate], weights_DK: np.ndarray) -> Estimate:
    """The mean over groups, which are drawn too; of those that are finite."""
    draws_KD = np.stack([one.draws_D for one in estimates])
    finite_KD = np.isfinite(draws_KD)
    below_D = (weights_DK.T * finite_KD).sum(axis=0)
    above_D = (weights_DK.T * np.where(finite_KD, draws_KD, 0)).sum(axis=0)
    return Estimate(np.divide(above_D, below_D, out=np.full(len(below_D), np.nan), where=below_D > 0))
