"""Bytes and collectives of compiled programs whose answers are known: small ones, compiled here, and lines of XLA:TPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mofm.parallel.mesh import MeshConfig, make_mesh
from mofm.planning.collectives import UNKNOWN, Sent, axes_of, ring_bytes, sent
from mofm.planning.hlo import Array, parse
from mofm.planning.shapes import find_facts, make_step
from mofm.planning.traffic import memory_traffic

MESH = {"data": 2, "fsdp": 4}
F32 = 4


def shape(*sizes: int, dtype=jnp.float32, sharding=None) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, dtype, sharding=sharding)


def program(function, *arguments, **options):
    return parse(jax.jit(function, **options).lower(*arguments).compile().as_text())


@pytest.fixture(scope="module")
def place():
    """A function (axes of an array...) -> its sharding on 2 x 4 devices."""
    mesh = jax.make_mesh(tuple(MESH.values()), tuple(MESH), (AxisType.Auto,) * 2)
    return lambda *axes: NamedSharding(mesh, PartitionSpec(*axes))


def test_a_sum_reads_both_and_writes_one():
    assert memory_traffic(program(lambda a, b: a + b, shape(300, 7), shape(300, 7))) == (3 * 300 * 7 * F32, 0)


def test_a_product_reads_its_factors_and_writes_itself():
    found = memory_traffic(program(jnp.matmul, shape(64, 32), shape(32, 128)))
    assert found == ((64 * 32 + 32 * 128 + 64 * 128) * F32, 0)


def test_a_slice_reads_what_it_gives():
    found, _ = memory_traffic(program(lambda a, i: jax.lax.dynamic_slice(a, (i, 0), (2, 50)), shape(1000, 50), 3))
    assert found == pytest.approx(2 * 2 * 50 * F32, abs=200)  # and its places


def test_a_row_written_in_place_costs_a_row():
    def write(a, row, i):
        return jax.lax.dynamic_update_slice(a, row, (i, 0))

    found, _ = memory_traffic(program(write, shape(1000, 50), shape(1, 50), 3, donate_argnums=0))
    assert found == pytest.approx(2 * 50 * F32, abs=200)


@pytest.mark.parametrize("length", [3, 11])
def test_a_loop_counts_as_often_as_it_goes_round(length):
    def looped(state, weights):
        return jax.lax.scan(lambda c, w: (jnp.tanh(c @ w), None), state, weights)[0]

    found, unknown = memory_traffic(program(looped, shape(64, 64), shape(length, 64, 64)))
    one_copy, square = 2, 64 * 64 * F32
    # A round slices a weight (2), multiplies (3) and takes the tanh (2).
    assert found == pytest.approx((one_copy + 7 * length) * square, rel=0.02)
    assert unknown == 0


def test_a_loop_of_unknown_length_is_told():
    def until_small(x):
        return jax.lax.while_loop(lambda c: c.sum() > 1, lambda c: c * 0.5, x)

    assert memory_traffic(program(until_small, shape(512)))[1] == 1


def test_a_loop_whose_length_stands_in_its_condition():
    """XLA:TPU does not write known_trip_count."""
    text = "HloModule m\n\n%add (p: (s32[], f32[100])) -> (s32[], f32[100]) {\n"
    text += "  %p = (s32[], f32[100]{0}) parameter(0)\n  %i = s32[] get-tuple-element(%p), index=0\n"
    text += "  %x = f32[100]{0:T(128)S(1)} get-tuple-element(%p), index=1\n  %one = s32[] constant(1)\n"
    text += "  %next = s32[]{:S(6)} add(%i, %one)\n  %y = f32[100]{0} negate(%x)\n"
    text += "  ROOT %t = (s32[], f32[100]{0}) tuple(%next, %y)\n}\n\n%less (q: (s32[], f32[100])) -> pred[] {\n"
    text += "  %n = s32[]{:T(128)} constant(8)\n  %q = (s32[], f32[100]{0}) parameter(0)\n"
    text += "  %j = s32[]{:S(6)} get-tuple-element(%q), index=0\n"
    text += "  ROOT %lt = pred[]{:S(6)} compare(%j, %n), direction=LT\n}\n\nENTRY %main (a: (s32[], f32[100])) -> f32[100] {\n"
    text += "  %a = (s32[], f32[100]{0}) parameter(0)\n"
    text += "  %w = (s32[], f32[100]{0}) while(%a), condition=%less, body=%add\n"
    text += "  ROOT %r = f32[100]{0} get-tuple-element(%w), index=1\n}\n"
    # Each round writes 400 bytes: what it reads lies on the chip. Reading i and 1, and n, are 4 bytes each.
    assert memory_traffic(parse(text)) == (8 * (400 + 8 + 4), 0)


def test_attributes_of_a_kernel_go_on_over_lines():
    """What Pallas kernels say of themselves has line breaks, and braces at the beginning of a line."""
    text = 'HloModule m\n\n%other (p: f32[]) -> f32[] {\n  ROOT %p = f32[] parameter(0)\n}, execution_thread="sparsecore"\n\n'
    text += "ENTRY %main (a: f32[100]) -> f32[100] {\n  %a = f32[100]{0} parameter(0)\n"
    text += '  %k = f32[100]{0} custom-call(%a), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={\n'
    text += ' "xprof_metadata":"{\\"block_q\\": 512, %b = 3}"\n}}, metadata={op_name="splash"}\n'
    text += "  ROOT %r = f32[100]{0} negate(%k)\n}\n"
    program = parse(text)
    assert list(program.computations["main"].instructions) == ["a", "k", "r"]
    assert memory_traffic(program) == (4 * 400, 0)


def test_types_are_read():
    one = next(iter(parse(LINES).computations["main"].instructions.values()))
    assert one.types == (Array("bf16", (1, 1024, 8), 1), Array("f32", (17,)), Array("pred", ()))
    assert [array.bytes for array in one.types] == [2 * 1024 * 8, 68, 1]


LINES = """HloModule m

ENTRY %main (p: f32[8]) -> f32[8] {
  %p = (bf16[1,1024,8]{2,1,0:T(8,128)(2,1)S(1)}, f32[17]{0:T(256)}, /*index=5*/pred[]{:T(512)}) parameter(0)
  %listed = f32[8]{0} all-reduce(%p), channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  %iota = f32[8]{0} all-reduce(%p), channel_id=2, replica_groups=[4,2]<=[2,4]T(1,0), to_apply=%add
  %mesh = f32[8]{0} all-gather(%p), channel_id=3, replica_groups=mesh['axis_0'=2,'axis_1'=1,'axis_2'=4] {'axis_2'}
  %turned = f32[8]{0} all-gather(%p), replica_groups=mesh['axis_0'=4,'axis_1'=2], device_ids=([2,4]T(1,0)) {'axis_0'}
  %both = f32[8]{0} all-reduce(%p), channel_id=5, replica_groups=mesh['axis_0'=8,'axis_1'=1] {'axis_0','axis_1'}, to_apply=%add
  %every = f32[8]{0} all-reduce(%p), replica_groups={}, to_apply=%add
  %ring = f32[8]{0} collective-permute(%p), channel_id=6, source_target_pairs={{0,1},{1,2},{2,3},{3,0},{4,5},{5,6},{6,7},{7,4}}
  ROOT %odd = f32[8]{0} all-reduce(%p), channel_id=7, replica_groups=mesh['axis_0'=8] {'axis_0':(2)4}, to_apply=%add
}
"""


@pytest.mark.parametrize(
    ("name", "axes", "devices"),
    [
        ("listed", "fsdp", 4),
        ("iota", "data", 2),
        ("mesh", "fsdp", 4),
        ("turned", "fsdp", 4),
        ("both", "data+fsdp", 8),
        ("every", "data+fsdp", 8),
        ("ring", "fsdp", 2),
        ("odd", UNKNOWN, 8),
    ],
)
def test_groups_are_axes_in_every_form_that_xla_writes(name, axes, devices):
    assert axes_of(parse(LINES).computations["main"].instructions[name], MESH) == (axes, devices)


def test_a_gradient_is_reduced_over_data_and_a_weight_gathered_over_fsdp(place):
    def gradient(weight_DF, x_BD):
        whole_DF = jax.lax.with_sharding_constraint(weight_DF, place(None, None))
        return jax.grad(lambda w: jnp.sum(jnp.square(x_BD @ w)))(whole_DF)

    arguments = shape(64, 32, sharding=place("fsdp", None)), shape(16, 64, sharding=place("data", None))
    found = {(one.kind, one.axes): one for one in sent(program(gradient, *arguments, out_shardings=place()), MESH)}
    whole = 64 * 32 * F32
    assert found["all-gather", "fsdp"].bytes == 3 / 4 * whole
    assert found["all-reduce", "data"].bytes == 2 * 1 / 2 * whole
    assert set(found) == {("all-gather", "fsdp"), ("all-reduce", "data")}


def test_collectives_in_a_loop_count_as_often_as_it_goes_round(place):
    def looped(x_BD, weights_LDF):
        def block(x_BD, w_DF):
            return jax.lax.with_sharding_constraint(jnp.tanh(x_BD @ w_DF), place(None, "fsdp")), None

        return jax.lax.scan(block, x_BD, weights_LDF)[0]

    arguments = shape(16, 64, sharding=place(None, "fsdp")), shape(5, 64, 64, sharding=place(None, "fsdp", None))
    found = sent(program(looped, *arguments, out_shardings=place(None, "fsdp")), MESH)
    assert {one.axes for one in found} == {"fsdp"}
    assert {one.times for one in found} == {5}


def test_pieces_of_one_collective_are_one_and_a_scattered_sum_is_sent_once():
    """XLA:TPU begins, carries on and ends an overlapped collective in fusions of one channel each."""
    groups = "channel_id=9, replica_groups={{0,1,2,3},{4,5,6,7}}"
    text = "HloModule m\n\n"
    for name in ("start", "middle"):
        text += f"%{name} (p: bf16[8]) -> bf16[32] {{\n  %p.{name} = bf16[8]{{0}} parameter(0)\n"
        text += f"  ROOT %g.{name} = bf16[32]{{0}} all-gather(%p.{name}), {groups}, dimensions={{0}}\n}}\n\n"
    text += "%all-reduce-scatter.1 (i: f32[64]) -> f32[16] {\n  %i = f32[64]{0} parameter(0)\n"
    text += "  %r = f32[64]{0} all-reduce(%i), channel_id=4, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add\n"
    text += "  ROOT %s = f32[16]{0} slice(%r), slice={[0:16]}\n}\n\n"
    text += "ENTRY %main (a: bf16[8], b: f32[64]) -> f32[16] {\n  %a = bf16[8]{0} parameter(0)\n"
    text += "  %b = f32[64]{0} parameter(1)\n  %x = bf16[32]{0} fusion(%a), kind=kCustom, calls=%start\n"
    text += "  %y = bf16[32]{0} fusion(%a), kind=kCustom, calls=%middle\n"
    text += "  ROOT %z = f32[16]{0} fusion(%b), kind=kCustom, calls=%all-reduce-scatter.1\n}\n"
    assert sent(parse(text), MESH) == [
        Sent("all-gather", "fsdp", 3 / 4 * 64, 1),
        Sent("reduce-scatter", "fsdp", 3 / 4 * 256, 1),
    ]


@pytest.mark.parametrize(
    ("kind", "devices", "factor"),
    [
        ("all-reduce", 4, 1.5),
        ("all-gather", 4, 0.75),
        ("reduce-scatter", 2, 0.5),
        ("all-to-all", 8, 7 / 8),
        ("collective-permute", 8, 1.0),
        ("all-reduce", 1, 0.0),
        ("collective-permute", 1, 0.0),
    ],
)
def test_what_a_ring_sends(kind, devices, factor):
    np.testing.assert_allclose(ring_bytes(kind, devices, 1000), factor * 1000)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [(4, 1), (1, 4), (2, 2)])
def test_no_token_of_a_step_is_sent(small, mesh):
    """Gradients and weights are; four times the tokens send a little more, of what there is one of a cell."""
    total = []
    for tokens in (32, 128):
        config = small("encoder.blocks=1", f"data.tokens={tokens}")
        devices = make_mesh(MeshConfig(*mesh, 1), jax.devices()[:4])
        step = make_step(config, find_facts(config, {"rna": 500}, None), devices)
        with jax.set_mesh(devices):
            text = jax.jit(step.function, donate_argnums=1).lower(*step.arguments).compile().as_text()
        total.append(sum(one.bytes for one in sent(parse(text), dict(devices.shape))))
    assert 0 < total[0] <= total[1] < 1.02 * total[0]
