"""Attention in every form against one written out in float64 numpy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mofm.axes import CELLS, HEADS
from mofm.nn import attention
from mofm.nn.attention import attend
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


@pytest.mark.parametrize("form", [attention.attend, attention._attend_by_cell, attention._attend_fused])
def test_matches_reference(form, inputs):
    np.testing.assert_allclose(form(*inputs), reference(*inputs), rtol=2e-5, atol=2e-6)


def test_forms_have_the_same_gradients(inputs):
    *qkv, mask_BM = inputs

    def gradients(form):
        return jax.grad(lambda q, k, v: jnp.sum(jnp.sin(form(q, k, v, mask_BM))), argnums=(0, 1, 2))(*qkv)

    for ours, fused in zip(gradients(attention._attend_by_cell), gradients(attention._attend_fused), strict=True):
        np.testing.assert_allclose(ours, fused, rtol=1e-4, atol=1e-6)


def test_a_cell_of_padding_alone_stays_finite(inputs):
    *qkv, mask_BM = inputs
    nothing_BM = np.zeros_like(mask_BM)
    assert np.isfinite(attention.attend(*qkv, nothing_BM)).all()
    gradient = jax.grad(lambda q: jnp.sum(attention.attend(q, *qkv[1:], nothing_BM)))(qkv[0])
    assert np.isfinite(gradient).all()


def test_bf16_stays_near_float32(inputs):
    *qkv, mask_BM = inputs
    out = attention.attend(*(x.astype(jnp.bfloat16) for x in qkv), mask_BM)
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
