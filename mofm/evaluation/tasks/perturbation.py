"""Perturbation: is the response to a treatment predicted for cells of which only controls were shown, from that of other
groups?

Each group (a label, or a group of `--split`) with FEWEST_CELLS of both conditions is held out in turn; what its treated cells
do is predicted from its control cells and from both of the others (`perturbation.py` has the scores). All methods are weighted
sums of the changes that were measured in the others, and differ in the weights:

    no change                0
    mean change              the same for all: the additive model
    ridge on profiles        ridge regression of the changes on the groups' mean control profiles
    weights by PCA (30)      by principal components of all control cells (`inference/response.py`)
    mofm, and peers          the same by their embedding

Intervals are over cells and groups, both drawn: with few groups they are wide, and rightly.
"""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from mofm.errors import InputError
from mofm.evaluation.baselines import log_normalised, pca_embedding
from mofm.evaluation.perturbation import (
    ENERGY,
    PEARSON,
    SKILL,
    Answer,
    agreement,
    hold,
    over_groups,
    score,
)
from mofm.evaluation.resample import draw_weights
from mofm.evaluation.subject import BY_CELL, BY_PCA, COMPONENTS, UNSEEN, View
from mofm.evaluation.tasks.score import OURS, Judged, Kind, Score, Situation, Subject
from mofm.inference.response import (
    ALIKE,
    FEWEST_CELLS,
    LINE,
    Group,
    Recipe,
    choose_recipe,
    groups_of_both,
    measure_group,
    treatments_of,
    weigh,
)

FEWEST_FOR_RIDGE = 4
"""Groups to learn from: with fewer, to leave one out leaves too little."""
NAMED = 5


class Cells(NamedTuple):
    """The cells of one treatment and of control.

    Attributes:
      view: of RNA.
      genes: columns that are judged.
      values: CSR, log1p of counts per 10,000 over them, the view's cells.
      embeddings: method -> (kind, embedding of the view's cells).
      rows: group -> (rows of control, rows of treated cells).
      judged: bool, the view's cells; the others are only learned from.
    """

    view: View
    genes: np.ndarray
    values: sp.csr_matrix
    embeddings: dict[str, tuple[Kind, np.ndarray]]
    rows: dict[str, tuple[np.ndarray, np.ndarray]]
    judged: np.ndarray


def check(situation: Situation) -> None:
    """Raises `InputError` where conditions or groups are not named, or too few groups have cells of both."""
    settings, columns = situation.settings, situation.columns
    if "rna" not in situation.shown:
        raise InputError(
            f"predicts RNA; of that and the model's modalities there is {', '.join(situation.shown)} alone"
        )
    if settings.condition_key is None or settings.control is None:
        raise InputError(
            "needs to know which cells were treated: name their obs column with --condition-key, such as condition, and with "
            "--control its value for untreated cells"
        )
    groups = _groups(settings, columns)
    if groups is None:
        raise InputError("needs groups of cells to hold out: name their obs column with --label-key, such as cell_type")
    treatments_of(columns["conditions"], groups, settings.control, settings.condition_key)


def _groups(settings, columns) -> np.ndarray | None:
    """What is held out whole."""
    return columns["labels"] if settings.split in (BY_CELL, UNSEEN) else columns["groups"]


def judge(subject: Subject) -> Judged:
    """Every treatment, its groups held out in turn."""
    settings, view = subject.settings, subject.views["rna"]
    columns = {"labels": subject.cells.labels, "groups": subject.cells.groups}
    groups, conditions = _groups(settings, columns)[view.place_N], subject.cells.conditions[view.place_N]
    log_values = log_normalised(view.measured.counts)
    judged = subject.cells.fold_N[view.place_N] >= 0
    scores, notes = [], []
    for treatment in sorted({one for one in conditions if one not in (None, settings.control)}):
        rows = groups_of_both(conditions, groups, settings.control, treatment)
        if len(rows) < 2:
            notes.append(f"{treatment}: {len(rows)} groups with {FEWEST_CELLS} cells of both conditions: not judged")
            continue
        genes = _measured(log_values, rows, settings.max_features)
        embeddings = _embeddings(view, np.flatnonzero(conditions == settings.control))
        cells = Cells(view, genes, log_values[:, genes].tocsr(), embeddings, rows, judged)
        found, said = _judge_treatment(subject, treatment, cells)
        left = sorted({one for one in groups if one is not None} - set(rows))
        said += [f"left out, as they have too few cells of either: {', '.join(left[:NAMED])}"] if left else []
        scores, notes = scores + found, notes + [f"{treatment}: {line}" for line in said]
    return Judged(scores, notes)


def _measured(values: sp.csr_matrix, rows: dict, most: int) -> np.ndarray:
    """The genes that are measured in the largest share of either condition's cells, so that what a treatment brings is in."""
    share_2G = np.stack([
        np.bincount(values[side].indices, minlength=values.shape[1]) / len(side)
        for side in (np.concatenate([pair[place] for pair in rows.values()]) for place in range(2))
    ])  # fmt: skip
    share_G = share_2G.max(axis=0)
    shown = np.flatnonzero(share_G > 0)
    return np.sort(shown[np.argsort(-share_G[shown], kind="stable")[:most]])


def _embeddings(view: View, control: np.ndarray) -> dict[str, tuple[Kind, np.ndarray]]:
    components_ND = pca_embedding(view.measured.counts[control], view.measured.counts, COMPONENTS).test_ND
    peers = {name: ("peer", x_ND) for name, x_ND in view.peers.items()}
    return {OURS: ("mofm", view.embedding_NE), **peers, BY_PCA: ("linear", components_ND)}


def _judge_treatment(subject: Subject, treatment: str, cells: Cells) -> tuple[list[Score], list[str]]:
    settings = subject.settings
    known = {name: _measure(cells, name, settings.seed) for name in cells.rows}
    found, agreed, recipes = {}, {}, []
    for place, name in enumerate(cells.rows):
        control, treated = (rows[cells.judged[rows]] for rows in cells.rows[name])
        if min(len(control), len(treated)) < FEWEST_CELLS:
            continue
        held = hold(cells.values[control], cells.values[treated], settings.bootstrap, settings.seed + 2 * place)
        agreed[name] = agreement(held.control, held.treated, settings.seed)
        for method, (kind, answer, recipe) in _answers(cells, known, name, control).items():
            found.setdefault((method, kind), {})[name] = score(held, answer)
            recipes += [recipe] if method == OURS else []
    if not found:
        return [], [f"no group has {FEWEST_CELLS} judged cells of both conditions: not judged"]
    weights_DK = draw_weights(len(agreed), settings.bootstrap, settings.seed)
    many = sum(int(cells.judged[rows].sum()) for name in agreed for rows in cells.rows[name])
    complete = {of: by_group for of, by_group in found.items() if len(by_group) == len(agreed)}
    scores = [
        Score(treatment, metric, method, kind,
              over_groups([by_group[name][metric] for name in agreed], weights_DK), many, len(cells.genes),
              metric == ENERGY)
        for metric in next(iter(found.values()))[next(iter(agreed))]
        for (method, kind), by_group in complete.items()
    ]  # fmt: skip
    return scores, _said(found, complete, agreed, recipes, len(cells.genes))


def _measure(cells: Cells, name: str, seed: int) -> dict[str, Group]:
    """The group by each method's embedding."""
    control, treated = cells.rows[name]
    values = (cells.values[control], cells.values[treated])
    return {
        method: measure_group(name, *values, x_NE[control], x_NE[treated], seed)
        for method, (_, x_NE) in cells.embeddings.items()
    }


def _answers(cells: Cells, known: dict, held: str, control: np.ndarray) -> dict[str, tuple[Kind, Answer, Recipe]]:
    """Method -> (kind, what it predicts of the held group's control cells, by which recipe)."""
    others = [name for name in known if name != held]
    change_KG = np.stack([known[name][OURS].change_G for name in others])
    answers = {}
    for method, (kind, x_NE) in cells.embeddings.items():
        groups = [known[name][method] for name in others]
        recipe = choose_recipe(groups)
        centre_KE = np.stack([group.centre_E for group in groups])
        answers[method] = kind, Answer(weigh(x_NE[control], centre_KE, recipe), change_KG), recipe
    even_NK = np.full((len(control), len(others)), 1 / len(others))
    answers["mean change"] = "linear", Answer(even_NK, change_KG), ALIKE
    if len(others) >= FEWEST_FOR_RIDGE:
        groups = [_by_profile(known[name][OURS]) for name in (*others, held)]
        recipe = choose_recipe(groups[:-1], (ALIKE, *LINE))
        weight_1K = weigh(groups[-1].embedding_NE, np.stack([one.centre_E for one in groups[:-1]]), recipe)
        answers["ridge on profiles"] = "linear", Answer(np.repeat(weight_1K, len(control), axis=0), change_KG), recipe
    answers["no change"] = "trivial", Answer(even_NK * 0, change_KG), ALIKE
    return answers


def _by_profile(group: Group) -> Group:
    """The group as if its mean control profile were its embedding."""
    return group._replace(embedding_NE=group.control_G[None], centre_E=group.control_G)


def _counted(recipes: list[Recipe]) -> str:
    names = {"alike": "all alike, as the mean change", "near": "by nearness", "line": "by ridge on the embedding"}
    counts = {said: sum(one.how == how for one in recipes) for how, said in names.items()}
    return ", ".join(f"{said} {count}" for said, count in counts.items() if count)


def _said(found: dict, complete: dict, agreed: dict, recipes: list, genes: int) -> list[str]:
    """What a person should know of the groups."""
    lines = [
        f"judged are {len(agreed)} groups, each predicted from the others, over {genes:,} genes measured in most cells",
        "as many new cells of a group itself would agree on its change to a Pearson of about "
        f"{np.mean(list(agreed.values())):.3f} (two halves, by Spearman and Brown)",
        f"mofm's recipe for each group was chosen on the others: {_counted(recipes)}",
    ]
    ours, plain = (next(by for (method, _), by in found.items() if method == name) for name in (OURS, "mean change"))
    for metric in (PEARSON, SKILL):
        each = ", ".join(
            f"{name} {ours[name][metric].draws_D[0]:.2f} ({plain[name][metric].draws_D[0]:.2f})" for name in agreed
        )
        lines.append(f"{metric} by mofm (by the mean change), held out: {each}")
    lines += [f"{method} is left out: too few groups to learn from" for method, _ in set(found) - set(complete)]
    if not any(method == "ridge on profiles" for method, _ in found):
        lines.append(f"ridge on profiles is left out: it takes {FEWEST_FOR_RIDGE} groups to learn from")
    return lines
