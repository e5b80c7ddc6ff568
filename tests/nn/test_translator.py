"""The translator: what may change an answer, and what may not reach it."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from spaces import some_space

from mofm.errors import InputError
from mofm.nn import model
from mofm.nn.linear import LinearAnswer
from mofm.nn.spec import EncoderConfig, ModelSpec
from mofm.nn.translator import TranslatorConfig

TINY = EncoderConfig(
    width=16,
    blocks=1,
    modality_blocks=1,
    heads=2,
    ffn=24,
    cell_width=8,
    private_width=3,
    bins=6,
    compute_dtype="float32",
)
SPEC = ModelSpec(TINY, known_genes=40, translator=TranslatorConfig(blocks=2))
DIRECTIONS = [("rna", "atac"), ("atac", "adt"), ("adt", "methylation"), ("methylation", "rna")]


def noisy(spec):
    """Parameters of which none is zero, so that no path is left untested."""
    leaves, tree = jax.tree.flatten(jax.jit(model.init, static_argnums=0)(spec, jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, moved)


@pytest.fixture(scope="module")
def params():
    return noisy(SPEC)


def space_of(modality, features=40, links=3):
    if modality == "rna":
        return None
    return some_space(np.random.default_rng(len(modality)), features, links)


def of_modality(view, modality):
    return view._replace(totals_BL=view.counts_BL + view.mask_BL) if modality == "methylation" else view


@partial(jax.jit, static_argnames=("modality", "spec"))
def see(params, view, modality, spec=SPEC):
    genes_GD = model.gene_states(spec, params).rows_GD
    hidden_BL = jnp.zeros_like(view.mask_BL)
    return model.apply(spec, params, genes_GD, of_modality(view, modality), hidden_BL, modality, space_of(modality))


@partial(jax.jit, static_argnames=("source", "target", "spec"))
def tell(params, outputs, view, asked, source, target, spec=SPEC, linear=None):
    genes_GD = model.gene_states(spec, params).rows_GD
    asked = of_modality(asked, target)
    of = (outputs, view.mask_BL, asked, source, target, space_of(target), linear)
    return model.translate(spec, params, genes_GD, *of)


def leaves_of(told):
    return jax.tree.leaves(told)


def assert_same(ours, theirs, **how):
    for a, b in zip(leaves_of(ours), leaves_of(theirs), strict=True):
        np.testing.assert_allclose(a, b, **({"rtol": 1e-5, "atol": 1e-5} | how))


@pytest.mark.parametrize(("source", "target"), DIRECTIONS)
def test_what_is_asked_beside_a_feature_does_not_change_its_answer(params, make_view, source, target):
    view, asked = make_view(), make_view(tokens=10, seed=3)
    outputs = see(params, view, source)
    every = tell(params, outputs, view, asked, source, target).prediction
    few = jax.tree.map(lambda leaf: leaf[:, 4:7] if leaf.ndim == 2 else leaf, asked)
    some = tell(params, outputs, view, few, source, target).prediction
    assert_same(some, jax.tree.map(lambda leaf: leaf[:, 4:7], every))
    assert np.std(every.token_BL) > 0.01


@pytest.mark.parametrize(("source", "target"), DIRECTIONS)
def test_no_value_of_the_target_is_looked_at(params, make_view, source, target):
    view, asked = make_view(), make_view(seed=3)
    outputs = see(params, view, source)
    other = asked._replace(values_BL=asked.values_BL + 1, counts_BL=asked.counts_BL * 3)
    assert_same(*(tell(params, outputs, view, some, source, target) for some in (asked, other)), rtol=0, atol=0)


def test_order_and_padding_of_the_source_change_nothing(params, make_view):
    view, asked = make_view(), make_view(seed=3)
    expected = tell(params, see(params, view, "rna"), view, asked, "rna", "atac")
    order = np.random.default_rng(0).permutation(view.mask_BL.shape[1])
    shuffled = jax.tree.map(lambda leaf: leaf[:, order] if leaf.ndim == 2 else leaf, view)
    padded = jax.tree.map(lambda leaf: np.pad(leaf, ((0, 0), (0, 5))) if leaf.ndim == 2 else leaf, view)
    for other in (shuffled, padded):
        assert_same(tell(params, see(params, other, "rna"), other, asked, "rna", "atac"), expected)


def test_a_private_factor_is_no_other_modalitys_business(params, make_view):
    """Private columns shuffled among cells: the other modality's predictions are the same; shared ones shuffled: not."""
    view, asked = make_view(cells=6), make_view(cells=6, seed=3)
    outputs = see(params, view, "rna")
    shared = SPEC.shared_width
    mixed = outputs.embedding_BE[np.roll(np.arange(6), 1)]
    private = outputs._replace(embedding_BE=outputs.embedding_BE.at[:, shared:].set(mixed[:, shared:]))
    common = outputs._replace(embedding_BE=outputs.embedding_BE.at[:, :shared].set(mixed[:, :shared]))
    told, without, moved = (tell(params, some, view, asked, "rna", "atac") for some in (outputs, private, common))
    assert_same(without, told, rtol=0, atol=0)
    assert np.abs(moved.prediction.cell_BL - told.prediction.cell_BL).max() > 1e-3
    own, other = (model.cell_factors(SPEC, params, some.embedding_BE) for some in (outputs, private))
    assert np.abs(own - other).max() > 1e-3  # its own decoder does read it


@pytest.mark.slow
def test_directions_share_their_blocks_or_have_their_own(make_view):
    view, asked = make_view(), make_view(seed=3)

    def reached(shared):
        spec = SPEC._replace(translator=TranslatorConfig(blocks=1, shared=shared), modalities=("rna", "atac", "adt"))
        params = noisy(spec)
        outputs = see(params, view, "rna", spec)

        def answer(params):
            return jnp.sum(tell(params, outputs, view, asked, "rna", "atac", spec).prediction.token_BL ** 2)

        gradients = jax.jit(jax.grad(answer))(params)["translator"]
        return {
            name for name, part in gradients.items() if any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(part))
        }

    assert reached(shared=True) == {"stacks_any"}  # `move` is of the embedding, which token states do not ask
    assert reached(shared=False) == {"stacks_rna_to_atac"}


def test_a_modality_has_blocks_of_its_own(params, make_view):
    view = make_view()
    changed = params | {"own_atac": jax.tree.map(lambda leaf: leaf * 1.5, params["own_atac"])}
    for modality, moves in (("rna", False), ("atac", True)):
        before, after = (see(some, view, modality).states_BLD for some in (params, changed))
        assert (np.abs(before - after).max() > 1e-3) == moves


def test_a_fresh_translation_reads_the_embedding_as_it_is(make_view):
    """`move` starts at zero: aligned spaces are translated before any pair was seen."""
    params = jax.jit(model.init, static_argnums=0)(SPEC, jax.random.key(0))
    view, asked = make_view(), make_view(seed=3)
    outputs = see(params, view, "rna")
    told = tell(params, outputs, view, asked, "rna", "atac")
    shared = SPEC.shared_width
    np.testing.assert_array_equal(told.embedding_BE[:, :shared], outputs.embedding_BE[:, :shared])
    assert not told.embedding_BE[:, shared:].any()


def test_a_linear_translation_is_added_to_both_answers(params, make_view):
    view, asked = make_view(), make_view(seed=3)
    outputs = see(params, view, "rna")
    rng = np.random.default_rng(0)
    linear = LinearAnswer(*(rng.normal(size=asked.mask_BL.shape).astype(np.float32) for _ in range(2)))
    plain = tell(params, outputs, view, asked, "rna", "adt").prediction
    told = tell(params, outputs, view, asked, "rna", "adt", linear=linear).prediction
    for name, added_BL in (
        ("token_BL", linear.predictor_BL),
        ("cell_BL", linear.predictor_BL),
        ("spread_BL", linear.spread_BL),
    ):
        np.testing.assert_allclose(getattr(told, name) - getattr(plain, name), added_BL, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(told.background_BL, plain.background_BL)


@pytest.mark.slow
def test_jit_equals_no_jit(params, make_view):
    view, asked = make_view(), make_view(seed=3)
    outputs = see(params, view, "adt")
    expected = tell(params, outputs, view, asked, "adt", "methylation")
    with jax.disable_jit():
        assert_same(tell(params, outputs, view, asked, "adt", "methylation"), expected)


def test_a_model_of_one_modality_or_no_blocks_does_not_translate():
    for spec in (SPEC._replace(modalities=("rna",)), SPEC._replace(translator=TranslatorConfig())):
        assert not spec.translates
        assert "translator" not in jax.eval_shape(lambda key, s=spec: model.init(s, key), jax.random.key(0))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"private_width": 8}, "encoder.private_width=8 leaves nothing"),
        ({"modality_blocks": -1}, "encoder.modality_blocks"),
    ],
)
def test_impossible_sizes_are_refused(wrong, said):
    with pytest.raises(InputError, match=said):
        replace(TINY, **wrong)
