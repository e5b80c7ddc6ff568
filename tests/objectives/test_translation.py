"""Translation as it is trained: what counts as a pair, what a soft view is, and that gradients are right."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import stats
from spaces import some_space

from mofm.axes import MODALITIES
from mofm.batch import LIBRARY_SCALE, CellBatch, Paired
from mofm.nn import model
from mofm.nn.decoder import Prediction
from mofm.nn.spec import EncoderConfig, ModelSpec
from mofm.nn.translator import TranslatorConfig
from mofm.objectives.moments import moments
from mofm.objectives.total import ObjectivesConfig, loss_weights, total
from mofm.objectives.translation import Direction, paired_translation, soft_view, there_and_back
from mofm.training.step import Knowledge, Recipe, answers

SPEC = ModelSpec(
    EncoderConfig(width=8, blocks=1, heads=2, ffn=8, cell_width=6, private_width=2, bins=4, compute_dtype="float32"),
    known_genes=40,
    translator=TranslatorConfig(blocks=1),
)
RECIPE = Recipe(SPEC, ObjectivesConfig(), optimizer=None, seed=0)
RNA_TO_ATAC = Direction("rna", "atac")


@pytest.fixture(scope="module")
def params():
    leaves, tree = jax.tree.flatten(jax.jit(model.init, static_argnums=0)(SPEC, jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return jax.tree.unflatten(
        tree, [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    )


@pytest.fixture(scope="module")
def spaces():
    rng = np.random.default_rng(5)
    return {modality: some_space(rng) for modality in MODALITIES[1:]}


@pytest.fixture
def two(make_view):
    """RNA and ATAC views of the same six cells."""
    return CellBatch(rna=make_view(cells=6, seed=1), atac=make_view(cells=6, tokens=9, seed=2))


def model_of(params, spaces):
    return answers(RECIPE, Knowledge(spaces), params, model.gene_states(SPEC, params))


def shown(told, view, modality):
    return told.see(view, jnp.zeros_like(view.mask_BL), modality)


@jax.jit
def nll_of(params, spaces, batch):
    told = model_of(params, spaces)
    return paired_translation(told.translate, shown(told, batch.rna, "rna"), batch.rna, batch.atac, RNA_TO_ATAC)


def test_only_rows_of_one_cell_count(params, spaces, two):
    every = nll_of(params, spaces, two)
    assert every["pairs"] == 6
    other = np.where(np.arange(6) == 2, two.atac.cell_B, 100)
    one = nll_of(params, spaces, two._replace(atac=two.atac._replace(cell_B=other)))
    alone = jax.tree.map(lambda leaf: leaf[2:3], two)
    expected = nll_of(params, spaces, alone)
    assert one["pairs"] == expected["pairs"] == 1
    for name in ("token_nll", "cell_nll"):
        assert float(one[name]) == pytest.approx(float(expected[name]), rel=1e-5)
        assert abs(float(every[name]) - float(one[name])) > 1e-4


@pytest.mark.parametrize("cell", [100, -1])
def test_a_batch_without_a_pair_gives_nothing(params, spaces, two, cell):
    apart = two._replace(
        rna=two.rna._replace(cell_B=two.rna.cell_B if cell == 100 else np.full(6, -1, np.int32)),
        atac=two.atac._replace(cell_B=np.full(6, cell, np.int32)),
    )
    value, gradient = jax.value_and_grad(lambda params: nll_of(params, spaces, apart)["token_nll"])(params)
    assert value == 0
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(gradient))


def test_the_order_of_cells_changes_nothing(params, spaces, two):
    order = np.array([3, 0, 5, 1, 4, 2])
    ours, theirs = (nll_of(params, spaces, some) for some in (two, jax.tree.map(lambda leaf: leaf[order], two)))
    for name in ours:
        assert float(ours[name]) == pytest.approx(float(theirs[name]), rel=1e-5)


@partial(jax.jit, static_argnames="direction")
def cycle_of(params, spaces, view, asked, direction):
    told = model_of(params, spaces)
    space = spaces.get(direction.target)
    seen = shown(told, view, direction.source)
    return there_and_back(told.translate, told.see, seen, view, asked, direction, space, SPEC.shared_width)


@pytest.mark.parametrize(
    "target", ["atac", *(pytest.param(some, marks=pytest.mark.slow) for some in ("adt", "methylation"))]
)
def test_gradients_of_the_losses_are_right(params, spaces, make_view, target):
    """Against finite differences, along the parameters that each path goes through; one program of all, as they add up."""
    view, asked = make_view(cells=2, tokens=6, seed=1), make_view(cells=2, tokens=5, seed=2)
    asked = asked._replace(totals_BL=asked.counts_BL + asked.mask_BL) if target == "methylation" else asked
    chosen, direction = {"translator": params["translator"], "to_cell": params["to_cell"]}, Direction("rna", target)

    @jax.jit
    def loss(chosen):
        told = model_of(params | chosen, spaces)
        pair = paired_translation(told.translate, shown(told, view, "rna"), view, asked, direction)
        back = cycle_of(params | chosen, spaces, view, asked, direction)
        return pair["token_nll"] + 0.7 * pair["cell_nll"] + 1.3 * back["back_token_nll"] + 0.9 * back["back_cell_nll"]

    check_grads(loss, (chosen,), order=1, modes=["rev"], atol=2e-2, rtol=2e-2, eps=1e-2)


def test_a_level_that_all_cells_share_is_no_likeness(params, spaces, two):
    """Drift is of what tells cells apart: were it not, one large move of all embeddings would bring it to nothing."""
    told, space = model_of(params, spaces), spaces["atac"]
    seen = shown(told, two.rna, "rna")

    def drift(moved_by, of=seen):
        see = lambda *view: (made := told.see(*view))._replace(embedding_BE=made.embedding_BE + moved_by)  # noqa: E731
        of = of._replace(embedding_BE=of.embedding_BE + moved_by)
        given = (of, two.rna, two.atac, RNA_TO_ATAC, space, SPEC.shared_width)
        return float(there_and_back(told.translate, see, *given)["drift"])

    assert drift(30.0) == pytest.approx(drift(0.0), abs=1e-4)
    alone = seen._replace(embedding_BE=seen.embedding_BE[:1].repeat(len(seen.embedding_BE), axis=0))
    assert drift(0.0, alone) == pytest.approx(1.0)  # cells that are all the same have no direction


def test_a_round_trip_teaches_through_its_translation(params, spaces, two):
    """The embedding that comes back depends on the token states of the way there, and on no embedding there."""

    def back(there):
        stacks = params["translator"]["move"].at[0, 1].set(there)
        moved = params | {"translator": params["translator"] | {"move": stacks}}
        return cycle_of(moved, spaces, two.rna, two.atac, RNA_TO_ATAC)["drift"]

    assert (
        np.abs(jax.grad(back)(params["translator"]["move"][0, 1])).max() == 0
    )  # token states go there, not the embedding
    drift = jax.grad(lambda p: cycle_of(p, spaces, two.rna, two.atac, RNA_TO_ATAC)["drift"])(params)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(drift["translator"]["stacks_any"])) > 1e-6


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_soft_view_of_certain_means_is_the_view(make_view, spaces, modality):
    """Where the mean is what was counted, values are those of `batches/collate.py`."""
    view = make_view(tokens=10)
    counts_BL = view.counts_BL + view.mask_BL  # no zeros: their log rate is infinite
    view = view._replace(counts_BL=counts_BL, totals_BL=counts_BL + 3)
    library_B1 = view.library_B[:, None]
    flat = np.zeros_like(view.values_BL)
    log_rate_BL = np.log(np.maximum(counts_BL, 1e-6) / library_B1 * LIBRARY_SCALE)
    fraction_BL = counts_BL / np.maximum(view.totals_BL, 1)
    predictor_BL = {
        "rna": log_rate_BL,
        "adt": log_rate_BL,
        "atac": flat + 30.0,  # surely open
        "methylation": np.log(np.maximum(fraction_BL, 1e-6) / np.maximum(1 - fraction_BL, 1e-6)),
    }[modality]
    prediction = Prediction(predictor_BL, flat, flat, flat - 30, flat - 30)
    soft = soft_view(prediction, view, modality, spaces.get(modality))
    level_B1 = (np.log1p(counts_BL) * view.mask_BL).sum(1, keepdims=True) / view.mask_BL.sum(1, keepdims=True)
    if modality == "atac":
        depth_B1 = np.log(library_B1 / LIBRARY_SCALE)
        chance_BL = 1 / (1 + np.exp(-(spaces["atac"].base_F[view.features_BL] + depth_B1)))
    expected_BL = {
        "rna": lambda: np.log1p(counts_BL / library_B1 * LIBRARY_SCALE),
        "adt": lambda: np.log1p(counts_BL / np.exp(level_B1)),
        "atac": lambda: np.log1p(LIBRARY_SCALE / library_B1 / chance_BL),
        "methylation": lambda: (counts_BL + 1) / (view.totals_BL + 2),
    }[modality]()
    np.testing.assert_allclose(soft.values_BL, expected_BL * view.mask_BL, rtol=2e-4, atol=2e-5)
    assert not np.asarray(soft.values_BL)[~view.mask_BL].any()


def test_moments_are_those_of_the_likelihoods():
    library_B = np.array([5_000.0, 20_000.0], np.float32)
    predictor_BL = np.array([[0.5, -1.0], [1.5, 0.0]], np.float32)
    spread_BL = np.array([[0.3, 1.0], [-0.5, 2.0]], np.float32)
    background_BL, logit_BL = predictor_BL - 1.0, np.array([[0.4, -2.0], [1.0, 0.0]], np.float32)
    prediction = Prediction(predictor_BL, predictor_BL, spread_BL, background_BL, logit_BL)
    exposure_B1, theta_BL = library_B[:, None] / LIBRARY_SCALE, np.exp(spread_BL)

    def counts(mean_BL):
        return stats.nbinom(theta_BL, theta_BL / (theta_BL + mean_BL))

    ours = moments(prediction, predictor_BL, library_B, "rna")
    of = counts(np.exp(predictor_BL) * exposure_B1)
    np.testing.assert_allclose(ours, (of.mean(), of.var()), rtol=1e-4)

    k = np.arange(3_000)[:, None, None]
    alone_BL = 1 / (1 + np.exp(-logit_BL))
    pmf = alone_BL * counts(np.exp(background_BL) * exposure_B1).pmf(k) + (1 - alone_BL) * of.pmf(k)
    mean_BL = (k * pmf).sum(axis=0)
    ours = moments(prediction, predictor_BL, library_B, "adt")
    np.testing.assert_allclose(ours, (mean_BL, ((k - mean_BL) ** 2 * pmf).sum(axis=0)), rtol=1e-3)

    fraction_BL = 1 / (1 + np.exp(-predictor_BL))
    beta = stats.beta(fraction_BL * theta_BL, (1 - fraction_BL) * theta_BL)
    ours = moments(prediction, predictor_BL, library_B, "methylation")
    np.testing.assert_allclose(ours, (beta.mean(), beta.var()), rtol=1e-4)

    chance_BL = 1 / (1 + np.exp(-(predictor_BL + np.log(exposure_B1))))
    of = stats.bernoulli(chance_BL)
    np.testing.assert_allclose(moments(prediction, predictor_BL, library_B, "atac"), (of.mean(), of.var()), rtol=1e-4)


def test_total_weighs_translation_and_the_round_trip(params, spaces, two):
    @partial(jax.jit, static_argnames="config")
    def whole(config, batch):
        pairs = (Paired(("rna", "atac"), (0, 0), 6),) if batch.atac is not None else ()
        return total(config, model_of(params, spaces), batch, jax.random.key(3), pairs)

    config = ObjectivesConfig(translation_weight=0.0, cycle_weight=0.0, drift_weight=0.0)
    plain = whole(config, two)[0]

    def added(**weights):
        loss, metrics = whole(ObjectivesConfig(**(vars(config) | weights)), two)
        return float(loss - plain), metrics

    both = ("rna_to_atac", "atac_to_rna")
    loss, metrics = added(translation_weight=2.0)
    expected = sum(float(metrics[f"{way}/{name}"]) for way in both for name in ("token_nll", "cell_nll"))
    assert loss == pytest.approx(2.0 * expected / 2, rel=1e-4)
    assert metrics["rna_to_atac/pairs"] == 6
    loss, metrics = added(cycle_weight=0.5, drift_weight=3.0)
    back = sum(float(metrics[f"{way}/{name}"]) for way in both for name in ("back_token_nll", "back_cell_nll"))
    drift = sum(float(metrics[f"{way}/drift"]) for way in both)
    assert loss == pytest.approx((0.5 * back + 3.0 * drift) / 2, rel=1e-4)
    everything = ObjectivesConfig(translation_weight=2.0, cycle_weight=0.5, drift_weight=3.0, pool_weight=0.7)
    loss, metrics = whole(everything, two)
    weighed = sum(weight * float(metrics[name]) for name, weight in loss_weights(everything, metrics).items())
    assert weighed == pytest.approx(float(loss), rel=1e-5)
    alone, metrics = whole(ObjectivesConfig(), CellBatch(rna=two.rna))
    assert np.isfinite(alone)
    assert not any("_to_" in name for name in metrics)
