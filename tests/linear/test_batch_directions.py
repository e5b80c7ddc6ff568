"""Directions of batches: found where batches differ, blind to what they hold, and not seen by the components."""

import numpy as np
import pytest
import scipy.sparse as sp

from mofm.batches.spaces import corpus_spaces
from mofm.batches.stream import Stream
from mofm.corpus.ingest import ingest
from mofm.corpus.store import open_corpus
from mofm.evaluation.integration import batch_mixing
from mofm.linear.batch_directions import batch_directions
from mofm.linear.components import Cells, fit_components
from mofm.linear.principal_axes import Centred, leading_axes
from mofm.linear.profiles import make_reader, read_profiles
from mofm.omics.simulate import MultiomicsConfig, SimulationConfig, simulate_multiomics, to_mudata, write_mudata
from mofm.training.config import build_config, make_spec
from mofm.training.fit_start import fit_start

CELLS, GENES, TYPES = 600, 40, 3


def cells_of(rng, shares_ST, shift_SG):
    """values_NG of cells of three types, shares_ST of each in each batch, moved by their batch; batch_N and type_N."""
    centre_TG = rng.normal(0, 2, (TYPES, GENES))
    batch_N = np.arange(CELLS) % len(shares_ST)
    type_N = np.array([rng.choice(TYPES, p=shares_ST[batch]) for batch in batch_N])
    return centre_TG[type_N] + rng.normal(0, 0.5, (CELLS, GENES)) + shift_SG[batch_N], batch_N, type_N


def found_in(values_NG, batch_N):
    centred_NG = values_NG - values_NG.mean(axis=0)
    axes_GK = np.linalg.svd(centred_NG, full_matrices=False)[2][:8].T
    return batch_directions(sp.csr_matrix(values_NG), centred_NG @ axes_GK, batch_N)


def test_a_shift_is_found_though_batches_hold_other_types():
    """The difference of means points along the types that one batch has more of; mutual neighbours do not."""
    rng = np.random.default_rng(0)
    shift_SG = np.stack([np.zeros(GENES), rng.normal(0, 0.5, GENES)])
    values_NG, batch_N, _ = cells_of(rng, np.array([[0.7, 0.3, 0.0], [0.0, 0.3, 0.7]]), shift_SG)
    found_RG = found_in(values_NG, batch_N)
    assert found_RG.shape == (1, GENES)
    unit_G = shift_SG[1] / np.linalg.norm(shift_SG[1])
    mean_G = values_NG[batch_N == 0].mean(axis=0) - values_NG[batch_N == 1].mean(axis=0)
    assert abs(found_RG[0] @ unit_G) > 0.9
    assert abs(mean_G / np.linalg.norm(mean_G) @ unit_G) < 0.7


def test_of_three_batches_two_directions():
    rng = np.random.default_rng(1)
    shift_SG = rng.normal(0, 0.5, (3, GENES))
    values_NG, batch_N, _ = cells_of(rng, np.full((3, TYPES), 1 / 3), shift_SG)
    found_RG = found_in(values_NG, batch_N)
    np.testing.assert_allclose(found_RG @ found_RG.T, np.eye(2), atol=1e-9)
    differences_SG = shift_SG[1:] - shift_SG[0]
    left_SG = differences_SG - (differences_SG @ found_RG.T) @ found_RG
    assert np.linalg.norm(left_SG) < 0.3 * np.linalg.norm(differences_SG)


def test_batches_that_do_not_differ_have_none():
    rng = np.random.default_rng(2)
    values_NG, batch_N, _ = cells_of(rng, np.full((2, TYPES), 1 / 3), np.zeros((2, GENES)))
    assert len(found_in(values_NG, batch_N)) == 0


@pytest.mark.parametrize("batch_N", [np.full(CELLS, -1), np.zeros(CELLS, int), np.arange(CELLS) // (CELLS - 9)])
def test_none_of_one_batch_of_unknown_ones_and_of_a_few_cells(batch_N):
    rng = np.random.default_rng(3)
    shift_SG = 5 * rng.normal(size=(2, GENES))
    values_NG = rng.normal(size=(CELLS, GENES)) + shift_SG[np.maximum(batch_N, 0)]
    assert len(found_in(values_NG, batch_N)) == 0


def test_cells_of_unknown_batch_take_no_part():
    rng = np.random.default_rng(4)
    values_NG, batch_N, _ = cells_of(rng, np.full((2, TYPES), 1 / 3), rng.normal(0, 0.5, (2, GENES)))
    known = np.arange(CELLS) % 4 < 2
    values_NG[~known] += 10
    centred_NG = values_NG - values_NG[known].mean(axis=0)
    axes_GK = np.linalg.svd(centred_NG[known], full_matrices=False)[2][:8].T
    blind_RG = batch_directions(sp.csr_matrix(values_NG), centred_NG @ axes_GK, np.where(known, batch_N, -1))
    values_NG[~known] = 0
    assert len(blind_RG) == 1
    np.testing.assert_array_equal(
        blind_RG, batch_directions(sp.csr_matrix(values_NG), centred_NG @ axes_GK, np.where(known, batch_N, -1))
    )


def test_components_look_along_none_of_them():
    """They are the leading axes of the matrix with the directions taken out, and profiles do not see a shift along them."""
    rng = np.random.default_rng(5)
    counts_NG = rng.poisson(np.exp(rng.normal(0, 1, (CELLS, 3)) @ rng.normal(0, 0.6, (3, GENES)))) + 0.0
    counts_NG[:, 0] += 1
    library_N = counts_NG.sum(axis=1)
    values_NG = sp.csr_matrix(np.log1p(counts_NG / library_N[:, None] * 1e4))
    cells = Cells(values_NG, sp.csr_matrix(counts_NG), library_N, np.zeros(CELLS, int))
    off_RG = np.linalg.qr(rng.normal(size=(GENES, 2)))[0].T
    free, kept_off = fit_components(cells, 8), fit_components(cells, 8, off_RG)
    assert np.abs(off_RG @ free.rows_GK).max() > 0.05
    np.testing.assert_allclose(off_RG @ kept_off.rows_GK, 0, atol=1e-6)

    mean_1G = np.asarray(values_NG.mean(axis=0))
    centred_NG = (values_NG.toarray() - mean_1G) @ (np.eye(GENES) - off_RG.T @ off_RG)
    _, strength_K, axes_KG = np.linalg.svd(centred_NG, full_matrices=False)
    of = Centred(values_NG, mean_1G, np.zeros(CELLS, int), off_RG)
    ours_K, ours_GK = leading_axes(of, 5)
    np.testing.assert_allclose(ours_K, strength_K[:5], rtol=1e-6)
    np.testing.assert_allclose(np.abs(np.sum(ours_GK * axes_KG[:5].T, axis=0)), 1, atol=1e-5)
    assert of.squares() == pytest.approx(np.sum(centred_NG**2))


def test_a_run_that_knows_batches_begins_off_them(tmp_path):
    """RNA and chromatin, each with batch effects of its own; types are spread evenly over the batches."""
    simulation = SimulationConfig(cells=600, genes=300, cell_types=3, batch_effect=0.6, batch_concentration=1e6, seed=3)
    cells = simulate_multiomics(MultiomicsConfig(simulation), ("rna", "atac"))
    write_mudata(to_mudata(cells), tmp_path / "cells.h5mu")
    ingest([tmp_path / "cells.h5mu"], tmp_path / "corpus")
    corpus = open_corpus(tmp_path / "corpus")
    genes, spaces = corpus_spaces(corpus)
    mixing = {}
    for key in (None, "batch"):
        data = {
            "corpus": str(tmp_path / "corpus"),
            "batch_size": 64,
            "tokens": 256,
            "atac_tokens": 256,
            "batch_key": key,
        }
        config = build_config({"data": data, "encoder": {"width": 32, "heads": 2, "ffn": 48, "cell_width": 16}})
        stream, told = Stream(corpus, config.data, config.seed), []
        spec = make_spec(config, len(genes), 0, corpus.modalities)
        start = fit_start(corpus, stream, config, spec, spaces, report=told.append)
        assert [line for line in told if "2 batches, the embedding begins off the" in line] == told[: key is not None]
        assert len(told) == (key is not None)
        batches = [stream.batch(step) for step in range(6)]
        for modality, space in (("rna", None), ("atac", start.spaces["atac"])):
            views = [getattr(batch, modality) for batch in batches]
            profile = None if space is None else start.profiles[modality]
            read = read_profiles(views, modality, make_reader(modality, space, start.components, profile))
            batch_N = np.asarray(cells[modality].obs["batch"])[read.cell_N]
            mixing[key, modality] = batch_mixing(read.profile_NK[:, :-1], batch_N).score
    assert mixing["batch", "rna"] > 0.8 > 0.4 > mixing[None, "rna"], mixing
    assert mixing["batch", "atac"] > mixing[None, "atac"] + 0.03, mixing
