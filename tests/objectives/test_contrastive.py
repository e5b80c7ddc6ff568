"""InfoNCE: the loss and its gradient are those of a dense reference, on one device and on eight, and B x B is never held."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core
from jax.test_util import check_grads

from mofm.objectives.blockwise import Known
from mofm.objectives.contrastive import LOG_TEMPERATURE_BOUNDS, bounded_log_temperature, info_nce
from mofm.parallel.mesh import MeshConfig, make_mesh

LABELS = 5
AFFINITY_YY = np.random.default_rng(7).uniform(0, 0.6, (LABELS, LABELS)).astype(np.float32)  # not symmetric
AFFINITY_YY[1] = AFFINITY_YY[:, 1] = 0.0
RULES = {
    "cells": {},
    "labels": {"label_weight": 0.3},
    "ontology": {"label_weight": 0.3, "affinity_YY": AFFINITY_YY},
    "ontology alone": {"affinity_YY": AFFINITY_YY},
    "masked": {"mask_same_label": True},
    "masked ontology": {"mask_same_label": True, "affinity_YY": AFFINITY_YY},
}


def case(rows=16, others=24, width=6, seed=0):
    """Two views that share some cells, each with padding, cells of its own, a cell that is there twice, unknown labels."""
    rng = np.random.default_rng(seed)
    one_BE, other_CE = (rng.normal(size=(n, width)).astype(np.float32) * 3 for n in (rows, others))
    label_of = np.append(rng.integers(-1, LABELS, 100), -1)
    cells_B, cells_C = rng.permutation(rows + 4)[:rows], rng.permutation(rows + 8)[:rows]
    cells_C = np.concatenate([cells_C, np.arange(60, 60 + others - rows)])
    cells_B[2] = cells_B[5]
    cells_B[[1, 7]] = cells_C[[0, 3]] = -1
    known = [Known(*(jnp.asarray(x, jnp.int32) for x in (cells, label_of[cells]))) for cells in (cells_B, cells_C)]
    return one_BE, other_CE, *known


def weights(one: Known, other: Known, label_weight=0.0, affinity_YY=None, mask_same_label=False):
    """(weight, counts, own), dense, one pair at a time."""
    shape = len(one.cell_B), len(other.cell_B)
    weight, counts, own = np.zeros(shape), np.zeros(shape, bool), np.zeros(shape, bool)
    for i, (cell, label) in enumerate(zip(*map(np.asarray, one), strict=True)):
        for j, (cell2, label2) in enumerate(zip(*map(np.asarray, other), strict=True)):
            if cell < 0 or cell2 < 0:
                continue
            own[i, j] = cell == cell2
            if cell == cell2:
                weight[i, j] = 1
            elif label >= 0 and label == label2:
                weight[i, j] = label_weight
            elif label >= 0 and label2 >= 0 and affinity_YY is not None:
                weight[i, j] = affinity_YY[label, label2]
            is_false_negative = mask_same_label and label >= 0 and label == label2 and weight[i, j] == 0
            counts[i, j] = not is_false_negative
    return weight, counts, own


def dense(one_BE, other_CE, one, other, log_temperature, xp=jnp, **rules):
    """The loss as the docstring has it, all similarities at once."""
    weight, counts, _ = weights(one, other, **rules)
    unit = lambda x: x / xp.sqrt((x * x).sum(axis=1, keepdims=True))  # noqa: E731
    similarity = unit(one_BE) @ unit(other_CE).T / xp.exp(log_temperature)
    loss = 0.0
    for s, w, c in ((similarity, weight, counts), (similarity.T, weight.T, counts.T)):
        queries = np.flatnonzero(w.sum(axis=1) > 0)
        if len(queries) == 0:
            continue
        s, w, c = s[queries], w[queries], c[queries]
        top = xp.where(c, s, -1e9).max(axis=1, keepdims=True)
        log_p = s - top - xp.log(xp.where(c, xp.exp(xp.where(c, s - top, 0.0)), 0.0).sum(axis=1, keepdims=True))
        loss = loss - (w * log_p).sum(axis=1) @ (1 / w.sum(axis=1)) / len(queries) / 2
    return loss


@functools.cache
def ours(rules="cells", devices="none", chunk=5, turned=False):
    """A function (one_BE, other_CE, one, other, log_temperature) -> (value, gradients, metrics), compiled once."""
    rules, mesh = dict(RULES[rules]), meshes()[devices]
    if turned and "affinity_YY" in rules:
        rules["affinity_YY"] = AFFINITY_YY.T

    def loss(one_BE, other_CE, log_temperature, one, other):
        return info_nce(one_BE, other_CE, one, other, log_temperature, mesh, chunk=chunk, **rules)

    program = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))

    def run(one_BE, other_CE, one, other, log_temperature):
        (value, metrics), gradients = program(one_BE, other_CE, log_temperature, one, other)
        return value, gradients, metrics

    return run


def assert_close(these, those, rtol=2e-5, atol=2e-6):
    for a, b in zip(jax.tree.leaves(these), jax.tree.leaves(those), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


@functools.cache
def meshes():
    devices = jax.devices()
    return {
        "none": None,
        "one": make_mesh(MeshConfig(1, 1, 1), devices[:1]),
        "two": make_mesh(MeshConfig(2), devices[:2]),
        "eight": make_mesh(MeshConfig(4, 2, 1)),
        "tensor": make_mesh(MeshConfig(2, 2, 2)),
    }


@pytest.mark.parametrize(
    ("rules", "temperature"), [*((name, 0.2) for name in RULES), ("cells", 0.01), ("masked ontology", 0.01)]
)
def test_value_and_gradient_are_those_of_the_dense_loss(rules, temperature):
    """Value in float64 by numpy, gradient by differentiating the dense form."""
    one_BE, other_CE, one, other = case()
    log_t = math.log(temperature)
    value, gradients, _ = ours(rules)(one_BE, other_CE, one, other, log_t)
    exact = dense(one_BE.astype(float), other_CE.astype(float), one, other, log_t, xp=np, **RULES[rules])
    assert float(value) == pytest.approx(exact, rel=1e-5)
    slopes = jax.jit(jax.grad(lambda a, b, t: dense(a, b, one, other, t, **RULES[rules]), (0, 1, 2)))
    expected = slopes(one_BE, other_CE, log_t)
    # At a temperature of 0.01 one similarity's last digit is 1e-5 nats, in both.
    assert_close(gradients, expected, rtol=2e-4, atol=2e-5 * float(jnp.abs(expected[2])))


@pytest.mark.parametrize(
    ("rules", "name"), [*(("masked ontology", name) for name in ("one", "two", "eight", "tensor")), ("cells", "eight")]
)
def test_any_number_of_devices_gives_the_same(rules, name):
    arguments = *case(), math.log(0.1)
    expected = ours(rules)(*arguments)
    with jax.set_mesh(meshes()[name]):
        assert_close(expected, ours(rules, name, chunk=2)(*arguments))


def test_needs_no_mesh_to_be_set():
    """The mesh that is given is enough."""
    arguments = *case(), math.log(0.1)
    assert_close(ours()(*arguments), ours("cells", "eight", chunk=2)(*arguments))


@pytest.mark.parametrize("chunk", [1, 24, 1000])
def test_the_chunk_does_not_matter(chunk):
    arguments = *case(), math.log(0.1)
    assert_close(ours("ontology")(*arguments), ours("ontology", chunk=chunk)(*arguments))


def test_gradient_is_that_of_finite_differences():
    one_BE, other_CE, one, other = case(rows=8, others=8, width=3)
    loss = lambda a, b, t: info_nce(a, b, one, other, t, chunk=3, **RULES["ontology"])[0]  # noqa: E731
    check_grads(
        jax.jit(loss), (one_BE, other_CE, jnp.float32(-0.5)), order=1, modes=["rev"], atol=2e-3, rtol=2e-3, eps=1e-2
    )


@pytest.mark.parametrize("rules", ["cells", "masked ontology"])
def test_the_two_views_are_alike(rules):
    one_BE, other_CE, one, other = case()
    value, (one_slope, other_slope, slope), metrics = ours(rules)(one_BE, other_CE, one, other, -1.0)
    turned = ours(rules, turned=True)(other_CE, one_BE, other, one, -1.0)
    again, (other_slope2, one_slope2, slope2), metrics2 = turned
    assert_close((value, one_slope, other_slope, slope, metrics), (again, one_slope2, other_slope2, slope2, metrics2))


def test_the_order_of_cells_does_not_matter():
    one_BE, other_CE, one, other = case()
    value, (one_slope, other_slope, _), metrics = ours("ontology")(one_BE, other_CE, one, other, -1.0)
    rng = np.random.default_rng(3)
    p, q = rng.permutation(len(one_BE)), rng.permutation(len(other_CE))
    moved = [Known(known.cell_B[order], known.label_B[order]) for known, order in ((one, p), (other, q))]
    again, (one_slope2, other_slope2, _), metrics2 = ours("ontology")(one_BE[p], other_CE[q], *moved, -1.0)
    assert_close((value, one_slope[p], other_slope[q], metrics), (again, one_slope2, other_slope2, metrics2))


@pytest.mark.parametrize("held", [0.0, 1e3, np.nan, np.inf])
def test_padding_changes_nothing(held):
    """Whatever its rows hold, and though its label be known."""
    one_BE, other_CE, one, other = case()
    value, (one_slope, other_slope, slope), metrics = ours("masked ontology")(one_BE, other_CE, one, other, -1.0)
    more_BE, more_CE = (np.pad(x, ((0, 3), (0, 0)), constant_values=held) for x in (one_BE, other_CE))
    padded = [
        Known(jnp.pad(known.cell_B, (0, 3), constant_values=-1), jnp.pad(known.label_B, (0, 3), constant_values=2))
        for known in (one, other)
    ]
    again, (one_slope2, other_slope2, slope2), metrics2 = ours("masked ontology")(more_BE, more_CE, *padded, -1.0)
    assert_close((value, one_slope, other_slope, slope), (again, one_slope2[:-3], other_slope2[:-3], slope2))
    assert_close(metrics, metrics2)
    assert not np.any(one_slope2[-3:])
    assert not np.any(other_slope2[-3:])
    assert not np.any(one_slope[np.asarray(one.cell_B) < 0])


@pytest.mark.parametrize(("rules", "name"), [*((name, "none") for name in RULES), ("masked ontology", "two")])
def test_a_batch_without_a_pair_is_worth_nothing(rules, name):
    one_BE, other_CE, one, other = case()
    unknown = [
        Known(known.cell_B + shift, jnp.full_like(known.label_B, -1)) for known, shift in ((one, 0), (other, 500))
    ]
    empty = [Known(jnp.full_like(known.cell_B, -1), known.label_B) for known in (one, other)]
    for knowns in (unknown, empty):
        knowns = [known._replace(cell_B=jnp.where(known.cell_B == 499, -1, known.cell_B)) for known in knowns]
        value, gradients, metrics = ours(rules, name)(one_BE, other_CE, *knowns, -1.0)
        assert value == 0.0
        assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradients))
        assert metrics["queries"] == 0
        assert metrics["matched"] == 0


def test_one_pair_among_many():
    """The unpaired are negatives, and nothing but: the loss is that pair's two logsumexps."""
    rng = np.random.default_rng(1)
    one_BE, other_CE = rng.normal(size=(6, 4)).astype(np.float32), rng.normal(size=(4, 4)).astype(np.float32)
    one = Known(jnp.arange(6), jnp.full(6, -1))
    other = Known(jnp.array([90, 91, 3, 92]), jnp.full(4, -1))
    value, (one_slope, other_slope, _), metrics = ours()(one_BE, other_CE, one, other, -1.0)
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    s = unit(one_BE) @ unit(other_CE).T / np.exp(-1.0)
    expected = (np.log(np.exp(s[3]).sum()) + np.log(np.exp(s[:, 2]).sum())) / 2 - s[3, 2]
    assert float(value) == pytest.approx(expected, rel=1e-5)
    assert metrics["queries"] == 2
    assert np.abs(one_slope).sum(axis=1).all()
    assert np.abs(other_slope).sum(axis=1).all()


def test_matched_counts_cells_that_find_their_own():
    """Cell 3's other view lies by cell 2's, so only it is lost, from either side; a collapsed embedding finds nobody."""
    one_BE = np.eye(4, dtype=np.float32)
    other_CE = one_BE[[0, 1, 2, 2]] + np.float32(0.3) * one_BE[[0, 1, 3, 3]] * np.array(
        [[1], [1], [0], [1]], np.float32
    )
    known = Known(jnp.arange(4), jnp.full(4, -1))
    assert float(ours()(one_BE, other_CE, known, known, -1.0)[2]["matched"]) == pytest.approx(7 / 8)
    collapsed_BE = np.ones((4, 4), np.float32)
    assert ours()(collapsed_BE, collapsed_BE, known, known, -1.0)[2]["matched"] == 0


def test_matched_agrees_with_a_dense_count():
    one_BE, other_CE, one, other = case(rows=32, others=40, seed=2)
    own = weights(one, other)[2]
    other_CE = other_CE + 2 * own.T @ one_BE
    counts = weights(one, other)[1]
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    s = np.where(counts, unit(one_BE) @ unit(other_CE).T, -9.0)
    hits = [own[i, s[i].argmax()] for i in np.flatnonzero(own.any(axis=1))]
    hits += [own[s[:, j].argmax(), j] for j in np.flatnonzero(own.any(axis=0))]
    assert 0.1 < np.mean(hits) < 1
    metrics = ours("masked")(one_BE, other_CE, one, other, -1.0)[2]
    assert float(metrics["matched"]) == pytest.approx(np.mean(hits))


def test_masking_lets_cells_of_a_label_be_near():
    """A cell of the same label is pushed away where it is a negative, and left alone where it is masked."""
    one_BE, other_CE, one, other = case()
    one = Known(jnp.arange(16), jnp.full(16, 2))
    other = Known(jnp.concatenate([jnp.arange(16), jnp.array([99] * 8)]), jnp.full(24, 2))
    slope = ours()(one_BE, other_CE, one, other, -1.0)[1][1]
    assert np.abs(slope[16:]).sum() > 1e-4
    value, (_, slope, _), _ = ours("masked")(one_BE, other_CE, one, other, -1.0)
    assert not np.any(slope)
    assert float(value) == pytest.approx(0.0, abs=1e-6)  # a cell is left with no one but itself


def test_a_row_of_no_length_breaks_nothing():
    one_BE, other_CE, one, other = case()
    one_BE[0], other_CE[1] = 0.0, 0.0
    value, (one_slope, other_slope, _), _ = ours()(one_BE, other_CE, one, other, -1.0)
    assert np.isfinite(value)
    assert np.isfinite(one_slope).all()
    assert np.isfinite(other_slope).all()
    assert not np.any(one_slope[0])
    assert not np.any(other_slope[1])


def test_any_scale_of_a_row_gives_the_same_loss():
    one_BE, other_CE, one, other = case()
    value = ours()(one_BE, other_CE, one, other, -1.0)[0]
    scale_B1 = np.random.default_rng(0).uniform(0.1, 30, (16, 1)).astype(np.float32)
    assert float(ours()(one_BE * scale_B1, other_CE * 5, one, other, -1.0)[0]) == pytest.approx(float(value), rel=1e-5)


def test_bfloat16_rows_are_compared_in_float32():
    one_BE, other_CE, one, other = case()
    halves = [jnp.asarray(x, jnp.bfloat16) for x in (one_BE, other_CE)]
    value, gradients, _ = ours()(*halves, one, other, -3.0)
    expected = ours()(*(x.astype(jnp.float32) for x in halves), one, other, -3.0)[0]
    assert value.dtype == jnp.float32
    assert gradients[0].dtype == jnp.bfloat16
    assert float(value) == pytest.approx(float(expected), rel=1e-6)


def test_temperature_stays_within_its_bounds_and_comes_back():
    least, most = LOG_TEMPERATURE_BOUNDS
    slope = jax.grad(lambda x, sign: sign * bounded_log_temperature(x))
    for x in (least - 1, least):
        assert bounded_log_temperature(x) == pytest.approx(least)
        assert slope(x, 1.0) == 0.0  # descent would take it further down
        assert slope(x, -1.0) == -1.0
    for x in (most, most + 1):
        assert bounded_log_temperature(x) == pytest.approx(most)
        assert slope(x, -1.0) == 0.0
        assert slope(x, 1.0) == 1.0
    assert slope(-1.0, 1.0) == 1.0
    assert slope(-1.0, -1.0) == -1.0


def test_descent_never_takes_the_temperature_out_of_its_bounds():
    """Pairs that agree ask for ever lower temperatures; once they disagree it comes back from below."""
    angle_B = np.radians(8.0) * np.arange(16)  # near enough to each other to be told apart only by low temperatures
    x_BE = np.stack([np.cos(angle_B), np.sin(angle_B)], axis=1).astype(np.float32)
    known = Known(jnp.arange(16), jnp.full(16, -1))
    slope = jax.jit(jax.grad(lambda t, other_BE: info_nce(x_BE, other_BE, known, known, t)[0]))
    log_t = jnp.float32(-3.0)
    for _ in range(40):
        log_t -= 0.1 * jnp.sign(slope(log_t, x_BE))
    assert LOG_TEMPERATURE_BOUNDS[0] - 0.11 < log_t < LOG_TEMPERATURE_BOUNDS[0] + 1e-3
    log_t = jnp.float32(-6.0)  # past the bound, as momentum may carry it
    for _ in range(40):
        log_t -= 0.1 * jnp.sign(slope(log_t, x_BE[::-1].copy()))
    assert log_t > LOG_TEMPERATURE_BOUNDS[0] + 1.0


def largest(jaxpr) -> int:
    """Elements of the largest array that any part of a program makes."""
    if isinstance(jaxpr, core.ClosedJaxpr):
        jaxpr = jaxpr.jaxpr
    sizes = [0]
    for equation in jaxpr.eqns:
        sizes += [variable.aval.size for variable in equation.outvars]
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: isinstance(x, core.Jaxpr | core.ClosedJaxpr)):
            if isinstance(value, core.Jaxpr | core.ClosedJaxpr):
                sizes.append(largest(value))
    return max(sizes)


@pytest.mark.parametrize("name", ["none", "eight"])
def test_no_array_of_all_pairs_is_made(name):
    """Neither in the program as written, gradient included, nor in what the compiler makes of it; the dense form has one."""
    rows, width, chunk, mesh = 4096, 8, 64, meshes()[name]
    shape = jax.ShapeDtypeStruct((rows, width), jnp.float32)
    known = Known(*[jax.ShapeDtypeStruct((rows,), jnp.int32)] * 2)

    def loss(a, b, one, other):
        return info_nce(a, b, one, other, -1.0, mesh, chunk=chunk, mask_same_label=True, label_weight=0.1)[0]

    gradient = jax.grad(loss, (0, 1))
    assert largest(jax.make_jaxpr(gradient)(shape, shape, known, known)) <= rows * max(chunk, width)
    compiled = jax.jit(gradient).lower(shape, shape, known, known).compile().memory_analysis()
    all_pairs = 4 * rows * rows
    assert compiled.temp_size_in_bytes < all_pairs / 8
    dense_form = jax.make_jaxpr(jax.grad(lambda a, b: jax.nn.logsumexp(a @ b.T)))(shape, shape)
    assert largest(dense_form) == rows * rows


def test_memory_on_a_device_grows_with_its_own_rows_alone():
    """Eight devices of n rows each need what eight of n rows need, times two where n is two times as many: the keys of
    the others are nowhere kept, not even for the gradient."""

    def temporaries(devices: int, rows: int) -> int:
        mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
        shape = jax.ShapeDtypeStruct((rows, 256), jnp.float32)
        known = Known(*[jax.ShapeDtypeStruct((rows,), jnp.int32)] * 2)
        loss = lambda a, b, one, other: info_nce(a, b, one, other, -1.0, mesh, chunk=32)[0]  # noqa: E731
        laid = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(("data", "fsdp")))
        program = jax.jit(jax.grad(loss, (0, 1)), in_shardings=laid, out_shardings=laid)
        return program.lower(shape, shape, known, known).compile().memory_analysis().temp_size_in_bytes

    two, eight, twice = temporaries(2, 512), temporaries(8, 2048), temporaries(8, 4096)
    assert eight < 1.2 * two
    assert 1.5 * eight < twice < 2.2 * eight


def test_rows_that_the_devices_cannot_share_are_refused():
    one_BE, other_CE, one, other = case(rows=15, others=24)
    with pytest.raises(ValueError, match="15"):
        ours("cells", "eight")(one_BE, other_CE, one, other, -1.0)
    with pytest.raises(ValueError, match="chunk=0"):
        ours(chunk=0)(one_BE, other_CE, one, other, -1.0)
