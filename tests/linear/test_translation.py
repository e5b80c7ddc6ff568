"""The linear translation: what it minimises, what it leaves out, and what it takes where there are no pairs."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp

from mofm.batch import LIBRARY_SCALE, FeatureSpace, TokenBatch
from mofm.linear import translation as linear
from mofm.linear.basis import Basis
from mofm.linear.components import Components
from mofm.linear.own_components import fit_own_components
from mofm.linear.profiles import Profile

CELLS, GENES, PROTEINS, K = 60, 30, 6, 3
MODALITIES = ("rna", "atac", "adt", "methylation")


def a_target(modality, seed=0, cells=CELLS, features=12):
    rng = np.random.default_rng(seed)
    counts_NF = rng.poisson(1.5, (cells, features)).astype(float)
    reads_NF = counts_NF + rng.poisson(0.7, counts_NF.shape)
    library_N = rng.uniform(2e3, 2e4, cells)
    reads = sp.csr_matrix(reads_NF) if modality == "methylation" else None
    return linear._Target(modality, np.arange(cells), sp.csr_matrix(counts_NF), reads, library_N, np.zeros(cells, int))


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_response_is_a_small_change_of_the_predictor(modality):
    """Measurements that follow a predictor by a factor's 5%: z has that factor's slope."""
    rng = np.random.default_rng(1)
    cells, slope_F = 40_000, np.array([0.05, -0.05])
    factor_N = rng.normal(size=cells)
    change_NF = factor_N[:, None] * slope_F
    reads = None
    if modality == "methylation":
        reads_NF = rng.poisson(3.0, change_NF.shape).astype(float)
        counts_NF = rng.binomial(reads_NF.astype(int), 1 / (1 + np.exp(-change_NF - 0.4))).astype(float)
        reads = sp.csr_matrix(reads_NF)
    elif modality == "atac":
        counts_NF = (rng.random(change_NF.shape) < 1 / (1 + np.exp(1.0 - change_NF))).astype(float)
    else:
        mean = {"rna": 0.2, "adt": 300.0}[modality]
        counts_NF = rng.poisson(mean * np.exp(change_NF)).astype(float)
    depths = np.full(cells, LIBRARY_SCALE), np.zeros(cells, int)
    target = linear._Target(modality, np.arange(cells), sp.csr_matrix(counts_NF), reads, *depths)
    z_NF = linear.responses(target, np.arange(2))
    np.testing.assert_allclose(z_NF.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(factor_N @ z_NF / (factor_N @ factor_N), slope_F, atol=0.02)


def test_columns_in_blocks_are_those_of_the_whole():
    for modality in MODALITIES:
        target = a_target(modality)
        z_NF = linear.responses(target, np.arange(12))
        np.testing.assert_allclose(linear.responses(target, np.array([3, 7])), z_NF[:, [3, 7]])


def test_the_error_of_cells_left_out_is_that_of_leaving_them_out():
    rng = np.random.default_rng(2)
    x_NK, z_NF = rng.normal(size=(14, K)), rng.normal(size=(14, 4)) * [0.5, 1, 3, 6]
    x_NK, z_NF = x_NK - x_NK.mean(axis=0), z_NF - z_NF.mean(axis=0)
    penalty_F = np.maximum(z_NF.var(axis=0), linear.NOISY)

    def left_out(penalty):
        errors = np.zeros_like(z_NF)
        for cell in range(14):
            rest = np.arange(14) != cell
            inputs = x_NK[rest] - x_NK[rest].mean(axis=0)
            for feature, scale in enumerate(penalty_F):
                answers = z_NF[rest, feature]
                gram = inputs.T @ inputs + penalty * scale * np.eye(K)
                weights = np.linalg.solve(gram, inputs.T @ (answers - answers.mean()))
                told = answers.mean() + (x_NK[cell] - x_NK[rest].mean(axis=0)) @ weights
                errors[cell, feature] = (z_NF[cell, feature] - told) ** 2
        return np.mean(errors.mean(axis=0) / z_NF.var(axis=0))

    ours_P = linear._left_out(np.linalg.svd(x_NK, full_matrices=False), z_NF, np.zeros_like(z_NF))
    np.testing.assert_allclose(ours_P, [left_out(penalty) for penalty in linear.PENALTIES], rtol=1e-9)


def test_loadings_minimise_what_they_say():
    profile_NK = np.random.default_rng(3).normal(size=(CELLS, K))
    target = a_target("rna")
    loading_FK = linear._fit(profile_NK, target, None)
    x_NK, z_NF = profile_NK - profile_NK.mean(axis=0), linear.responses(target, np.arange(12))
    penalty_F = np.maximum(z_NF.var(axis=0), linear.NOISY)
    pull_FK = (z_NF - x_NK @ loading_FK.T).T @ x_NK / penalty_F[:, None]  # = penalty * loading at the minimum
    ratio_FK = pull_FK / loading_FK
    np.testing.assert_allclose(ratio_FK, np.median(ratio_FK), rtol=1e-6)
    assert np.isclose(linear.PENALTIES, np.median(ratio_FK), rtol=1e-6).any()


def test_a_prior_is_kept_only_where_left_out_cells_prefer_it():
    rng = np.random.default_rng(4)
    target = a_target("adt", features=6)
    z_NF = linear.responses(target, np.arange(6))
    profile_NK = np.linalg.svd(z_NF, full_matrices=False)[0][:, :K] * 5 + 0.3 * rng.normal(size=(CELLS, K))
    alone_FK = linear._fit(profile_NK, target, None)
    good_FK = np.linalg.lstsq(profile_NK, z_NF, rcond=None)[0].T
    centred_NK = profile_NK - profile_NK.mean(axis=0)

    def error(loading_FK):
        return np.square(z_NF - centred_NK @ loading_FK.T).mean()

    assert error(linear._fit(profile_NK, target, good_FK)) <= error(alone_FK)
    np.testing.assert_array_equal(linear._fit(profile_NK, target, -9 * good_FK), alone_FK)
    few = target.of(np.arange(linear.MIN_PAIRS - 1))
    assert not linear._fit(profile_NK[: linear.MIN_PAIRS - 1], few, None).any()


def paired_views(pairs, seed=5):
    """RNA and the protein of each of its first genes, of cells of which the first `pairs` have one number in both."""
    rng = np.random.default_rng(seed)
    rate_NG = np.exp(rng.normal(size=(CELLS, K)) @ rng.normal(size=(K, GENES)))
    counts_NG = rng.poisson(2 * rate_NG).astype(float)
    proteins_NF = rng.poisson(40 * rate_NG[:, :PROTEINS]).astype(float)
    other_N = np.where(np.arange(CELLS) < pairs, np.arange(CELLS), np.arange(CELLS) + CELLS)
    order = rng.permutation(CELLS)
    views = {
        "rna": view_of(counts_NG, np.arange(CELLS)),
        "adt": view_of(proteins_NF[order], other_N[order]),
    }
    zeros, base = np.zeros(PROTEINS), np.log(proteins_NF.sum(axis=0) / proteins_NF.sum() * LIBRARY_SCALE)
    genes_FK = np.arange(PROTEINS, dtype=np.int32)[:, None]
    space = FeatureSpace(
        genes_FK,
        np.ones((PROTEINS, 1)),
        np.zeros((PROTEINS, 5)),
        zeros.astype(np.int32),
        base,
        zeros,
    )
    rows_GK = np.linalg.svd(np.log1p(counts_NG) - np.log1p(counts_NG).mean(axis=0), full_matrices=False)[2][:K].T
    scale, centre_G = np.float32(30), np.full(GENES, 1 / GENES)
    components = Components(
        rows_GK, np.zeros(GENES), scale, centre_G, np.float32(0), np.ones(K), np.zeros_like(rows_GK)
    )
    profiles = {"adt": Profile(scale, np.full(K, scale), centre_G, np.float32(0))}
    return SimpleNamespace(views=views, spaces={"adt": space}, components=components, profiles=profiles)


def view_of(counts_NF, cell_N):
    cells, features = counts_NF.shape
    library_N = counts_NF.sum(axis=1)
    values_NF = np.log1p(counts_NF / library_N[:, None] * LIBRARY_SCALE)
    features_NF = np.broadcast_to(np.arange(features), counts_NF.shape)
    return [TokenBatch(features_NF, values_NF, counts_NF, counts_NF > 0, library_N, cell_N, np.zeros(cells, np.int32))]


def fitted(of):
    """Loadings on the profile; level and spread are the last two columns."""
    found = linear.fit_linear_translation(of.views, of.views, of.spaces, basis_of(of), all_of_them)[0]
    return {direction: loading_FR[:, :-2] for direction, loading_FR in found.items()}


def readers_of(of):
    return linear.make_readers(of.views, of.spaces, basis_of(of))


def all_of_them(dataset, modality):
    """Which features a data set measures."""
    return np.ones(PROTEINS, bool)


def basis_of(of):
    """With no components of a modality's own."""
    return Basis(of.components, of.profiles, {})


def test_pairs_are_found_by_their_cells_whatever_their_order():
    of = paired_views(CELLS)
    found = fitted(of)
    assert {tuple(direction): loading_FK.shape for direction, loading_FK in found.items()} == {
        ("rna", "adt"): (PROTEINS, K + 1),
        ("adt", "rna"): (GENES, K + 1),
    }
    turned = [TokenBatch(*(None if leaf is None else leaf[::-1] for leaf in of.views["adt"][0]))]
    again = fitted(SimpleNamespace(**{**vars(of), "views": of.views | {"adt": turned}}))
    for direction, loading_FK in found.items():
        np.testing.assert_allclose(again[direction], loading_FK, rtol=1e-5, atol=1e-6)
    profile_NK = linear.read_profiles(of.views["rna"], "rna", readers_of(of)["rna"]).profile_NK
    target = linear._read_target(of.views["adt"], "adt", PROTEINS)
    z_NF = linear.responses(target.of(np.argsort(target.cell_N)), np.arange(PROTEINS))
    told_NF = profile_NK @ found["rna", "adt"].T
    assert np.mean([np.corrcoef(*two)[0, 1] for two in zip(told_NF.T, z_NF.T, strict=True)]) > 0.6


def test_without_pairs_the_targets_own_profile_tells():
    none, few = fitted(paired_views(0)), fitted(paired_views(linear.MIN_PAIRS - 1))
    own = paired_views(0)
    target = linear._read_target(own.views["adt"], "adt", PROTEINS)
    read = linear.read_profiles(own.views["adt"], "adt", readers_of(own)["adt"])
    profile_NR, cells = linear._matched(read, target)
    expected_FK = linear._fit(profile_NR[:, :K], cells, None)
    assert np.abs(expected_FK).max() > 0.01
    for found in (none, few):
        np.testing.assert_allclose(found["rna", "adt"][:, :K], expected_FK.astype(np.float32), rtol=1e-5, atol=1e-6)
        assert not found["rna", "adt"][:, K].any()  # of the depth of one nothing follows for the other


def test_what_the_targets_profile_tells_is_not_judged_by_cells_it_knows(monkeypatch):
    """Where all cells have pairs, loadings are those of the pairs alone; where some have none, those are the prior's cells."""
    asked, fit = [], linear._fit

    def watched(profile_NK, target, *prior):
        asked.append((target, *prior))
        return fit(profile_NK, target, *prior)

    monkeypatch.setattr(linear, "_fit", watched)
    fitted(paired_views(CELLS))
    parts = [CELLS - CELLS // linear.FOLDS] * linear.FOLDS  # for level and spread of proteins
    assert [len(target.cell_N) for target, *_ in asked] == [0, CELLS, *parts, 0, CELLS]
    assert not any(prior[0].any() for _, *prior in asked if prior)
    asked.clear()
    fitted(paired_views(20))
    for alone, paired in (asked[:2], asked[-2:]):
        assert (len(alone[0].cell_N), len(paired[0].cell_N)) == (CELLS - 20, 20)
        assert not set(alone[0].cell_N) & set(paired[0].cell_N)
        assert paired[1].any()


def test_a_source_with_components_of_its_own_tells_more_than_by_its_genes():
    of = paired_views(CELLS)
    blind = of.spaces["adt"]._replace(genes_FK=np.zeros((PROTEINS, 1), np.int32))  # all speak of one gene
    of = SimpleNamespace(**{**vars(of), "spaces": {"adt": blind}})
    own = {"adt": fit_own_components(of.views["adt"], "adt", blind)}
    target = linear._read_target(of.views["rna"], "rna", GENES)
    explained = []
    for basis in (basis_of(of), basis_of(of)._replace(own=own)):
        loading_FR = linear.fit_linear_translation(of.views, of.views, of.spaces, basis, all_of_them)[0]["adt", "rna"]
        reader = linear.make_readers(of.views, of.spaces, basis)["adt"]
        profile_NR, measured = linear._matched(linear.read_profiles(of.views["adt"], "adt", reader), target)
        loading_FR, z_NF = loading_FR[:, :-2], linear.responses(measured, np.arange(GENES))
        explained.append(1 - np.var(z_NF - profile_NR @ loading_FR.T) / np.var(z_NF))
    assert explained[1] > explained[0] + 0.2


def test_level_and_spread_are_of_proteins_with_pairs_alone():
    laws = {}
    for pairs in (0, CELLS):
        of = paired_views(pairs)
        found = linear.fit_linear_translation(of.views, of.views, of.spaces, basis_of(of), all_of_them)[0]
        laws[pairs] = {direction: loading_FR[:, -2:] for direction, loading_FR in found.items()}
    assert not any(law_F2.any() for law_F2 in (*laws[0].values(), laws[CELLS]["adt", "rna"]))
    level_F, spread_F = laws[CELLS]["rna", "adt"].T
    assert level_F.all()
    assert len(set(level_F)) == PROTEINS
    assert spread_F.all()
    assert np.median(spread_F) > 0  # drawn as Poisson counts, of which the mean predictor here says theta is 1


@pytest.mark.parametrize("first", [False, True])
def test_a_data_set_that_does_not_measure_a_protein_says_nothing_of_its_level(first, monkeypatch):
    """Nor does it matter whether such cells come first, where more pairs are there than are looked at."""
    monkeypatch.setattr(linear, "LAW_CELLS", 40)
    of = paired_views(CELLS)
    (view,) = of.views["adt"]
    is_blind = (view.cell_B < CELLS // 2) if first else (view.cell_B >= CELLS // 2)
    counts_BL = view.counts_BL.copy()
    counts_BL[is_blind, 0] = 0
    of.views["adt"] = [view._replace(counts_BL=counts_BL, mask_BL=counts_BL > 0, dataset_B=is_blind.astype(np.int32))]

    def level(measured):
        found = linear.fit_linear_translation(of.views, of.views, of.spaces, basis_of(of), measured)[0]
        return found["rna", "adt"][:, -2]

    told_F = level(lambda dataset, _: np.arange(PROTEINS) >= dataset)
    zeros_F = level(all_of_them)
    np.testing.assert_array_equal(told_F[1:], zeros_F[1:])
    assert told_F[0] > zeros_F[0] + 0.3


def test_depth_is_foretold_from_pairs_alone():
    """Counts of the target double along an axis that the source shows: so does the depth that is foretold."""
    of = paired_views(CELLS)
    reader = readers_of(of)["rna"]
    read = linear.read_profiles(of.views["rna"], "rna", reader)
    first_N = read.profile_NK[:, 0] / read.profile_NK[:, 0].std()
    (view,) = of.views["adt"]
    order = np.argsort(read.cell_N)[np.searchsorted(np.sort(read.cell_N), view.cell_B)]
    deeper = view._replace(library_B=1e3 * np.exp(0.5 * first_N[order]))
    of.views["adt"] = [deeper]
    found = linear.fit_linear_translation(of.views, of.views, of.spaces, basis_of(of), all_of_them)[1]
    assert found.keys() == {("rna", "adt"), ("adt", "rna")}
    told_N = read.profile_NK @ found["rna", "adt"]
    assert np.corrcoef(told_N, first_N)[0, 1] > 0.95
    assert np.std(told_N) == pytest.approx(0.5, rel=0.2)
    assert linear.fit_linear_translation(*[paired_views(0).views] * 2, of.spaces, basis_of(of), all_of_them)[1] == {}


@pytest.mark.parametrize("pairs", [CELLS, 40])
def test_pairs_that_are_none_are_told(pairs):
    """Cells under each other's names, as where a file was sorted on one side."""
    of, told = paired_views(pairs), []
    linear.fit_linear_translation(of.views, of.views, of.spaces, basis_of(of), all_of_them, told.append)
    assert not told
    (view,) = of.views["adt"]
    paired = np.flatnonzero(view.cell_B < CELLS)
    wrong = view.cell_B.copy()
    wrong[paired] = np.random.default_rng(0).permutation(view.cell_B[paired])
    of.views["adt"] = [view._replace(cell_B=wrong)]
    linear.fit_linear_translation(of.views, of.views, of.spaces, basis_of(of), all_of_them, told.append)
    assert len(told) == 1
    assert "adt and rna predict each other no better than cells paired by lot" in told[0]


def test_a_model_without_components_has_none():
    of = paired_views(CELLS)
    none = of.components._replace(rows_GK=np.zeros((GENES, 0)))
    assert fitted(SimpleNamespace(**{**vars(of), "components": none})) == {}
