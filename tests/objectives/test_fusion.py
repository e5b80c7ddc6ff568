"""Fusion as it is trained: which rows count, what may not be seen, that gradients are right and reach what they should."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from spaces import some_space

from mofm.batch import CellBatch, Paired
from mofm.errors import InputError
from mofm.nn import model
from mofm.nn.fusion import FusionConfig
from mofm.nn.spec import EncoderConfig, ModelSpec
from mofm.objectives.fusion import fused_modelling
from mofm.objectives.total import ObjectivesConfig, total
from mofm.training.step import Knowledge, Recipe, answers

SPEC = ModelSpec(
    EncoderConfig(width=8, blocks=1, heads=2, ffn=8, cell_width=6, private_width=2, bins=4, compute_dtype="float32"),
    known_genes=40,
    modalities=("rna", "atac"),
    fusion=FusionConfig(blocks=1, shared=False),
)
RECIPE = Recipe(SPEC, ObjectivesConfig(), optimizer=None, seed=0)
CELLS = 6


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(partial(model.init, SPEC), jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), jnp.float32), shapes)


@pytest.fixture(scope="module")
def spaces():
    return {"atac": some_space(np.random.default_rng(5))}


@pytest.fixture
def views(make_view):
    return {"rna": make_view(CELLS, tokens=8, seed=1), "atac": make_view(CELLS, tokens=7, seed=2)}


def hidden_of(views):
    return {
        modality: (np.arange(view.mask_BL.size).reshape(view.mask_BL.shape) % 3 == 0) & view.mask_BL
        for modality, view in views.items()
    }


@jax.jit
def parts_of(params, spaces, views, hidden):
    told = answers(RECIPE, Knowledge(spaces), params, model.gene_states(SPEC, params))
    outputs = {modality: told.see(view, hidden[modality], modality) for modality, view in views.items()}
    return fused_modelling(told.fuse, outputs, views, hidden)


gradient = jax.jit(
    jax.grad(lambda params, *of: sum(p["token_nll"] + p["cell_nll"] for p in parts_of(params, *of).values()))
)
by_values = jax.jit(
    jax.grad(lambda views, params, *of: parts_of(params, of[0], views, of[1])["rna"]["token_nll"], allow_int=True)
)


def with_cells(views, **cells):
    return views | {name: views[name]._replace(cell_B=np.asarray(of, np.int32)) for name, of in cells.items()}


def test_only_rows_of_one_cell_count(params, spaces, views):
    hidden = hidden_of(views)
    every = parts_of(params, spaces, views, hidden)
    is_one_B = np.arange(CELLS) == 2
    apart = np.where(is_one_B, 2, 100 + np.arange(CELLS))
    one = parts_of(params, spaces, with_cells(views, atac=apart), hidden)
    # What is scored of row 2 is told from row 2 alone, so the others may be whatever they are.
    other = {m: view._replace(library_B=np.where(is_one_B, view.library_B, 999)) for m, view in views.items()}
    alone = parts_of(params, spaces, with_cells(other, atac=apart), hidden)
    for modality, parts in every.items():
        assert int(parts["hidden"]) == hidden[modality].sum()
        assert int(one[modality]["hidden"]) == hidden[modality][2].sum()
        for name in ("token_nll", "cell_nll", "alone_token_nll", "alone_cell_nll"):
            assert abs(float(one[modality][name]) - float(parts[name])) > 1e-4
            assert float(alone[modality][name]) == pytest.approx(float(one[modality][name]), rel=1e-5)


@pytest.mark.parametrize("cell", [100, -1])
def test_a_batch_without_a_pair_gives_nothing(params, spaces, views, cell):
    cells = np.full(CELLS, -1) if cell < 0 else np.arange(CELLS)
    apart = with_cells(views, rna=cells, atac=np.full(CELLS, cell))
    parts = parts_of(params, spaces, apart, hidden_of(views))
    assert all(float(one[name]) == 0 for one in parts.values() for name in ("token_nll", "cell_nll", "hidden"))
    found = gradient(params, spaces, apart, hidden_of(views))
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(found))


def test_a_hidden_value_is_seen_from_nowhere_and_a_shown_one_of_the_other_view_is(params, spaces, views):
    hidden = hidden_of(views)
    found = by_values(views, params, spaces, hidden)
    for modality, view in views.items():
        by_value_BL = np.asarray(found[modality].values_BL)
        assert (by_value_BL[hidden[modality]] == 0).all()
        assert (by_value_BL[view.mask_BL & ~hidden[modality]] != 0).mean() > 0.9


def test_gradients_are_right_and_reach_both_stacks(params, spaces, views):
    """Along what is the fusion's, against finite differences."""
    two = jax.tree.map(lambda leaf: leaf[:2], views)
    chosen = {"fusion": params["fusion"], "to_cell": params["to_cell"]}

    @jax.jit
    def loss(chosen):
        parts = parts_of(params | chosen, spaces, two, hidden_of(two))
        return sum(one["token_nll"] + 0.7 * one["cell_nll"] + one["pool_size"] for one in parts.values())

    check_grads(loss, (chosen,), order=1, modes=["rev"], atol=2e-2, rtol=2e-2, eps=1e-2)
    found = gradient(params, spaces, views, hidden_of(views))["fusion"]
    for name in ("stacks_rna", "stacks_atac"):
        assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(found[name])) > 1e-5
    rows = np.abs(found["out"]).max(axis=(1, 2)), np.abs(found["weight"])
    for moved in rows:
        np.testing.assert_array_equal(moved > 1e-7, [True, True, False, False])


def test_total_weighs_fusion_by_what_is_hidden_in_each_stratum(params, spaces, views):
    """Two strata are as all their rows at once."""

    def whole(config, params):
        told = answers(RECIPE, Knowledge(spaces), params, model.gene_states(SPEC, params))
        pairs = [Paired(("rna", "atac"), (start, start), rows) for start, rows in ((0, 2), (2, CELLS - 2))]
        return total(config, told, batch, jax.random.key(3), pairs)

    batch, config = CellBatch(**views), ObjectivesConfig(fusion_weight=2.0)
    assert not any(
        "_with_" in name for name in jax.eval_shape(partial(whole, ObjectivesConfig(fusion_weight=0.0)), params)[1]
    )
    loss, metrics = jax.jit(partial(whole, config))(params)
    every = parts_of(params, spaces, views, config.hidden_tokens(batch, jax.random.key(3)))
    fused = {"rna_with_atac": every["rna"], "atac_with_rna": every["atac"]}
    expected = sum(sum(config.masked_losses(parts)) for parts in fused.values())
    alone = [{name: metrics[f"{m}/{name}"] for name in ("token_nll", "cell_nll", "pool_size")} for m in views]
    without = sum(sum(config.masked_losses(parts)) for parts in alone)
    for way, parts in fused.items():
        for name in ("token_nll", "cell_nll", "alone_token_nll", "hidden"):
            assert float(metrics[f"{way}/{name}"]) == pytest.approx(float(parts[name]), rel=1e-4)
    pools = [float(parts["pool_size"]) for parts in fused.values()]
    told = [
        float(metrics[f"{way}/pool_size"]) for way in fused
    ]  # a mean over cells, weighed as the rest by what is hidden
    expected += config.pool_weight * (sum(told) - sum(pools))
    assert float(loss) == pytest.approx(float(without + 2.0 * expected / 2), rel=1e-4)
    assert float(metrics["rna_with_atac/alone_token_nll"]) == pytest.approx(float(metrics["rna/token_nll"]), rel=1e-5)


def test_an_impossible_weight_is_refused():
    with pytest.raises(InputError, match=r"fusion_weight"):
        ObjectivesConfig(fusion_weight=-1.0)
