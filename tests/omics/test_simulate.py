"""The simulated AnnData keeps its promises: its form, the bits of a seed, biology apart from noise, and its file."""

import dataclasses
import json

import anndata
import mudata
import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from mofm.axes import MODALITIES
from mofm.errors import InputError
from mofm.omics.features import resolve_var
from mofm.omics.genome import gene_table
from mofm.omics.simulate import (
    MultiomicsConfig,
    SimulationConfig,
    simulate,
    simulate_multiomics,
    split_unpaired,
    to_mudata,
    write_mudata,
)


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
    monkeypatch.setattr("mofm.omics.simulation.cells._STATE_BLOCK", 150)
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


def test_all_omics_are_of_the_same_cells_and_know_the_truth(multiomics, multiomics_config):
    assert tuple(multiomics) == MODALITIES
    rna = multiomics["rna"]
    for adata in multiomics.values():
        assert adata.obs_names.equals(rna.obs_names)
        for column in ("cell_type", "batch", "donor", "pseudotime"):
            assert adata.obs[column].equals(rna.obs[column])
        assert adata.X.format == "csr"
        assert adata.X.dtype == np.int32
        assert adata.X.has_canonical_format
        np.testing.assert_array_equal(adata.obs["n_counts"], np.asarray(adata.X.sum(axis=1)).ravel())
        np.testing.assert_array_equal(adata.obsm["tf_activity"], rna.obsm["tf_activity"])
        truth = adata.uns["simulation"]
        assert MultiomicsConfig.from_dict(truth["config"]) == multiomics_config
        assert list(truth["genes"]) == list(rna.var_names)
        assert truth["attractors"].shape == (4, 20)
        grn_TG = truth["grn"].toarray()
        np.testing.assert_array_equal(grn_TG, rna.varp["grn"].toarray()[rna.var_names.get_indexer(truth["tf_names"])])


def test_truth_of_the_atac_is_shaped_as_its_peaks(multiomics):
    atac = multiomics["atac"]
    peaks, truth = atac.n_vars, atac.uns["simulation"]
    assert atac.varm["tf_binding"].shape == (peaks, 20)
    assert atac.varm["links"].shape == (peaks, 200)
    assert atac.varm["donor_shift"].shape == (peaks, 2)
    carried_TG = (atac.varm["links"].T @ atac.varm["tf_binding"]).T.toarray()
    np.testing.assert_allclose(carried_TG, truth["grn"].toarray(), atol=1e-4)
    owned = (atac.var["gene"] >= 0).to_numpy()
    assert (atac.var["gene_id"] == "").equals(~(atac.var["gene"] >= 0))
    gene_P = atac.var["gene"].to_numpy()[owned]
    assert list(truth["genes"][gene_P]) == list(atac.var["gene_id"][owned])
    linked = np.asarray(atac.varm["links"][np.flatnonzero(owned), gene_P]).ravel()
    np.testing.assert_allclose(atac.var["link"][owned], linked, rtol=1e-6)


def test_same_seed_same_bits_in_every_omics(multiomics, multiomics_config):
    again = simulate_multiomics(multiomics_config)
    for modality, adata in multiomics.items():
        assert (adata.X != again[modality].X).nnz == 0
        assert adata.obs.equals(again[modality].obs)
        assert adata.var.equals(again[modality].var)
    methylated, methylated_again = (omics["methylation"].layers["methylated"] for omics in (multiomics, again))
    np.testing.assert_array_equal(methylated.data, methylated_again.data)
    cells = dataclasses.replace(multiomics_config.cells, seed=1)
    other = simulate_multiomics(dataclasses.replace(multiomics_config, cells=cells))
    for modality in ("rna", "adt"):
        assert (multiomics[modality].X != other[modality].X).nnz > 0
    shared = set(multiomics["atac"].var_names) & set(other["atac"].var_names)
    assert len(shared) < 20  # promoters of the few genes that both chose


@pytest.mark.parametrize("modality", MODALITIES)
def test_an_omics_type_alone_is_as_in_company(multiomics, multiomics_config, modality):
    alone = simulate_multiomics(multiomics_config, [modality])
    assert list(alone) == [modality]
    assert (alone[modality].X != multiomics[modality].X).nnz == 0


def test_rna_alone_has_the_counts_of_rna_in_company(multiomics, multiomics_config):
    alone = simulate(multiomics_config.cells)
    assert (alone.X != multiomics["rna"].X).nnz == 0
    assert alone.obs.equals(multiomics["rna"].obs)
    np.testing.assert_array_equal(alone.varp["grn"].toarray(), multiomics["rna"].varp["grn"].toarray())


def test_genes_of_the_rna_resolve(multiomics):
    _, resolution = resolve_var(multiomics["rna"].var, gene_table("human"))
    assert set(resolution.how) == {"ensembl"}


def test_a_split_is_disjoint_and_loses_no_cell(multiomics):
    split = split_unpaired(multiomics, seed=3)
    assert tuple(split) == MODALITIES
    names = [name for adata in split.values() for name in adata.obs_names]
    assert len(names) == len(set(names)) == 400
    assert {adata.n_obs for adata in split.values()} == {100}
    for modality, adata in split.items():
        whole = multiomics[modality][adata.obs_names]
        assert (adata.X != whole.X).nnz == 0
        assert adata.obs.equals(whole.obs)
        assert adata.obs_names.is_monotonic_increasing
    again, other = split_unpaired(multiomics, seed=3), split_unpaired(multiomics, seed=4)
    assert all(again[name].obs_names.equals(split[name].obs_names) for name in split)
    assert not other["rna"].obs_names.equals(split["rna"].obs_names)


def test_only_the_same_cells_can_be_split(multiomics):
    with pytest.raises(InputError, match="same cells in the same order"):
        split_unpaired({"rna": multiomics["rna"], "atac": multiomics["atac"][::-1]})


@pytest.mark.parametrize("unpaired", [False, True], ids=["paired", "unpaired"])
def test_h5mu_round_trip(multiomics, tmp_path, unpaired):
    omics = split_unpaired(multiomics) if unpaired else multiomics
    mdata = to_mudata(omics)
    assert mdata.n_obs == 400
    assert list(mdata.obs.columns) == ["cell_type", "batch", "donor", "pseudotime"]
    write_mudata(mdata, tmp_path / "simulated.h5mu")
    back = mudata.read_h5mu(tmp_path / "simulated.h5mu")
    assert tuple(back.mod) == MODALITIES
    for modality, adata in omics.items():
        read = back.mod[modality]
        assert (read.X != adata.X).nnz == 0
        assert read.X.dtype == np.int32
        assert list(read.obs["cell_type"]) == list(adata.obs["cell_type"])
        assert list(read.var_names) == list(adata.var_names)
        assert MultiomicsConfig.from_dict(read.uns["simulation"]["config"]) == MultiomicsConfig.from_dict(
            adata.uns["simulation"]["config"]
        )
        assert (read.uns["simulation"]["grn"] != adata.uns["simulation"]["grn"]).nnz == 0
    for key in ("tf_binding", "links"):
        assert (back.mod["atac"].varm[key] != omics["atac"].varm[key]).nnz == 0
    assert (back.mod["rna"].varp["grn"] != omics["rna"].varp["grn"]).nnz == 0
    total, methylated = back.mod["methylation"].X, back.mod["methylation"].layers["methylated"]
    assert total.nnz == methylated.nnz  # explicit zeros are kept
    np.testing.assert_array_equal(methylated.data, omics["methylation"].layers["methylated"].data)
    assert list(back.obs.loc[omics["atac"].obs_names, "cell_type"]) == list(omics["atac"].obs["cell_type"])


def test_an_unknown_modality_is_named():
    with pytest.raises(InputError, match=r"unknown modality 'atak'.*Did you mean 'atac'"):
        simulate_multiomics(modalities=["rna", "atak"])
