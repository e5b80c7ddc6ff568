"""FOSCTTM and the matching score against their definitions, and at their fixed points."""

import numpy as np
import pytest

from mofm.errors import InputError
from mofm.evaluation import pairing
from mofm.evaluation.pairing import foscttm, matching_score


def embeddings(cells=60, noise=0.7):
    rng = np.random.default_rng(0)
    one_ND = rng.normal(size=(cells, 4))
    return one_ND, one_ND + noise * rng.normal(size=(cells, 4))


def test_matches_its_definition(monkeypatch):
    monkeypatch.setattr(pairing, "BLOCK", 7)
    one_ND, other_ND = embeddings()
    distance = np.linalg.norm(one_ND[:, None] - other_ND[None], axis=-1)
    there = np.mean([(distance[i] < distance[i, i]).sum() / 59 for i in range(60)])
    back = np.mean([(distance[:, i] < distance[i, i]).sum() / 59 for i in range(60)])
    assert foscttm(one_ND, other_ND) == pytest.approx((there + back) / 2, abs=1e-12)


def test_perfect_is_0_and_chance_is_a_half():
    one_ND, other_ND = embeddings()
    assert foscttm(one_ND, one_ND) == 0.0
    assert foscttm(one_ND, np.zeros_like(other_ND)) == pytest.approx(0.5, abs=0.01)
    shuffled = [foscttm(one_ND, one_ND[np.random.default_rng(s).permutation(60)]) for s in range(20)]
    assert np.mean(shuffled) == pytest.approx(0.5, abs=0.05)


def test_scale_and_rotation_of_both_change_nothing():
    one_ND, other_ND = embeddings()
    turn_DD = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0]
    turned = foscttm(3 * one_ND @ turn_DD, 3 * other_ND @ turn_DD)
    assert turned == pytest.approx(foscttm(one_ND, other_ND), abs=1e-12)


@pytest.mark.parametrize("wrong", [(np.zeros((3, 2)), np.zeros((4, 2))), (np.full((3, 2), np.nan), np.zeros((3, 2)))])
def test_what_cannot_be_compared_is_refused(wrong):
    with pytest.raises(InputError, match="FOSCTTM"):
        foscttm(*wrong)


@pytest.mark.parametrize("k", [1, 5, 100])
def test_matching_score_is_the_weight_of_the_true_match(monkeypatch, k):
    monkeypatch.setattr(pairing, "BLOCK", 7)
    one_ND, other_ND = embeddings()
    distance = np.linalg.norm(one_ND[:, None] - other_ND[None], axis=-1)
    weights = []
    for way in (distance, distance.T):
        nearest = np.argsort(way, axis=1)[:, :k]
        weights += [np.sum(nearest[i] == i) / nearest.shape[1] for i in range(60)]
    found = matching_score(one_ND, other_ND, k)
    assert found.score == pytest.approx(np.mean(weights), abs=1e-12)
    assert found.found == pytest.approx(np.mean(np.array(weights) > 0), abs=1e-12)
    assert found.chance == pytest.approx(1 / 60)


def test_matching_score_of_ties_is_chance():
    one_ND, other_ND = embeddings()
    assert matching_score(one_ND, one_ND).score == 1.0
    for k in (1, 5):
        assert matching_score(np.zeros_like(one_ND), np.zeros_like(other_ND), k).score == pytest.approx(1 / 60)


def test_matching_score_refuses_what_it_cannot_compare():
    with pytest.raises(InputError, match="matching score"):
        matching_score(np.zeros((3, 2)), np.zeros((4, 2)))
    with pytest.raises(InputError, match="k=0"):
        matching_score(np.zeros((3, 2)), np.zeros((3, 2)), k=0)
