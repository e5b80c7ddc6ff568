"""The baselines of translation find what is linear, see no test cell while they are fitted, and know their units."""

import os
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor

from mofm.errors import InputError
from mofm.evaluation import translation_baselines as baselines
from mofm.evaluation.translation import per_feature_correlation
from mofm.evaluation.translation_baselines import Measured, baseline_translations, target_values


def measured(modality, cells, seed=0, features=60):
    """Cells of four programs, in counts."""
    rng = np.random.default_rng(seed)
    program_NK = rng.gamma(1.0, 1.0, (cells, 4))
    rate_NF = program_NK @ np.random.default_rng(99).gamma(0.5, 2.0, (4, features))
    if modality == "methylation":
        total = rng.poisson(1.5, rate_NF.shape)
        return Measured(sp.csr_matrix(total), sp.csr_matrix(rng.binomial(total, rate_NF / (rate_NF + 4))))
    return Measured(sp.csr_matrix(rng.poisson(rate_NF / 8 if modality == "atac" else rate_NF)))


MODALITIES = ("rna", "atac", "adt", "methylation")


def test_ridge_recovers_a_linear_map_and_the_mean_nothing():
    rng = np.random.default_rng(0)
    train_ND, test_ND, map_DF = rng.normal(size=(200, 5)), rng.normal(size=(50, 5)), rng.normal(size=(5, 8))
    target_NF = (train_ND @ map_DF + 3).astype(np.float32)
    np.testing.assert_allclose(baselines.ridge(train_ND, target_NF, test_ND), test_ND @ map_DF + 3, atol=1e-2)


def test_ridge_of_noise_is_the_mean(monkeypatch):
    monkeypatch.setattr(baselines, "BLOCK_ENTRIES", 300)  # of 8 targets, 3 at once
    rng = np.random.default_rng(1)
    train_ND, test_ND = rng.normal(size=(100, 30)), rng.normal(size=(50, 30))
    target_NF = rng.normal(5, 1, (100, 8)).astype(np.float32)
    target_NF[:, 2] = 7  # does not vary
    found_NF = baselines.ridge(train_ND, target_NF, test_ND)
    np.testing.assert_allclose(found_NF, np.tile(target_NF.mean(axis=0), (50, 1)), atol=0.25)
    np.testing.assert_allclose(found_NF[:, 2], 7, atol=1e-5)


def test_every_block_of_targets_gets_sklearns_ridge(monkeypatch):
    monkeypatch.setattr(baselines, "BLOCK_ENTRIES", 300)
    rng = np.random.default_rng(2)
    train_ND, test_ND = rng.normal(size=(100, 4)), rng.normal(size=(20, 4))
    target_NF = (train_ND @ rng.normal(size=(4, 8)) + rng.normal(0, 3, (100, 8))).astype(np.float32)
    penalty = baselines._choose_penalty(train_ND, target_NF)
    expected = Ridge(penalty).fit(train_ND, target_NF).predict(test_ND)
    np.testing.assert_allclose(baselines.ridge(train_ND, target_NF, test_ND), expected, atol=1e-4)


def test_neighbours_are_those_of_sklearn():
    rng = np.random.default_rng(3)
    train_ND, test_ND, target_NF = rng.normal(size=(90, 3)), rng.normal(size=(20, 3)), rng.normal(size=(90, 7))
    expected = KNeighborsRegressor(15).fit(train_ND, target_NF).predict(test_ND)
    np.testing.assert_allclose(baselines.nearest(train_ND, target_NF, test_ND), expected, atol=1e-5)
    few = baselines.nearest(train_ND[:4], target_NF[:4], test_ND)
    np.testing.assert_allclose(few, np.tile(target_NF[:4].mean(axis=0), (20, 1)), atol=1e-5)


@pytest.mark.parametrize("source", MODALITIES)
@pytest.mark.parametrize("target", MODALITIES)
def test_any_pair_of_omics_is_translated_better_than_by_the_mean(source, target):
    train, test = ([measured(name, cells, seed) for name in (source, target)] for cells, seed in ((400, 1), (200, 2)))
    found = baseline_translations(source, train[0], test[0], target_values(target, train[1]))
    truth_NF = target_values(target, test[1])
    scores = [per_feature_correlation(truth_NF, predicted_NF) for predicted_NF in found]
    assert scores[0].mean == 0
    assert scores[0].flat == scores[0].scored
    assert min(scores[1].mean, scores[2].mean) > 0.05
    assert {predicted_NF.dtype for predicted_NF in found} == {np.dtype(np.float32)}


@pytest.mark.parametrize("source", MODALITIES)
def test_other_test_cells_change_nothing(source):
    train = [measured(name, 120, 1) for name in (source, "adt")]
    test, others = measured(source, 10, 2), measured(source, 25, 3)
    together = Measured(
        *(None if a is None else sp.vstack([a, 5 * b]).tocsr() for a, b in zip(test, others, strict=True))
    )
    targets_NF = target_values("adt", train[1])
    alone = baseline_translations(source, train[0], test, targets_NF)
    crowd = baseline_translations(source, train[0], together, targets_NF)
    for one_NF, other_NF in zip(alone, crowd, strict=True):
        np.testing.assert_allclose(other_NF[:10], one_NF, rtol=1e-4, atol=1e-5)


def test_targets_are_in_their_units():
    counts = sp.csr_matrix([[3, 0, 1], [0, 0, 0]])
    np.testing.assert_allclose(target_values("rna", Measured(counts))[0], np.log1p([7500, 0, 2500]), rtol=1e-6)
    np.testing.assert_array_equal(target_values("atac", Measured(counts)), [[1, 0, 1], [0, 0, 0]])
    logs = np.log([4, 1, 2])
    np.testing.assert_allclose(target_values("adt", Measured(counts))[0], logs - logs.mean(), rtol=1e-6)
    fractions = target_values("methylation", Measured(counts, sp.csr_matrix([[1, 0, 0], [0, 0, 0]])))
    np.testing.assert_allclose(fractions, [[1 / 3, np.nan, 0], [np.nan] * 3], rtol=1e-6)
    with pytest.raises(InputError, match="methylated ones were not given"):
        target_values("methylation", Measured(counts))


def test_unmeasured_targets_are_their_mean():
    train = [measured(name, 50, 1) for name in ("rna", "methylation")]
    targets_NF = target_values("methylation", train[1])
    targets_NF[:, 5] = np.nan  # never measured: the mean of all
    found = baseline_translations("rna", train[0], measured("rna", 5, 2), targets_NF)
    np.testing.assert_allclose(found.mean_NF[0, 0], np.nanmean(targets_NF[:, 0]), rtol=1e-5)
    assert np.isfinite(found.ridge_NF).all()
    np.testing.assert_allclose(found.knn_NF[:, 5], found.mean_NF[0, 5], rtol=1e-5)


def test_cells_that_do_not_fit_their_targets_are_refused():
    with pytest.raises(InputError, match="5 training cells came with 4 targets"):
        baseline_translations("rna", measured("rna", 5), measured("rna", 3), np.zeros((4, 2)))


@pytest.mark.skipif("MOFM_DATA" not in os.environ, reason="MOFM_DATA is not set: citeseq_pbmc_500.h5mu not looked for")
def test_real_proteins_are_told_as_well_as_is_known():
    path = Path(os.environ["MOFM_DATA"]) / "citeseq_pbmc_500.h5mu"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    mudata = pytest.importorskip("mudata")
    omics = mudata.read_h5mu(path)
    rna, adt = (Measured(sp.csr_matrix(omics[name].X)) for name in ("rna", "adt"))
    test = np.random.default_rng(0).permutation(500) < 100
    sides = [[Measured(x.counts[rows]) for x in (rna, adt)] for rows in (~test, test)]
    found = baseline_translations("rna", *(side[0] for side in sides), target_values("adt", sides[0][1]))
    truth_NF = target_values("adt", sides[1][1])
    assert per_feature_correlation(truth_NF, found.ridge_NF).mean > 0.38  # 5 folds: .42, sd .015
    assert per_feature_correlation(truth_NF, found.knn_NF).mean > 0.36  # .40, .010
