"""Expression follows the network, and the noise of counting stays technical, in the strength asked for."""

import dataclasses

import anndata
import numpy as np
import pytest

from mofm.omics.simulate import simulate
from mofm.omics.simulation.config import SimulationConfig
from mofm.omics.simulation.network import draw_network
from mofm.omics.simulation.rna import expression_rates, sample_counts


def test_an_edge_is_the_log_fold_change_of_its_target(small):
    network = draw_network(small)
    off_T = np.zeros((20, 1))
    reference = np.flatnonzero(np.diff(network.effects_GT.indptr) == 0)
    reference = np.setdiff1d(reference, network.tf_genes_T)[0]  # unregulated: cancels the normalisation to shares
    for tf in range(3):
        on_T = off_T.copy()
        on_T[tf] = 1
        change_G = (np.log(expression_rates(network, on_T)) - np.log(expression_rates(network, off_T)))[0]
        expected_G = network.effects_GT[:, [tf]].toarray().ravel()
        expected_G[network.tf_genes_T[tf]] = 2.0
        np.testing.assert_allclose(change_G - change_G[reference], expected_G, atol=1e-9)


def sign_agreement(values_NG: np.ndarray, activity_NT: np.ndarray, effect_TG: np.ndarray) -> tuple[float, float]:
    """Share of strong edges whose TF-target correlation has the edge's sign; the same for non-edges of equal degree."""
    z_NT = (activity_NT - activity_NT.mean(axis=0)) / activity_NT.std(axis=0)
    z_NG = (values_NG - values_NG.mean(axis=0)) / (values_NG.std(axis=0) + 1e-9)
    correlation_TG = z_NT.T @ z_NG / len(z_NT)
    rng = np.random.default_rng(0)
    agree, agree_elsewhere = [], []
    for tf, gene in zip(*np.nonzero(np.abs(effect_TG) > 0.3), strict=True):
        other = rng.choice(np.flatnonzero((effect_TG[tf] == 0) & (effect_TG != 0).any(axis=0)))
        agree.append(correlation_TG[tf, gene] * effect_TG[tf, gene] > 0)
        agree_elsewhere.append(correlation_TG[tf, other] * effect_TG[tf, gene] > 0)
    assert len(agree) > 200
    return np.mean(agree), np.mean(agree_elsewhere)


def test_edges_carry_their_effect_and_non_edges_do_not():
    adata = simulate(SimulationConfig(cells=1500, genes=600))
    network = draw_network(SimulationConfig(cells=1500, genes=600))
    activity_NT = adata.obsm["tf_activity"].astype(np.float64)
    effect_TG = network.effects_GT.toarray().T
    rate_NG = np.log(expression_rates(network, activity_NT.T))
    counts_NG = np.log1p(adata.X.toarray() / adata.obs["n_counts"].to_numpy()[:, None] * 1e4)

    edges, elsewhere = sign_agreement(rate_NG, activity_NT, effect_TG)
    assert edges > 0.85
    assert abs(elsewhere - 0.5) < 0.15
    edges, elsewhere = sign_agreement(counts_NG, activity_NT, effect_TG)
    assert edges > 0.7
    assert abs(elsewhere - 0.5) < 0.15


def test_tf_mrna_follows_its_activity(varied):
    adata = varied(library_size=20000.0)
    tf_counts_NT = np.log1p(adata.X.toarray()[:, adata.var_names.get_indexer(adata.uns["simulation"]["tf_names"])])
    correlation_T = [
        np.corrcoef(tf_counts_NT[:, t], adata.obsm["tf_activity"][:, t])[0, 1]
        for t in np.flatnonzero(tf_counts_NT.std(axis=0) > 0)
    ]
    assert np.mean(correlation_T) > 0.4


def test_library_size_and_its_spread_follow_the_config(varied):
    exact = {"dropout": 0.0, "batch_effect": 0.0, "overdispersion": 0.0, "expression_sd": 1.0}
    narrow, wide = (
        varied(**exact, library_size=5000.0, library_size_sd=sd).obs["n_counts"].to_numpy() for sd in (0.0, 0.6)
    )
    assert abs(np.median(narrow) / 5000 - 1) < 0.02
    assert abs(np.median(wide) / 5000 - 1) < 0.15
    assert np.log(narrow).std() < 0.03
    assert abs(np.log(wide).std() - 0.6) < 0.1


def test_dropout_only_removes_in_every_block(small, monkeypatch):
    monkeypatch.setattr("mofm.omics.simulation.rna._COUNT_BLOCK", 200 * 150)
    kept, without = (simulate(dataclasses.replace(small, dropout=dropout)).X.toarray() for dropout in (0.8, 0.0))
    removed = (without > 0) & (kept == 0)
    np.testing.assert_array_equal(kept[~removed], without[~removed])
    assert removed.sum() > 0.1 * (without > 0).sum()


def test_dropout_takes_the_weak_first():
    expected_NG = np.broadcast_to([0.1, 1.0, 9.0], (20_000, 3))
    kept, without = (
        sample_counts(expected_NG, 0.5, dropout, np.random.default_rng(0), np.random.default_rng(1)).toarray()
        for dropout in (0.8, 0.0)
    )
    lost_G = 1 - (kept > 0).sum(axis=0) / (without > 0).sum(axis=0)
    np.testing.assert_allclose(lost_G, 0.8 / np.array([1.1, 2.0, 10.0]), atol=0.04)


@pytest.mark.parametrize("overdispersion", [0.0, 0.5])
def test_counts_have_the_mean_and_variance_of_the_negative_binomial(overdispersion):
    expected_NG = np.full((50_000, 1), 4.0)
    rngs = np.random.default_rng(0), np.random.default_rng(1)
    counts = sample_counts(expected_NG, overdispersion, 0.0, *rngs).toarray()
    assert abs(counts.mean() / 4 - 1) < 0.02
    assert abs(counts.var() / (4 + overdispersion * 16) - 1) < 0.05


def batch_log_ratio(adata: anndata.AnnData) -> np.ndarray:
    """Log ratio of the two batches' mean shares of each well-expressed gene, within the largest cell type."""
    of_type = (adata.obs["cell_type"] == adata.obs["cell_type"].mode()[0]).to_numpy()
    counts_NG, first = adata.X.toarray()[of_type], (adata.obs["batch"] == "batch_1").to_numpy()[of_type]
    share_NG = counts_NG / counts_NG.sum(axis=1, keepdims=True)
    ratio_G = share_NG[first].mean(axis=0) / share_NG[~first].mean(axis=0)
    return np.log(ratio_G[counts_NG.mean(axis=0) > 5])


def test_batch_effect_is_there_in_the_strength_asked_for(varied):
    plenty = {"library_size": 20000.0, "dropout": 0.0, "overdispersion": 0.0, "batch_concentration": 1e4}
    strong, none = (batch_log_ratio(varied(**plenty, batch_effect=strength)) for strength in (0.8, 0.0))
    assert abs(strong.std() / (0.8 * np.sqrt(2)) - 1) < 0.25
    assert none.std() < 0.15


def test_without_batch_effect_batches_are_mere_names(varied):
    one, three = (varied(batch_effect=0.0, batches=batches) for batches in (1, 3))
    np.testing.assert_array_equal(one.X.toarray(), three.X.toarray())
