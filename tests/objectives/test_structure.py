"""Agreement of structure: rotations and scales are of no matter, differences are, and rows without a partner never are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from mofm.objectives.rows import row_of_cell, sample_rows, unit_rows
from mofm.objectives.structure import structure_agreement
from mofm.parallel.mesh import MeshConfig, make_mesh
from mofm.parallel.rules import sharding

KEY = jax.random.key(0)


def case(seed=0):
    """8 rows of width 3 and 12 of width 5, six cells in both, one of them twice on one side, padding on both."""
    rng = np.random.default_rng(seed)
    one_BE, other_CF = rng.normal(size=(8, 3)).astype(np.float32), rng.normal(size=(12, 5)).astype(np.float32)
    one_cell_B = jnp.array([4, 7, -1, 9, 2, 30, 4, 11])
    other_cell_C = jnp.array([50, 2, 51, 4, -1, 9, -1, 7, 11, 52, 53, 12])
    return one_BE, other_CF, one_cell_B, other_cell_C


def by_hand(one_BE, other_CF, one_cell_B, other_cell_C):
    squares = []
    rows = [
        (i, list(other_cell_C).index(cell)) for i, cell in enumerate(one_cell_B) if cell >= 0 and cell in other_cell_C
    ]
    cosine = lambda x, y: x @ y / np.linalg.norm(x) / np.linalg.norm(y)  # noqa: E731
    for i, k in rows:
        for j, m in rows:
            if one_cell_B[i] != one_cell_B[j]:
                squares.append((cosine(one_BE[i], one_BE[j]) - cosine(other_CF[k], other_CF[m])) ** 2)
    return np.mean(squares)


def loss_of(one_BE, other_CF, one_cell_B, other_cell_C, **more):
    return structure_agreement(KEY, one_BE, other_CF, one_cell_B, other_cell_C, **more)[0]


def test_is_the_formula():
    arguments = case()
    loss, metrics = structure_agreement(KEY, *arguments)
    assert float(loss) == pytest.approx(by_hand(*map(np.asarray, arguments)), rel=1e-5)
    assert metrics["cells"] == 6  # cell 4 twice
    assert -1 <= metrics["correlation"] < 0.9


def test_gradient_is_that_of_finite_differences():
    one_BE, other_CF, *cells = case()
    loss = jax.jit(lambda a, b: loss_of(a, b, *cells))
    check_grads(loss, (one_BE, other_CF), order=1, modes=["rev"], atol=2e-3, rtol=2e-3, eps=1e-2)


def test_rotation_and_scale_of_either_side_are_of_no_matter():
    one_BE, other_CF, *cells = case()
    turn_EE, turn_FF = (np.linalg.qr(np.random.default_rng(n).normal(size=(n, n)))[0] for n in (3, 5))
    scale_B1 = np.random.default_rng(1).uniform(0.1, 20, (8, 1))
    expected = float(loss_of(one_BE, other_CF, *cells))
    assert float(loss_of(one_BE @ turn_EE * scale_B1, other_CF, *cells)) == pytest.approx(expected, rel=1e-4)
    assert float(loss_of(one_BE, 0.01 * other_CF @ turn_FF, *cells)) == pytest.approx(expected, rel=1e-4)
    cell_B = jnp.arange(8)
    turned, metrics = structure_agreement(KEY, one_BE, one_BE @ turn_EE * scale_B1, cell_B, cell_B)
    assert float(turned) == pytest.approx(0, abs=1e-10)
    assert float(metrics["correlation"]) == pytest.approx(1, abs=1e-5)
    assert float(structure_agreement(KEY, one_BE, one_BE[::-1], cell_B, cell_B)[0]) > 0.05


def test_the_sides_are_alike_and_their_order_is_of_no_matter():
    one_BE, other_CF, one_cell_B, other_cell_C = case()
    one_cell_B = one_cell_B.at[6].set(-1)  # each cell once: of several rows one side takes the first
    expected = float(loss_of(one_BE, other_CF, one_cell_B, other_cell_C))
    assert float(loss_of(other_CF, one_BE, other_cell_C, one_cell_B)) == pytest.approx(expected, rel=1e-5)
    p, q = np.random.default_rng(0).permutation(8), np.random.default_rng(1).permutation(12)
    assert float(loss_of(one_BE[p], other_CF[q], one_cell_B[p], other_cell_C[q])) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("held", [0.0, np.nan, np.inf])
def test_rows_without_a_partner_change_nothing(held):
    one_BE, other_CF, *cells = case()
    slopes = jax.value_and_grad(loss_of, (0, 1))
    value, gradients = slopes(one_BE, other_CF, *cells)
    alone_B, alone_C = [2, 5], [0, 2, 4, 6, 9, 10, 11]
    one_BE[alone_B], other_CF[alone_C] = held, held
    again, gradients2 = slopes(one_BE, other_CF, *cells)
    np.testing.assert_allclose(again, value, rtol=1e-6)
    for gradient, gradient2, alone in zip(gradients, gradients2, (alone_B, alone_C), strict=True):
        assert not np.any(gradient2[np.array(alone)])
        np.testing.assert_allclose(gradient, gradient2, rtol=1e-5, atol=1e-8)
        assert np.any(gradient)


@pytest.mark.parametrize("pairs", [0, 1])
def test_without_two_cells_in_common_it_is_nothing(pairs):
    one_BE, other_CF, one_cell_B, _ = case()
    other_cell_C = jnp.arange(100, 112).at[3].set(7 if pairs else 99)
    value, gradients = jax.value_and_grad(loss_of, (0, 1))(one_BE, other_CF, one_cell_B, other_cell_C)
    assert value == 0
    assert not any(np.any(gradient) for gradient in gradients)


@pytest.mark.parametrize("stop", ["one", "other"])
def test_a_side_that_is_stopped_takes_no_gradient(stop):
    one_BE, other_CF, *cells = case()
    free = jax.grad(loss_of, (0, 1))(one_BE, other_CF, *cells)
    held = jax.grad(lambda a, b: loss_of(a, b, *cells, stop=stop), (0, 1))(one_BE, other_CF)
    stopped = ("one", "other").index(stop)
    assert not np.any(held[stopped])
    np.testing.assert_allclose(held[1 - stopped], free[1 - stopped], rtol=1e-6)


def test_a_sample_tells_what_all_do():
    rng = np.random.default_rng(0)
    one_BE = rng.normal(size=(400, 6)).astype(np.float32)
    other_BE = one_BE + rng.normal(size=(400, 6)).astype(np.float32)
    cell_B = jnp.arange(400).at[::10].set(-1)
    program = jax.jit(
        lambda key, cells: structure_agreement(key, one_BE, other_BE, cell_B, cell_B, cells=cells), static_argnums=1
    )
    every, metrics = program(KEY, 400)
    assert metrics["cells"] == 360
    samples = [program(jax.random.key(seed), 64) for seed in range(20)]
    assert {int(metrics["cells"]) for _, metrics in samples} == {64}
    losses = np.array([float(loss) for loss, _ in samples])
    assert losses.std() > 0
    assert losses.mean() == pytest.approx(float(every), rel=0.05)


def test_eight_devices_give_the_same():
    rng = np.random.default_rng(0)
    one_BE, other_BE = rng.normal(size=(2, 64, 6)).astype(np.float32)
    arguments = one_BE, other_BE, rng.permutation(64), rng.permutation(64)
    slopes = jax.jit(jax.value_and_grad(lambda *x: loss_of(*x, cells=32), (0, 1)))
    expected = slopes(*arguments)
    mesh = make_mesh(MeshConfig(4, 2, 1))
    with jax.set_mesh(mesh):
        again = slopes(*(jax.device_put(x, sharding(mesh, ("cells",))) for x in arguments))
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_row_of_cell_finds_the_first_and_never_padding():
    found = row_of_cell(jnp.array([3, -1, 8, 5]), jnp.array([5, -1, 3, 3, -1]))
    np.testing.assert_array_equal(found, [2, -1, -1, 0])


def test_a_sample_is_of_the_mask_alone():
    mask_B = jnp.arange(20) % 2 == 0
    drawn = [sample_rows(jax.random.key(seed), mask_B, 4) for seed in range(40)]
    rows = np.concatenate([row_S for row_S, _ in drawn])
    assert set(rows.tolist()) == set(range(0, 20, 2))
    assert all(len(set(row_S.tolist())) == 4 for row_S, _ in drawn)
    row_S, mask_S = sample_rows(KEY, mask_B, 15)
    assert mask_S.sum() == 10
    assert set(row_S[mask_S].tolist()) == set(range(0, 20, 2))


def test_a_row_of_no_length_is_nothing():
    unit, back = jax.vjp(unit_rows, jnp.array([[3.0, 4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(unit, [[0.6, 0.8], [0, 0]], rtol=1e-6)
    np.testing.assert_allclose(back(jnp.ones((2, 2)))[0][1], 0.0)
