"""A modality's own components: principal axes of its values as the model reads them, and what they add to the genes'."""

import numpy as np
import pytest

from mofm.batch import FeatureSpace, TokenBatch
from mofm.linear.components import COMPONENTS, STEADYING, Components
from mofm.linear.own_components import fit_own_components
from mofm.linear.profiles import Profile, make_reader, read_profiles
from mofm.nn.linear import linear_profile

CELLS, FEATURES = 60, 9


def space_of(features):
    genes_FK = np.zeros((features, 1), np.int32)  # all speak of one gene: a profile by genes knows one number
    return FeatureSpace(
        genes_FK,
        np.ones((features, 1)),
        np.zeros((features, 5)),
        np.zeros(features, np.int32),
        *np.zeros((2, features)),
    )


def view_of(values_NF, cell_N, padding=0):
    """Every feature of every cell a token; rows of padding at the end."""
    cells, features = values_NF.shape
    rows = cells + padding
    values = np.full((rows, features), 99.0)
    values[:cells] = values_NF
    cell = np.concatenate([cell_N, np.full(padding, -1)]).astype(np.int32)
    mask = np.broadcast_to(cell[:, None] >= 0, values.shape)
    features_NF = np.broadcast_to(np.arange(features, dtype=np.int32), values.shape)
    numbers = np.zeros(rows, np.int32)
    return TokenBatch(features_NF, values.astype(np.float32), values, mask, np.full(rows, 1e3), cell, numbers)


@pytest.fixture(scope="module")
def values_NF():
    rng = np.random.default_rng(0)
    factors_NF = rng.normal(size=(CELLS, 3)) @ rng.normal(size=(3, FEATURES))
    return np.abs(factors_NF + 0.3 * rng.normal(size=(CELLS, FEATURES)) + 4)


def test_they_are_the_principal_components_of_steadied_values(values_NF):
    own = fit_own_components([view_of(values_NF, np.arange(CELLS))], "adt", space_of(FEATURES))
    x_NF = values_NF / values_NF.sum(axis=1, keepdims=True)
    deviation_F = x_NF.std(axis=0)
    scaled_NF = (x_NF - x_NF.mean(axis=0)) / (deviation_F + STEADYING * deviation_F.mean())
    u_NK, size_K, _ = np.linalg.svd(scaled_NF, full_matrices=False)
    rank = min(COMPONENTS, FEATURES - 1)
    wanted_NK = (u_NK * size_K)[:, :rank]
    wanted_NK /= np.sqrt(np.mean(wanted_NK.var(axis=0)))
    found_NK = x_NF @ own.axes_FK - own.centre_K
    assert found_NK.shape == (CELLS, rank)
    signs_K = np.sign(np.sum(found_NK * wanted_NK, axis=0))
    np.testing.assert_allclose(found_NK * signs_K, wanted_NK, rtol=1e-4, atol=1e-4)


def test_batches_and_padding_change_nothing(values_NF):
    whole = fit_own_components([view_of(values_NF, np.arange(CELLS))], "adt", space_of(FEATURES))
    parts = [
        view_of(values_NF[:25], np.arange(25), padding=4),
        view_of(values_NF[25:], np.arange(25, CELLS), padding=1),
    ]
    again = fit_own_components(parts, "adt", space_of(FEATURES))
    for one, other in zip(whole, again, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_what_tells_data_sets_apart_takes_no_axis(values_NF):
    """A shift of one data set's shares that is far more than all else: the axes are those of the cells without it."""
    plain = view_of(values_NF / values_NF.sum(axis=1, keepdims=True), np.arange(CELLS))
    of_two = np.repeat([0, 1], CELLS // 2).astype(np.int32)
    shift_F = np.random.default_rng(2).normal(size=FEATURES)
    values = plain.values_BL + of_two[:, None] * (shift_F - shift_F.mean())  # they sum to 1 still
    space = space_of(FEATURES)
    own = fit_own_components([plain._replace(dataset_B=of_two)], "adt", space)
    moved = fit_own_components([plain._replace(values_BL=values, dataset_B=of_two)], "adt", space)
    angle = np.abs(np.sum(own.axes_FK * moved.axes_FK, axis=0)) / (
        np.linalg.norm(own.axes_FK, axis=0) * np.linalg.norm(moved.axes_FK, axis=0)
    )
    np.testing.assert_allclose(angle[:3], 1, atol=1e-3)


@pytest.mark.parametrize(("cells", "features"), [(2, FEATURES), (CELLS, 1)])
def test_too_few_cells_or_features_have_none(values_NF, cells, features):
    own = fit_own_components([view_of(values_NF[:cells, :features], np.arange(cells))], "adt", space_of(features))
    assert (own.axes_FK.shape, own.centre_K.shape) == ((features, 0), (0,))


@pytest.mark.parametrize("modality", ["atac", "adt", "methylation"])
def test_the_model_reads_them_as_they_were_fitted(values_NF, modality):
    """On the device, beside the profile: columns after the profile's, with mean 0 over the fitted cells."""
    rng = np.random.default_rng(1)
    space = space_of(FEATURES)
    view = view_of(np.abs(values_NF) / 9, np.arange(CELLS))._replace(library_B=rng.uniform(500, 4000, CELLS))
    own = fit_own_components([view], modality, space)
    components = Components(rng.normal(size=(4, 2)), np.zeros(4), 1.0, np.zeros(4), 0.0, np.ones(2), np.zeros((4, 2)))
    profile = Profile(np.float32(1), np.ones(2), np.zeros(4), np.float32(-1))
    alone, both = (make_reader(modality, space, components, profile, some) for some in (None, own))
    profile_NR = np.asarray(linear_profile(both, view, modality))
    assert profile_NR.shape == (CELLS, 2 + own.axes_FK.shape[1] + 1)
    np.testing.assert_allclose(
        profile_NR[:, :2], np.asarray(linear_profile(alone, view, modality))[:, :2], rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(profile_NR[:, 2:-1].mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(profile_NR[:, -1], np.log(view.library_B / 1e4) + 1, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(profile_NR, read_profiles([view], modality, both).profile_NK, rtol=1e-3, atol=1e-3)
