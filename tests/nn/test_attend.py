"""Attention in every form against one written out in float64 numpy; kernels of accelerators as far as a CPU shows them:
splash attention interpreted, cuDNN's by XLA in its place, and both in the programs that are lowered for their platforms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mofm.axes import CELLS, HEADS
from mofm.nn import attend as forms
from mofm.nn.attend import attend
from mofm.parallel.mesh import MeshConfig, make_mesh
from mofm.parallel.rules import sharding
from mofm.planning.collectives import sent
from mofm.planning.hlo import parse


def reference(q_BLHK, k_BMHK, v_BMHK, mask_BM):
    q, k, v = (np.asarray(x, np.float64) for x in (q_BLHK, k_BMHK, v_BMHK))
    out = np.zeros_like(q)
    for b, h in np.ndindex(q.shape[0], q.shape[2]):
        logits_LM = q[b, :, h] @ k[b, :, h].T / np.sqrt(q.shape[-1])
        logits_LM = logits_LM[:, mask_BM[b]]
        weights_LM = np.exp(logits_LM - logits_LM.max(axis=1, keepdims=True))
        out[b, :, h] = weights_LM / weights_LM.sum(axis=1, keepdims=True) @ v[b, mask_BM[b], h]
    return out


@pytest.fixture
def inputs():
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(3, 5, 2, 8)).astype(np.float32) for _ in range(3))
    mask_BM = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 0, 0], [0, 1, 1, 1, 0]], bool)
    return q, k, v, mask_BM


SORTED = partial(forms.flash_sorted, implementation="xla")
SPLASH = partial(forms.splash_each_cell, interpret=True)


@pytest.mark.parametrize("form", [attend, forms.scan_cells, forms.in_full, SORTED])
def test_matches_reference(form, inputs):
    np.testing.assert_allclose(form(*inputs), reference(*inputs), rtol=2e-5, atol=2e-6)


def test_forms_have_the_same_gradients(inputs):
    *qkv, mask_BM = inputs

    def gradients(form):
        return jax.grad(lambda q, k, v: jnp.sum(jnp.sin(form(q, k, v, mask_BM))), argnums=(0, 1, 2))(*qkv)

    for form in (forms.scan_cells, SORTED):
        for ours, full in zip(gradients(form), gradients(forms.in_full), strict=True):
            np.testing.assert_allclose(ours, full, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def tiles():
    """bfloat16 queries of 128 tokens and keys of 256, three cells: one has padding between its keys, one has no key."""
    rng = np.random.default_rng(1)
    q, k, v = (jnp.asarray(rng.normal(size=(3, tokens, 2, 128)), jnp.bfloat16) for tokens in (128, 256, 256))
    return q, k, v, jnp.asarray(rng.random((3, 256)) < np.array([[1.0], [0.4], [0.0]]))


@pytest.mark.parametrize("form", [attend, SORTED, SPLASH])
def test_a_cell_of_padding_alone_stays_finite_and_padding_changes_nothing(form, tiles):
    q, k, v, mask_BM = tiles

    def both(k, v):
        total = lambda q, k, v: jnp.sum(form(q, k, v, mask_BM)[:2].astype(jnp.float32) ** 2)  # noqa: E731
        return form(q, k, v, mask_BM), *jax.grad(total, argnums=(0, 1, 2))(q, k, v)

    plain = both(k, v)
    assert all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in plain)
    padding = ~mask_BM[:, :, None, None]
    other = both(jnp.where(padding, 3.0, k).astype(k.dtype), jnp.where(padding, -7.0, v).astype(v.dtype))
    for one, another in zip(plain, other, strict=True):
        np.testing.assert_array_equal(np.asarray(one, np.float32)[:2], np.asarray(another, np.float32)[:2])
    assert not np.asarray(plain[2], np.float32)[:2][~np.asarray(mask_BM[:2])].any()  # no gradient reaches padding


@pytest.mark.parametrize("sides", [(128,), (256, 128)])
def test_splash_agrees_over_one_tile_and_over_several(monkeypatch, sides):
    monkeypatch.setattr(forms, "TILES", sides)
    assert forms.disagreement(SPLASH, 128) < forms.AGREEMENT / 2


def test_a_difference_is_seen():
    def hotter(q, k, v, mask):
        return forms.in_full(1.1 * q, k, v, mask)

    def unmasked(q, k, v, mask):
        return forms.in_full(q, k, v, jnp.ones_like(mask))

    assert min(forms.disagreement(form, 32) for form in (hotter, unmasked)) > 2 * forms.AGREEMENT
    assert forms.disagreement(forms.scan_cells, 32) < forms.AGREEMENT / 2


def lowered(platform: str, q, k, v, mask_BM) -> str:
    """The program of value and gradient, for a platform that is not there."""
    total = lambda *qkv: jnp.sum(attend(*qkv, mask_BM).astype(jnp.float32))  # noqa: E731
    return jax.jit(jax.grad(total, argnums=(0, 1, 2))).trace(q, k, v).lower(lowering_platforms=(platform,)).as_text()


LOGITS = "tensor<3x2x128x256xf32>"


def test_a_tpu_gets_splash_attention_where_it_fits(tiles):
    q, k, v, mask_BM = tiles
    text = lowered("tpu", *tiles)
    assert text.count("tpu_custom_call") >= 2
    assert "splash" in text
    assert LOGITS not in text
    for others in (
        [x.astype(jnp.float32) for x in (q, k, v)] + [mask_BM],
        [q, k[:, :200], v[:, :200], mask_BM[:, :200]],
        [*(x[..., :64] for x in (q, k, v)), mask_BM],
    ):
        assert "tpu_custom_call" not in lowered("tpu", *others)
    assert LOGITS in lowered("tpu", q.astype(jnp.float32), k.astype(jnp.float32), v.astype(jnp.float32), mask_BM)


def test_a_gpu_gets_cudnn_where_it_fits_and_has_been_tried(tiles, monkeypatch):
    assert "cudnn" not in lowered("cuda", *tiles)  # of a GPU that is not there nothing is known
    from jax._src.cudnn import fused_attention_stablehlo as library

    monkeypatch.setattr(forms, "is_trusted", lambda platform, head_width: True)
    monkeypatch.setattr(library, "check_cudnn_version", lambda: 91_000)
    monkeypatch.setattr(library, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(library, "is_cuda_compute_capability_equal", lambda capability: False)
    text = lowered("cuda", *tiles)
    assert "__cudnn$fmhaSoftmax" in text
    assert "__cudnn$fmhaSoftmaxBackward" in text
    assert LOGITS not in text
    q, k, v, mask_BM = tiles
    assert "cudnn" not in lowered("cuda", *(x.astype(jnp.float32) for x in (q, k, v)), mask_BM)
    assert "cudnn" not in lowered("cuda", *(x[..., :4] for x in (q, k, v)), mask_BM)
    assert "cudnn" not in lowered("cpu", *tiles)


@pytest.mark.parametrize(
    ("form", "fault"),
    [
        (forms.scan_cells, None),
        (lambda q, k, v, mask: forms.in_full(q, k, v, ~mask), "differs from XLA's by"),
        (lambda q, k, v, mask: forms.in_full(q, k, v, mask) * jnp.nan, "differs from XLA's by nan"),
        (lambda q, k, v, mask: v.no_such_thing, "no_such_thing"),
    ],
)
def test_a_kernel_is_tried_before_it_is_trusted(monkeypatch, recwarn, form, fault):
    """On a device of its platform; also where the question comes up while a program over a mesh is traced."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(forms, "flash_sorted", form)
    found = []

    def traced(x):
        found.append(forms.is_trusted.__wrapped__("cuda", 16))
        return x

    with jax.set_mesh(make_mesh(MeshConfig(8, 1, 1))):
        jax.jit(traced)(jnp.zeros(8))
    assert found == [fault is None]
    assert [fault in str(one.message) for one in recwarn.list] == ([] if fault is None else [True])


def test_of_what_is_not_there_only_the_compilers_kernel_is_trusted():
    assert (forms.is_trusted("tpu", 128), forms.is_trusted("cuda", 128)) == (True, False)


def test_devices_run_a_kernel_on_their_own_cells_and_heads(tiles):
    tokens = [jnp.concatenate([leaf] * 3)[:8] for leaf in tiles]
    plain = SPLASH(*tokens)
    mesh = make_mesh(MeshConfig(2, 2, 2))
    with jax.set_mesh(mesh):
        states, mask = sharding(mesh, (CELLS, None, HEADS, None)), sharding(mesh, (CELLS, None))
        laid = jax.device_put(tokens, [states, states, states, mask])
        np.testing.assert_array_equal(jax.jit(partial(forms._on_each_device, SPLASH))(*laid), plain)


def test_bf16_stays_near_float32(inputs):
    *qkv, mask_BM = inputs
    out = attend(*(x.astype(jnp.bfloat16) for x in qkv), mask_BM)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(out, np.float32), reference(*inputs), atol=0.03)


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2)])
def test_devices_attend_to_their_own_cells_and_heads(inputs, shape):
    """Nothing is sent, and each cell's answer is the one that it has alone; where cells do not divide they are gathered."""
    mesh = make_mesh(MeshConfig(*shape))
    cells = 8
    q_BLHK, k_BMHK, v_BMHK, mask_BM = (jnp.concatenate([leaf] * cells)[:cells] for leaf in inputs)
    states, mask = sharding(mesh, (CELLS, None, HEADS, None)), sharding(mesh, (CELLS, None))
    slope = jax.grad(lambda *of: jnp.sum(jnp.sin(attend(*of))), argnums=(0, 1, 2))
    places = (states, states, states, mask)
    for function, out in ((attend, states), (slope, (states,) * 3)):
        plain = jax.jit(function)(q_BLHK, k_BMHK, v_BMHK, mask_BM)
        with jax.set_mesh(mesh):
            laid = jax.device_put((q_BLHK, k_BMHK, v_BMHK, mask_BM), places)
            compiled = jax.jit(function, in_shardings=places, out_shardings=out).lower(*laid).compile()
            jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7), compiled(*laid), plain)
        assert not sent(parse(compiled.as_text()), dict(mesh.shape))
    with jax.set_mesh(mesh):
        few = jax.jit(attend)(q_BLHK[:3], k_BMHK[:3], v_BMHK[:3], mask_BM[:3])
    np.testing.assert_allclose(few, attend(q_BLHK[:3], k_BMHK[:3], v_BMHK[:3], mask_BM[:3]), rtol=1e-6, atol=1e-7)
