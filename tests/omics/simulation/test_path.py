"""Cells on a differentiation path leave one attractor, pass the places between, and arrive at the next."""

import dataclasses

import numpy as np
import pytest

from mofm.errors import InputError
from mofm.omics.simulation.cells import draw_cells
from mofm.omics.simulation.config import SimulationConfig
from mofm.omics.simulation.network import draw_cell_types
from mofm.omics.simulation.path import find_path, travel


def nothing(*_):
    """Follows no state."""


@pytest.mark.parametrize("seed", range(3))
def test_every_leg_ends_at_the_next_attractor(seed):
    config = SimulationConfig(seed=seed, path_types=8)
    network, attractors_CT = draw_cell_types(config)
    path = find_path(config, network, attractors_CT)
    assert (np.diff(path.way_JM, axis=1) >= 0).all()
    for place, station in ((0.0, 0), (0.999999, 1), (4.0, 4), (7.0, 7)):
        start_TN = attractors_CT[path.leg(np.array([place]))].T
        state_TN = travel(network, path, np.array([place]), start_TN, 0.0, np.random.default_rng(0), nothing)
        np.testing.assert_allclose(state_TN[:, 0], attractors_CT[station], atol=0.01)


def test_half_of_a_leg_is_half_of_its_length(small):
    config = dataclasses.replace(small, path_types=2)
    network, attractors_CT = draw_cell_types(config)
    path = find_path(config, network, attractors_CT)
    steps = path.steps(np.array([0.0, 0.25, 0.5, 0.75, 1.0]))
    assert steps[0] == 0
    assert (np.diff(steps) > 0).all()
    way = path.way_JM[0]
    assert way[steps[2] - 1] < 0.5 <= way[steps[2]]


def test_cells_lie_along_the_path_and_others_stay_as_they_were(small):
    config = dataclasses.replace(small, cells=2000, path_types=3)
    network, attractors_CT = draw_cell_types(config)
    cells = draw_cells(config, network, attractors_CT)
    resting = draw_cells(dataclasses.replace(config, path_types=0), network, attractors_CT)
    on_path = cells.label_N < 3
    np.testing.assert_array_equal(np.isnan(cells.pseudotime_N), ~on_path)
    np.testing.assert_array_equal(cells.label_N, resting.label_N)
    np.testing.assert_array_equal(cells.activity_NT[~on_path], resting.activity_NT[~on_path])

    pseudotime_N = cells.pseudotime_N[on_path]
    assert pseudotime_N.min() < 0.01
    assert pseudotime_N.max() > 0.99
    np.testing.assert_array_equal(np.rint(2 * pseudotime_N), cells.label_N[on_path])
    distance_NC = np.linalg.norm(cells.activity_NT[on_path][:, None] - attractors_CT[:3], axis=2)
    at_station = np.abs(2 * pseudotime_N - np.rint(2 * pseudotime_N)) < 0.2
    nearest = distance_NC.argmin(axis=1) == cells.label_N[on_path]
    assert nearest[at_station].mean() > 0.97
    assert distance_NC[~at_station].min(axis=1).mean() > 1.3 * distance_NC[at_station].min(axis=1).mean()


def test_identity_tfs_rise_and_fall_in_the_order_of_the_stations(small):
    config = dataclasses.replace(small, cells=2000, path_types=3)
    network, attractors_CT = draw_cell_types(config)
    cells = draw_cells(config, network, attractors_CT)
    identity_NC = cells.activity_NT[:, 2:5]  # after the two lineage masters
    on_path = ~np.isnan(cells.pseudotime_N)
    centre_C = [np.average(cells.pseudotime_N[on_path], weights=identity_NC[on_path, c]) for c in range(3)]
    assert (np.diff(centre_C) > 0.2).all()


@pytest.mark.parametrize("path_types", [1, 5])
def test_a_path_needs_types(small, path_types):
    with pytest.raises(InputError, match=f"path_types={path_types} is no path among 4 cell types"):
        dataclasses.replace(small, path_types=path_types)
