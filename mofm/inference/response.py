"""How cells respond to a treatment, learned from groups of which both control and treated cells were measured.

A group is a cell type, or a donor. What is learned of it is its change: the mean log1p of counts per 10,000 of its treated
cells less that of its control cells. A cell that nobody treated is predicted to change as a weighted sum of the groups'
changes, the weights being of one of three recipes, by where the groups' control cells lie in the embedding:

    alike  1 / K. The additive baseline, which deep models of perturbation seldom beat (Ahlmann-Eltze et al. 2025)
    near   softmax over groups of -strength * distance^2 / mean distance^2 between groups
    line   ridge regression of changes on the groups' mean embeddings, in its dual form: weights sum to 1 and may be negative;
           strength is 1 / its penalty, in units of the mean squared length of a centred embedding

Which recipe, of which strength, is chosen among groups that are known: each is held out in turn and predicted from the
others. So the embedding has a say only where it helped there. What is predicted of a single cell by `line` may go far beyond
the groups; only means over the cells of a group were judged (tests/benchmarks/perturbation.py).
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.special import softmax

from mofm.errors import InputError, nearest_name

FEWEST_CELLS = 30
"""A group of fewer control or treated cells says too little of its change."""
TOP = 50
"""Genes that change most."""
MOST_OF_A_GROUP = 500
"""Control cells of a group by whose embeddings the recipe is chosen."""


class Recipe(NamedTuple):
    """How the groups are weighed; see above."""

    how: Literal["alike", "near", "line"]
    strength: float


ALIKE = Recipe("alike", 0.0)
NEAR = tuple(Recipe("near", strength) for strength in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0))
LINE = tuple(Recipe("line", strength) for strength in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0))
RECIPES = (ALIKE, *NEAR, *LINE)
"""Of recipes that are as good, the first is chosen."""


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
            f"needs two groups with {FEWEST_CELLS} control and {FEWEST_CELLS} treated cells each, as one is predicted from the "
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


def weigh(embedding_NE: np.ndarray, centre_KE: np.ndarray, recipe: Recipe) -> np.ndarray:
    """weight_NK, float64, of each group for each cell; a row sums to 1."""
    groups = len(centre_KE)
    if groups == 1 or recipe.how == "alike":
        return np.full((len(embedding_NE), groups), 1 / groups)
    x_NE, middle_E = embedding_NE.astype(np.float64), centre_KE.mean(axis=0)
    x_NE, z_KE = x_NE - middle_E, centre_KE - middle_E
    size = max(float((z_KE**2).sum() / groups), 1e-12)
    if recipe.how == "near":  # |x|^2 is the same for all groups: softmax forgets it
        apart = 2 * groups / (groups - 1) * size  # mean distance^2 over pairs
        return softmax(recipe.strength / apart * (2 * x_NE @ z_KE.T - (z_KE**2).sum(axis=1)), axis=1)
    gram_KK = z_KE @ z_KE.T + size / recipe.strength * np.eye(groups)
    weight_NK = np.linalg.solve(gram_KK, z_KE @ x_NE.T).T
    return 1 / groups + weight_NK - weight_NK.mean(axis=1, keepdims=True)  # of changes that are centred, too


def choose_recipe(groups: Sequence[Group], recipes: Sequence[Recipe] = RECIPES) -> Recipe:
    """The recipe by which groups are predicted best from the others: of the least relative error of their changes, on
    average."""
    if len(groups) < 3:  # what one group alone predicts is the same by any
        return recipes[0]
    errors = [[_error(groups, held, recipe) for held in range(len(groups))] for recipe in recipes]
    return recipes[int(np.argmin(np.mean(errors, axis=1).round(9)))]


def _error(groups: Sequence[Group], held: int, recipe: Recipe) -> float:
    others = [group for place, group in enumerate(groups) if place != held]
    return relative_error(predict_change(others, groups[held].embedding_NE, recipe), groups[held].change_G)


def held_out_figures(groups: Sequence[Group]) -> list[dict[str, float | str | int]]:
    """Of each group, predicted from the others with the recipe that these would choose: name, cells, and Pearson's
    correlation and skill (1 - relative error on the TOP genes) of its change; beside them those of the mean change of the
    others."""
    rows = []
    for held, group in enumerate(groups):
        others = [one for place, one in enumerate(groups) if place != held]
        row = {"group": group.name, "control_cells": group.cells[0], "treated_cells": group.cells[1]}
        for name, recipe in (("", choose_recipe(others)), ("_of_mean_change", ALIKE)):
            predicted_G = predict_change(others, group.embedding_NE, recipe)
            top = np.argsort(-np.abs(group.change_G), kind="stable")[:TOP]
            row[f"pearson{name}"] = correlation(predicted_G, group.change_G)
            row[f"skill{name}"] = 1 - relative_error(predicted_G[top], group.change_G[top])
        rows.append(row)
    return rows


def predict_change(groups: Sequence[Group], embedding_NE: np.ndarray, recipe: Recipe) -> np.ndarray:
    """change_G, the mean over cells of what the groups predict for them."""
    weight_NK = weigh(embedding_NE, np.stack([one.centre_E for one in groups]), recipe)
    return weight_NK.mean(axis=0) @ np.stack([one.change_G for one in groups])


def correlation(predicted_G: np.ndarray, change_G: np.ndarray) -> float:
    """Pearson's; 0 where either is flat."""
    predicted_G, change_G = predicted_G - predicted_G.mean(), change_G - change_G.mean()
    size = np.linalg.norm(predicted_G) * np.linalg.norm(change_G)
    return float(predicted_G @ change_G / size) if size > 1e-12 else 0.0


def relative_error(predicted_G: np.ndarray, change_G: np.ndarray) -> float:
    """Squared error over the squared change: 1 for who predicts no change."""
    return float(np.sum((predicted_G - change_G) ** 2) / max(np.sum(change_G**2), 1e-12))
