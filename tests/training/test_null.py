"""The mean predictor finds the rates and dispersions that counts were drawn with."""

import numpy as np

from mofm.batch import LIBRARY_SCALE, TokenBatch
from mofm.training.null import fit_null


def drawn_view(rate_G, theta_G, cells, seed=0):
    rng = np.random.default_rng(seed)
    genes = len(rate_G)
    library_B = rng.uniform(2_000, 20_000, cells).astype(np.float32)
    means = library_B[:, None] / LIBRARY_SCALE * rate_G
    counts = rng.poisson(rng.gamma(theta_G, means / theta_G)).astype(np.float32)
    features = np.tile(np.arange(genes, dtype=np.int32), (cells, 1))
    ids = np.arange(cells, dtype=np.int32)
    return TokenBatch(features, counts, counts, np.ones_like(counts, bool), library_B, ids, ids)


def test_recovers_rates_and_dispersions():
    rate_G, theta_G = np.array([0.5, 4.0, 30.0]), np.array([1.0, 2.0, 5.0])
    null = fit_null([drawn_view(rate_G, theta_G, 4000, seed) for seed in range(3)], genes=3)
    np.testing.assert_allclose(np.exp(null.log_rate_G), rate_G, rtol=0.05)
    np.testing.assert_allclose(np.exp(null.log_dispersion_G), theta_G, rtol=0.25)


def test_padding_does_not_count_and_unseen_genes_get_the_overall_rate():
    view = drawn_view(np.array([2.0, 2.0, 2.0]), np.array([5.0, 5.0, 5.0]), 3000)
    mask = view.mask_BL.copy()
    mask[:, 2] = False
    masked = view._replace(mask_BL=mask, counts_BL=np.where(mask, view.counts_BL, 1e6))
    null = fit_null([masked], genes=4)
    assert np.isfinite(null.log_rate_G).all()
    np.testing.assert_allclose(np.exp(null.log_rate_G), 2.0, rtol=0.05)
