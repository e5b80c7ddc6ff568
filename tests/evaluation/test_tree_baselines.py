"""Trees find the TFs that targets were made from, and their scores follow from the seed and the gene alone."""

import numpy as np
import pytest
import scipy.sparse as sp

from mofm.errors import InputError
from mofm.evaluation.tree_baselines import tree_scores

METHODS = ("genie3", "grnboost")
TFS = np.arange(6)


@pytest.fixture(scope="module")
def values():
    """Six TFs; gene 6 follows TF 1, gene 7 falls with TF 4, TF 5 follows TF 0, gene 8 is the same in all cells."""
    rng = np.random.default_rng(0)
    tf_NT = rng.gamma(2, size=(150, 6))
    tf_NT[:, 5] = tf_NT[:, 0] + 0.1 * rng.normal(size=150)
    genes = [2 * tf_NT[:, 1] + 0.3 * rng.normal(size=150), 9 - tf_NT[:, 4] ** 2, np.ones(150)]
    return sp.csr_matrix(np.maximum(np.column_stack([tf_NT, *genes]), 0))


@pytest.mark.parametrize("method", METHODS)
def test_the_regulators_are_found(values, method):
    told = []
    found = tree_scores(values, TFS, np.array([6, 7, 5, 8]), method, trees=60, on_progress=told.append)
    assert found.shape == (6, 4)
    np.testing.assert_array_equal(np.argmax(found[:, :3], axis=0), [1, 4, 0])
    assert found[5, 2] == 0  # a TF does not explain itself
    assert not found[:, 3].any()
    assert (found >= 0).all()
    assert told == [1, 1, 1, 1]


@pytest.mark.parametrize("method", METHODS)
def test_scores_follow_from_the_seed_and_not_from_the_company(values, method):
    both = tree_scores(values, TFS, np.array([6, 7]), method, seed=1, trees=30)
    alone = tree_scores(values, TFS, np.array([7]), method, seed=1, trees=30)
    np.testing.assert_array_equal(both[:, 1:], alone)
    np.testing.assert_array_equal(tree_scores(values, TFS, np.array([7, 6]), method, 1, trees=30), both[:, ::-1])
    if method == "genie3":
        np.testing.assert_array_equal(tree_scores(values, TFS, np.array([6, 7]), method, 1, 2, trees=30), both)
    assert (tree_scores(values, TFS, np.array([6, 7]), method, seed=2, trees=30) != both).any()


def test_importances_of_a_forest_are_variance_explained(values):
    """Of a target of variance 1 they sum to nearly 1, whatever its scale."""
    found = tree_scores(values, TFS, np.array([6]), trees=60)
    assert 0.8 < found.sum() < 1.1
    np.testing.assert_allclose(tree_scores(values * 7, TFS, np.array([6]), trees=60), found, rtol=0.05, atol=0.01)


def test_boosting_stops_where_it_no_longer_gains(values):
    """Of normalised importances, times the trees, the sum is the number of trees."""
    noise = sp.hstack([values, sp.csr_matrix(np.random.default_rng(5).normal(size=(150, 1)))], format="csr")
    of_noise, of_target = tree_scores(noise, TFS, np.array([9, 6]), "grnboost", trees=400).sum(axis=0)
    assert of_noise < 200 < of_target


def test_an_unknown_method_is_refused(values):
    with pytest.raises(InputError, match="genie3 and grnboost"):
        tree_scores(values, TFS, np.array([6]), "genie4")
