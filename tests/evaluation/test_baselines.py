"""The baseline is principal components, as numpy and scanpy compute them, and nothing of a test cell is in the fit."""

import numpy as np
import pytest
import scipy.sparse as sp

from mofm.errors import InputError
from mofm.evaluation import baselines
from mofm.evaluation.baselines import CLIP, log_normalised, majority, pca_embedding, variable


@pytest.fixture(scope="module")
def counts():
    """120 cells x 40 genes: three programs, and a gene that is always and one that is never seen."""
    rng = np.random.default_rng(0)
    programs = rng.gamma(0.5, 2.0, (3, 40))
    rates = rng.dirichlet(np.ones(3) * 0.4, 120) @ programs * rng.lognormal(0, 0.4, (120, 1))
    counts = rng.poisson(rates)
    counts[:, 39] = 0
    return sp.csr_matrix(counts.astype(np.float64))


def reference(train, test, components, scale):
    """Principal components from the textbook: dense, by singular value decomposition."""

    def logs(x):
        x = x.toarray()
        return np.log1p(x / np.maximum(x.sum(axis=1, keepdims=True), 1) * 1e4)

    train, test = logs(train), logs(test)
    varies = train.std(axis=0) > 0
    train, test = train[:, varies], test[:, varies]
    mean, sd = train.mean(axis=0), train.std(axis=0) if scale else 1.0
    train, test = (train - mean) / sd, (test - mean) / sd
    if scale:
        train, test = np.clip(train, -CLIP, CLIP), np.clip(test, -CLIP, CLIP)
    centre = train.mean(axis=0)
    axes = np.linalg.svd(train - centre, full_matrices=False)
    share = axes.S**2 / np.sum(axes.S**2)
    return (train - centre) @ axes.Vh[:components].T, (test - centre) @ axes.Vh[:components].T, share[:components]


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("block", [7, 4096])
def test_against_a_singular_value_decomposition(counts, monkeypatch, scale, block):
    monkeypatch.setattr(baselines, "BLOCK_CELLS", block)
    ours = pca_embedding(counts[:90], counts[90:], 5, scale=scale)
    train_ND, test_ND, share_D = reference(counts[:90], counts[90:], 5, scale)
    signs_D = np.sign(np.sum(ours.train_ND * train_ND, axis=0))
    np.testing.assert_allclose(ours.train_ND, train_ND * signs_D, atol=1e-4)
    np.testing.assert_allclose(ours.test_ND, test_ND * signs_D, atol=1e-4)
    np.testing.assert_allclose(ours.explained_D, share_D, rtol=1e-8)
    assert ours.train_ND.dtype == ours.test_ND.dtype == np.float32


def test_against_sklearn(counts):
    from sklearn.decomposition import PCA

    logs = log_normalised(counts).toarray()
    fit = PCA(4, svd_solver="full").fit(logs[:90])
    ours = pca_embedding(counts[:90], counts[90:], 4, scale=False)
    theirs = fit.transform(logs[90:])
    np.testing.assert_allclose(np.abs(ours.test_ND), np.abs(theirs), atol=1e-4)
    np.testing.assert_allclose(ours.explained_D, fit.explained_variance_ratio_, rtol=1e-8)


def test_test_cells_never_influence_the_fit(counts):
    train = counts[:90]
    wild = sp.csr_matrix(np.random.default_rng(1).poisson(50, (30, 40)).astype(float))
    both = sp.vstack([counts[90:], wild]).tocsr()
    alone, with_wild = pca_embedding(train, counts[90:], 5), pca_embedding(train, both, 5)
    np.testing.assert_array_equal(alone.train_ND, with_wild.train_ND)
    np.testing.assert_array_equal(alone.genes, with_wild.genes)
    np.testing.assert_allclose(alone.test_ND, with_wild.test_ND[:30], atol=1e-6)
    other_train = pca_embedding(counts[:80], counts[90:], 5)
    assert np.abs(other_train.test_ND - alone.test_ND).max() > 1e-3  # training cells do


def test_depth_of_a_cell_is_taken_out(counts):
    deeper = sp.csr_matrix(counts.multiply(np.random.default_rng(2).integers(1, 9, (120, 1))))
    one, other = pca_embedding(counts[:90], counts[90:], 5), pca_embedding(deeper[:90], deeper[90:], 5)
    np.testing.assert_allclose(one.test_ND, other.test_ND, atol=1e-4)


def test_components_have_a_fixed_sign_and_a_bound(counts):
    one = pca_embedding(counts[:90], counts[90:], 5)
    np.testing.assert_array_equal(one.train_ND, pca_embedding(counts[:90], counts[90:], 5).train_ND)
    assert pca_embedding(counts[:4], counts[90:], 50).train_ND.shape == (4, 3)
    assert pca_embedding(counts[:90], counts[:0], 5).test_ND.shape == (0, 5)
    assert (np.diff(one.explained_D) <= 0).all()


def test_variable_genes_are_the_dispersed_ones():
    """Ten genes that switch between two levels, among 990 Poisson genes of like means, are found, all of them."""
    rng = np.random.default_rng(3)
    rates = np.tile(rng.uniform(2, 6, 1000), (300, 1))
    switching = np.arange(10)
    rates[:, switching] *= np.where(rng.random((300, 10)) < 0.5, 0.05, 1.95)
    chosen = variable(log_normalised(sp.csr_matrix(rng.poisson(rates))), 10)
    np.testing.assert_array_equal(chosen, switching)


def test_genes_that_do_not_vary_are_never_taken(counts):
    genes = pca_embedding(counts[:90], counts[90:], 5, variable_genes=None).genes
    assert 39 not in genes
    assert len(genes) == 39
    assert len(variable(log_normalised(counts), 7)) == 7


def test_log_normalised_by_hand():
    logs = log_normalised(sp.csr_matrix([[1.0, 3.0], [0.0, 0.0]])).toarray()
    np.testing.assert_allclose(logs, [[np.log1p(2500), np.log1p(7500)], [0, 0]])


def test_what_has_no_components(counts):
    with pytest.raises(InputError, match="40 genes and test cells 39"):
        pca_embedding(counts[:90], counts[90:, :39])
    with pytest.raises(InputError, match="at least 2 training cells"):
        pca_embedding(counts[:1], counts[90:])
    with pytest.raises(InputError, match="no gene varies"):
        pca_embedding(counts[[0, 0, 0]], counts[90:])
    for bad in (-1.0, np.nan):
        spoiled = counts.copy()
        spoiled.data[5] = bad
        with pytest.raises(InputError, match="negative or not finite"):
            pca_embedding(spoiled[:90], counts[90:])


def test_majority():
    readout = majority(list("aabbb"), list("abbc"))
    assert readout.predicted.tolist() == ["b"] * 4
    assert readout.accuracy.value == 0.5
    assert readout.unseen == {"c": 1}
    with pytest.raises(InputError, match="labels on both sides"):
        majority([], ["a"])
