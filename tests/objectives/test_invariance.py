"""Independence from nuisances: 0 where there is none, more where there is, within labels where these are given."""

import jax
import numpy as np
import pytest
from jax.test_util import check_grads

from mofm.objectives.invariance import BANDWIDTHS, PENALTIES, adversary, group_hsic, hsic, mmd
from mofm.parallel.mesh import MeshConfig, make_mesh
from mofm.parallel.rules import sharding

mmd_of, hsic_of, adversary_of = jax.jit(mmd), jax.jit(hsic), jax.jit(adversary)


def draw(cells=60, width=4, groups=3, shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    group_B = rng.integers(0, groups, cells)
    x_BE = rng.normal(size=(cells, width)) + shift * group_B[:, None]
    return x_BE.astype(np.float32), group_B


def kernel(x, y, scale):
    squared = np.square(x[:, None] - y).sum(axis=2)
    return np.mean([np.exp(-squared / (b * scale)) for b in BANDWIDTHS], axis=0)


def mmd_by_hand(x_BE, group_B, scale):
    """Mean over pairs of groups, weighted by their pairs of cells, each by the paper's formula."""
    off = lambda k: (k.sum() - np.trace(k)) / len(k) / (len(k) - 1)  # noqa: E731
    total = weight = 0.0
    groups = [x_BE[group_B == g] for g in np.unique(group_B[group_B >= 0]) if (group_B == g).sum() > 1]
    for a, x in enumerate(groups):
        for y in groups[a + 1 :]:
            value = off(kernel(x, x, scale)) + off(kernel(y, y, scale)) - 2 * kernel(x, y, scale).mean()
            total, weight = total + value * len(x) * len(y), weight + len(x) * len(y)
    return total, weight


def mean_squared_distance(x_BE):
    squared = np.square(x_BE[:, None] - x_BE).sum(axis=2)
    return squared.sum() / len(x_BE) / (len(x_BE) - 1)


@pytest.mark.parametrize("groups", [2, 4])
def test_mmd_is_the_formula(groups):
    x_BE, group_B = draw(groups=groups, shift=0.5)
    x_BE += 3  # far from 0
    group_B[:5] = -1
    group_B[7] = 90  # alone in its group
    in_B = (group_B >= 0) & (group_B < 90)
    total, weight = mmd_by_hand(x_BE, group_B, mean_squared_distance(x_BE[in_B].astype(float)))
    assert float(mmd_of(x_BE, group_B)) == pytest.approx(total / weight, rel=1e-4)


def test_mmd_within_labels_is_the_formula_of_each():
    x_BE, group_B = draw(cells=80, shift=0.5)
    label_B = np.random.default_rng(1).integers(-1, 3, 80)
    squared = np.square(x_BE[:, None] - x_BE).sum(axis=2)
    among = (label_B[:, None] == label_B) & (label_B >= 0) & ~np.eye(80, dtype=bool)
    parts = [mmd_by_hand(x_BE[label_B == n], group_B[label_B == n], squared[among].mean()) for n in range(3)]
    expected = sum(total for total, _ in parts) / sum(weight for _, weight in parts)
    assert float(mmd_of(x_BE, group_B, label_B)) == pytest.approx(expected, rel=1e-4)


def test_mmd_is_zero_in_the_mean_where_groups_are_alike_and_grows_as_they_part():
    alike = [float(mmd_of(*draw(seed=seed))) for seed in range(60)]
    assert abs(np.mean(alike)) < 4 * np.std(alike) / np.sqrt(60)
    assert min(alike) < 0  # unbiased
    apart = [float(mmd_of(*draw(shift=shift))) for shift in (0.5, 1.0, 4.0)]
    assert np.max(alike) < apart[0] < apart[1] < apart[2] <= 2


def test_mmd_keeps_the_biology_where_labels_are_given():
    """Two labels far apart, and batches that hold them in other shares: a difference of batches only where labels are
    not told apart."""
    rng = np.random.default_rng(0)
    label_B = rng.integers(0, 2, 120)
    group_B = (rng.random(120) < np.where(label_B == 0, 0.2, 0.8)).astype(int)
    x_BE = (rng.normal(size=(120, 3)) + 6 * label_B[:, None]).astype(np.float32)
    assert float(mmd_of(x_BE, group_B)) > 0.1
    assert abs(float(mmd_of(x_BE, group_B, label_B))) < 0.03


def hsic_by_hand(x_BE, y_BN):
    def centred(x):
        squared = np.square(x[:, None] - x).sum(axis=2)
        h = np.eye(len(x)) - 1 / len(x)
        return h @ np.exp(-squared / mean_squared_distance(x)) @ h

    k, m = centred(x_BE.astype(float)), centred(y_BN.astype(float))
    return (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum())


def test_hsic_is_the_formula():
    x_BE, _ = draw(seed=3)
    y_BN = x_BE[:, :2] ** 2 + 5
    mask_B = np.arange(60) % 4 > 0
    assert float(hsic_of(x_BE, y_BN, mask_B)) == pytest.approx(hsic_by_hand(x_BE[mask_B], y_BN[mask_B]), rel=1e-4)


def test_hsic_is_one_for_the_same_little_for_the_independent_and_between_for_what_is_between():
    rng = np.random.default_rng(0)
    x_BE, noise_BE = rng.normal(size=(2, 400, 3)).astype(np.float32)
    every = np.ones(400, bool)
    assert float(hsic_of(x_BE, x_BE * 5 + 100, every)) == pytest.approx(1.0, abs=1e-4)
    assert 0 <= float(hsic_of(x_BE, noise_BE[:, :1], every)) < 0.05
    some = float(hsic_of(x_BE, np.abs(x_BE[:, :1]), every))  # uncorrelated, and not independent
    assert 0.05 < some < 1


def test_hsic_within_labels():
    """Depth that differs between labels and not within: a dependence only where labels are not told apart."""
    rng = np.random.default_rng(0)
    label_B = rng.integers(0, 2, 300)
    x_BE = (rng.normal(size=(300, 3)) + 6 * label_B[:, None]).astype(np.float32)
    depth_BN = (rng.normal(size=(300, 1)) + 6 * label_B[:, None]).astype(np.float32)
    every = np.ones(300, bool)
    assert float(hsic_of(x_BE, depth_BN, every)) > 0.5
    assert float(hsic_of(x_BE, depth_BN, every, label_B)) < 0.06
    assert float(hsic_of(x_BE, depth_BN, every, np.where(label_B == 0, 0, -1))) == pytest.approx(
        hsic_by_hand(x_BE[label_B == 0], depth_BN[label_B == 0]), rel=1e-3
    )


def test_hsic_of_groups_is_that_of_a_column_for_each():
    x_BE, group_B = draw(groups=4, shift=0.5)
    expected = float(hsic_of(x_BE, np.eye(4, dtype=np.float32)[group_B], np.ones(60, bool)))
    assert float(jax.jit(group_hsic)(x_BE, 10 * group_B)) == pytest.approx(expected, rel=1e-4)


def adversary_by_hand(x_BE, group_B, label_B):
    """At the best of the penalties."""
    return max(_adversary_by_hand(x_BE, group_B, label_B, penalty) for penalty in PENALTIES)


def _adversary_by_hand(x_BE, group_B, label_B, penalty):
    """Every cell left out in turn, and told by a regression on the others with a constant for each label."""
    cells, groups, constants = len(x_BE), (np.eye(group_B.max() + 1)[group_B]), np.eye(label_B.max() + 1)[label_B]
    centred_BE = x_BE - np.stack([x_BE[label_B == label].mean(axis=0) for label in label_B])
    penalty *= np.square(centred_BE).sum() / min(x_BE.shape[1], cells - len(np.unique(label_B)))
    design = np.concatenate([x_BE, constants], axis=1)
    ridge = np.diag([penalty] * x_BE.shape[1] + [0] * constants.shape[1])
    told = by_mean = 0.0
    for cell in range(cells):
        rest = np.arange(cells) != cell
        weights = np.linalg.solve(design[rest].T @ design[rest] + ridge, design[rest].T @ groups[rest])
        told += np.square(groups[cell] - design[cell] @ weights).sum()
        by_mean += np.square(groups[cell] - groups[rest & (label_B == label_B[cell])].mean(axis=0)).sum()
    return max(-np.log(told / by_mean) / 2, 0)


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("groups", [2, 4])
def test_the_adversary_is_the_best_discriminator_of_cells_left_out(groups, labels):
    x_BE, group_B = draw(groups=groups, shift=0.6)
    label_B = np.random.default_rng(7).integers(0, labels, 60)
    expected = adversary_by_hand(x_BE.astype(float), group_B, label_B)
    assert 0.05 < expected < 2
    assert float(adversary_of(x_BE, group_B, label_B)) == pytest.approx(expected, rel=1e-3)
    if labels == 1:
        assert float(adversary_of(x_BE, group_B)) == pytest.approx(expected, rel=1e-3)


def test_an_adversary_of_many_columns_tells_nothing_that_fits_by_chance():
    chance = [float(adversary_of(*draw(cells=200, width=40, seed=seed))) for seed in range(10)]
    assert max(chance) < 0.05
    few = [float(adversary_of(*draw(cells=32, width=512, groups=2, seed=seed))) for seed in range(10)]
    assert max(few) < 0.1  # nor where columns are many times the cells
    assert float(adversary_of(*draw(cells=32, width=512, groups=2, shift=0.5))) > 0.5
    assert float(adversary_of(np.eye(2, 6, dtype=np.float32), np.array([0, 1]))) == pytest.approx(0, abs=1e-3)
    some, more = (float(adversary_of(*draw(cells=200, width=40, shift=shift))) for shift in (1.0, 3.0))
    assert 0.1 < some < more
    assert float(adversary_of(*draw(cells=40, width=60, groups=2, shift=0.5))) > 0.1  # nor is it lost among them


def test_the_adversary_keeps_the_biology_where_labels_are_given():
    rng = np.random.default_rng(0)
    label_B = rng.integers(0, 2, 120)
    group_B = (rng.random(120) < np.where(label_B == 0, 0.2, 0.8)).astype(int)
    x_BE = (rng.normal(size=(120, 3)) + 6 * label_B[:, None]).astype(np.float32)
    assert float(adversary_of(x_BE, group_B)) > 0.1
    assert float(adversary_of(x_BE, group_B, label_B)) < 0.02


@pytest.mark.parametrize("name", ["mmd", "group hsic", "adversary"])
def test_descent_hides_the_groups(name):
    """A hundred steps on the embeddings themselves: what told the groups apart does so no more."""
    x_BE, group_B = draw(cells=90, groups=2, shift=1.0)
    slope = jax.jit(jax.grad(LOSSES[name]))
    gap = lambda x_BE: np.linalg.norm(x_BE[group_B == 0].mean(axis=0) - x_BE[group_B == 1].mean(axis=0))  # noqa: E731
    hidden_BE = x_BE
    for _ in range(100):
        slope_BE = slope(hidden_BE, group_B, np.zeros(90, int))
        hidden_BE = hidden_BE - 0.3 * slope_BE / (1e-6 + np.abs(slope_BE).max())
    assert gap(np.asarray(hidden_BE)) < 0.4 * gap(x_BE)


LOSSES = {
    "mmd": lambda x_BE, group_B, label_B: mmd(x_BE, group_B),
    "mmd within labels": mmd,
    "group hsic": lambda x_BE, group_B, label_B: group_hsic(x_BE, group_B),
    "group hsic within labels": group_hsic,
    "adversary": lambda x_BE, group_B, label_B: adversary(x_BE, group_B),
    "adversary within labels": adversary,
    "hsic": lambda x_BE, group_B, label_B: hsic(x_BE, (1.0 + group_B**2)[:, None], group_B >= 0),
    "hsic within labels": lambda x_BE, group_B, label_B: hsic(x_BE, (1.0 + group_B)[:, None], group_B >= 0, label_B),
}


def labelled(cells=24):
    x_BE, group_B = draw(cells, width=3, shift=1.5)
    label_B = np.random.default_rng(5).integers(0, 2, cells)
    group_B[[3, 11]], label_B[[5, 8]] = -1, -1
    return x_BE, group_B, label_B


@pytest.fixture(params=LOSSES)
def loss(request):
    return jax.jit(LOSSES[request.param])


def test_gradients_are_those_of_finite_differences(loss):
    x_BE, group_B, label_B = labelled()
    once = lambda x_BE: loss(x_BE, group_B, label_B)  # noqa: E731
    check_grads(once, (x_BE,), order=1, modes=["rev"], atol=2e-3, rtol=2e-3, eps=1e-2)


def test_order_rotation_place_and_scale_are_of_no_matter(loss):
    x_BE, group_B, label_B = labelled()
    expected = float(loss(x_BE, group_B, label_B))
    p = np.random.default_rng(0).permutation(24)
    assert float(loss(x_BE[p], group_B[p], label_B[p])) == pytest.approx(expected, rel=1e-4)
    turn_EE = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0].astype(np.float32)
    assert float(loss(7 * x_BE @ turn_EE + 30, group_B, label_B)) == pytest.approx(expected, rel=1e-3)
    slope_BE = jax.grad(loss)(x_BE, group_B, label_B)
    centred_BE = x_BE - x_BE[group_B >= 0].mean(axis=0)
    assert abs(np.sum(slope_BE * centred_BE)) < 1e-3 * np.linalg.norm(slope_BE) * np.linalg.norm(centred_BE)


@pytest.mark.parametrize("held", [0.0, 1e4, np.nan, np.inf])
def test_rows_that_are_not_counted_change_nothing(loss, held):
    x_BE, group_B, label_B = labelled()
    value, slope_BE = jax.value_and_grad(loss)(x_BE, group_B, label_B)
    x_BE[group_B < 0] = held
    again, slope2_BE = jax.value_and_grad(loss)(x_BE, group_B, label_B)
    np.testing.assert_allclose(again, value, rtol=1e-5)
    np.testing.assert_allclose(slope2_BE, slope_BE, rtol=1e-4, atol=1e-7)
    assert not np.any(slope2_BE[group_B < 0])
    assert np.any(slope2_BE)


@pytest.mark.parametrize("why", ["nobody", "one group", "one point"])
def test_where_nothing_can_be_compared_it_is_nothing(loss, why):
    x_BE, group_B, label_B = labelled()
    if why == "nobody":
        group_B[:] = -1
    elif why == "one group":
        group_B[:] = 1
    else:
        x_BE[:] = 7.3
    value, slope_BE = jax.value_and_grad(loss)(x_BE, group_B, label_B)
    assert float(value) == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(slope_BE, 0.0, atol=1e-6)


def test_mmd_of_cells_that_are_each_their_groups_only_one_is_nothing():
    x_BE, _, label_B = labelled()
    value, slope_BE = jax.value_and_grad(mmd)(x_BE, np.arange(24), label_B)
    assert value == 0
    assert not np.any(slope_BE)


def test_eight_devices_give_the_same(loss):
    arguments = labelled(cells=32)
    slopes = jax.jit(jax.value_and_grad(loss))
    expected = slopes(*arguments)
    mesh = make_mesh(MeshConfig(4, 2, 1))
    with jax.set_mesh(mesh):
        again = slopes(*(jax.device_put(x, sharding(mesh, ("cells",))) for x in arguments))
    for a, b in zip(expected, again, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
