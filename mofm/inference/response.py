"""How cells respond to a treatment, learned from groups of which both control and treated cells were measured.

A group is a cell type, or a donor. What is learned of it is its change: the mean log1p of counts per 10,000 of its treated
cells less that of its control cells. A cell that nobody treated is told to change as a mean of the groups' changes, in which
a group weighs the more the nearer its control cells lie in the embedding:

    weight_NK = softmax over groups of -sharpness * distance^2 / mean distance^2 between groups
    change_NG = weight_NK @ change_KG

At sharpness 0 all groups weigh the same, which is the additive baseline that deep models of perturbation seldom beat
(Ahlmann-Eltze et al. 2025). How sharp it is, is chosen among groups that are known: each is held out in turn and told by
the others. So the embedding has a say only where it helped there, and a told change is always a mean of measured ones.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.special import softmax

from mofm.errors import InputError, nearest_name

FEWEST_CELLS = 30
"""A group of fewer control or treated cells does not tell its change."""
TOP = 50
"""Genes that change most."""
SHARPNESS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""From the additive baseline to the nearest group alone."""
PENALTIES = (np.inf, 100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
"""Of ridge over groups, times the mean squared length of a centred predictor, strongest first."""
MOST_OF_A_GROUP = 500
"""Control cells of a group by whose embeddings the sharpness is chosen."""


class Group(NamedTuple):
    """What was measured of a group, with the treatment and without.

    Attributes:
      name: of it.
      cells: of control and of treatment.
      control_G, change_G: float64, mean log1p of counts per 10,000 of control cells; that of treated cells less it.
      embedding_NE: of its control cells, at most MOST_OF_A_GROUP.
      centre_E, move_E: float64, mean embedding of all its control cells; that of treated cells less it.
    """

    name: str
    cells: tuple[int, int]
    control_G: np.ndarray
    change_G: np.ndarray
    embedding_NE: np.ndarray
    centre_E: np.ndarray
    move_E: np.ndarray


def groups_of_both(
    conditions: np.ndarray, groups: np.ndarray, control: str, treatment: str
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Group -> (rows of its control cells, of its treated ones), for those that have FEWEST_CELLS of both; by name.

    Args:
      conditions, groups: object, of each cell; None where not known.
    """
    found = {}
    for name in sorted({one for one in groups if one is not None}):
        both = tuple(np.flatnonzero((groups == name) & (conditions == one)) for one in (control, treatment))
        if min(map(len, both)) >= FEWEST_CELLS:
            found[name] = both
    return found


def treatments_of(conditions: np.ndarray, groups: np.ndarray, control: str, column: str) -> list[str]:
    """The treatments of which two groups or more have enough cells, ascending.

    Args:
      column: of obs, that says conditions; for messages.

    Raises:
      InputError: no cell is a control, or there is no such treatment.
    """
    known = sorted({one for one in conditions if one is not None})
    if control not in known:
        raise InputError(
            f"--control {control}: no cell has it in obs[{column!r}], which says {', '.join(known[:8])}."
            f"{nearest_name(control, known)}"
        )
    shared = {name: len(groups_of_both(conditions, groups, control, name)) for name in known if name != control}
    found = [name for name, count in shared.items() if count >= 2]
    if not found:
        raise InputError(
            f"needs two groups with {FEWEST_CELLS} control and {FEWEST_CELLS} treated cells each, as one is told from the "
            f"others; {max(shared.values(), default=0)} have them"
        )
    return found


def measure_group(
    name: str,
    control: sp.csr_matrix,
    treated: sp.csr_matrix,
    control_NE: np.ndarray,
    treated_ME: np.ndarray,
    seed: int = 0,
) -> Group:
    """A group by its cells: log1p of counts per 10,000, a row a cell, and their embeddings."""
    values_2G = np.stack([np.asarray(x.mean(axis=0), np.float64).ravel() for x in (control, treated)])
    embedding_2E = np.stack([x.mean(axis=0, dtype=np.float64) for x in (control_NE, treated_ME)])
    return group_of(name, (control.shape[0], treated.shape[0]), values_2G, embedding_2E, control_NE, seed)


def group_of(
    name: str,
    cells: tuple[int, int],
    values_2G: np.ndarray,
    embedding_2E: np.ndarray,
    control_NE: np.ndarray,
    seed: int = 0,
) -> Group:
    """A group by the means of its control and its treated cells, and the embeddings of the first."""
    rows = np.arange(len(control_NE))
    if len(rows) > MOST_OF_A_GROUP:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MOST_OF_A_GROUP, replace=False))
    (control_G, treated_G), (centre_E, moved_E) = values_2G, embedding_2E
    return Group(name, cells, control_G, treated_G - control_G, control_NE[rows], centre_E, moved_E - centre_E)


def similarity(embedding_NE: np.ndarray, centre_KE: np.ndarray, sharpness: float) -> np.ndarray:
    """weight_NK, float64, of each group for each cell; a row sums to 1."""
    if len(centre_KE) == 1 or sharpness == 0:
        return np.full((len(embedding_NE), len(centre_KE)), 1 / len(centre_KE))
    apart = 2 * len(centre_KE) / (len(centre_KE) - 1) * centre_KE.var(axis=0).sum()  # mean over pairs of distance^2
    # |e|^2 is the same for all groups: softmax forgets it
    near_NK = 2 * embedding_NE.astype(np.float64) @ centre_KE.T - (centre_KE**2).sum(axis=1)
    return softmax(sharpness * near_NK / max(apart, 1e-12), axis=1)


def choose_sharpness(groups: Sequence[Group]) -> tuple[float, np.ndarray]:
    """The sharpness by which groups are told best by the others; and the errors of each group at that and at 0.

    Returns:
      sharpness: the least of those of equal error.
      error_2K: squared error of a group's change over its squared change: told so, and by the plain mean of the others.
    """
    error_SK = np.stack([[_error(groups, k, sharpness) for k in range(len(groups))] for sharpness in SHARPNESS])
    best = int(np.argmin(error_SK.mean(axis=1).round(9)))
    return SHARPNESS[best], error_SK[[best, 0]]


def _error(groups: Sequence[Group], held: int, sharpness: float) -> float:
    others = [group for place, group in enumerate(groups) if place != held]
    if not others:
        return 1.0
    return relative_error(tell_change(others, groups[held].embedding_NE, sharpness), groups[held].change_G)


def held_out_figures(groups: Sequence[Group]) -> list[dict[str, float | str | int]]:
    """Of each group, told by the others with the sharpness that these would choose: name, cells, and Pearson's correlation and
    skill (1 - relative error on the TOP genes) of its change; beside them those of the mean change of the others."""
    rows = []
    for held, group in enumerate(groups):
        others = [one for place, one in enumerate(groups) if place != held]
        sharpness, _ = choose_sharpness(others)
        row = {"group": group.name, "control_cells": group.cells[0], "treated_cells": group.cells[1]}
        for name, sharp in (("", sharpness), ("_of_mean_change", 0.0)):
            told_G = tell_change(others, group.embedding_NE, sharp)
            top = np.argsort(-np.abs(group.change_G), kind="stable")[:TOP]
            row[f"pearson{name}"] = correlation(told_G, group.change_G)
            row[f"skill{name}"] = 1 - relative_error(told_G[top], group.change_G[top])
        rows.append(row)
    return rows


def tell_change(groups: Sequence[Group], embedding_NE: np.ndarray, sharpness: float) -> np.ndarray:
    """change_G, the mean over cells of what the groups tell of them."""
    weight_NK = similarity(embedding_NE, np.stack([one.centre_E for one in groups]), sharpness)
    return weight_NK.mean(axis=0) @ np.stack([one.change_G for one in groups])


def correlation(told_G: np.ndarray, change_G: np.ndarray) -> float:
    """Pearson's; 0 where either is flat."""
    told_G, change_G = told_G - told_G.mean(), change_G - change_G.mean()
    size = np.linalg.norm(told_G) * np.linalg.norm(change_G)
    return float(told_G @ change_G / size) if size > 1e-12 else 0.0


def relative_error(told_G: np.ndarray, change_G: np.ndarray) -> float:
    """Squared error over the squared change: 1 for who tells no change."""
    return float(np.sum((told_G - change_G) ** 2) / max(np.sum(change_G**2), 1e-12))


def ridge_weights(known_KX: np.ndarray, change_KG: np.ndarray, asked_X: np.ndarray) -> np.ndarray:
    """weight_K of groups by ridge regression of their changes on a predictor of each, the penalty chosen by leaving one out.

    Weights sum to 1 and may be negative: ridge goes beyond the groups.
    """
    places = np.arange(len(known_KX))

    def loss(penalty: float) -> float:
        errors = []
        for held in places:
            others = places != held
            weight_K = _ridge(known_KX[others], known_KX[held], penalty)
            errors.append(relative_error(weight_K @ change_KG[others], change_KG[held]))
        return round(float(np.mean(errors)), 9)

    return _ridge(known_KX, asked_X, min(PENALTIES, key=loss))


def _ridge(known_KX: np.ndarray, asked_X: np.ndarray, penalty: float) -> np.ndarray:
    """weight_K: the mean of the changes, and in dual form how ridge departs from it."""
    mean_K = np.full(len(known_KX), 1 / len(known_KX))
    if np.isinf(penalty):
        return mean_K
    centre_X = known_KX.mean(axis=0)
    x_KX = known_KX - centre_X
    gram_KK = x_KX @ x_KX.T
    size = max(np.trace(gram_KK) / len(gram_KK), 1e-12)
    weight_K = np.linalg.solve(gram_KK + penalty * size * np.eye(len(gram_KK)), x_KX @ (asked_X - centre_X))
    return mean_K + weight_K - weight_K.mean()  # of changes that are centred, too
