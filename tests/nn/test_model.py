"""Properties of the whole model: what may not change its outputs, what may not reach them, and how it is laid out."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mofm.errors import InputError
from mofm.nn import model
from mofm.nn.model import EncoderConfig, ModelSpec
from mofm.parallel.rules import partition

TINY = EncoderConfig(width=16, blocks=2, heads=2, ffn=24, cell_width=8, bins=6, compute_dtype="float32")
SPEC = ModelSpec(TINY, features=40)


@pytest.fixture(scope="module")
def params():
    fresh = jax.jit(model.init, static_argnums=0)(SPEC, jax.random.key(0))
    # Biases and scales start at zero; random ones leave no path untested.
    leaves, tree = jax.tree.flatten(fresh)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noisy)


def hidden_of(view):
    return (np.arange(view.mask_BL.size).reshape(view.mask_BL.shape) % 3 == 0) & view.mask_BL


def permuted(view, order_BL):
    by_token = {"features_BL", "values_BL", "counts_BL", "mask_BL"}
    moved = {name: np.take_along_axis(getattr(view, name), order_BL, axis=1) for name in by_token}
    return view._replace(**moved)


def test_order_of_tokens_changes_nothing(params, make_view):
    view = make_view()
    hidden_BL = hidden_of(view)
    order_BL = np.stack([np.random.default_rng(b).permutation(view.mask_BL.shape[1]) for b in range(len(view.mask_BL))])
    plain = model.apply(SPEC, params, view, hidden_BL, "rna")
    moved = model.apply(SPEC, params, permuted(view, order_BL), np.take_along_axis(hidden_BL, order_BL, 1), "rna")
    np.testing.assert_allclose(moved.embedding_BE, plain.embedding_BE, rtol=1e-4, atol=1e-5)
    expected_BL = np.take_along_axis(np.asarray(plain.token_log_rate_BL), order_BL, axis=1)
    np.testing.assert_allclose(moved.token_log_rate_BL, expected_BL, rtol=1e-4, atol=1e-4)


def test_padding_changes_nothing(params, make_view):
    view = make_view()
    hidden_BL = hidden_of(view)
    garbage = np.random.default_rng(3)

    def pad(leaf, fill):
        return np.concatenate([leaf, fill(size=(len(leaf), 5)).astype(leaf.dtype)], axis=1)

    longer = view._replace(
        features_BL=pad(view.features_BL, partial(garbage.integers, 0, 40)),
        values_BL=pad(view.values_BL, garbage.normal),
        counts_BL=pad(view.counts_BL, partial(garbage.poisson, 4)),
        mask_BL=pad(view.mask_BL, lambda size: np.zeros(size)),
    )
    hidden_longer_BL = np.pad(hidden_BL, ((0, 0), (0, 5)))
    plain = model.apply(SPEC, params, view, hidden_BL, "rna")
    padded = model.apply(SPEC, params, longer, hidden_longer_BL, "rna")
    np.testing.assert_allclose(padded.embedding_BE, plain.embedding_BE, rtol=1e-4, atol=1e-5)
    tokens = view.mask_BL.shape[1]
    for name in ("token_log_rate_BL", "cell_log_rate_BL"):
        ours, theirs = np.asarray(getattr(plain, name)), np.asarray(getattr(padded, name))[:, :tokens]
        np.testing.assert_allclose(theirs[view.mask_BL], ours[view.mask_BL], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("head", ["token_log_rate_BL", "cell_log_rate_BL"])
def test_a_hidden_value_does_not_reach_its_own_prediction(params, make_view, head):
    view = make_view()
    hidden_BL = hidden_of(view)

    def prediction(values_BL, b, j):
        return getattr(model.apply(SPEC, params, view._replace(values_BL=values_BL), hidden_BL, "rna"), head)[b, j]

    gradient = jax.jit(jax.grad(prediction))
    for b, j in list(zip(*np.nonzero(hidden_BL), strict=True))[:4]:
        by_value_BL = np.asarray(gradient(jnp.asarray(view.values_BL), b, j))
        assert (by_value_BL[hidden_BL] == 0.0).all()  # exactly: neither its own nor any other hidden value
        shown_b = view.mask_BL[b] & ~hidden_BL[b]
        assert (by_value_BL[b][shown_b] != 0.0).any()  # while what is shown does reach it
        assert (np.delete(by_value_BL, b, axis=0) == 0.0).all()  # and no other cell does


def test_counts_are_no_input(params, make_view):
    view = make_view()
    plain = model.apply(SPEC, params, view, hidden_of(view), "rna")
    outputs = model.apply(SPEC, params, view._replace(counts_BL=view.counts_BL + 7), hidden_of(view), "rna")
    for ours, theirs in zip(outputs, plain, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_depth_is_known_to_readout_and_decoder_alone(params, make_view):
    view = make_view()
    plain = model.apply(SPEC, params, view, hidden_of(view), "rna")
    outputs = model.apply(SPEC, params, view._replace(library_B=view.library_B * 2), hidden_of(view), "rna")
    np.testing.assert_array_equal(outputs.states_BLD, plain.states_BLD)
    assert not np.array_equal(outputs.embedding_BE, plain.embedding_BE)
    assert not np.array_equal(outputs.token_log_rate_BL, plain.token_log_rate_BL)


def test_jit_equals_no_jit(params, make_view):
    view = make_view()
    plain = model.apply(SPEC, params, view, hidden_of(view), "rna")
    jitted = jax.jit(model.apply, static_argnums=(0, 4))(SPEC, params, view, hidden_of(view), "rna")
    for ours, theirs in zip(plain, jitted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_remat_changes_memory_and_nothing_else(params, make_view, remat):
    view = make_view()

    def gradient(config):
        spec = ModelSpec(config, features=40)
        loss = lambda p: jnp.sum(model.apply(spec, p, view, hidden_of(view), "rna").token_log_rate_BL ** 2)  # noqa: E731
        return jax.jit(jax.grad(loss))(params)

    ours, theirs = gradient(TINY), gradient(replace(TINY, remat=remat))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4), ours, theirs)


def test_bfloat16_computes_near_float32(params, make_view):
    view = make_view()
    spec = ModelSpec(replace(TINY, compute_dtype="bfloat16"), features=40)
    half = model.apply(spec, params, view, hidden_of(view), "rna")
    full = model.apply(SPEC, params, view, hidden_of(view), "rna")
    assert half.states_BLD.dtype == jnp.bfloat16
    assert half.token_log_rate_BL.dtype == half.embedding_BE.dtype == jnp.float32
    assert np.corrcoef(np.ravel(half.token_log_rate_BL), np.ravel(full.token_log_rate_BL))[0, 1] > 0.999


def test_every_weight_names_its_axes_and_can_be_placed():
    shapes = jax.eval_shape(partial(model.init, SPEC), jax.random.key(0))
    axes = model.logical_axes(SPEC)
    is_axes = lambda leaf: isinstance(leaf, tuple)  # noqa: E731
    assert jax.tree.structure(shapes) == jax.tree.structure(axes, is_leaf=is_axes)
    for leaf, names in zip(jax.tree.leaves(shapes), jax.tree.leaves(axes, is_leaf=is_axes), strict=True):
        assert leaf.dtype == jnp.float32
        assert len(names) == leaf.ndim
        if sum(name != "blocks" for name in names) >= 2:  # gains may be whole on every device, matrices never
            assert any(partition(names)), f"{names} of shape {leaf.shape} would be replicated"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"width": 30, "heads": 4}, "divisible"),
        ({"blocks": 0}, "blocks"),
        ({"bins": 1}, "bins"),
        ({"compute_dtype": "float8"}, "bfloat16, float32"),
    ],
)
def test_impossible_sizes_are_refused(wrong, said):
    with pytest.raises(InputError, match=said):
        EncoderConfig(**wrong)
