"""The simulated AnnData keeps its promises: its form, the bits of a seed, biology apart from noise, and its file."""

import dataclasses
import json

import anndata
import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from mofm.omics.simulate import SimulationConfig, simulate


def assert_same_network(one: anndata.AnnData, other: anndata.AnnData):
    np.testing.assert_array_equal(one.varp["grn"].toarray(), other.varp["grn"].toarray())
    np.testing.assert_array_equal(one.uns["simulation"]["attractors"], other.uns["simulation"]["attractors"])
    np.testing.assert_array_equal(one.uns["simulation"]["tf_names"], other.uns["simulation"]["tf_names"])


def test_the_parts_have_the_promised_form(varied):
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
    np.testing.assert_array_equal(adata.obs["n_counts"], adata.X.toarray().sum(axis=1))
    assert adata.obsm["tf_activity"].shape == (400, 20)
    assert adata.obsm["tf_activity"].dtype == np.float32
    assert adata.varp["grn"].format == "csr"
    assert set(adata.uns["simulation"]["tf_names"]) == set(adata.var_names[adata.var["is_tf"]])
    assert adata.uns["simulation"]["attractors"].shape == (4, 20)


def test_same_config_same_bits_other_seed_other_cells(small, varied):
    one, again, other = varied(), simulate(dataclasses.replace(small)), varied(seed=1)
    np.testing.assert_array_equal(one.X.toarray(), again.X.toarray())
    np.testing.assert_array_equal(one.obsm["tf_activity"], again.obsm["tf_activity"])
    assert one.obs.equals(again.obs)
    assert_same_network(one, again)
    assert not np.array_equal(one.X.toarray(), other.X.toarray())
    assert not np.array_equal(one.varp["grn"].toarray(), other.varp["grn"].toarray())


@pytest.mark.parametrize(
    "changes",
    [{"dropout": 0.9}, {"library_size": 300.0}, {"overdispersion": 0.0}, {"batch_effect": 1.0}, {"batches": 3}],
    ids=lambda changes: next(iter(changes)),
)
def test_technical_noise_leaves_the_biology(varied, changes):
    one, other = varied(), varied(**changes)
    assert not np.array_equal(one.X.toarray(), other.X.toarray())
    assert_same_network(one, other)
    np.testing.assert_array_equal(one.obsm["tf_activity"], other.obsm["tf_activity"])
    assert one.obs["cell_type"].equals(other.obs["cell_type"])


def test_more_cells_keep_the_network(varied):
    assert_same_network(varied(), varied(cells=500))


def test_cell_types_are_plain_in_the_tfs_and_hard_in_the_counts(varied):
    adata = varied()
    label_N = adata.obs["cell_type"].cat.codes.to_numpy()
    train, test = np.arange(400) < 300, np.arange(400) >= 300

    def accuracy(features_NF):
        return (
            LogisticRegression(max_iter=300)
            .fit(features_NF[train], label_N[train])
            .score(features_NF[test], label_N[test])
        )

    log_counts_NG = np.log1p(adata.X.toarray() / adata.obs["n_counts"].to_numpy()[:, None] * 1e4)
    assert accuracy(adata.obsm["tf_activity"]) > 0.97
    largest = np.bincount(label_N[test]).max() / test.sum()
    assert largest + 0.05 < accuracy(log_counts_NG) < accuracy(adata.obsm["tf_activity"])


def test_blocks_keep_cells_in_their_rows(small, varied, monkeypatch):
    whole = varied(overdispersion=0.0)
    monkeypatch.setattr("mofm.omics.simulation.network._STATE_BLOCK", 150)
    monkeypatch.setattr("mofm.omics.simulation.rna._COUNT_BLOCK", 200 * 70)
    blocked = simulate(dataclasses.replace(small, overdispersion=0.0))
    assert np.corrcoef(whole.obs["n_counts"], blocked.obs["n_counts"])[0, 1] > 0.9  # depths have their own stream
    distance_NC = np.linalg.norm(blocked.obsm["tf_activity"][:, None] - blocked.uns["simulation"]["attractors"], axis=2)
    assert np.mean(distance_NC.argmin(axis=1) == blocked.obs["cell_type"].cat.codes) > 0.97


def test_h5ad_round_trip(small, varied, tmp_path):
    adata = varied().copy()
    adata.write_h5ad(tmp_path / "simulated.h5ad")
    back = anndata.read_h5ad(tmp_path / "simulated.h5ad")
    np.testing.assert_array_equal(back.X.toarray(), adata.X.toarray())
    assert back.X.dtype == np.int32
    assert_same_network(back, adata)
    np.testing.assert_array_equal(back.obsm["tf_activity"], adata.obsm["tf_activity"])
    assert list(back.obs["cell_type"]) == list(adata.obs["cell_type"])
    config = SimulationConfig(**back.uns["simulation"]["config"])
    assert config == small
    assert json.loads(json.dumps(dataclasses.asdict(config))) == dataclasses.asdict(small)
