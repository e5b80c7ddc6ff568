"""The simulator keeps its promises: a known network, cell types that are attractors, and noise that stays technical."""

import dataclasses
import functools
import json

import anndata
import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from mofm.errors import InputError
from mofm.omics.simulate import (
    _STAGES,
    SimulationConfig,
    _stream,
    draw_cell_types,
    draw_network,
    expression_rates,
    find_attractors,
    relax,
    sample_counts,
    sample_states,
    simulate,
)

SMALL = SimulationConfig(cells=400, genes=200, tfs=20, cell_types=4, types_per_lineage=2)
"""Two lineages of two types: the smallest network with both kinds of switches."""

simulated = functools.cache(simulate)


def varied(**changes) -> anndata.AnnData:
    return simulated(dataclasses.replace(SMALL, **changes))


def dense(adata: anndata.AnnData) -> np.ndarray:
    return adata.X.toarray()


def assert_same_network(one: anndata.AnnData, other: anndata.AnnData):
    np.testing.assert_array_equal(one.varp["grn"].toarray(), other.varp["grn"].toarray())
    np.testing.assert_array_equal(one.uns["simulation"]["attractors"], other.uns["simulation"]["attractors"])
    np.testing.assert_array_equal(one.uns["simulation"]["tf_names"], other.uns["simulation"]["tf_names"])


def test_the_parts_have_the_promised_form():
    adata = varied()
    assert adata.shape == (400, 200)
    assert sparse.issparse(adata.X)
    assert adata.X.format == "csr"
    assert adata.X.dtype == np.int32
    assert adata.X.has_canonical_format
    assert adata.X.data.min() > 0
    assert adata.obs_names.is_unique
    assert adata.var_names[0] == "SIMG00001"
    assert list(adata.obs["cell_type"].cat.categories) == ["type_1", "type_2", "type_3", "type_4"]
    assert set(adata.obs["batch"]) == {"batch_1", "batch_2"}
    np.testing.assert_array_equal(adata.obs["n_counts"], dense(adata).sum(axis=1))
    assert adata.obsm["tf_activity"].shape == (400, 20)
    assert adata.obsm["tf_activity"].dtype == np.float32
    assert adata.varp["grn"].format == "csr"
    assert set(adata.uns["simulation"]["tf_names"]) == set(adata.var_names[adata.var["is_tf"]])
    assert adata.uns["simulation"]["attractors"].shape == (4, 20)


def test_same_config_same_bits_other_seed_other_cells():
    one, again, other = varied(), simulate(dataclasses.replace(SMALL)), varied(seed=1)
    np.testing.assert_array_equal(dense(one), dense(again))
    np.testing.assert_array_equal(one.obsm["tf_activity"], again.obsm["tf_activity"])
    assert one.obs.equals(again.obs)
    assert_same_network(one, again)
    assert not np.array_equal(dense(one), dense(other))
    assert not np.array_equal(one.varp["grn"].toarray(), other.varp["grn"].toarray())


@pytest.mark.parametrize(
    "changes",
    [{"dropout": 0.9}, {"library_size": 300.0}, {"overdispersion": 0.0}, {"batch_effect": 1.0}, {"batches": 3}],
    ids=lambda changes: next(iter(changes)),
)
def test_technical_noise_leaves_the_biology(changes):
    one, other = varied(), varied(**changes)
    assert not np.array_equal(dense(one), dense(other))
    assert_same_network(one, other)
    np.testing.assert_array_equal(one.obsm["tf_activity"], other.obsm["tf_activity"])
    assert one.obs["cell_type"].equals(other.obs["cell_type"])


def test_more_cells_keep_the_network():
    assert_same_network(varied(), varied(cells=500))


def test_more_genes_keep_the_tf_dynamics():
    (few, attractors), (many, same_attractors) = (
        draw_cell_types(dataclasses.replace(SMALL, genes=genes)) for genes in (200, 300)
    )
    np.testing.assert_array_equal(few.weights_TT.toarray(), many.weights_TT.toarray())
    np.testing.assert_array_equal(attractors, same_attractors)


@pytest.mark.parametrize("seed", range(3))
def test_cell_types_are_stable_fixed_points(seed):
    network, attractors_CT = draw_cell_types(SimulationConfig(seed=seed))
    weights_TT = network.weights_TT.toarray()
    for state_T in attractors_CT:
        production_T = 1 / (1 + np.exp(-(weights_TT @ state_T + network.bias_T)))
        np.testing.assert_allclose(production_T, state_T, atol=1e-8)
        jacobian_TT = (production_T * (1 - production_T))[:, None] * weights_TT - np.eye(len(state_T))
        assert np.linalg.eigvals(jacobian_TT).real.max() < -0.1
    pushed_TC = attractors_CT.T + np.random.default_rng(seed).normal(0, 0.05, attractors_CT.T.shape)
    np.testing.assert_allclose(relax(network, pushed_TC), attractors_CT.T, atol=1e-6)


def test_cell_types_are_distinct_and_sisters_share_their_lineage():
    _, attractors_CT = draw_cell_types(SimulationConfig())
    lineage_C = np.arange(8) // 3
    distance_CC = np.abs(attractors_CT[:, None] - attractors_CT).max(axis=2)
    assert distance_CC[~np.eye(8, dtype=bool)].min() > 0.5
    np.testing.assert_array_equal(attractors_CT[:, :3] > 0.5, lineage_C[:, None] == np.arange(3))


def test_a_melted_switch_has_no_cell_types():
    config = dataclasses.replace(SMALL, switch_strength=0.2)
    assert find_attractors(draw_network(config), np.random.default_rng(0)) is None
    with pytest.raises(InputError, match="4 stable cell types"):
        simulate(config)


def test_many_cell_types_fit():
    _, attractors_CT = draw_cell_types(SimulationConfig(tfs=60, cell_types=40, types_per_lineage=5))
    assert len(np.unique(attractors_CT > 0.5, axis=0)) == 40


def test_cells_stay_with_their_type_and_fluctuate():
    adata = varied()
    label_N = adata.obs["cell_type"].cat.codes.to_numpy()
    attractors_CT = adata.uns["simulation"]["attractors"]
    activity_NT = adata.obsm["tf_activity"]
    distance_NC = np.linalg.norm(activity_NT[:, None] - attractors_CT, axis=2)
    assert np.mean(distance_NC.argmin(axis=1) == label_N) > 0.97
    assert np.mean((activity_NT - attractors_CT[label_N]).std(axis=0)) > 0.05


def test_without_noise_cells_rest_on_their_attractor():
    network, attractors_CT = draw_cell_types(SMALL)
    rested_TC = sample_states(network, attractors_CT.T, 0.0, np.random.default_rng(0))
    np.testing.assert_allclose(rested_TC, attractors_CT.T, atol=1e-8)


def test_tf_degree_is_heavy_tailed_and_most_edges_activate():
    network = draw_network(SimulationConfig(genes=3000))
    targets_T = np.diff(network.effects_GT.tocsc().indptr)
    assert targets_T.min() > 0
    assert targets_T.max() > 3 * np.median(targets_T)
    assert 0.65 < np.mean(network.effects_GT.data > 0) < 0.75


def test_unregulated_genes_exist_and_tfs_are_not_targets_of_effects():
    network = draw_network(SMALL)
    regulators_G = np.diff(network.effects_GT.indptr)
    assert (regulators_G[network.tf_genes_T] == 0).all()
    assert np.sum(regulators_G == 0) == 20 + round(0.2 * 180)


def test_grn_rows_are_tfs_and_hold_every_edge():
    network = draw_network(SMALL)
    grn = network.grn()
    assert grn.nnz == network.weights_TT.nnz + network.effects_GT.nnz
    rows = np.flatnonzero(np.diff(grn.indptr))
    assert np.isin(rows, network.tf_genes_T).all()
    target, tf = (axis[0] for axis in network.effects_GT.nonzero())
    assert grn[network.tf_genes_T[tf], target] == np.float32(network.effects_GT[target, tf])
    target, tf = (axis[-1] for axis in network.weights_TT.nonzero())
    assert grn[network.tf_genes_T[tf], network.tf_genes_T[target]] == np.float32(network.weights_TT[target, tf])


def test_an_edge_is_the_log_fold_change_of_its_target():
    network = draw_network(SMALL)
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
    adata = simulated(SimulationConfig(cells=1500, genes=600))
    network = draw_network(SimulationConfig(cells=1500, genes=600))
    activity_NT = adata.obsm["tf_activity"].astype(np.float64)
    effect_TG = network.effects_GT.toarray().T
    rate_NG = np.log(expression_rates(network, activity_NT.T))
    counts_NG = np.log1p(dense(adata) / adata.obs["n_counts"].to_numpy()[:, None] * 1e4)

    edges, elsewhere = sign_agreement(rate_NG, activity_NT, effect_TG)
    assert edges > 0.85
    assert abs(elsewhere - 0.5) < 0.15
    edges, elsewhere = sign_agreement(counts_NG, activity_NT, effect_TG)
    assert edges > 0.7
    assert abs(elsewhere - 0.5) < 0.15


def test_tf_mrna_follows_its_activity():
    adata = varied(library_size=20000.0)
    tf_counts_NT = np.log1p(dense(adata)[:, adata.var_names.get_indexer(adata.uns["simulation"]["tf_names"])])
    correlation_T = [
        np.corrcoef(tf_counts_NT[:, t], adata.obsm["tf_activity"][:, t])[0, 1]
        for t in np.flatnonzero(tf_counts_NT.std(axis=0) > 0)
    ]
    assert np.mean(correlation_T) > 0.4


def test_library_size_and_its_spread_follow_the_config():
    exact = {"dropout": 0.0, "batch_effect": 0.0, "overdispersion": 0.0, "expression_sd": 1.0}
    narrow, wide = (
        varied(**exact, library_size=5000.0, library_size_sd=sd).obs["n_counts"].to_numpy() for sd in (0.0, 0.6)
    )
    assert abs(np.median(narrow) / 5000 - 1) < 0.02
    assert abs(np.median(wide) / 5000 - 1) < 0.15
    assert np.log(narrow).std() < 0.03
    assert abs(np.log(wide).std() - 0.6) < 0.1


def test_no_two_stages_share_random_numbers():
    first_draws = [_stream(SMALL, stage, draw).random() for stage in _STAGES for draw in range(2)]
    assert len(set(first_draws)) == len(first_draws)


def test_dropout_only_removes_in_every_block(monkeypatch):
    monkeypatch.setattr("mofm.omics.simulate._COUNT_BLOCK", 200 * 150)
    kept, without = (dense(simulate(dataclasses.replace(SMALL, dropout=dropout))) for dropout in (0.8, 0.0))
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
    counts_NG, first = dense(adata)[of_type], (adata.obs["batch"] == "batch_1").to_numpy()[of_type]
    share_NG = counts_NG / counts_NG.sum(axis=1, keepdims=True)
    ratio_G = share_NG[first].mean(axis=0) / share_NG[~first].mean(axis=0)
    return np.log(ratio_G[counts_NG.mean(axis=0) > 5])


def test_batch_effect_is_there_in_the_strength_asked_for():
    plenty = {"library_size": 20000.0, "dropout": 0.0, "overdispersion": 0.0, "batch_concentration": 1e4}
    strong, none = (batch_log_ratio(varied(**plenty, batch_effect=strength)) for strength in (0.8, 0.0))
    assert abs(strong.std() / (0.8 * np.sqrt(2)) - 1) < 0.25
    assert none.std() < 0.15


def test_without_batch_effect_batches_are_mere_names():
    one, three = (varied(batch_effect=0.0, batches=batches) for batches in (1, 3))
    np.testing.assert_array_equal(dense(one), dense(three))


def test_cell_types_are_plain_in_the_tfs_and_hard_in_the_counts():
    adata = varied()
    label_N = adata.obs["cell_type"].cat.codes.to_numpy()
    train, test = np.arange(400) < 300, np.arange(400) >= 300

    def accuracy(features_NF):
        return (
            LogisticRegression(max_iter=300)
            .fit(features_NF[train], label_N[train])
            .score(features_NF[test], label_N[test])
        )

    log_counts_NG = np.log1p(dense(adata) / adata.obs["n_counts"].to_numpy()[:, None] * 1e4)
    assert accuracy(adata.obsm["tf_activity"]) > 0.97
    largest = np.bincount(label_N[test]).max() / test.sum()
    assert largest + 0.05 < accuracy(log_counts_NG) < accuracy(adata.obsm["tf_activity"])


def test_every_cell_type_has_cells_even_where_proportions_are_uneven():
    counts = varied(cells=2000, type_concentration=0.05).obs["cell_type"].value_counts()
    assert counts.min() > 2000 * 0.2 / 4 / 2
    assert counts.max() > 2 * counts.min()


def test_blocks_keep_cells_in_their_rows(monkeypatch):
    whole = varied(overdispersion=0.0)
    monkeypatch.setattr("mofm.omics.simulate._STATE_BLOCK", 150)
    monkeypatch.setattr("mofm.omics.simulate._COUNT_BLOCK", 200 * 70)
    blocked = simulate(dataclasses.replace(SMALL, overdispersion=0.0))
    assert np.corrcoef(whole.obs["n_counts"], blocked.obs["n_counts"])[0, 1] > 0.9  # depths have their own stream
    distance_NC = np.linalg.norm(blocked.obsm["tf_activity"][:, None] - blocked.uns["simulation"]["attractors"], axis=2)
    assert np.mean(distance_NC.argmin(axis=1) == blocked.obs["cell_type"].cat.codes) > 0.97


def test_h5ad_round_trip(tmp_path):
    adata = varied().copy()
    adata.write_h5ad(tmp_path / "simulated.h5ad")
    back = anndata.read_h5ad(tmp_path / "simulated.h5ad")
    np.testing.assert_array_equal(dense(back), dense(adata))
    assert back.X.dtype == np.int32
    assert_same_network(back, adata)
    np.testing.assert_array_equal(back.obsm["tf_activity"], adata.obsm["tf_activity"])
    assert list(back.obs["cell_type"]) == list(adata.obs["cell_type"])
    config = SimulationConfig(**back.uns["simulation"]["config"])
    assert config == SMALL
    assert json.loads(json.dumps(dataclasses.asdict(config))) == dataclasses.asdict(SMALL)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"cells": 0}, "cells=0 is out of range"),
        ({"cells": 10.5}, "cells=10.5 is not a whole number"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": True}, "seed=True is not a whole number"),
        ({"dropout": 1.5}, "dropout=1.5 is out of range, give at least 0 and at most 1"),
        ({"library_size": float("nan")}, "library_size=nan"),
        ({"batch_effect": "strong"}, "batch_effect='strong' is not a number"),
        ({"genes": 50}, "leaves no target"),
        ({"tfs": 8}, "raise tfs or lower cell_types"),
    ],
)
def test_unusable_configs_say_why_in_one_line(changes, says):
    with pytest.raises(InputError) as error:
        SimulationConfig(**changes)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_every_field_is_documented_and_checked():
    for field in dataclasses.fields(SimulationConfig):
        assert field.name in SimulationConfig.__doc__
        with pytest.raises(InputError, match=field.name):
            SimulationConfig(**{field.name: None})
