"""A vote's chances are as right as they say, its own cells do not vote for themselves, and strange cells are found."""

import numpy as np
import pandas as pd
import pytest

from mofm.inference import vote
from mofm.inference.annotate import annotate
from mofm.inference.calibration import reliability
from mofm.inference.vote import LEAST_JUDGED, SHARE_NEAR, electorate

TYPES, WIDTH = 6, 12


def clouds(cells, seed, spread=1.0):
    """(embeddings, labels) of types that overlap."""
    centre_TE = np.random.default_rng(7).normal(size=(TYPES, WIDTH))
    rng = np.random.default_rng(seed)
    code_N = rng.choice(TYPES, cells, p=[0.4, 0.25, 0.15, 0.1, 0.05, 0.05])
    labels = pd.Series([f"type {code}" for code in code_N], name="label")
    return (centre_TE[code_N] + spread * rng.normal(size=(cells, WIDTH))).astype(np.float32), labels


def own(chance_NC, votes):
    return np.take_along_axis(chance_NC, votes.likeliest_N[:, None], axis=1)[:, 0]


@pytest.mark.parametrize(("cells", "gap"), [(150, 0.08), (1_500, 0.03)])
def test_chances_are_as_right_as_they_say_where_shares_are_not(cells, gap):
    voting = electorate(*clouds(cells, 0), voters=15)
    worth = voting.judge()
    embedding_NE, truth = clouds(8_000, 1)
    votes = voting.ask(embedding_NE)
    right_N = voting.labels[votes.likeliest_N] == truth.to_numpy()
    chance_NC = worth.chances(votes.voices_NC)
    np.testing.assert_allclose(chance_NC.sum(axis=1), 1)
    assert 0.5 < right_N.mean() < 0.9
    assert reliability(own(chance_NC, votes), right_N) < gap
    assert reliability(votes.share_N, right_N) > 1.5 * gap
    assert worth.right == pytest.approx(right_N.mean(), abs=0.05)
    assert (own(chance_NC, votes) >= worth.threshold)[right_N].mean() == pytest.approx(0.95, abs=0.05)


def test_a_cell_has_no_voice_on_itself():
    embedding_ME = np.random.default_rng(0).normal(size=(400, WIDTH)).astype(np.float32)
    labels = pd.Series(np.random.default_rng(1).choice(["a", "b"], 400), name="label")
    worth = electorate(embedding_ME, labels, voters=1).judge()
    assert worth.right == pytest.approx(0.5, abs=0.1)
    assert worth.chances(np.array([[0.0, 1.0]])).max() < 0.65
    # Six cells in each place, of one label each place: the others vote alike, though a cell may not be found among itself.
    same = electorate(np.repeat(embedding_ME[:100], 6, axis=0), labels[:100].repeat(6).reset_index(drop=True), voters=3)
    assert same.judge().right == 1


def test_cells_unlike_the_reference_are_far():
    voting = electorate(*clouds(1_000, 0, spread=0.5), voters=15)
    worth = voting.judge()
    known = voting.distance(clouds(4_000, 1, spread=0.5)[0]) > worth.far
    assert known.mean() == pytest.approx(1 - SHARE_NEAR, abs=0.01)
    centre_TE = np.random.default_rng(7).normal(size=(TYPES, WIDTH))
    elsewhere_E = 4 * np.linalg.svd(centre_TE)[2][-1]  # no type is in this direction
    strange_NE = elsewhere_E + 0.5 * np.random.default_rng(8).normal(size=(500, WIDTH))
    assert (voting.distance(strange_NE.astype(np.float32)) > worth.far).mean() > 0.9


def test_few_cells_or_one_label_are_not_judged(monkeypatch):
    embedding_ME, labels = clouds(LEAST_JUDGED, 0)
    assert electorate(embedding_ME, labels).judge().cells == LEAST_JUDGED
    assert electorate(embedding_ME[1:], labels[1:]).judge() is None
    assert electorate(embedding_ME, labels.mask(labels.index < 1)).judge() is None
    assert electorate(embedding_ME, pd.Series(["a"] * LEAST_JUDGED)).judge() is None
    embedding_ME, labels = clouds(2_000, 0)
    whole = electorate(embedding_ME, labels).judge()
    monkeypatch.setattr(vote, "MOST_JUDGED", 800)
    part = electorate(embedding_ME, labels).judge()
    assert (whole.cells, part.cells) == (2_000, 800)
    voices_NC = electorate(embedding_ME, labels).ask(clouds(500, 1)[0]).voices_NC
    np.testing.assert_allclose(whole.chances(voices_NC), part.chances(voices_NC), atol=0.08)
    assert whole[2:5] == pytest.approx(part[2:5], rel=0.1)


def test_a_vote_counts_as_it_did():
    """By hand: the share of the label of the most voices, and where the voters are."""
    reference_ME, labels = clouds(300, 0)
    labels = labels.mask(labels.index % 7 == 0)
    embedding_NE = clouds(50, 1)[0]
    found = annotate(embedding_NE, reference_ME, labels, voters=9)
    known = np.flatnonzero(labels.notna())
    centred_ME = reference_ME[known] - reference_ME[known].mean(axis=0)
    asked_NE = embedding_NE - reference_ME[known].mean(axis=0)
    cosine_NM = asked_NE @ centred_ME.T / np.linalg.norm(centred_ME, axis=1) / np.linalg.norm(asked_NE, axis=1)[:, None]
    nearest_NK = np.argsort(-cosine_NM, axis=1)[:, :9]
    np.testing.assert_array_equal(found.neighbours_NK, known[nearest_NK])
    for label, share, voters in zip(found.labels, found.confidence_N, found.neighbours_NK, strict=True):
        counts = labels[voters].value_counts()
        assert share == pytest.approx(counts.max() / 9)
        assert label == next(name for name in labels[voters] if counts[name] == counts.max())


def test_distance_is_that_of_mahalanobis_by_hand():
    """Of many cells, whose covariance is hardly shrunk, from the nearest mean; per square root of the width."""
    reference_ME, labels = clouds(6_000, 0)
    stretch_E = np.geomspace(0.5, 2, WIDTH)
    reference_ME, asked_NE = reference_ME * stretch_E, clouds(50, 1)[0] * stretch_E
    frame = pd.DataFrame(reference_ME).groupby(labels.to_numpy())
    mean_CE, rest_ME = frame.mean().to_numpy(), (reference_ME - frame.transform("mean")).to_numpy()
    inverse_EE = np.linalg.inv(rest_ME.T @ rest_ME / len(rest_ME))
    away_NCE = asked_NE[:, None] - mean_CE
    expected = np.sqrt(np.einsum("nce,ef,ncf->nc", away_NCE, inverse_EE, away_NCE).min(axis=1) / WIDTH)
    np.testing.assert_allclose(electorate(reference_ME, labels).distance(asked_NE), expected, rtol=0.03)


def test_cells_that_all_lie_in_one_place_or_are_alone_of_their_type_have_distances():
    same = electorate(np.ones((60, WIDTH), np.float32), pd.Series(["a", "b"] * 30))
    np.testing.assert_array_equal(same.distance(np.ones((3, WIDTH), np.float32)), 0)
    alone = electorate(clouds(60, 0)[0], pd.Series([f"type {number}" for number in range(60)]))
    assert np.isfinite(alone.distance(clouds(60, 1)[0])).all()
    assert np.isfinite(alone.judge().far)
