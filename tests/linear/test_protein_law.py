"""Level and spread of proteins: found again where they are known, stated as the model states them, of measured cells alone."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import expit

from mofm.batch import LIBRARY_SCALE
from mofm.linear import protein_law
from mofm.linear.protein_law import fit_law
from mofm.nn.decoder import BACKGROUND_LEVEL, BACKGROUND_LOGIT, Prediction
from mofm.objectives.likelihoods import negative_binomial_mixture_nll
from mofm.objectives.moments import moments

LEVEL_F = np.array([0.0, 0.5, -0.5, 0.2, -0.3, 0.0])
SPREAD_F = np.array([0.0, 0.5, 1.0, 1.5, 0.0, 2.5])


def drawn(cells=2_000, seed=0):
    """Counts as the decoder's start would have them, that level and spread added; told are the changes."""
    rng = np.random.default_rng(seed)
    change_NF = rng.normal(0, 0.5, (cells, len(LEVEL_F)))
    base_F, spread_F = np.log(rng.uniform(50, 500, len(LEVEL_F))), np.log(rng.uniform(0.5, 2, len(LEVEL_F)))
    depth_N = rng.normal(0, 0.4, cells)
    is_background = rng.random(change_NF.shape) < expit(BACKGROUND_LOGIT)
    log_mean_NF = base_F + depth_N[:, None] + np.where(is_background, BACKGROUND_LEVEL, change_NF + LEVEL_F)
    size_F = np.exp(spread_F + SPREAD_F)
    counts_NF = rng.poisson(np.exp(log_mean_NF) * rng.gamma(size_F, 1 / size_F, change_NF.shape)).astype(float)
    return (
        counts_NF,
        np.ones(change_NF.shape, bool),
        change_NF,
        depth_N,
        SimpleNamespace(base_F=base_F, spread_F=spread_F),
    )


def test_what_was_drawn_is_found():
    law_F2 = fit_law(*drawn())
    np.testing.assert_allclose(law_F2[:, 0], LEVEL_F, atol=0.06)
    np.testing.assert_allclose(law_F2[:, 1], SPREAD_F, atol=0.25)


def test_what_the_model_then_states_holds_of_other_cells():
    """Its mean is theirs, and its deviation: squared errors are its variance on average."""
    *given, space = drawn(cells=22_000, seed=1)
    law_F2 = fit_law(*(leaf[:2_000] for leaf in given), space)
    counts_NF, _, change_NF, depth_N = (leaf[2_000:] for leaf in given)
    token_NF = space.base_F + change_NF + law_F2[:, 0]
    told = Prediction(
        token_NF,
        token_NF,
        np.broadcast_to(space.spread_F + law_F2[:, 1], token_NF.shape),
        np.broadcast_to(space.base_F + BACKGROUND_LEVEL, token_NF.shape),
        np.full(token_NF.shape, BACKGROUND_LOGIT),
    )
    mean_NF, variance_NF = moments(told, token_NF, LIBRARY_SCALE * np.exp(depth_N), "adt")
    np.testing.assert_allclose(counts_NF.mean(axis=0) / mean_NF.mean(axis=0), 1, atol=0.06)
    np.testing.assert_allclose(((counts_NF - mean_NF) ** 2 / variance_NF).mean(axis=0), 1, atol=0.25)


def test_its_surprise_is_the_models_likelihood():
    counts_NF, _, change_NF, depth_N, space = drawn(cells=50)
    base_NF = space.base_F + depth_N[:, None]
    lows, highs = (
        (
            protein_law.surprise(
                counts_NF,
                np.exp(base_NF + BACKGROUND_LEVEL),
                np.exp(base_NF + change_NF),
                np.exp(space.spread_F + spread),
            ),
            negative_binomial_mixture_nll(
                counts_NF, base_NF + BACKGROUND_LEVEL, base_NF + change_NF, BACKGROUND_LOGIT, space.spread_F + spread
            ),
        )
        for spread in (-0.5, 1.0)
    )
    np.testing.assert_allclose(highs[0] - lows[0], highs[1] - lows[1], atol=2e-3)


def test_cells_that_do_not_measure_a_protein_say_nothing_of_it():
    counts_NF, measured_NF, change_NF, depth_N, space = drawn(cells=600)
    measured_NF[300:, 2] = False
    law_F2 = fit_law(counts_NF, measured_NF, change_NF, depth_N, space)
    blank_NF = np.where(measured_NF, counts_NF, 0.0)
    np.testing.assert_array_equal(fit_law(blank_NF, measured_NF, change_NF, depth_N, space), law_F2)
    half_F2 = fit_law(counts_NF[:300], measured_NF[:300], change_NF[:300], depth_N[:300], space)
    np.testing.assert_allclose(law_F2[2], half_F2[2], atol=1e-9)
    measured_NF[:, 4] = False
    np.testing.assert_array_equal(fit_law(counts_NF, measured_NF, change_NF, depth_N, space)[4], 0)


@pytest.mark.parametrize("cells", [1, 12])
def test_few_cells_and_proteins_that_none_shows_are_held_to_the_mean_predictor(cells):
    counts_NF, measured_NF, change_NF, depth_N, space = drawn(cells=cells)
    law_F2 = fit_law(np.zeros_like(counts_NF), measured_NF, change_NF, depth_N, space)
    assert np.isfinite(law_F2).all()
    assert (law_F2[:, 0] < 0).all()


def test_one_deep_droplet_that_is_a_clump_is_not_what_all_are_like():
    counts_NF, measured_NF, change_NF, depth_N, space = drawn(cells=300)
    plain_F2 = fit_law(counts_NF, measured_NF, change_NF, depth_N, space)
    counts_NF[7], depth_N[7] = 0, depth_N[7] + np.log(100)
    counts_NF[7, 0] = 100 * counts_NF.mean(axis=0).sum()
    again_F2 = fit_law(counts_NF, measured_NF, change_NF, depth_N, space)
    np.testing.assert_allclose(again_F2[:, 0], plain_F2[:, 0], atol=0.06)
