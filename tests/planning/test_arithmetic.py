"""FLOPs counted from jaxprs: known products exactly, XLA's own count where nothing is scanned, and the roofline's sums."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas

from mofm.nn.encoder import Encoder
from mofm.planning.arithmetic import PLAIN, count_flops
from mofm.planning.chips import CHIPS
from mofm.planning.roofline import Times, days, link_rate, step_times


def square(n: int, dtype=jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((n, n), dtype)


def test_products_by_the_dtype_of_their_operands():
    def both(a, b):
        return a @ a, jnp.einsum("ij,kj->ik", b, b, preferred_element_type=jnp.float32)

    assert count_flops(both, square(10), square(8, jnp.bfloat16), platform="tpu") == {"float32": 2e3, "bfloat16": 1024}


def test_a_gradient_has_twice_the_products_of_its_function_and_a_scan_its_length():
    def deep(x, weights):
        return jnp.sum(jax.lax.scan(lambda c, w: (c @ w, None), x, weights)[0])

    weights = jax.ShapeDtypeStruct((7, 16, 16), jnp.float32)
    assert count_flops(deep, square(16), weights, platform="tpu") == {"float32": 7 * 2 * 16**3}
    both = count_flops(jax.grad(deep, argnums=(0, 1)), square(16), weights, platform="tpu")
    assert both == {"float32": 3 * 7 * 2 * 16**3}


def test_what_remat_computes_again_counts():
    def layer(x, w):
        return jnp.sin(jnp.sin(x @ w) @ w)

    plain, again = (
        count_flops(jax.grad(lambda x, w, f=f: f(x, w).sum(), argnums=(0, 1)), square(8), square(8), platform="cpu")
        for f in (layer, jax.checkpoint(layer))
    )
    product = 2 * 8**3
    assert (plain["float32"], again["float32"]) == (6 * product, 8 * product)


def test_the_branch_of_the_platform_counts():
    def chosen(x):
        return jax.lax.platform_dependent(x, cpu=lambda x: x @ x, default=lambda x: x @ x @ x)

    found = [count_flops(chosen, square(8), platform=name)["float32"] for name in ("cpu", "tpu", "cuda")]
    assert found == [2 * 8**3, 4 * 8**3, 4 * 8**3]


def test_a_kernel_without_products_counts_as_the_form_for_all_others():
    def chosen(x):
        return jax.lax.platform_dependent(x, cuda=jnp.sin, tpu=lambda x: x @ x @ x, default=lambda x: x @ x)

    found = [count_flops(chosen, square(8), platform=name)["float32"] for name in ("cuda", "tpu", "cpu", PLAIN)]
    assert found == [2 * 8**3, 4 * 8**3, 2 * 8**3, 2 * 8**3]


def test_where_data_choose_the_dearer_branch_counts():
    def chosen(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x, lambda x: x, x)

    assert count_flops(chosen, square(8), platform="tpu") == {"float32": 2 * 8**3}


@pytest.mark.parametrize(("said", "expected"), [(None, 2 * 64 * 8 * 32), (7, 7)])
def test_a_kernel_costs_what_it_says_or_its_products_over_its_grid(said, expected):
    def kernel(x_ref, y_ref, out_ref):
        out_ref[...] = x_ref[...] @ y_ref[...]

    product = pallas.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct((64, 32), jnp.float32),
        grid=(4,),
        in_specs=[pallas.BlockSpec((16, 8), lambda i: (i, 0)), pallas.BlockSpec((8, 32), lambda i: (0, 0))],
        out_specs=pallas.BlockSpec((16, 32), lambda i: (i, 0)),
        cost_estimate=said and pallas.CostEstimate(flops=said, transcendentals=0, bytes_accessed=0),
    )
    shapes = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((64, 8), (8, 32)))
    assert count_flops(product, *shapes, platform="tpu") == {"float32": expected}


def test_a_block_without_a_scan_is_counted_as_xla_counts_it():
    """Of the model's own encoder, one block, forward and backward; XLA adds what is elementwise, a few percent."""
    encoder = Encoder(blocks=1, heads=4, ffn=352)
    x_BLD, mask_BL = jax.ShapeDtypeStruct((1, 128, 128), jnp.float32), jax.ShapeDtypeStruct((1, 128), jnp.bool_)
    params = jax.eval_shape(partial(encoder.init, jax.random.key(0)), x_BLD, mask_BL)
    gradient = jax.grad(lambda params, x, mask: jnp.sum(encoder.apply(params, x, mask) ** 2))
    ours = count_flops(gradient, params, x_BLD, mask_BL, platform="cpu")["float32"]
    xla = jax.jit(gradient).lower(params, x_BLD, mask_BL).compile().cost_analysis()["flops"]
    assert ours <= xla <= 1.1 * ours


V5E, H100 = CHIPS["v5e"], CHIPS["h100"]
MESH = {"data": 16, "fsdp": 16, "tensor": 1}


def test_each_resource_takes_its_work_over_its_rate():
    sent = {"fsdp": 3e9, "data+fsdp": 1e9}
    times = step_times(V5E, 256, {"bfloat16": 256 * 197e12, "float32": 256 * 197e11}, 819e9 / 2, sent, MESH)
    assert times == pytest.approx((1.1, 0.5, 0.04))
    assert times.fastest == pytest.approx(1.1)
    assert times.slowest == pytest.approx(1.64)
    assert times.bound == "products"


def test_float32_products_are_half_as_fast_on_gpus():
    times = step_times(H100, 8, {"bfloat16": 8 * 989e12, "float32": 8 * 989e12}, 0, {}, {"data": 8})
    assert times.products == pytest.approx(1 + 2)


@pytest.mark.parametrize(
    ("axes", "mesh", "rate"),
    [
        ("fsdp", {"data": 4, "fsdp": 8, "tensor": 1}, H100.link_rate),  # within a host of 8
        ("data", {"data": 4, "fsdp": 8, "tensor": 1}, H100.network_rate),  # its neighbours are on other hosts
        ("data", {"data": 8, "fsdp": 1, "tensor": 1}, H100.link_rate),
        ("data+fsdp", {"data": 4, "fsdp": 8, "tensor": 1}, H100.network_rate),
        ("unknown", {"data": 4, "fsdp": 8, "tensor": 1}, H100.network_rate),
        ("unknown", {"data": 2, "fsdp": 4, "tensor": 1}, H100.link_rate),
    ],
)
def test_an_axis_is_as_fast_as_where_it_lies(axes, mesh, rate):
    assert link_rate(H100, axes, mesh) == rate


def test_a_slice_has_one_rate():
    assert {link_rate(V5E, axes, MESH) for axes in ("data", "fsdp", "data+fsdp")} == {2 * 50e9}
    assert link_rate(V5E, "slices", MESH) == 3.125e9


def test_the_bound_is_the_longest():
    assert [Times(*some).bound for some in ((3, 1, 2), (1, 3, 2), (1, 2, 3))] == ["products", "memory", "network"]


def test_days():
    assert days(86_400 * 300, 100.0) == 3.0
