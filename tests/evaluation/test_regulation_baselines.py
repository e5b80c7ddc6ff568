"""Baselines of expression against numpy on dense z-scores, TF by TF; and what they say of cells a network drives."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from mofm.errors import InputError
from mofm.evaluation import regulation_baselines
from mofm.evaluation.regulation import edge_scores
from mofm.evaluation.regulation_baselines import degree_scores, pearson_scores, regulon_scores, tf_activities
from mofm.omics.network_splits import hold_out, matched_negatives, uniform_negatives

CONSTANT, SILENT = 10, 11


@pytest.fixture(autouse=True)
def several_blocks(monkeypatch):
    monkeypatch.setattr(regulation_baselines, "BLOCK_CELLS", 32)


@pytest.fixture(scope="module")
def values():
    """100 cells x 12 genes, half zeros, correlated; one gene is the same in all cells and one is never seen."""
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(100, 3)) @ rng.normal(size=(3, 12)) + rng.normal(size=(100, 12))
    dense = np.maximum(dense, 0)
    dense[:, CONSTANT], dense[:, SILENT] = 1.7, 0
    return sp.csr_matrix(dense)


@pytest.fixture(scope="module")
def edges():
    """TF 0 has several targets, one twice over; TF 1 one; TF 2 none that varies; TF 3 stands in its own regulon."""
    rows = [(0, 4, 0, 1), (0, 5, 0, -1), (0, 5, 1, 0), (0, 6, 0, 0), (1, 7, 0, -1), (2, CONSTANT, 0, 1), (3, 3, 0, 1)]
    rows += [(3, 8, 0, -1), (0, SILENT, 0, 1)]
    return pd.DataFrame(rows, columns=["tf", "target", "relation", "sign"])


SIGNS = {0: {4: 1, 5: -1, 6: 1}, 1: {7: -1}, 2: {}, 3: {3: 1, 8: -1}}


def standardised(values):
    dense = values.toarray()
    spread = dense.std(axis=0)
    return (dense - dense.mean(axis=0)) / np.where(spread > 1e-9, spread, np.inf)


def correlation(one, other):
    return np.corrcoef(one, other)[0, 1] if one.std() > 1e-9 and other.std() > 1e-9 else 0.0


def all_pairs():
    return tuple(np.stack(np.meshgrid(np.arange(4), np.arange(12), indexing="ij")).reshape(2, -1))


def test_degrees_count_pairs_once(edges):
    tf, target = np.array([0, 0, 9, 1]), np.array([4, 9, 4, 7])
    np.testing.assert_allclose(
        degree_scores(edges, 12, tf, target), [np.log(5) * np.log(2), 0, 0, np.log(2) * np.log(2)]
    )


def test_pearson_is_that_of_numpy(values):
    tf, target = all_pairs()
    z_NG = standardised(values)
    expected = [correlation(z_NG[:, f], z_NG[:, t]) for f, t in zip(tf, target, strict=True)]
    np.testing.assert_allclose(pearson_scores(values, tf, target), expected, atol=1e-9)


def test_regulon_scores_leave_the_scored_target_out(values, edges):
    tf, target = all_pairs()
    z_NG, expected = standardised(values), []
    for f, t in zip(tf.tolist(), target.tolist(), strict=True):
        others = {gene: sign for gene, sign in SIGNS[f].items() if gene != t}
        activity = sum((sign * z_NG[:, gene] for gene, sign in others.items()), np.zeros(100))
        expected.append(correlation(activity if others else z_NG[:, f], z_NG[:, t]))
    np.testing.assert_allclose(regulon_scores(values, edges, tf, target), expected, atol=1e-9)


def test_activities_are_signed_means(values, edges):
    z_NG = standardised(values)
    found = tf_activities(values, edges)
    np.testing.assert_array_equal(found.tfs, [0, 1, 2, 3])
    expected = [
        np.mean([s * z_NG[:, g] for g, s in SIGNS[tf].items()], axis=0) if SIGNS[tf] else np.zeros(100)
        for tf in range(4)
    ]
    np.testing.assert_allclose(found.activity_NT, np.transpose(expected), atol=1e-5)
    np.testing.assert_allclose(tf_activities(values, edges, "mrna").activity_NT, z_NG[:, :4], atol=1e-5)
    assert found.activity_NT.dtype == np.float32


def test_what_has_no_correlation_is_refused(values):
    for wrong in (values[:1], sp.csr_matrix(np.full((3, 12), np.nan))):
        with pytest.raises(InputError, match="correlations need"):
            pearson_scores(wrong, np.array([0]), np.array([1]))


def test_no_pairs_have_no_scores(values, edges):
    nothing = np.empty(0, np.int32)
    assert len(pearson_scores(values, nothing, nothing)) == len(regulon_scores(values, edges, nothing, nothing)) == 0


def test_a_hidden_activity_shows_in_the_regulon_and_not_in_the_mrna():
    """The TF's own mRNA is noise and its targets follow its activity: a target that training hides is found."""
    rng = np.random.default_rng(0)
    activity_N = rng.normal(size=2000)
    sign_G = np.array([0, 1, -1, 1, -1, 1, 0])
    values = sp.csr_matrix(activity_N[:, None] * sign_G + rng.normal(size=(2000, 7)))
    train = pd.DataFrame({"tf": 0, "target": [1, 2, 3], "sign": sign_G[1:4]})
    tf, target = np.zeros(3, int), np.array([4, 5, 6])
    regulon, pearson = regulon_scores(values, train, tf, target), pearson_scores(values, tf, target)
    assert regulon[0] < -0.5
    assert regulon[1] > 0.5
    assert abs(regulon[2]) < 0.1
    assert np.abs(pearson).max() < 0.1
    backwards = regulon_scores(values, train.assign(sign=-train["sign"]), tf, target)
    np.testing.assert_allclose(backwards, -regulon)


@pytest.mark.skipif("MOFM_DATA" not in os.environ, reason="MOFM_DATA is not set: dorothea_human.tsv.gz not looked for")
@pytest.mark.parametrize("part", ["held_out_edge", "held_out_tf"])
def test_degrees_do_not_give_matched_negatives_of_a_real_network_away(part):
    path = Path(os.environ["MOFM_DATA"]) / "dorothea_human.tsv.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    table = pd.read_csv(path, sep="\t")
    codes, _ = pd.factorize(pd.concat([table["tf"], table["target"]]))
    edges, genes = pd.DataFrame({"tf": codes[: len(table)], "target": codes[len(table) :]}), 20_000
    parts = hold_out(edges, 0.1, 0.1, 0)
    held = edges[parts == part]
    known, positives = ((of["tf"].to_numpy(), of["target"].to_numpy()) for of in (edges, held))

    def auroc(network, negatives):
        drawn = negatives[1] >= 0
        assert drawn.mean() > 0.99
        in_degree_G = np.bincount(network["target"], minlength=genes)  # a held-out TF has no out-degree to tell
        return edge_scores(in_degree_G[positives[1]], in_degree_G[negatives[1][drawn]])["auroc"]

    matched = matched_negatives(positives, positives, known, genes, 0)
    assert auroc(edges[parts == "train"], matched) == pytest.approx(0.5, abs=0.04)
    assert auroc(edges, matched) == pytest.approx(0.5, abs=0.04)
    uniform = uniform_negatives(len(held), np.unique(held["tf"]), known, genes, 0)
    assert auroc(edges, uniform) > 0.85
    if part == "held_out_edge":  # what is held out is missing from its own target's count: see network_splits
        assert auroc(edges[parts == "train"], matched_negatives(positives, known, known, genes, 0)) < 0.46
