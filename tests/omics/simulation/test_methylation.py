"""Methylation opposes openness and expression, and is seen where there are reads."""

import dataclasses

import numpy as np
from scipy.special import expit

from mofm.omics.simulate import MethylationConfig, simulate_multiomics
from mofm.omics.simulation.genes import tss


def pooled(adata, matrix) -> np.ndarray:
    """Sums of each cell type: types x features."""
    types = adata.obs["cell_type"].cat.categories
    return np.stack(
        [np.asarray(matrix[(adata.obs["cell_type"] == name).to_numpy()].sum(axis=0)).ravel() for name in types]
    )


def mean_correlation(one_CG: np.ndarray, other_CG: np.ndarray) -> float:
    one_CG, other_CG = ((x_CG - x_CG.mean(axis=0)) / (x_CG.std(axis=0) + 1e-12) for x_CG in (one_CG, other_CG))
    return float((one_CG * other_CG).mean())


def test_regions_are_promoters_and_bodies(multiomics):
    rna, methylation = multiomics["rna"], multiomics["methylation"]
    assert methylation.n_vars == 2 * rna.n_vars
    assert methylation.var_names.is_unique
    for kind, expected_start, expected_end in (
        ("promoter", tss(rna.var) - 1000, tss(rna.var) + 1000),
        ("gene_body", rna.var["start"], rna.var["end"]),
    ):
        regions = methylation.var[methylation.var["kind"] == kind].sort_values("gene")
        np.testing.assert_array_equal(regions["start"], expected_start)
        np.testing.assert_array_equal(regions["end"], expected_end)
        assert list(regions["gene_id"]) == list(rna.var_names)


def test_methylated_reads_have_the_entries_of_the_total(multiomics):
    methylation = multiomics["methylation"]
    total, methylated = methylation.X, methylation.layers["methylated"]
    for matrix in (total, methylated):
        assert matrix.format == "csr"
        assert matrix.dtype == np.int32
    np.testing.assert_array_equal(total.indices, methylated.indices)
    np.testing.assert_array_equal(total.indptr, methylated.indptr)
    assert (total.data > 0).all()
    assert (methylated.data >= 0).all()
    assert (methylated.data <= total.data).all()
    assert (methylated.data == 0).any()


def test_the_fewer_reads_the_fewer_regions_are_covered(multiomics_config):
    covered = []
    for reads in (30.0, 300.0):
        config = dataclasses.replace(multiomics_config, methylation=MethylationConfig(reads=reads, reads_sd=0.0))
        adata = simulate_multiomics(config, ["methylation"])["methylation"]
        assert abs(np.median(adata.obs["n_counts"]) / reads - 1) < 0.35
        covered.append(adata.X.nnz / np.prod(adata.shape))
    assert covered[0] < 0.1
    assert covered[1] > 4 * covered[0]


def test_methylation_opposes_openness_and_expression(multiomics):
    rna, atac, methylation = (multiomics[name] for name in ("rna", "atac", "methylation"))
    fraction_CR = pooled(methylation, methylation.layers["methylated"]) / np.maximum(
        pooled(methylation, methylation.X), 1
    )
    gene_R, kind_R = methylation.var["gene"].to_numpy(), methylation.var["kind"].to_numpy()
    regulated_G = np.diff(rna.varp["grn"].tocsc().indptr) > 0
    openness_CP, expression_CG = (
        pooled(adata, adata.X) / pooled(adata, adata.X).sum(axis=1, keepdims=True) for adata in (atac, rna)
    )
    promoters = np.flatnonzero(atac.var["kind"] == "promoter")
    promoter_of_G = np.empty(rna.n_vars, dtype=np.int64)
    promoter_of_G[atac.var["gene"].to_numpy()[promoters]] = promoters

    chosen = (kind_R == "promoter") & regulated_G[gene_R]
    assert mean_correlation(fraction_CR[:, chosen], openness_CP[:, promoter_of_G[gene_R[chosen]]]) < -0.3
    seen_G = np.asarray(rna.X.sum(axis=0)).ravel() > 200
    chosen = (kind_R == "gene_body") & (regulated_G & seen_G)[gene_R]
    assert chosen.sum() > 30
    assert mean_correlation(fraction_CR[:, chosen], expression_CG[:, gene_R[chosen]]) < -0.3


def test_methylated_share_is_that_of_the_log_odds(multiomics):
    methylation = multiomics["methylation"]
    total = methylation.X.tocoo()
    activity_NT = methylation.obsm["tf_activity"] - 0.5
    odds_NR = methylation.var["log_odds"].to_numpy() + activity_NT @ methylation.varm["tf_effect"].T.toarray()
    odds_NR += methylation.varm["donor_shift"].T[methylation.obs["donor"].cat.codes]
    expected_I = expit(odds_NR)[total.row, total.col]
    share_I = methylation.layers["methylated"].data / total.data
    for low in np.arange(0, 1, 0.2):
        within = (expected_I >= low) & (expected_I < low + 0.2)
        assert abs(share_I[within].mean() - expected_I[within].mean()) < 0.02


def test_without_opposition_nothing_drives_methylation(multiomics_config):
    config = dataclasses.replace(multiomics_config, methylation=MethylationConfig(opposition=0.0))
    methylation = simulate_multiomics(config, ["methylation"])["methylation"]
    assert np.abs(methylation.varm["tf_effect"].data).max(initial=0) == 0
