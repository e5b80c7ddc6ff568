"""Chromatin carries the network: TFs open what they bind, genes follow their peaks, and the sums are the edges."""

import dataclasses
import tracemalloc

import numpy as np
import pytest
from scipy.special import expit

from mofm.omics.genome import gene_table
from mofm.omics.simulation.atac import AtacConfig, count_atac, draw_chromatin
from mofm.omics.simulation.cells import draw_cells
from mofm.omics.simulation.config import SimulationConfig
from mofm.omics.simulation.genes import choose_genes, tss
from mofm.omics.simulation.network import draw_cell_types, draw_network

NONE = np.array([], dtype=np.int64)


def chromatin_of(config: SimulationConfig, atac: AtacConfig = AtacConfig(), shift_DG: np.ndarray | None = None):  # noqa: B008
    """The chromatin, the network and the genes of a config."""
    network, table = draw_network(config), gene_table("human")
    genes = choose_genes(config, table, NONE)
    shift_DG = np.zeros((1, config.genes)) if shift_DG is None else shift_DG
    return draw_chromatin(config, atac, network, shift_DG, genes, table), network, genes


@pytest.mark.parametrize(
    "atac", [AtacConfig(), AtacConfig(distal_peaks=0.0), AtacConfig(opening=0.5, distal_peaks=8.0)]
)
def test_links_times_bindings_are_the_edges(small, atac):
    chromatin, network, _ = chromatin_of(small, atac)
    carried_GT = (chromatin.links_PG.T @ chromatin.odds.weights_PT).toarray()
    np.testing.assert_allclose(carried_GT, network.edges().toarray(), atol=1e-9)


def test_peaks_are_bound_by_regulators_of_their_gene_and_each_kind_does_what_it_says(small):
    chromatin, network, _ = chromatin_of(small)
    edges_GT, weights_PT = network.edges().toarray(), chromatin.odds.weights_PT.toarray()
    gene_P, kind_P = chromatin.peaks["gene"].to_numpy(), chromatin.peaks["kind"].to_numpy()
    link_P = chromatin.links_PG.toarray()[np.arange(len(gene_P)), gene_P]
    for peak in np.flatnonzero(kind_P != "background"):
        edge_T, bound_T = edges_GT[gene_P[peak]], weights_PT[peak] != 0
        if kind_P[peak] == "promoter":
            np.testing.assert_array_equal(bound_T, edge_T != 0)
            assert (np.sign(weights_PT[peak]) == np.sign(edge_T)).all()
            assert link_P[peak] > 0
        else:
            sign = 1 if kind_P[peak] == "enhancer" else -1
            assert bound_T.any()
            assert (np.sign(edge_T[bound_T]) == sign).all()
            assert (weights_PT[peak][bound_T] > 0).all()
            assert np.sign(link_P[peak]) == sign
    assert set(kind_P) == {"promoter", "enhancer", "silencer", "background"}
    assert (np.bincount(gene_P[kind_P == "promoter"], minlength=200) == 1).all()


def test_background_is_closed_and_belongs_to_no_gene(small):
    chromatin, _, _ = chromatin_of(small)
    background = (chromatin.peaks["kind"] == "background").to_numpy()
    assert background.sum() == 1000
    assert chromatin.odds.weights_PT[background].nnz == 0
    assert chromatin.links_PG[background].nnz == 0
    assert (expit(chromatin.odds.rest_P[background]) < 0.05).all()
    assert expit(chromatin.odds.rest_P[~background]).mean() > 0.2


def test_links_are_found_by_distance():
    chromatin, _, genes = chromatin_of(SimulationConfig())
    owned = chromatin.peaks[chromatin.peaks["gene"] >= 0]
    first, chrom = tss(genes), genes["chrom"].astype(str).to_numpy()
    middle = ((owned["start"] + owned["end"]) // 2).to_numpy()
    apart_PG = np.abs(middle[:, None] - first)
    apart_PG[owned["chrom"].astype(str).to_numpy()[:, None] != chrom] = 10**9
    assert np.mean(apart_PG.argmin(axis=1) == owned["gene"]) > 0.9
    weight_P = np.abs(np.asarray(chromatin.links_PG.sum(axis=1)).ravel())[chromatin.peaks["gene"] >= 0]
    distal = (owned["kind"] != "promoter").to_numpy()
    near = np.abs(owned["distance"].to_numpy()) < 10_000
    is_tf = np.isin(owned["gene"], draw_network(SimulationConfig()).tf_genes_T)
    assert weight_P[distal & near & ~is_tf].mean() > 1.5 * weight_P[distal & ~near & ~is_tf].mean()


def test_peaks_of_active_tfs_are_more_open(multiomics):
    atac = multiomics["atac"]
    share_NP = atac.X.toarray() / atac.obs["n_counts"].to_numpy()[:, None]
    binding_PT = atac.varm["tf_binding"].toarray()
    opens, closes = [], []
    for tf, activity_N in enumerate(atac.obsm["tf_activity"].T):
        active = activity_N > 0.5
        if 40 < active.sum() < len(active) - 40:
            change_P = share_NP[active].mean(axis=0) - share_NP[~active].mean(axis=0)
            opens.extend(change_P[binding_PT[:, tf] > 1.5] > 0)
            closes.extend(change_P[binding_PT[:, tf] < -1.5] < 0)
    assert len(opens) > 100
    assert len(closes) > 10
    assert np.mean(opens) > 0.8
    assert np.mean(closes) > 0.8


def test_genes_follow_their_peaks_with_the_sign_of_the_link(multiomics):
    rna, atac = multiomics["rna"], multiomics["atac"]
    by_type = [(rna.obs["cell_type"] == name).to_numpy() for name in rna.obs["cell_type"].cat.categories]
    expression_CG, openness_CP = (
        np.log(np.stack([adata.X[of_type].sum(axis=0).A1 + 1.0 for of_type in by_type]))
        - np.log([[adata.X[of_type].sum()] for of_type in by_type])
        for adata in (rna, atac)
    )
    link_P, gene_P = atac.var["link"].to_numpy(), atac.var["gene"].to_numpy()
    seen_P = (np.asarray(atac.X.sum(axis=0)).ravel() > 100) & (np.asarray(rna.X.sum(axis=0)).ravel()[gene_P] > 100)
    for signs, least in ((link_P > 0, 0.3), (link_P < 0, 0.15)):
        chosen = np.flatnonzero(signs & seen_P & (np.diff(atac.varm["tf_binding"].indptr) > 0))
        agreement = [
            np.corrcoef(openness_CP[:, peak], expression_CG[:, gene_P[peak]])[0, 1] * np.sign(link_P[peak])
            for peak in chosen
        ]
        assert len(agreement) > 20
        assert np.mean(agreement) > least


def test_counts_have_the_openness_of_each_cell(small):
    config = dataclasses.replace(small, cells=3000, batch_effect=0.0, state_noise=0.0)
    atac = AtacConfig(fragments_sd=0.0, background_peaks=50)
    chromatin, network, _ = chromatin_of(config, atac)
    _, attractors_CT = draw_cell_types(config)
    cells = draw_cells(config, network, attractors_CT)
    counts = count_atac(config, atac, chromatin, attractors_CT, cells)
    assert abs(np.mean(np.asarray(counts.sum(axis=1))) / 2000 - 1) < 0.1
    openness_CP = np.stack([expit(chromatin.odds.of_state(state_T)) for state_T in attractors_CT])
    mean_CP = np.stack([np.asarray(counts[cells.label_N == c].mean(axis=0)).ravel() for c in range(4)])
    ratio_CP = mean_CP / openness_CP
    often = openness_CP.min(axis=0) > 0.1
    assert often.sum() > 100
    np.testing.assert_allclose(ratio_CP[:, often] / ratio_CP[:, often].mean(axis=0), 1, atol=0.35)


def test_a_donor_opens_the_promoters_of_its_genes(small):
    shift_DG = np.zeros((2, 200))
    shift_DG[1] = 0.5
    chromatin, _, _ = chromatin_of(small, shift_DG=shift_DG)
    promoters = (chromatin.peaks["kind"] == "promoter").to_numpy()
    assert (chromatin.odds.shift_DP[1, promoters] > 0.5).all()
    assert (chromatin.odds.shift_DP[:, ~promoters] == 0).all()
    assert (chromatin.odds.shift_DP[0] == 0).all()


def test_200_000_peaks_take_no_dense_matrix(small):
    config, atac = dataclasses.replace(small, cells=1000), AtacConfig(background_peaks=200_000)
    chromatin, network, _ = chromatin_of(config, atac)
    _, attractors_CT = draw_cell_types(config)
    cells = draw_cells(config, network, attractors_CT)
    tracemalloc.start()
    counts = count_atac(config, atac, chromatin, attractors_CT, cells)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert counts.shape[1] > 200_000
    assert counts.shape[0] == 1000
    assert peak < counts.shape[0] * counts.shape[1]  # a byte an entry, an eighth of dense rates
