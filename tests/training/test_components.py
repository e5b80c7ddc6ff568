"""The linear start against a dense reference, and the profile that the model makes of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mofm.batch import LIBRARY_SCALE, TokenBatch
from mofm.nn.readout import LinearReadout
from mofm.training import components
from mofm.training.components import CLIP, SILENT, STEADYING, fit_components, read_cells

GENES, CELLS, RANK = 30, 120, 5
FEW = 50
"""More than the cells of the smaller data set, fewer than those of the larger."""


@pytest.fixture(autouse=True)
def _few_cells(monkeypatch):
    monkeypatch.setattr(components, "FEW_CELLS", FEW)


@pytest.fixture(scope="module")
def counts_NG():
    """Three programmes over two datasets of different means; gene 7 is never expressed."""
    rng = np.random.default_rng(0)
    log_rates = rng.normal(0, 1, (CELLS, 3)) @ rng.normal(0, 0.7, (3, GENES)) + rng.normal(0, 1, GENES)
    log_rates[: CELLS // 3] += rng.normal(0, 1, GENES)
    counts = rng.poisson(np.exp(np.minimum(log_rates, 4)))
    counts[:, 7], counts[:, 0] = 0, counts[:, 0] + 1
    return counts


def views_of(counts_NG, order=None):
    """All that each cell expresses, in two batches."""
    dataset_N = (np.arange(CELLS) < CELLS // 3).astype(np.int32)
    features = np.tile(np.arange(GENES, dtype=np.int32), (CELLS, 1))
    library_N = counts_NG.sum(axis=1)
    values = np.log1p(counts_NG / library_N[:, None] * LIBRARY_SCALE).astype(np.float32)
    leaves = features, values, counts_NG.astype(np.float32), counts_NG > 0, library_N.astype(np.float32)
    cells = np.arange(CELLS) if order is None else order
    for part in np.split(cells, [50]):
        yield TokenBatch(*(leaf[part] for leaf in leaves), part.astype(np.int32), dataset_N[part])


def reference(counts_NG):
    """Leading axes, singular values and noise of the dense matrix, centred in each dataset; and each gene's gain."""
    views = list(views_of(counts_NG))
    values = np.concatenate([view.values_BL for view in views]).astype(np.float64)
    dataset = np.concatenate([view.dataset_B for view in views])
    centred = values - np.stack([values[dataset == d].mean(axis=0) for d in (0, 1)])[dataset]
    deviation = np.sqrt(np.mean(centred**2, axis=0)) + STEADYING
    assert values.max() < CLIP * deviation.max()
    gain = np.sqrt(reference_signal(counts_NG, dataset)) / deviation
    weight = np.maximum(np.where(dataset == 0, CELLS - CELLS // 3, CELLS // 3), FEW) ** -0.5
    _, strength, axes = np.linalg.svd(weight[:, None] * centred * gain, full_matrices=False)
    noise = np.sum(strength[RANK:] ** 2) / (min(CELLS, np.sum(gain > 0)) - RANK)
    return axes[:RANK].T * (1 - noise / strength[:RANK] ** 2) ** 2, gain


def reference_signal(counts_NG, dataset_N):
    """1 - 1 / (mean squared Pearson residual within datasets), 0 where that is not positive."""
    counts = counts_NG[:, :].astype(np.float64)
    expected = np.zeros_like(counts)
    for d in (0, 1):
        mine = dataset_N == d
        share = counts[mine].sum(axis=0) / counts[mine].sum()
        expected[mine] = counts[mine].sum(axis=1, keepdims=True) * share
    squares = np.minimum((counts - expected) ** 2 / np.maximum(expected, 1e-9), CELLS)
    return np.maximum(1 - 1 / np.maximum(squares.mean(axis=0), 1e-9), 0)


def test_rows_are_filtered_principal_axes(counts_NG):
    ours = fit_components(read_cells(views_of(counts_NG), GENES), RANK, 0.75)
    axes_GK, gain_G = reference(counts_NG)
    signs = np.sign(np.sum(axes_GK * ours.rows_GK, axis=0))
    scale = np.linalg.norm(ours.rows_GK) / np.linalg.norm(axes_GK)
    np.testing.assert_allclose(ours.rows_GK, axes_GK * signs * scale, atol=1e-4 * scale)
    enters = gain_G > 0
    assert 0 < enters.sum() < GENES
    found_G = np.exp(ours.log_gain_G[enters])
    np.testing.assert_allclose(found_G / found_G[0], gain_G[enters] / gain_G[enters][0], rtol=1e-4)
    assert (ours.log_gain_G[~enters] == np.float32(SILENT)).all()
    assert not ours.rows_GK[~enters].any()


def test_only_the_most_variable_genes_enter(counts_NG, monkeypatch):
    monkeypatch.setattr(components, "VARIABLE_GENES", 10)
    few = fit_components(read_cells(views_of(counts_NG), GENES), RANK, 0.75)
    signal_G = reference_signal(counts_NG, (np.arange(CELLS) < CELLS // 3).astype(int))
    np.testing.assert_array_equal(np.flatnonzero(few.log_gain_G > SILENT), np.sort(np.argsort(-signal_G)[:10]))


def test_the_profile_of_the_fitted_cells_is_centred_and_of_unit_size(counts_NG):
    ours = fit_components(read_cells(views_of(counts_NG), GENES), RANK, 1.0)
    centre_MK = np.zeros((4, RANK), np.float32)
    centre_MK[0] = ours.mean_weight_G @ ours.rows_GK
    variables = {"log_gain": ours.log_gain_G, "scale": np.ones(4, np.float32), "centre": centre_MK}
    profiles = []
    for view in views_of(counts_NG):
        rows_BLK = jnp.asarray(ours.rows_GK)[view.features_BL]
        hidden = jnp.zeros_like(view.mask_BL)
        profiles.append(LinearReadout(GENES).apply({"params": variables}, view, hidden, rows_BLK, "rna", None))
    profile_NK = np.concatenate(jax.device_get(profiles))
    np.testing.assert_allclose(profile_NK.mean(axis=0), 0, atol=1e-5)
    assert np.mean(profile_NK.var(axis=0)) == pytest.approx(1.0, rel=1e-4)


def test_order_of_cells_changes_nothing_but_rounding(counts_NG):
    order = np.random.default_rng(1).permutation(CELLS)
    for ours, theirs in zip(
        fit_components(read_cells(views_of(counts_NG), GENES), RANK, 0.75),
        fit_components(read_cells(views_of(counts_NG, order), GENES), RANK, 0.75),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


def test_the_same_cells_give_the_same_bits(counts_NG):
    one, again = (fit_components(read_cells(views_of(counts_NG), GENES), RANK, 0.75) for _ in range(2))
    for ours, theirs in zip(one, again, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_fewer_cells_than_components(counts_NG):
    few = [TokenBatch(*(leaf[:3] for leaf in next(views_of(counts_NG))[:7]))]
    ours = fit_components(read_cells(few, GENES), RANK, 0.75)
    assert ours.rows_GK.shape[0] == GENES
    assert ours.rows_GK.shape[1] <= 2
    assert all(np.isfinite(leaf).all() for leaf in ours)
