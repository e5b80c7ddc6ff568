"""The linear start against a dense reference, and the profile that the model makes of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

from mofm.axes import MODALITIES
from mofm.batch import LIBRARY_SCALE, FeatureSpace, TokenBatch
from mofm.linear import components
from mofm.linear.components import CLIP, FULL_CELLS, SILENT, STEADYING, fit_components, read_cells
from mofm.linear.profiles import fit_profile, make_reader, read_profiles
from mofm.nn.linear import linear_profile
from mofm.nn.readout import LinearReadout

GENES, CELLS, RANK = 30, 120, 5
FEW = 50
"""More than the cells of the smaller data set, fewer than those of the larger."""


@pytest.fixture(autouse=True)
def _few_cells(monkeypatch):
    monkeypatch.setattr(components, "FEW_CELLS", FEW)


@pytest.fixture(scope="module")
def counts_NG():
    """Three programmes over two datasets of different means; gene 7 is never expressed, genes 11 to 14 in the larger alone."""
    rng = np.random.default_rng(0)
    log_rates = rng.normal(0, 1, (CELLS, 3)) @ rng.normal(0, 0.7, (3, GENES)) + rng.normal(0, 1, GENES)
    log_rates[: CELLS // 3] += rng.normal(0, 1, GENES)
    counts = rng.poisson(np.exp(np.minimum(log_rates, 4)))
    counts[:, 7], counts[:, 0] = 0, counts[:, 0] + 1
    counts[: CELLS // 3, 11:15] = 0
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
    deviation = np.sqrt(np.sum(centred**2, axis=0) / measured_in(counts_NG, dataset).sum(axis=0)) + STEADYING
    assert values.max() < CLIP * deviation.max()
    weight = np.maximum(np.where(dataset == 0, CELLS - CELLS // 3, CELLS // 3), FEW) ** -0.5
    signal, few = reference_signal(counts_NG, dataset), FULL_CELLS / told_by(counts_NG, dataset, weight**2)
    gain = np.sqrt(signal * (1 + few) / (signal + few)) / deviation
    _, strength, axes = np.linalg.svd(weight[:, None] * centred * gain, full_matrices=False)
    noise = np.sum(strength[RANK:] ** 2) / (min(CELLS, np.sum(gain > 0)) - RANK)
    return axes[:RANK].T * (1 - noise / strength[:RANK] ** 2) ** 2, gain


def measured_in(counts_NG, dataset_N):
    """Whether a cell is of a dataset in which a gene is anywhere expressed; a gene of none is of all."""
    of_NG = np.zeros(counts_NG.shape, bool)
    for gene in range(GENES):
        of_NG[:, gene] = np.isin(dataset_N, np.unique(dataset_N[counts_NG[:, gene] > 0]))
    return of_NG | ~of_NG.any(axis=0)


def told_by(counts_NG, dataset_N, weight_N):
    """Kish's effective number of those cells."""
    weight_NG = weight_N[:, None] * measured_in(counts_NG, dataset_N)
    return weight_NG.sum(axis=0) ** 2 / (weight_NG**2).sum(axis=0)


def reference_signal(counts_NG, dataset_N):
    """1 - 1 / (mean squared Pearson residual within datasets that express it), 0 where that is not positive."""
    counts = counts_NG[:, :].astype(np.float64)
    expected = np.zeros_like(counts)
    for d in (0, 1):
        mine = dataset_N == d
        share = counts[mine].sum(axis=0) / counts[mine].sum()
        expected[mine] = counts[mine].sum(axis=1, keepdims=True) * share
    squares = np.minimum((counts - expected) ** 2 / np.maximum(expected, 1e-9), CELLS)
    mean_G = squares.sum(axis=0) / measured_in(counts_NG, dataset_N).sum(axis=0)
    return np.maximum(1 - 1 / np.maximum(mean_G, 1e-9), 0)


def test_rows_are_filtered_principal_axes(counts_NG):
    ours = fit_components(read_cells(views_of(counts_NG), GENES), RANK)
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


def test_a_small_data_set_of_other_genes_leaves_a_large_one_its_components(monkeypatch):
    """Noise of few cells would be axes stronger than what many cells hold of structure."""
    rng = np.random.default_rng(1)
    structure = rng.normal(0, 1, (1_000, 6)) @ rng.normal(0, 0.25, (6, 80))
    large, small = rng.poisson(0.7 * np.exp(structure)), rng.poisson(rng.gamma(3.0, 0.3, (60, 80)))
    counts = scipy.sparse.block_diag([large, small], format="csr").astype(float)
    values = counts.copy()
    library_N = np.asarray(counts.sum(axis=1)).ravel()
    values.data = np.log1p(values.data / np.repeat(library_N, np.diff(values.indptr)) * LIBRARY_SCALE)
    cells = components.Cells(values, counts, library_N, np.repeat([0, 1], [1_000, 60]))

    def axes_of_the_large(fitted):
        square_GK = fitted.rows_GK**2
        return int(np.sum(square_GK[:80].sum(axis=0) > square_GK[80:].sum(axis=0)))

    assert axes_of_the_large(fit_components(cells, 8)) >= 6
    monkeypatch.setattr(components, "_telling_cells", lambda expressed_MG, *_: np.full(expressed_MG.shape[1], 1_060.0))
    assert axes_of_the_large(fit_components(cells, 8)) < 6


def test_only_the_most_variable_genes_enter(counts_NG, monkeypatch):
    monkeypatch.setattr(components, "VARIABLE_GENES", 10)
    few = fit_components(read_cells(views_of(counts_NG), GENES), RANK)
    signal_G = reference_signal(counts_NG, (np.arange(CELLS) < CELLS // 3).astype(int))
    np.testing.assert_array_equal(np.flatnonzero(few.log_gain_G > SILENT), np.sort(np.argsort(-signal_G)[:10]))


def test_the_profile_of_the_fitted_cells_is_centred_and_of_unit_size(counts_NG):
    ours = fit_components(read_cells(views_of(counts_NG), GENES), RANK)
    average_GM = np.zeros((GENES, 4), np.float32)
    average_GM[:, 0] = ours.mean_weight_G
    scale_MK = np.full((4, RANK), ours.scale)
    variables = {"log_gain": ours.log_gain_G, "scale": scale_MK, "average": average_GM}
    profiles = []
    for view in views_of(counts_NG):
        rows_BLK = jnp.asarray(ours.rows_GK)[view.features_BL]
        hidden = jnp.zeros_like(view.mask_BL)
        given = (view, hidden, rows_BLK, jnp.asarray(ours.rows_GK), "rna", None)
        profiles.append(LinearReadout(GENES).apply({"params": variables}, *given))
    profile_NK = np.concatenate(jax.device_get(profiles))
    np.testing.assert_allclose(profile_NK.mean(axis=0), 0, atol=1e-5)
    reader = make_reader("rna", None, ours, None)
    ours_NK = read_profiles(list(views_of(counts_NG)), "rna", reader).profile_NK
    on_device_NK = np.concatenate([linear_profile(reader, view, "rna") for view in views_of(counts_NG)])
    np.testing.assert_allclose(on_device_NK[:, :RANK], profile_NK, atol=1e-4)
    np.testing.assert_allclose(ours_NK, on_device_NK, atol=1e-4)
    log_depth_N = np.log(counts_NG.sum(axis=1))
    np.testing.assert_allclose(ours_NK[:, RANK], log_depth_N - log_depth_N.mean(), atol=1e-4)
    assert np.mean(profile_NK.var(axis=0)) == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("modality", ["atac", "methylation"])
def test_another_modality_varies_no_more_than_rna_in_any_component(counts_NG, modality):
    """Each of its features is a gene, so its profiles are those of RNA but for a component made noisy."""
    ours = fit_components(read_cells(views_of(counts_NG), GENES), RANK)
    noisy = ours._replace(rows_GK=ours.rows_GK * np.array([1, 1, 6, 1, 1], np.float32))
    genes, ones, zeros = np.arange(GENES, dtype=np.int32)[:, None], np.ones((GENES, 1), np.float32), np.zeros(GENES)
    space = FeatureSpace(genes, ones, np.zeros((GENES, 5)), zeros.astype(np.int32), zeros, zeros)
    views = [view._replace(totals_BL=view.counts_BL) for view in views_of(counts_NG)]
    profile = fit_profile(views, modality, space, noisy)
    scale_MK, average_GM = np.zeros((4, RANK), np.float32), np.zeros((GENES, 4), np.float32)
    which = MODALITIES.index(modality)
    scale_MK[which], average_GM[:, which] = profile.scale_K, profile.mean_weight_G
    variables = {"log_gain": noisy.log_gain_G, "scale": scale_MK, "average": average_GM}
    found_NK = np.concatenate([
        LinearReadout(GENES).apply(
            {"params": variables}, view, jnp.zeros_like(view.mask_BL), jnp.asarray(noisy.rows_GK)[view.features_BL],
            jnp.asarray(noisy.rows_GK), modality, jax.tree.map(jnp.asarray, space),
        )
        for view in views
    ])  # fmt: skip
    np.testing.assert_allclose(found_NK.mean(axis=0), 0, atol=1e-4)
    reader = make_reader(modality, space, noisy, profile)
    read_NR = read_profiles(views, modality, reader).profile_NK
    np.testing.assert_allclose(read_NR[:, :RANK], found_NK, atol=1e-4)
    on_device_NR = [linear_profile(reader, view, modality) for view in views]
    np.testing.assert_allclose(np.concatenate(on_device_NR), read_NR, atol=1e-4)
    assert (found_NK.std(axis=0) <= ours.deviation_K * (1 + 1e-4)).all()
    assert found_NK.std(axis=0)[2] == pytest.approx(ours.deviation_K[2], rel=1e-4)
    assert (np.abs(profile.scale_K) <= np.abs(profile.scale) * (1 + 1e-6)).all()
    assert np.sign(profile.scale_K).tolist() == [-1.0 if modality == "methylation" else 1.0] * RANK


def test_order_of_cells_changes_nothing_but_rounding(counts_NG):
    order = np.random.default_rng(1).permutation(CELLS)
    for ours, theirs in zip(
        fit_components(read_cells(views_of(counts_NG), GENES), RANK),
        fit_components(read_cells(views_of(counts_NG, order), GENES), RANK),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


def test_the_same_cells_give_the_same_bits(counts_NG):
    one, again = (fit_components(read_cells(views_of(counts_NG), GENES), RANK) for _ in range(2))
    for ours, theirs in zip(one, again, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_fewer_cells_than_components(counts_NG):
    few = [TokenBatch(*(leaf[:3] for leaf in next(views_of(counts_NG))[:7]))]
    ours = fit_components(read_cells(few, GENES), RANK)
    assert ours.rows_GK.shape[0] == GENES
    assert ours.rows_GK.shape[1] <= 2
    assert all(np.isfinite(leaf).all() for leaf in ours)
