"""Antibodies read their proteins on top of a background that belongs to the cell and not to the protein."""

import dataclasses

import numpy as np

from mofm.omics.simulate import AdtConfig, simulate_multiomics
from mofm.omics.simulation.adt import choose_surface
from mofm.omics.simulation.network import draw_cell_types


def correlations(one_NA: np.ndarray, other_NA: np.ndarray) -> np.ndarray:
    return np.array([np.corrcoef(one_A, other_A)[0, 1] for one_A, other_A in zip(one_NA.T, other_NA.T, strict=True)])


def test_the_panel_tells_types_apart(small):
    network, attractors_CT = draw_cell_types(small)
    surface_A = choose_surface(AdtConfig(antibodies=20), network, attractors_CT)
    contrast_G = (network.effects_GT @ attractors_CT.T).std(axis=1)
    assert len(set(surface_A)) == 20
    assert not np.isin(surface_A, network.tf_genes_T).any()
    assert contrast_G[surface_A].min() >= np.sort(contrast_G)[-20]


def test_antibodies_follow_their_protein(multiomics):
    adt = multiomics["adt"]
    specific = ~adt.var["is_isotype"].to_numpy()
    depth_N = adt.obs["n_counts"].to_numpy()[:, None]
    follows_A = correlations(np.log1p(adt.X.toarray() / depth_N * 2000), adt.obsm["protein_level"] + 1e-9 * depth_N)
    assert np.mean(follows_A[specific]) > 0.4
    assert (adt.obsm["protein_level"][:, ~specific] == 0).all()
    assert (adt.obsm["protein_level"][:, specific] > 0).all()


def test_proteins_follow_their_genes_across_types(multiomics):
    rna, adt = multiomics["rna"], multiomics["adt"]
    protein = adt[:, ~adt.var["is_isotype"].to_numpy()]
    own = rna[:, protein.var["gene_id"].tolist()]
    by_type = [(rna.obs["cell_type"] == name).to_numpy() for name in rna.obs["cell_type"].cat.categories]
    gene_CA, protein_CA = (
        np.stack([np.asarray(adata.X[of_type].sum(axis=0)).ravel() / whole.X[of_type].sum() for of_type in by_type])
        for adata, whole in ((own, rna), (protein, adt))
    )
    seen = np.asarray(own.X.sum(axis=0)).ravel() > 200
    assert seen.sum() > 5
    assert np.mean(correlations(gene_CA[:, seen], protein_CA[:, seen])) > 0.4


def test_background_is_of_the_cell(multiomics):
    adt = multiomics["adt"]
    isotypes = adt.var["is_isotype"].to_numpy()
    assert list(adt.var_names[isotypes]) == ["Mouse IgG1 isotype control", "Mouse IgG2a isotype control"]
    counts_NA = adt.X.toarray()[:, isotypes]
    background_N = adt.obs["background"].to_numpy()
    assert (counts_NA.sum(axis=0) > 0).all()
    assert np.corrcoef(np.log1p(counts_NA.sum(axis=1)), np.log(background_N))[0, 1] > 0.6
    assert (adt.var.loc[isotypes, "signal"] == 0).all()
    assert abs(adt.var["sticky"].sum() - 1) < 1e-9


def test_background_and_overdispersion_follow_the_config(multiomics_config):
    def counts(**changes):
        adt = AdtConfig(antibodies=20, **changes)
        return simulate_multiomics(dataclasses.replace(multiomics_config, adt=adt), ["adt"])["adt"]

    clean, dirty = counts(background=0.0), counts(background=0.9)
    isotypes = clean.var["is_isotype"].to_numpy()
    assert clean.X[:, isotypes].sum() == 0
    assert dirty.X[:, isotypes].sum() / dirty.X.sum() > 0.02
    even, uneven = (counts(overdispersion=over, library_size_sd=0.0) for over in (0.0, 1.0))
    assert uneven.X.toarray().var(axis=0).mean() > 1.5 * even.X.toarray().var(axis=0).mean()
    assert abs(np.median(even.obs["n_counts"]) / 2000 - 1) < 0.4
