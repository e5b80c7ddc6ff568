"""Mixing is 1 where batch labels are shuffled and 0 where batches are apart, whatever k and the batches' sizes; within
types it does not punish batches that hold different types; the silhouette is sklearn's, type by type."""

import numpy as np
import pytest
from sklearn.metrics import silhouette_samples

from mofm.errors import InputError
from mofm.evaluation.integration import batch_mixing, batch_mixing_within, silhouette


@pytest.mark.parametrize("k", [5, 30, 90])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_shuffled_batches_are_mixed(k, share):
    rng = np.random.default_rng(k)
    X_ND = rng.normal(size=(600, 4))
    scores = [batch_mixing(X_ND, rng.random(600) < share, k=k).score for _ in range(8)]
    assert np.mean(scores) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("k", [5, 30, 90])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_batches_apart_are_not(k, share):
    rng = np.random.default_rng(k)
    batches = rng.random(600) < share
    X_ND = rng.normal(size=(600, 4)) + 100 * batches[:, None]
    mixing = batch_mixing(X_ND, batches, k=k)
    assert mixing.score == pytest.approx(0.0, abs=1e-9)
    assert set(mixing.per_batch) == {"False", "True"}


def test_mixing_grows_as_batches_come_nearer():
    rng = np.random.default_rng(0)
    batches = rng.random(500) < 0.4
    noise_ND = rng.normal(size=(500, 4))
    scores = [batch_mixing(noise_ND + apart * batches[:, None], batches).score for apart in (4.0, 1.0, 0.5, 0.0)]
    assert scores == sorted(scores)
    assert scores[0] < 0.1 < 0.3 < scores[1] < scores[-1]


def test_views_of_one_cell_mix_more_than_chance():
    """Each cell is once in either batch: its nearest neighbour is its twin."""
    X_ND = np.random.default_rng(1).normal(size=(100, 4))
    twins_ND = np.concatenate([X_ND, X_ND + 1e-3])
    assert batch_mixing(twins_ND, [0] * 100 + [1] * 100, k=1).score == pytest.approx(199 / 100)


@pytest.mark.parametrize("change", [lambda x_ND: x_ND * 7 + 3, lambda x_ND: x_ND[:, ::-1], lambda x_ND: -x_ND])
def test_layout_does_not_matter(change):
    rng = np.random.default_rng(2)
    batches = np.where(rng.random(200) < 0.5, "one", "two")
    X_ND = rng.normal(size=(200, 3)) + (batches == "one")[:, None]
    before, after = batch_mixing(X_ND, batches), batch_mixing(change(X_ND), batches)
    assert 0.1 < before.score < 0.9
    assert after.score == pytest.approx(before.score, abs=1e-9)
    renamed = batch_mixing(X_ND, np.where(batches == "one", "z", "a"))
    assert renamed.score == pytest.approx(before.score, abs=1e-12)


def test_within_types_other_compositions_are_forgiven():
    """Batch one is mostly type a, two mostly b; within each type the batches are shuffled."""
    rng = np.random.default_rng(3)
    types = np.array(["a"] * 300 + ["b"] * 300)
    batches = np.where(rng.random(600) < np.where(types == "a", 0.85, 0.15), "one", "two")
    X_ND = rng.normal(size=(600, 4)) + 50 * (types == "a")[:, None]
    within = batch_mixing_within(X_ND, batches, types)
    assert within.per_label.keys() == {"a", "b"}
    assert within.score == pytest.approx(1.0, abs=0.15)
    assert batch_mixing(X_ND, batches).score < 0.75
    assert within.score == pytest.approx(np.mean(list(within.per_label.values())))


def test_types_that_tell_nothing_are_named():
    rng = np.random.default_rng(4)
    types = np.array(["many"] * 40 + ["few"] * 6 + ["alone"] * 20 + [None] * 4, dtype=object)
    batches = np.array(["one", "two"] * 35)
    batches[46:66] = "one"
    within = batch_mixing_within(rng.normal(size=(70, 3)), batches, types, k=5)
    assert within.per_label.keys() == {"many"}
    assert within.not_scored == {
        "few": "6 cells in 2 batches",
        "alone": "20 cells in 1 batch",
        "unlabelled": "4 cells without a label",
    }
    nothing = batch_mixing_within(rng.normal(size=(6, 3)), batches[:6], types[40:46])
    assert np.isnan(nothing.score)


def test_what_cannot_be_mixed():
    X_ND = np.random.default_rng(5).normal(size=(20, 2))
    with pytest.raises(InputError, match="2 batches"):
        batch_mixing(X_ND, ["one"] * 20)
    with pytest.raises(InputError, match="came with 19 labels"):
        batch_mixing(X_ND, ["one"] * 19)
    with pytest.raises(InputError, match="1 cells have no batch label"):
        batch_mixing(X_ND, ["one"] * 10 + ["two"] * 9 + [None])
    with pytest.raises(InputError, match="finite"):
        batch_mixing(X_ND * np.nan, ["one", "two"] * 10)


def test_silhouette_is_sklearns():
    rng = np.random.default_rng(6)
    labels = np.array(["a"] * 30 + ["b"] * 60 + ["c"] * 15)
    X_ND = rng.normal(size=(105, 3)) + 2 * (labels == "a")[:, None]
    ours, widths = silhouette(X_ND, labels), silhouette_samples(X_ND, labels)
    for name in "abc":
        assert ours.per_label[name] == pytest.approx((1 + widths[labels == name].mean()) / 2)
    assert ours.score == pytest.approx(np.mean(list(ours.per_label.values())))
    assert ours.n_cells == 105


def test_silhouette_of_types_apart_shuffled_and_alone():
    rng = np.random.default_rng(7)
    labels = np.array(["a", "b"] * 100)
    noise_ND = rng.normal(size=(200, 3))
    assert silhouette(noise_ND + 1000 * (labels == "a")[:, None], labels).score > 0.99
    assert silhouette(noise_ND, labels).score == pytest.approx(0.5, abs=0.03)
    lonely = labels.astype(object)
    lonely[0], lonely[1] = "hermit", None
    result = silhouette(noise_ND, lonely)
    assert result.not_scored == {"unlabelled": "1 cells without a label", "hermit": "1 cell"}
    assert result.n_cells == 198


def test_silhouette_of_a_sample_is_near_the_whole():
    rng = np.random.default_rng(8)
    labels = rng.choice(["a", "b"], 1000)
    X_ND = rng.normal(size=(1000, 3)) + 2 * (labels == "a")[:, None]
    part = silhouette(X_ND, labels, max_cells=300)
    assert part.n_cells == 300
    assert part.score == pytest.approx(silhouette(X_ND, labels).score, abs=0.03)
    assert part == silhouette(X_ND, labels, max_cells=300)
