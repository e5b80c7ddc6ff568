"""Masked modelling: what is hidden, what is scored, and that it can be learned from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mofm.batch import LIBRARY_SCALE, CellBatch
from mofm.errors import InputError
from mofm.nn.decoder import Prediction
from mofm.nn.model import Outputs
from mofm.objectives.likelihoods import negative_binomial_nll
from mofm.objectives.masked import likelihood, masked_modelling
from mofm.objectives.masking import hide
from mofm.objectives.total import Answers, ObjectivesConfig, total


def outputs_for(view, log_rate):
    cells, tokens = view.mask_BL.shape
    flat = jnp.full((cells, tokens), log_rate, jnp.float32)
    prediction = Prediction(flat, flat + 1.0, jnp.zeros((cells, tokens)), flat - 2.0, jnp.zeros((cells, tokens)))
    return Outputs(jnp.zeros((cells, 1)), jnp.full((cells, 2), 3.0), jnp.zeros((cells, tokens, 1)), prediction)


def test_hides_the_stated_share_and_never_padding(make_view):
    view = make_view(cells=400, tokens=30)
    hidden_BL = np.asarray(hide(jax.random.key(0), view.mask_BL, 0.4, 0.3))
    assert not hidden_BL[~view.mask_BL].any()
    shares_B = hidden_BL.sum(axis=1) / view.mask_BL.sum(axis=1)
    assert shares_B.mean() == pytest.approx(0.4, abs=0.03)
    assert shares_B.std() > 0.15  # cells differ in how much is hidden


def test_hiding_is_a_function_of_the_key(make_view):
    mask_BL = make_view(cells=64, tokens=30).mask_BL
    one, again, other = (hide(jax.random.key(seed), mask_BL, 0.4, 0.1) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (np.asarray(one) != np.asarray(other)).any()


@pytest.mark.parametrize("modality", ["rna", "adt", "atac"])
def test_measurements_are_scored_given_that_they_were_shown(make_view, modality):
    """With a weight of its zeros a cell's likelihoods are conditional; without, with 1, and in padded rows they are plain."""
    view = make_view()
    told = outputs_for(view, 0.7).prediction
    told = told._replace(background_logit_BL=jnp.zeros_like(told.token_BL))
    weight_B = np.ones(len(view.library_B), np.float32)
    plain_BL, ones_BL = (
        likelihood(told, told.token_BL, some, modality) for some in (view, view._replace(zero_weight_B=weight_B))
    )
    np.testing.assert_allclose(ones_BL, plain_BL, atol=1e-5)
    weight_B[0], weight_B[1] = 12.0, 0.0
    found_BL = likelihood(told, told.token_BL, view._replace(zero_weight_B=weight_B), modality)
    np.testing.assert_allclose(found_BL[1:], plain_BL[1:], atol=1e-5)
    none = likelihood(told, told.token_BL, view._replace(counts_BL=0 * view.counts_BL), modality)[0]
    p_L, zero_L = np.exp(-np.asarray(plain_BL[0], np.float64)), np.exp(-np.asarray(none, np.float64))
    shown_L = np.where(view.counts_BL[0] == 0, p_L / 12, p_L) / (zero_L / 12 + 1 - zero_L)
    np.testing.assert_allclose(found_BL[0], -np.log(shown_L), rtol=1e-4, atol=1e-5)


def test_scores_hidden_tokens_alone(make_view):
    view = make_view()
    hidden_BL = np.zeros_like(view.mask_BL)
    hidden_BL[0, 2] = hidden_BL[2, 5] = True
    parts = masked_modelling(outputs_for(view, 0.7), view, hidden_BL, "rna")
    exposure_B = view.library_B / LIBRARY_SCALE
    for name, log_rate in (("token_nll", 0.7), ("cell_nll", 1.7)):
        expected = np.mean(
            [
                negative_binomial_nll(view.counts_BL[b, j], log_rate + np.log(exposure_B[b]), 0.0)
                for b, j in ((0, 2), (2, 5))
            ]
        )
        assert float(parts[name]) == pytest.approx(float(expected), rel=1e-5)
    assert parts["hidden"] == 2
    shown = view._replace(counts_BL=np.where(hidden_BL, view.counts_BL, 99.0))
    assert masked_modelling(outputs_for(view, 0.7), shown, hidden_BL, "rna")["token_nll"] == parts["token_nll"]


@pytest.mark.parametrize("modality", ["atac", "adt", "methylation"])
def test_each_omics_type_has_its_likelihood(make_view, modality):
    """Against scipy's, one token at a time."""
    view = make_view()
    view = view._replace(totals_BL=view.counts_BL + 3)
    nll_BL = likelihood(outputs_for(view, 0.7).prediction, jnp.full(view.mask_BL.shape, 0.7), view, modality)
    for b, j in ((0, 2), (2, 5), (3, 0)):
        count, depth = view.counts_BL[b, j], view.library_B[b] / LIBRARY_SCALE
        if modality == "atac":
            odds = np.exp(0.7) * depth
            expected = -np.log(odds / (1 + odds) if count > 0 else 1 / (1 + odds))
        elif modality == "adt":
            chances = [stats.nbinom.pmf(count, 1.0, 1 / (1 + np.exp(rate) * depth)) for rate in (0.7, -1.3)]
            expected = -np.log(np.mean(chances))
        else:
            mean = 1 / (1 + np.exp(-0.7))
            expected = -stats.betabinom.logpmf(count, count + 3, mean, 1 - mean)
        assert float(nll_BL[b, j]) == pytest.approx(expected, rel=1e-4)


def test_an_empty_cell_gives_a_finite_loss(make_view):
    view = make_view()
    empty = view._replace(library_B=np.zeros_like(view.library_B), mask_BL=np.zeros_like(view.mask_BL))
    parts = masked_modelling(outputs_for(empty, 0.0), empty, np.zeros_like(view.mask_BL), "rna")
    assert parts["token_nll"] == 0.0


def test_total_is_the_weighted_sum(make_view):
    batch = CellBatch(rna=make_view())
    predict = lambda view, hidden_BL, modality: outputs_for(view, 0.2)  # noqa: E731
    key = jax.random.key(3)
    loss, metrics = total(
        ObjectivesConfig(token_weight=2.0, cell_weight=0.5, pool_weight=0.25), Answers(predict), batch, key
    )
    expected = 2.0 * float(metrics["rna/token_nll"]) + 0.5 * float(metrics["rna/cell_nll"]) + 0.25 * 9.0
    assert float(loss) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("wrong", [{"mask_rate": 0.0}, {"mask_rate": 0.8, "mask_spread": 0.3}, {"token_weight": -1.0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(InputError, match="objectives"):
        ObjectivesConfig(**wrong)
