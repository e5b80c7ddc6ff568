"""Donors are biology, and proteins lag behind the expression of their genes."""

import dataclasses

import numpy as np

from mofm.omics.simulation.cells import draw_cells
from mofm.omics.simulation.network import draw_cell_types


def test_one_donor_has_no_effect_and_several_do(varied):
    one, strong = varied(), varied(donor_effect=1.0)
    np.testing.assert_array_equal(one.X.toarray(), strong.X.toarray())
    assert "donor" not in one.obs
    several = varied(donors=3)
    assert list(several.obs["donor"].cat.categories) == ["donor_1", "donor_2", "donor_3"]
    assert several.obs["donor"].nunique() == 3
    np.testing.assert_array_equal(several.obsm["tf_activity"], one.obsm["tf_activity"])
    assert not np.array_equal(several.X.toarray(), one.X.toarray())


def test_a_donor_shifts_its_genes(varied):
    plenty = {"library_size": 20000.0, "dropout": 0.0, "overdispersion": 0.0, "batch_effect": 0.0}
    adata = varied(**plenty, cells=1000, donors=2, donor_effect=0.8, donor_concentration=1e4)
    counts_NG, first = adata.X.toarray(), (adata.obs["donor"] == "donor_1").to_numpy()
    plain = counts_NG.mean(axis=0) > 5
    ratio_G = np.log(counts_NG[first].mean(axis=0) / counts_NG[~first].mean(axis=0), where=plain, out=np.zeros(200))
    shift_GD = adata.varm["donor_shift"]
    assert np.corrcoef(ratio_G[plain], (shift_GD[:, 0] - shift_GD[:, 1])[plain])[0, 1] > 0.95


def cells_with_lag(small, lag: float):
    config = dataclasses.replace(small, cells=1500, path_types=2)
    network, attractors_CT = draw_cell_types(config)
    surface_A = np.setdiff1d(np.flatnonzero(np.diff(network.effects_GT.indptr)), network.tf_genes_T)
    cells = draw_cells(config, network, attractors_CT, surface_A, lag)
    responses_AT = network.responses()[surface_A]
    rate_NA = np.exp(responses_AT @ (cells.activity_NT.T - 0.5)).T
    station_CA = np.exp(responses_AT @ (attractors_CT.T - 0.5)).T
    return cells, rate_NA, station_CA


def test_a_protein_without_lag_is_the_rate_and_with_lag_is_smoother(small):
    quick, rate_NA, _ = cells_with_lag(small, 0.1)
    slow, _, _ = cells_with_lag(small, 5.0)
    np.testing.assert_array_equal(quick.activity_NT, slow.activity_NT)
    np.testing.assert_allclose(quick.protein_NA, rate_NA, rtol=1e-4)
    resting = quick.label_N == 2
    spread = [np.log(cells.protein_NA[resting]).std(axis=0).mean() for cells in (quick, slow)]
    assert spread[1] < 0.7 * spread[0]


def test_on_the_path_a_protein_is_where_its_gene_was(small):
    cells, rate_NA, station_CA = cells_with_lag(small, 5.0)
    midway = np.abs(cells.pseudotime_N - 0.6) < 0.2
    change_A = np.log(station_CA[1] / station_CA[0])
    behind_A = np.log(rate_NA[midway] / cells.protein_NA[midway]).mean(axis=0)
    moving = np.abs(change_A) > 0.3
    assert moving.sum() > 10
    assert np.mean(behind_A[moving] * change_A[moving] > 0) > 0.9
