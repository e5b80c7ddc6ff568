"""Nothing of what is held out is left to train on; negatives are none of the known pairs and of the positives' degrees;
a rewired network has the degrees of the one it came from."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofm.errors import InputError
from mofm.omics.network_splits import hold_out, matched_negatives, rewired, uniform_negatives

GENES = 60


def network(seed=0, edges=400, tfs=12, relations=2):
    """Edges of random pairs, hubs among both ends, some of two relations; weights and confidences tell rows apart."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "tf": (tfs * rng.random(edges) ** 2).astype(np.int32),
            "target": (GENES * rng.random(edges) ** 2).astype(np.int32),
            "relation": rng.integers(relations, size=edges).astype(np.int16),
            "sign": rng.integers(-1, 2, edges).astype(np.int8),
        }
    )
    frame = frame[frame["tf"] != frame["target"]].drop_duplicates(["tf", "target", "relation"], ignore_index=True)
    return frame.assign(weight=np.arange(len(frame), dtype=np.float32), confidence="A")


def pairs(frame):
    return set(zip(frame["tf"].tolist(), frame["target"].tolist(), strict=True))


def ends(frame):
    return frame["tf"].to_numpy(), frame["target"].to_numpy()


@given(
    seed=st.integers(0, 50), edge_fraction=st.sampled_from([0, 0.1, 0.9]), tf_fraction=st.sampled_from([0, 0.1, 0.6])
)
@settings(max_examples=40, deadline=None)
def test_parts_share_no_pair_and_every_known_tf_trains(seed, edge_fraction, tf_fraction):
    edges = network(seed)
    part = hold_out(edges, edge_fraction, tf_fraction, seed)
    train, edge, tf = (edges[part == name] for name in ("train", "held_out_edge", "held_out_tf"))
    assert not pairs(train) & pairs(edge)
    assert set(tf["tf"]).isdisjoint(set(train["tf"]) | set(edge["tf"]))
    assert set(train["tf"]) | set(tf["tf"]) == set(edges["tf"])
    assert (edges[edges["tf"].isin(tf["tf"])].groupby("tf")["target"].nunique() >= 10).all()

    targets = edges.groupby("tf")["target"].nunique()
    eligible = np.count_nonzero(targets >= 10)
    assert tf["tf"].nunique() == (max(1, round(tf_fraction * eligible)) if tf_fraction else 0)
    others = targets[~targets.index.isin(tf["tf"])]
    assert len(pairs(edge)) == min(round(edge_fraction * others.sum()), others.sum() - len(others))


@given(st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_the_split_does_not_depend_on_the_order_of_the_rows(random):
    edges = network()
    order = list(range(len(edges)))
    random.shuffle(order)
    order += order[:5]  # nor on rows that are told twice
    np.testing.assert_array_equal(
        hold_out(edges.iloc[order], 0.2, 0.2, 3), hold_out(edges, 0.2, 0.2, 3)[np.array(order)]
    )


def test_the_split_follows_from_the_seed():
    edges = network()
    first, again, other = (hold_out(edges, 0.2, 0.2, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_held_out_pairs_are_an_even_lot():
    """Over seeds every pair of a TF is as likely held out as another, the first of a TF's too."""
    edges = pd.DataFrame({"tf": np.repeat([0, 1], 8), "target": np.tile(np.arange(2, 10), 2)})
    share = np.mean([hold_out(edges, 0.5, 0, seed) == "held_out_edge" for seed in range(2000)], axis=0)
    np.testing.assert_allclose(share, 0.5, atol=0.05)


def test_a_split_that_leaves_nothing_is_refused():
    edges = pd.DataFrame({"tf": 0, "target": np.arange(1, 12)})
    with pytest.raises(InputError, match="leaves no edge to train on"):
        hold_out(edges, 0.1, 0.1, 0)
    with pytest.raises(InputError, match="no edges"):
        hold_out(edges[:0], 0.1, 0.1, 0)
    with pytest.raises(InputError, match="edge_fraction=1"):
        hold_out(edges, 1, 0.1, 0)
    assert set(hold_out(edges[:9], 0, 0.5, 0)) == {"train"}  # a TF of 9 targets is not held out whole


@given(seed=st.integers(0, 50), share=st.floats(0.05, 1))
@settings(max_examples=40, deadline=None)
def test_matched_negatives_are_no_known_pairs_of_the_same_tf(seed, share):
    edges = network(seed)
    positives = edges[np.random.default_rng(seed).random(len(edges)) < share]
    tf, target = matched_negatives(ends(positives), ends(edges), ends(edges), GENES, seed)
    assert tf.dtype == target.dtype == np.int32
    np.testing.assert_array_equal(tf, positives["tf"])
    found = target >= 0
    assert not set(zip(tf[found].tolist(), target[found].tolist(), strict=True)) & pairs(edges)
    assert (tf != target).all()
    assert set(target[found].tolist()) <= set(edges["target"])


def test_a_tf_that_regulates_all_has_no_negatives():
    edges = pd.DataFrame({"tf": [0, 0, 0, 1], "target": [1, 2, 3, 2]})
    tf, target = matched_negatives(ends(edges), ends(edges), ends(edges), 5, 0)
    np.testing.assert_array_equal(tf, [0, 0, 0, 1])
    np.testing.assert_array_equal(target, [-1, -1, -1, 3])  # 1 is the TF itself


def test_matched_negatives_are_drawn_by_in_degree():
    pool = np.repeat(np.arange(9, 13), 1), np.array([3, 4, 4, 4])
    positives = np.zeros(4000, int), np.full(4000, 5)
    _, target = matched_negatives(positives, pool, ([0], [5]), 20, 0)
    assert np.mean(target == 4) == pytest.approx(0.75, abs=0.03)
    assert set(target.tolist()) == {3, 4}


def test_matched_negatives_follow_from_the_seed_and_not_from_the_order():
    edges = network(relations=1)
    order = np.random.default_rng(0).permutation(len(edges))
    first = matched_negatives(ends(edges), ends(edges), ends(edges), GENES, 1)[1]
    moved = edges.iloc[order]
    np.testing.assert_array_equal(matched_negatives(ends(moved), ends(moved), ends(moved), GENES, 1)[1], first[order])
    assert (matched_negatives(ends(edges), ends(edges), ends(edges), GENES, 2)[1] != first).any()


def test_uniform_negatives_are_all_that_is_left_and_no_more():
    edges = network(edges=200)
    tfs = np.unique(edges["tf"])
    left = {(tf, gene) for tf in tfs.tolist() for gene in range(GENES) if tf != gene} - pairs(edges)
    tf, target = uniform_negatives(len(left), tfs, ends(edges), GENES, 0)
    assert set(zip(tf.tolist(), target.tolist(), strict=True)) == left
    with pytest.raises(InputError, match="leave"):
        uniform_negatives(len(left) + 1, tfs, ends(edges), GENES, 0)
    some = [np.stack(uniform_negatives(20, tfs, ends(edges), GENES, seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(some[0], some[1])
    assert (some[0] != some[2]).any()


@given(seed=st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_rewiring_keeps_degrees_and_what_an_edge_carries(seed):
    edges = network(seed)
    other = rewired(edges, seed)
    for end in (["relation", "tf"], ["relation", "target"]):
        pd.testing.assert_series_equal(edges.groupby(end).size(), other.groupby(end).size())
    pd.testing.assert_frame_equal(edges.drop(columns="target"), other.drop(columns="target"))
    assert other["target"].dtype == np.int32
    assert not other.duplicated(["tf", "target", "relation"]).any()
    assert (other["tf"] != other["target"]).all()


def test_rewiring_reaches_every_network_of_the_degrees_alike():
    """Three TFs, three targets, one edge each: the six matchings come equally often."""
    edges = pd.DataFrame({"tf": [0, 1, 2], "target": [3, 4, 5], "relation": 0})
    found = pd.Series([tuple(rewired(edges, seed)["target"]) for seed in range(1200)]).value_counts()
    assert len(found) == 6
    assert found.between(140, 260).all()


def test_rewiring_forgets_the_network_and_follows_from_the_seed():
    edges = network(edges=300, tfs=30, relations=1)
    once, again, other = (rewired(edges, seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(once, again)
    kept = len(pairs(edges) & pairs(once))
    by_chance = len(pairs(other) & pairs(once))
    assert kept < 1.3 * by_chance
    assert kept < len(edges) / 2
    pd.testing.assert_frame_equal(rewired(edges, 0, swaps_per_edge=0), edges)


def test_rewiring_does_not_depend_on_the_order_of_the_rows():
    edges = network()
    order = np.random.default_rng(0).permutation(len(edges))
    pd.testing.assert_frame_equal(rewired(edges.iloc[order], 0), rewired(edges, 0).iloc[order])


def test_an_edge_told_twice_is_not_rewired():
    edges = network()
    with pytest.raises(InputError, match="twice"):
        rewired(pd.concat([edges, edges[:1]]), 0)
