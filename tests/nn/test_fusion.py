"""Fusion of a cell's views: what may change a fused view, what may not reach it, and what a fresh one is."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from spaces import some_space

from mofm.errors import InputError
from mofm.nn import model
from mofm.nn.fusion import FusionConfig
from mofm.nn.spec import EncoderConfig, ModelSpec
from mofm.parallel.rules import partition

TINY = EncoderConfig(
    width=16, blocks=1, heads=2, ffn=24, cell_width=8, private_width=3, bins=6, compute_dtype="float32"
)
SPEC = ModelSpec(TINY, known_genes=40, modalities=("rna", "atac", "adt"), fusion=FusionConfig(blocks=1))
CELLS = 4


SPACES = {name: some_space(np.random.default_rng(seed), links=3) for seed, name in ((1, "atac"), (2, "adt"))}


@pytest.fixture(scope="module")
def params():
    """Parameters of which none is zero, so that no path is left untested."""
    return random(SPEC)


def random(spec):
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(partial(model.init, spec), jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), jnp.float32), shapes)


@pytest.fixture
def views(make_view):
    """RNA and ATAC of the same cells, some of whose tokens are padding."""
    return {"rna": make_view(CELLS, tokens=12, seed=1), "atac": make_view(CELLS, tokens=9, seed=2)}


@partial(jax.jit, static_argnames="spec")
def together(params, views, spec=SPEC):
    """(outputs of the views as they are, fused ones)."""
    genes_GD = model.gene_states(spec, params).rows_GD
    outputs = {
        modality: model.apply(
            spec, params, genes_GD, view, jnp.zeros_like(view.mask_BL), modality, SPACES.get(modality)
        )
        for modality, view in views.items()
    }
    return outputs, model.fuse(spec, params, genes_GD, outputs, views, SPACES)


@jax.jit
def fuse(params, outputs, views):
    return model.fuse(SPEC, params, model.gene_states(SPEC, params).rows_GD, outputs, views, SPACES)


def emptied(view, cells):
    """The view without the tokens of some cells."""
    return view._replace(mask_BL=np.where(np.isin(np.arange(CELLS), cells)[:, None], False, view.mask_BL))


def joint_of(fused):
    return np.asarray(next(iter(fused.values())).embedding_BE[:, : SPEC.shared_width])


def far(ours, theirs):
    return np.abs(np.asarray(ours) - np.asarray(theirs)).max()


def test_a_fresh_fusion_is_each_view_as_it_is_and_the_mean_of_their_embeddings(params, views):
    started = params | {"fusion": jax.jit(lambda key: model.init(SPEC, key)["fusion"])(jax.random.key(0))}
    outputs, fused = together(started, views)
    shared = SPEC.shared_width
    mean_BS = sum(np.asarray(one.embedding_BE[:, :shared]) for one in outputs.values()) / 2
    np.testing.assert_allclose(joint_of(fused), mean_BS, rtol=1e-6)
    for modality, was in outputs.items():
        np.testing.assert_array_equal(fused[modality].states_BLD, was.states_BLD)
        np.testing.assert_array_equal(fused[modality].pooled_BD, was.pooled_BD)
        np.testing.assert_array_equal(fused[modality].prediction.token_BL, was.prediction.token_BL)
    moved = together(params, views)[1]
    assert min(far(moved[name].states_BLD, outputs[name].states_BLD) for name in views) > 1e-2


def test_cells_embedded_together_are_the_joint_embedding_of_views_with_nothing_hidden(params, views):
    genes_GD = model.gene_states(SPEC, params).rows_GD
    joint_BS = jax.jit(model.embed_together, static_argnums=0)(SPEC, params, genes_GD, views, SPACES)
    assert joint_BS.shape == (CELLS, SPEC.shared_width)
    np.testing.assert_allclose(joint_BS, joint_of(together(params, views)[1]), rtol=1e-5, atol=1e-6)


def test_every_view_sees_the_others_and_no_other_cells(params, views):
    """Both ways, and within a row alone."""
    plain = together(params, views)[1]
    for changed, seeing in (("rna", "atac"), ("atac", "rna")):
        view = views[changed]
        other = view._replace(values_BL=np.asarray(view.values_BL).copy())
        other.values_BL[2] += 1.0
        found = together(params, views | {changed: other})[1]
        moved_B = np.abs(found[seeing].prediction.token_BL - plain[seeing].prediction.token_BL).max(axis=1) > 1e-4
        np.testing.assert_array_equal(moved_B, np.arange(CELLS) == 2)
        moved_B = np.abs(joint_of(found) - joint_of(plain)).max(axis=1) > 1e-4
        np.testing.assert_array_equal(moved_B, np.arange(CELLS) == 2)


@pytest.mark.parametrize("absent", ["rna", "atac"])
def test_an_absent_view_is_masked_whatever_its_rows_hold(params, views, absent):
    """By having no token, or by being another cell's: the cell is as without fusion, to the bit."""
    (there,) = views.keys() - {absent}
    rng, lacking = np.random.default_rng(0), np.array([0, 3])
    view, is_lacking_B = views[absent], np.isin(np.arange(CELLS), lacking)
    other_cell = view._replace(cell_B=np.where(is_lacking_B, view.cell_B + 50, view.cell_B))
    garbage = emptied(view, lacking)
    garbage = garbage._replace(
        values_BL=np.where(is_lacking_B[:, None], 9 * rng.normal(size=view.values_BL.shape), view.values_BL).astype(
            "f4"
        ),
        features_BL=np.where(is_lacking_B[:, None], (view.features_BL + 3) % 40, view.features_BL),
        library_B=np.where(is_lacking_B, 7 * view.library_B, view.library_B),
    )
    outputs, plain = together(params, views | {absent: emptied(view, lacking)})
    for changed in (other_cell, garbage):
        fused = together(params, views | {absent: changed})[1][there]
        for ours, as_it_was in zip(jax.tree.leaves(fused), jax.tree.leaves(outputs[there]), strict=True):
            np.testing.assert_array_equal(np.asarray(ours)[lacking], np.asarray(as_it_was)[lacking])
    kept = np.array([1, 2])
    np.testing.assert_array_equal(fused.states_BLD[kept], plain[there].states_BLD[kept])
    assert far(plain[there].states_BLD[kept], outputs[there].states_BLD[kept]) > 1e-2


def test_order_and_padding_of_tokens_change_nothing(params, views):
    expected = together(params, views)[1]
    order = np.random.default_rng(0).permutation(9)
    view = views["atac"]
    shuffled = jax.tree.map(lambda leaf: leaf[:, order] if leaf.ndim == 2 else leaf, view)
    padded = jax.tree.map(lambda leaf: np.pad(leaf, ((0, 0), (0, 5))) if leaf.ndim == 2 else leaf, view)
    for other in (shuffled, padded):
        found = together(params, views | {"atac": other})[1]
        np.testing.assert_allclose(joint_of(found), joint_of(expected), rtol=1e-4, atol=1e-5)
        shown_BL = views["rna"].mask_BL
        ours, theirs = (np.asarray(some["rna"].prediction.token_BL)[shown_BL] for some in (found, expected))
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_private_factor_is_its_own_modalitys_alone(params, views):
    """A modality's private columns shuffled among cells: the other's predictions are the same to the bit, its own are not; and
    no other view has a say in them."""
    outputs, fused = together(params, views)
    shared, mixed = SPEC.shared_width, np.roll(np.arange(CELLS), 1)
    embedding_BE = outputs["rna"].embedding_BE
    shuffled_BE = embedding_BE.at[:, shared:].set(embedding_BE[mixed, shared:])
    private = fuse(params, outputs | {"rna": outputs["rna"]._replace(embedding_BE=shuffled_BE)}, views)
    plain = fuse(params, outputs, views)
    for ours, theirs in zip(jax.tree.leaves(private["atac"]), jax.tree.leaves(plain["atac"]), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert far(private["rna"].prediction.cell_BL, plain["rna"].prediction.cell_BL) > 1e-3
    for modality, was in outputs.items():
        np.testing.assert_array_equal(fused[modality].embedding_BE[:, shared:], was.embedding_BE[:, shared:])
    common_BE = embedding_BE.at[:, :shared].set(embedding_BE[mixed, :shared])
    common = fuse(params, outputs | {"rna": outputs["rna"]._replace(embedding_BE=common_BE)}, views)
    assert far(common["atac"].prediction.cell_BL, plain["atac"].prediction.cell_BL) > 1e-3


@pytest.mark.slow
def test_three_views_are_fused_and_any_of_them_may_be_absent(params, make_view, views):
    three = views | {"adt": make_view(CELLS, tokens=6, seed=3)}
    fused = together(params, three)[1]
    np.testing.assert_allclose(joint_of(fused), fused["adt"].embedding_BE[:, : SPEC.shared_width], rtol=1e-5)
    without = together(params, three | {"rna": emptied(three["rna"], range(CELLS))})[1]
    two = together(params, {name: three[name] for name in ("atac", "adt")})[1]
    for modality in two:
        np.testing.assert_allclose(without[modality].states_BLD, two[modality].states_BLD, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        joint_of(without), joint_of(two), rtol=1e-4, atol=1e-5
    )  # also told of the absent one's row
    nothing = together(params, {name: emptied(view, range(CELLS)) for name, view in three.items()})[1]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(nothing))


def test_modalities_share_their_blocks_or_have_their_own(views):
    spec = SPEC._replace(fusion=FusionConfig(blocks=1, shared=False), modalities=("rna", "atac"))
    params = random(spec)
    fusion = params["fusion"]
    assert fusion.keys() == {"stacks_rna", "stacks_atac", "out", "weight"}
    changed = params | {
        "fusion": fusion | {"stacks_atac": jax.tree.map(lambda leaf: 1.5 * leaf, fusion["stacks_atac"])}
    }
    before, after = (together(some, views, spec)[1] for some in (params, changed))
    np.testing.assert_array_equal(after["rna"].states_BLD, before["rna"].states_BLD)
    assert far(after["atac"].states_BLD, before["atac"].states_BLD) > 1e-3
    assert "stacks_any" in model.logical_axes(SPEC)["fusion"]


@pytest.mark.slow
def test_jit_equals_no_jit(params, views):
    expected = together(params, views)
    with jax.disable_jit():
        plain = together(params, views)
    for ours, theirs in zip(jax.tree.leaves(plain), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_every_weight_has_a_place_and_a_model_without_fusion_has_none():
    axes = model.logical_axes(SPEC)["fusion"]
    for names in jax.tree.leaves(axes, is_leaf=lambda leaf: isinstance(leaf, tuple)):
        if sum(name not in ("blocks", None) for name in names) >= 2 or len(names) == 3:
            assert any(partition(names)), names
    for spec in (SPEC._replace(modalities=("rna",)), SPEC._replace(fusion=FusionConfig())):
        assert not spec.fuses
        assert "fusion" not in jax.eval_shape(lambda key, s=spec: model.init(s, key), jax.random.key(0))
    with pytest.raises(InputError, match=r"fusion\.blocks"):
        FusionConfig(blocks=-1)
