"""Properties of the whole model: what may not change its outputs, what may not reach them, and how it is laid out."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mofm.axes import MODALITIES
from mofm.batch import PLACES, WEIGHED_BY_DEPTH, FeatureSpace
from mofm.errors import InputError
from mofm.nn import model
from mofm.nn.spec import EncoderConfig, ModelSpec
from mofm.parallel.rules import partition

TINY = EncoderConfig(width=16, blocks=2, heads=2, ffn=24, cell_width=8, bins=6, region_rows=7, compute_dtype="float32")
SPEC = ModelSpec(TINY, known_genes=40)


@pytest.fixture(scope="module")
def params():
    fresh = jax.jit(model.init, static_argnums=0)(SPEC, jax.random.key(0))
    # Biases and scales start at zero; random ones leave no path untested.
    leaves, tree = jax.tree.flatten(fresh)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noisy)


def space_of(modality, features=40, links=3, seed=4):
    """A feature space over the model's 40 genes; None for RNA. The last feature speaks of no gene."""
    if modality == "rna":
        return None
    rng = np.random.default_rng(seed)
    weights_FK = rng.dirichlet(np.ones(links), features).astype(np.float32)
    weights_FK[-1] = 0
    return FeatureSpace(
        genes_FK=rng.integers(0, 40, (features, links)).astype(np.int32),
        weights_FK=weights_FK,
        place_FP=rng.normal(size=(features, PLACES)).astype(np.float32),
        bucket_F=rng.integers(0, 2**31 - 1, features).astype(np.int32),
        base_F=rng.normal(size=features).astype(np.float32),
        spread_F=rng.normal(size=features).astype(np.float32),
    )


@pytest.fixture(params=MODALITIES)
def modality(request):
    return request.param


@pytest.fixture
def view(make_view, modality):
    plain = make_view()
    return plain._replace(totals_BL=plain.counts_BL + plain.mask_BL) if modality == "methylation" else plain


def rows_of(params, spec=SPEC):
    return model.gene_states(spec, params).rows_GD


def apply(params, view, hidden_BL, modality, spec=SPEC):
    return model.apply(spec, params, rows_of(params, spec), view, hidden_BL, modality, space_of(modality))


def hidden_of(view):
    return (np.arange(view.mask_BL.size).reshape(view.mask_BL.shape) % 3 == 0) & view.mask_BL


def permuted(view, order_BL):
    by_token = {"features_BL", "values_BL", "counts_BL", "mask_BL"}
    moved = {name: np.take_along_axis(getattr(view, name), order_BL, axis=1) for name in by_token}
    return view._replace(**moved)


def test_order_of_tokens_changes_nothing(params, view, modality):
    hidden_BL = hidden_of(view)
    order_BL = np.stack([np.random.default_rng(b).permutation(view.mask_BL.shape[1]) for b in range(len(view.mask_BL))])
    plain = apply(params, view, hidden_BL, modality)
    moved = apply(params, permuted(view, order_BL), np.take_along_axis(hidden_BL, order_BL, 1), modality)
    np.testing.assert_allclose(moved.embedding_BE, plain.embedding_BE, rtol=1e-4, atol=1e-5)
    expected_BL = np.take_along_axis(np.asarray(plain.prediction.token_BL), order_BL, axis=1)
    np.testing.assert_allclose(moved.prediction.token_BL, expected_BL, rtol=1e-4, atol=1e-4)


def test_padding_changes_nothing(params, view, modality):
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
    plain = apply(params, view, hidden_BL, modality)
    padded = apply(params, longer, hidden_longer_BL, modality)
    np.testing.assert_allclose(padded.embedding_BE, plain.embedding_BE, rtol=1e-4, atol=1e-5)
    tokens = view.mask_BL.shape[1]
    for name in ("token_BL", "cell_BL"):
        ours, theirs = (
            np.asarray(getattr(plain.prediction, name)),
            np.asarray(getattr(padded.prediction, name))[:, :tokens],
        )
        np.testing.assert_allclose(theirs[view.mask_BL], ours[view.mask_BL], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("head", ["token_BL", "cell_BL"])
def test_a_hidden_value_does_not_reach_its_own_prediction(params, view, modality, head):
    hidden_BL = hidden_of(view)

    def prediction(values_BL, b, j):
        return getattr(apply(params, view._replace(values_BL=values_BL), hidden_BL, modality).prediction, head)[b, j]

    gradient = jax.jit(jax.grad(prediction))
    for b, j in list(zip(*np.nonzero(hidden_BL), strict=True))[:4]:
        by_value_BL = np.asarray(gradient(jnp.asarray(view.values_BL), b, j))
        assert (by_value_BL[hidden_BL] == 0.0).all()  # exactly: neither its own nor any other hidden value
        shown_b = view.mask_BL[b] & ~hidden_BL[b]
        assert (by_value_BL[b][shown_b] != 0.0).any()  # while what is shown does reach it
        assert (np.delete(by_value_BL, b, axis=0) == 0.0).all()  # and no other cell does


def test_counts_that_are_hidden_are_no_input(params, view, modality):
    """Nor are those that are shown, but for the fragments of ATAC, which the read-out knows."""
    hidden_BL = hidden_of(view)
    plain = apply(params, view, hidden_BL, modality)
    is_more_BL = hidden_BL if modality == "atac" else view.mask_BL
    outputs = apply(params, view._replace(counts_BL=view.counts_BL + 7 * is_more_BL), hidden_BL, modality)
    for ours, theirs in zip(jax.tree.leaves(outputs), jax.tree.leaves(plain), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    shown = apply(params, view._replace(counts_BL=view.counts_BL + 7 * ~hidden_BL), hidden_BL, modality)
    np.testing.assert_array_equal(shown.states_BLD, plain.states_BLD)
    assert np.array_equal(shown.embedding_BE, plain.embedding_BE) == (modality != "atac")


def test_depth_is_known_to_readout_and_decoder_alone(params, view, modality):
    plain = apply(params, view, hidden_of(view), modality)
    outputs = apply(params, view._replace(library_B=view.library_B * 2), hidden_of(view), modality)
    np.testing.assert_array_equal(outputs.states_BLD, plain.states_BLD)
    assert np.array_equal(outputs.embedding_BE, plain.embedding_BE) == (modality not in WEIGHED_BY_DEPTH)
    assert not np.array_equal(outputs.prediction.token_BL, plain.prediction.token_BL)


def test_jit_equals_no_jit(params, view, modality):
    plain = apply(params, view, hidden_of(view), modality)
    space = space_of(modality)
    jitted = jax.jit(model.apply, static_argnums=(0, 5))(
        SPEC, params, rows_of(params), view, hidden_of(view), modality, space
    )
    for ours, theirs in zip(jax.tree.leaves(plain), jax.tree.leaves(jitted), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("modality", ["atac", "adt", "methylation"], indirect=True)
def test_a_feature_is_its_genes(params, view, modality):
    """Order and splitting of links change nothing; where the genes go, the outputs follow."""
    space, hidden_BL = space_of(modality), hidden_of(view)
    plain = model.apply(SPEC, params, rows_of(params), view, hidden_BL, modality, space)
    turned = space._replace(genes_FK=space.genes_FK[:, ::-1], weights_FK=space.weights_FK[:, ::-1])
    halves = space._replace(
        genes_FK=np.tile(space.genes_FK, 2), weights_FK=np.tile(space.weights_FK / 2, 2).astype(np.float32)
    )
    for same in (turned, halves):
        outputs = model.apply(SPEC, params, rows_of(params), view, hidden_BL, modality, same)
        np.testing.assert_allclose(outputs.embedding_BE, plain.embedding_BE, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(outputs.prediction.cell_BL, plain.prediction.cell_BL, rtol=1e-4, atol=1e-4)
    moved = model.apply(
        SPEC, params, rows_of(params), view, hidden_BL, modality, space._replace(genes_FK=(space.genes_FK + 1) % 40)
    )
    assert not np.allclose(moved.embedding_BE, plain.embedding_BE, atol=1e-3)


def test_a_gene_is_one_token_by_whatever_space(params, make_view):
    """A region that lies on a gene and nowhere else has that gene's row: its state differs by the modality alone."""
    view = make_view()
    ones_F = np.ones((40, 1), np.float32)
    zeros_F = np.zeros(40, np.float32)
    space = FeatureSpace(np.arange(40, dtype=np.int32)[:, None], ones_F, np.zeros((40, PLACES), np.float32),
                         np.zeros(40, np.int32), zeros_F, zeros_F)  # fmt: skip
    without = params | {"tokenizer": params["tokenizer"] | {"region_table": np.zeros((7, 16), np.float32)}}
    alike = dict(without["tokenizer"])
    for name in ("modality", "value_shift", "value_scale"):
        alike[name] = jnp.broadcast_to(alike[name][:1], alike[name].shape)
    same = without | {"tokenizer": alike}
    hidden_BL = np.zeros_like(view.mask_BL)
    gene = model.apply(SPEC, same, rows_of(same), view, hidden_BL, "rna").states_BLD
    region = model.apply(SPEC, same, rows_of(same), view, hidden_BL, "atac", space).states_BLD
    np.testing.assert_allclose(region, gene, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("remat", [pytest.param("dots", marks=pytest.mark.slow), "full"])
def test_remat_changes_memory_and_nothing_else(params, view, modality, remat):

    def gradient(config):
        spec = ModelSpec(config, known_genes=40)
        loss = lambda p: jnp.sum(apply(p, view, hidden_of(view), modality, spec).prediction.token_BL ** 2)  # noqa: E731
        return jax.jit(jax.grad(loss))(params)

    ours, theirs = gradient(TINY), gradient(replace(TINY, remat=remat))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4), ours, theirs)


def test_bfloat16_computes_near_float32(params, view, modality):
    spec = ModelSpec(replace(TINY, compute_dtype="bfloat16"), known_genes=40)
    half = apply(params, view, hidden_of(view), modality, spec)
    full = apply(params, view, hidden_of(view), modality)
    assert half.states_BLD.dtype == jnp.bfloat16
    assert half.prediction.token_BL.dtype == half.embedding_BE.dtype == jnp.float32
    assert np.corrcoef(np.ravel(half.prediction.token_BL), np.ravel(full.prediction.token_BL))[0, 1] > 0.999


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


def test_expression_is_what_the_decoder_says_of_the_cell_alone(params, make_view):
    """Of cells of one depth and one choice of genes the mean predictor is the same, so differences are the decoder's."""
    plain = make_view()
    features_BL = np.tile(plain.features_BL[:1], (len(plain.features_BL), 1))
    view = plain._replace(features_BL=features_BL, library_B=np.full_like(plain.library_B, 500))
    outputs = apply(params, view, np.zeros_like(view.mask_BL), "rna")
    deviation_BG = model.expression(SPEC, params, rows_of(params), outputs.embedding_BE)
    assert deviation_BG.shape == (len(features_BL), SPEC.genes)
    said_BL, told_BL = outputs.prediction.cell_BL, jnp.take_along_axis(deviation_BG, jnp.asarray(features_BL), axis=1)
    assert float(jnp.abs(told_BL - told_BL[0]).max()) > 0.01
    np.testing.assert_allclose(said_BL - said_BL[0], told_BL - told_BL[0], atol=1e-5)


def test_expression_has_a_predictor_for_each_omics_type(params, modality):
    embedding_BE = jax.random.normal(jax.random.key(3), (2, TINY.cell_width))
    of_rna, of_other = (model.cell_factors(SPEC, params, embedding_BE, one) for one in ("rna", modality))
    assert of_other.shape == (2, TINY.width)
    assert np.allclose(of_rna, of_other) == (modality == "rna")
