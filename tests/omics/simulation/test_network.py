"""The network keeps its promises: it is as drawn, cell types are its attractors, and cells stay around them."""

import dataclasses

import numpy as np
import pytest

from mofm.errors import InputError
from mofm.omics.simulate import simulate
from mofm.omics.simulation.config import SimulationConfig
from mofm.omics.simulation.network import draw_cell_types, draw_network, find_attractors, relax, sample_states


def test_more_genes_keep_the_tf_dynamics(small):
    (few, attractors), (many, same_attractors) = (
        draw_cell_types(dataclasses.replace(small, genes=genes)) for genes in (200, 300)
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


def test_a_melted_switch_has_no_cell_types(small):
    config = dataclasses.replace(small, switch_strength=0.2)
    assert find_attractors(draw_network(config), np.random.default_rng(0)) is None
    with pytest.raises(InputError, match="4 stable cell types"):
        simulate(config)


def test_many_cell_types_fit():
    _, attractors_CT = draw_cell_types(SimulationConfig(tfs=60, cell_types=40, types_per_lineage=5))
    assert len(np.unique(attractors_CT > 0.5, axis=0)) == 40


def test_cells_stay_with_their_type_and_fluctuate(varied):
    adata = varied()
    label_N = adata.obs["cell_type"].cat.codes.to_numpy()
    attractors_CT = adata.uns["simulation"]["attractors"]
    activity_NT = adata.obsm["tf_activity"]
    distance_NC = np.linalg.norm(activity_NT[:, None] - attractors_CT, axis=2)
    assert np.mean(distance_NC.argmin(axis=1) == label_N) > 0.97
    assert np.mean((activity_NT - attractors_CT[label_N]).std(axis=0)) > 0.05


def test_without_noise_cells_rest_on_their_attractor(small):
    network, attractors_CT = draw_cell_types(small)
    rested_TC = sample_states(network, attractors_CT.T, 0.0, np.random.default_rng(0))
    np.testing.assert_allclose(rested_TC, attractors_CT.T, atol=1e-8)


def test_tf_degree_is_heavy_tailed_and_most_edges_activate():
    network = draw_network(SimulationConfig(genes=3000))
    targets_T = np.diff(network.effects_GT.tocsc().indptr)
    assert targets_T.min() > 0
    assert targets_T.max() > 3 * np.median(targets_T)
    assert 0.65 < np.mean(network.effects_GT.data > 0) < 0.75


def test_unregulated_genes_exist_and_tfs_are_not_targets_of_effects(small):
    network = draw_network(small)
    regulators_G = np.diff(network.effects_GT.indptr)
    assert (regulators_G[network.tf_genes_T] == 0).all()
    assert np.sum(regulators_G == 0) == 20 + round(0.2 * 180)


def test_grn_rows_are_tfs_and_hold_every_edge(small):
    network = draw_network(small)
    grn = network.grn()
    assert grn.nnz == network.weights_TT.nnz + network.effects_GT.nnz
    rows = np.flatnonzero(np.diff(grn.indptr))
    assert np.isin(rows, network.tf_genes_T).all()
    target, tf = (axis[0] for axis in network.effects_GT.nonzero())
    assert grn[network.tf_genes_T[tf], target] == np.float32(network.effects_GT[target, tf])
    target, tf = (axis[-1] for axis in network.weights_TT.nonzero())
    assert grn[network.tf_genes_T[tf], network.tf_genes_T[target]] == np.float32(network.weights_TT[target, tf])


def test_every_cell_type_has_cells_even_where_proportions_are_uneven(varied):
    counts = varied(cells=2000, type_concentration=0.05).obs["cell_type"].value_counts()
    assert counts.min() > 2000 * 0.2 / 4 / 2
    assert counts.max() > 2 * counts.min()
