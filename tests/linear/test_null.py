"""The mean predictor finds the rates, dispersions and odds that measurements of whole cells were drawn with."""

import numpy as np
import pytest
from scipy.special import expit

from mofm.batch import LIBRARY_SCALE, FeatureSpace, TokenBatch
from mofm.linear.null import fit_null, whole_cells, with_mean_predictor

EVERY = lambda dataset: np.ones(4, bool)  # noqa: E731


def drawn_view(rate_G, theta_G, cells, seed=0, dataset=0):
    """All of some cells, each gene a token, zeros among them."""
    rng = np.random.default_rng(seed)
    library_B = rng.uniform(2_000, 20_000, cells).astype(np.float32)
    means = library_B[:, None] / LIBRARY_SCALE * rate_G
    return view_of(rng.poisson(rng.gamma(theta_G, means / theta_G)), library_B, dataset)


def view_of(counts, library_B, dataset=0):
    cells, genes = counts.shape
    counts = counts.astype(np.float32)
    features = np.tile(np.arange(genes, dtype=np.int32), (cells, 1))
    ids = np.arange(cells, dtype=np.int32)
    return TokenBatch(features, counts, counts, np.ones_like(counts, bool), library_B, ids, np.full_like(ids, dataset))


def without_zeros(view):
    return view._replace(mask_BL=view.counts_BL > 0)


def test_recovers_rates_and_dispersions():
    rate_G, theta_G = np.array([0.05, 0.5, 4.0, 30.0]), np.array([1.0, 1.0, 2.0, 5.0])
    views = [drawn_view(rate_G, theta_G, 4000, seed) for seed in range(3)]
    null = fit_null(whole_cells(views, 4, EVERY))
    np.testing.assert_allclose(np.exp(null.log_rate_G), rate_G, rtol=0.08)
    np.testing.assert_allclose(np.exp(null.log_dispersion_G[1:]), theta_G[1:], rtol=0.25)


def test_does_not_depend_on_whether_zeros_are_shown():
    view = drawn_view(np.array([0.05, 0.5, 4.0, 30.0]), 2.0, 1000)
    shown, hidden = (fit_null(whole_cells([some], 4, EVERY)) for some in (view, without_zeros(view)))
    for ours, theirs in zip(shown, hidden, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_padding_does_not_count_and_unseen_genes_get_the_overall_rate():
    view = drawn_view(np.array([2.0, 2.0, 2.0]), np.array([5.0, 5.0, 5.0]), 3000)
    mask = view.mask_BL.copy()
    mask[:, 2] = False
    padding = view._replace(cell_B=np.full(3000, -1, np.int32), mask_BL=np.zeros_like(mask))
    masked = view._replace(mask_BL=mask, counts_BL=np.where(mask, view.counts_BL, 1e6))
    null = fit_null(whole_cells([masked, padding], 4, lambda dataset: np.array([True, True, False])))
    assert np.isfinite(null.log_dispersion_G).all()
    np.testing.assert_allclose(np.exp(null.log_rate_G), 2.0, rtol=0.05)


def test_a_gene_that_only_some_data_sets_measure_has_its_rate_among_their_cells():
    both = np.array([3.0, 1.0])
    views = [drawn_view(both, 5.0, 2000), drawn_view(both * [1, 0], 5.0, 6000, seed=1, dataset=1)]
    measures = {0: np.array([True, True]), 1: np.array([True, False])}
    null = fit_null(whole_cells(views, 2, measures.__getitem__))
    np.testing.assert_allclose(np.exp(null.log_rate_G), both, rtol=0.05)


@pytest.mark.parametrize("zeros", [True, False])
def test_regions_are_open_in_as_many_cells_as_they_are(zeros):
    rng = np.random.default_rng(0)
    library_B = rng.lognormal(np.log(8_000), 0.8, 4000).astype(np.float32)
    log_odds_F = np.array([-6.0, -3.0, 0.0, 2.0])
    is_open = rng.random((4000, 4)) < expit(log_odds_F + np.log(library_B / LIBRARY_SCALE)[:, None])
    view = view_of(is_open, library_B)
    views = [view if zeros else without_zeros(view)]
    space = FeatureSpace(*[np.zeros((4, 1))] * 3, np.zeros(4), np.zeros(4), np.zeros(4))
    found = with_mean_predictor(space, "atac", views, whole_cells(views, 4, EVERY))
    np.testing.assert_allclose(found.base_F[1:], log_odds_F[1:], atol=0.15)
    expected_F = expit(found.base_F + np.log(library_B / LIBRARY_SCALE)[:, None]).mean(axis=0)
    np.testing.assert_allclose(expected_F, is_open.mean(axis=0), rtol=0.03, atol=3e-4)
    np.testing.assert_array_equal(found.spread_F, 0)


def test_the_depth_is_the_median_of_cells_that_have_counts():
    view = drawn_view(np.ones(4), 5.0, 5)
    view = view._replace(library_B=np.array([10, 20, 0, 40, 90], np.float32))
    assert whole_cells([view], 4, EVERY).depth == pytest.approx(30)
