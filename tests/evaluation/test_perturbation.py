"""Who tells the truth of a response has a full score, and who tells nothing none; groups that lie near in the embedding and
respond alike are found, and where nearness says nothing the mean change is kept; what cannot be judged is refused at once."""

import json

import numpy as np
import pytest
from conditions import treat
from scipy import sparse

from mofm.cli import main
from mofm.evaluation.baselines import log_normalised
from mofm.evaluation.evaluate import Settings, evaluate
from mofm.evaluation.evaluation_page import rows_of
from mofm.evaluation.perturbation import DIRECTION, ENERGY, PEARSON, SKILL, Answer, agreement, hold, score
from mofm.inference.model import load
from mofm.inference.response import (
    ALIKE,
    FEWEST_CELLS,
    LINE,
    Recipe,
    choose_recipe,
    measure_group,
    predict_change,
    weigh,
)

GENES, DRAWS = 80, 100
ASKED = {"tasks": ("perturbation",), "condition_key": "condition", "control": "none", "bootstrap": DRAWS, "umap": False}


def cells_of(change_G, cells=90, seed=0):
    """Control and treated cells, the treated ones moved by `change_G`."""
    rng = np.random.default_rng(seed)
    control, treated = (rng.gamma(2.0, 0.5, (cells, GENES)) for _ in range(2))
    return sparse.csr_matrix(control), sparse.csr_matrix(treated + change_G)


@pytest.fixture(scope="module")
def held():
    """Ten genes go up by one and ten by half."""
    return hold(*cells_of(np.repeat([1.0, 0.5, 0.0], [10, 10, GENES - 20])), DRAWS, 0)


def values(held, change_G) -> dict[str, float]:
    found = score(held, Answer(np.ones((held.control.shape[0], 1)), change_G[None]))
    assert all(len(one.draws_D) == DRAWS + 1 for one in found.values())
    return {metric: one.draws_D[0] for metric, one in found.items()}


def test_no_change_has_no_score_and_the_truth_a_full_one(held):
    nothing, truth = values(held, np.zeros(GENES)), values(held, held.change_DG[0])
    assert [nothing[metric] for metric in (PEARSON, SKILL, DIRECTION)] == [0.0, 0.0, 0.5]
    assert [truth[metric] for metric in (PEARSON, SKILL, DIRECTION)] == pytest.approx([1.0, 1.0, 1.0])
    assert nothing[ENERGY] > 1.0 > 0.1 > abs(truth[ENERGY])


def test_scores_are_those_worked_out_by_hand(held):
    true_G, predicted_G = held.change_DG[0], np.repeat([0.8, -0.1, 0.0], [10, 10, GENES - 20])
    found = values(held, predicted_G)
    assert found[PEARSON] == pytest.approx(np.corrcoef(true_G, predicted_G)[0, 1])
    top = np.argsort(-np.abs(true_G))[:50]
    assert found[SKILL] == pytest.approx(1 - np.sum((predicted_G - true_G)[top] ** 2) / np.sum(true_G[top] ** 2))
    assert set(held.changed) >= set(range(20))
    up, down = np.isin(held.changed, np.arange(10)).sum(), np.isin(held.changed, np.arange(10, 20)).sum()
    rest = len(held.changed) - up - down
    assert found[DIRECTION] == pytest.approx((up + rest / 2) / len(held.changed))


def test_a_change_the_wrong_way_is_worse_than_none(held):
    assert values(held, -held.change_DG[0])[SKILL] < 0
    assert values(held, -held.change_DG[0])[DIRECTION] < 0.1


def test_no_profile_is_told_below_zero():
    control, treated = cells_of(np.zeros(GENES))
    held = hold(control, treated, DRAWS, 0)
    far = score(held, Answer(np.ones((90, 1)), np.full((1, GENES), -100.0)))
    lost = score(held, Answer(np.ones((90, 1)), -held.control_DG[:1]))
    assert far[SKILL].draws_D[0] == pytest.approx(lost[SKILL].draws_D[0])


def test_draws_are_around_the_score_and_narrower_with_more_cells():
    spreads = []
    for cells in (60, 600):
        held = hold(*cells_of(np.repeat([1.0, 0.0], [10, GENES - 10]), cells), DRAWS, 0)
        interval = score(held, Answer(np.full((cells, 1), 0.7), held.change_DG[:1]))[SKILL].interval
        assert interval.low < interval.value < interval.high
        spreads.append(interval.high - interval.low)
    assert spreads[1] < spreads[0] / 2


def test_new_cells_would_agree_where_there_is_a_change_and_not_where_there_is_none():
    assert agreement(*cells_of(np.repeat([1.0, 0.0], [20, GENES - 20])), 0) > 0.8
    assert abs(agreement(*cells_of(np.zeros(GENES)), 0)) < 0.4


def groups_of(seed=0, *, told_by_embedding=True):
    """Six groups of two families; a family responds alike, and lies together in the embedding or does not."""
    rng = np.random.default_rng(seed)
    found = []
    for place in range(6):
        family = place % 2
        change_G = np.zeros(GENES)
        change_G[10 * family : 10 * family + 10], change_G[30:40] = 1.5, 1.0
        centre_E = rng.normal(size=5) + (np.eye(5)[family] * 6 if told_by_embedding else 0)
        control, treated = cells_of(change_G, seed=100 + place)
        sides = (centre_E + rng.normal(size=(90, 5)) for _ in range(2))
        found.append(measure_group(f"g{place}", control, treated, *sides))
    return found


def error(groups, held, recipe) -> float:
    predicted_G = predict_change([one for one in groups if one is not held], held.embedding_NE, recipe)
    return float(np.sum((predicted_G - held.change_G) ** 2) / np.sum(held.change_G**2))


def test_groups_that_respond_alike_are_found_by_the_embedding():
    groups = groups_of()
    recipe = choose_recipe(groups[:5])
    assert recipe != ALIKE
    assert error(groups, groups[5], recipe) < error(groups, groups[5], ALIKE) / 2
    weight_NK = weigh(groups[5].embedding_NE, np.stack([one.centre_E for one in groups[:5]]), Recipe("near", 8.0))
    assert weight_NK[:, [1, 3]].sum(axis=1).mean() > 0.9


def test_where_the_embedding_says_nothing_the_mean_change_is_nearly_kept():
    lost = []
    for seed in range(6):
        groups = groups_of(seed, told_by_embedding=False)
        recipe = choose_recipe(groups[:5])
        lost.append(error(groups, groups[5], recipe) - error(groups, groups[5], ALIKE))
    assert np.mean(lost) < 0.1
    same = [group._replace(embedding_NE=np.zeros((4, 5)), centre_E=np.zeros(5)) for group in groups_of()]
    assert choose_recipe(same) == ALIKE
    assert choose_recipe(groups_of()[:2]) == ALIKE


def test_weights_go_from_all_alike_to_the_nearest_and_sum_to_one():
    centre_KE, cell_NE = np.array([[0.0, 0.0], [1.0, 0.0], [5.0, 5.0]]), np.array([[0.9, 0.1], [20.0, -3.0]])
    assert weigh(cell_NE, centre_KE, ALIKE) == pytest.approx(np.full((2, 3), 1 / 3))
    assert weigh(cell_NE, centre_KE, Recipe("near", 1e4))[0] == pytest.approx([0.0, 1.0, 0.0])
    for recipe in (Recipe("near", 2.0), Recipe("line", 3.0)):
        weight_NK = weigh(cell_NE, centre_KE, recipe)
        assert weight_NK.sum(axis=1) == pytest.approx([1.0, 1.0])
        assert weigh(cell_NE * 7 + 100, centre_KE * 7 + 100, recipe) == pytest.approx(weight_NK)  # no unit, no origin


def test_a_line_through_the_groups_goes_on_beyond_them():
    rng = np.random.default_rng(0)
    known_KX, map_XG = rng.normal(size=(12, 3)), rng.normal(size=(3, GENES))
    asked_NX = np.full((1, 3), 4.0)
    predicted_G = weigh(asked_NX, known_KX, LINE[-1])[0] @ (known_KX @ map_XG + 1)
    assert predicted_G == pytest.approx(asked_NX[0] @ map_XG + 1, abs=0.5)
    within = weigh(asked_NX, known_KX, Recipe("near", 8.0))[0] @ (known_KX @ map_XG + 1)
    assert np.abs(predicted_G).max() > 2 * np.abs(within).max()


@pytest.fixture(scope="module")
def treated(make_cells):
    """560 cells in four groups, and a few in a fifth."""
    return treat(make_cells(560, seed=3))


@pytest.fixture(scope="module")
def judged(trained, treated):
    settings = Settings(label_key="group", compare={"truth": "X_type"}, **ASKED)
    treated.obsm["X_type"] = np.eye(2)[(treated.obs["cell_type"] == "a").to_numpy().astype(int)] * 3
    return evaluate(load(trained.workdir), treated, settings, quiet=True)


def table(found) -> dict:
    return {(row.metric, row.method): row for row in rows_of(found)}


def test_every_method_is_judged_on_every_metric(judged):
    rows = table(judged)
    methods = {"mofm", "truth", "weights by PCA (30)", "mean change", "no change"}
    assert set(rows) == {(metric, method) for metric in (PEARSON, SKILL, DIRECTION, ENERGY) for method in methods}
    assert {row.of for row in rows.values()} == {"drug"}
    assert all(row.low <= row.value <= row.high for row in rows.values())
    assert [rows[metric, "no change"].value for metric in (PEARSON, SKILL, DIRECTION)] == [0, 0, 0.5]
    assert rows[ENERGY, "no change"].lower_is_better
    assert "few" in " ".join(judged.judged["perturbation"].notes)
    assert "takes 4 groups to learn from" in " ".join(judged.judged["perturbation"].notes)


def test_the_type_given_away_tells_more_than_the_mean(judged):
    rows = table(judged)
    assert rows[SKILL, "truth"].value > rows[SKILL, "mean change"].value + 0.05
    assert rows[PEARSON, "truth"].value > rows[PEARSON, "mean change"].value


def test_the_mean_change_is_what_it_is_by_hand(judged, treated):
    values_NG = log_normalised(treated.X).toarray()
    group, condition = (treated.obs[key].to_numpy(str) for key in ("group", "condition"))
    names = sorted(set(group) - {"few"})
    change = {
        name: values_NG[(group == name) & (condition == "drug")].mean(axis=0)
        - values_NG[(group == name) & (condition == "none")].mean(axis=0)
        for name in names
    }
    scores = []
    for name in names:
        control_G = values_NG[(group == name) & (condition == "none")].mean(axis=0)
        predicted_G = (
            np.maximum(control_G + np.mean([change[one] for one in names if one != name], axis=0), 0) - control_G
        )
        used = values_NG[np.isin(group, names)].sum(axis=0) > 0
        scores.append(np.corrcoef(change[name][used], predicted_G[used])[0, 1])
    assert table(judged)[PEARSON, "mean change"].value == pytest.approx(np.mean(scores), abs=1e-6)


def test_groups_of_a_split_are_held_out_in_their_place(trained, treated):
    found = evaluate(load(trained.workdir), treated, Settings(split="batch", **ASKED), quiet=True)
    assert "judged are 2 groups" in found.judged["perturbation"].notes[0]


REFUSALS = {
    "no condition": (["--label-key", "group"], "--condition-key"),
    "no control": (["--label-key", "group", "--condition-key", "condition"], "--control"),
    "no groups": (["--condition-key", "condition", "--control", "none"], "--label-key"),
    "a typo": (["--label-key", "group", "--condition-key", "condition", "--control", "nome"], "Did you mean 'none'?"),
    "no column": (["--label-key", "group", "--condition-key", "conditoin", "--control", "none"], "Did you mean"),
    "a group of one condition": (
        ["--label-key", "alone", "--condition-key", "condition", "--control", "none"],
        f"two groups with {FEWEST_CELLS} control",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_judged_is_refused_before_any_work(trained, treated, tmp_path, capsys, case):
    words, said = REFUSALS[case]
    treated.write_h5ad(tmp_path / "cells.h5ad")
    words = [
        "evaluate",
        trained.workdir,
        tmp_path / "cells.h5ad",
        "--tasks",
        "perturbation",
        "--out",
        tmp_path / "out",
        *words,
    ]
    assert main([*map(str, words), "--quiet"]) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert out == ""
    assert not (tmp_path / "out").exists()


def test_as_a_command_it_is_in_the_report(trained, treated, tmp_path, capsys):
    treated.write_h5ad(tmp_path / "cells.h5ad")
    words = ["evaluate", trained.workdir, tmp_path / "cells.h5ad", "--out", tmp_path / "out", "--tasks", "perturbation"]
    words += [
        "--label-key",
        "group",
        "--condition-key",
        "condition",
        "--control",
        "none",
        "--bootstrap",
        DRAWS,
        "--no-umap",
    ]
    assert main([*map(str, words), "--quiet"]) == 0
    assert "perturbation: of" in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert {row["metric"] for row in record["tasks"]["perturbation"]["rows"]} == {PEARSON, SKILL, DIRECTION, ENERGY}
    assert (tmp_path / "out" / "perturbation_0.png").exists()
