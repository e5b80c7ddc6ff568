"""The order is a shuffle, exact and stateless."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofm.batches.order import Order, counter_hash, host_slice
from mofm.errors import InputError

SIZES = [[7], [64, 64], [65, 1, 130], [0, 200, 0, 3], [1000, 5, 333]]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("fraction", [0.0, 0.3])
def test_every_training_cell_once_an_epoch_and_held_out_cells_never(sizes, fraction):
    order = Order(sizes, 3, holdout_fraction=fraction, block_cells=8, window_blocks=3)
    train = np.setdiff1d(np.arange(sum(sizes)), order.heldout())
    assert order.n_train == len(train)
    assert order.n_heldout == sum(sizes) - len(train)
    for epoch in range(3):
        np.testing.assert_array_equal(np.sort(order.cells(epoch * order.n_train, order.n_train)), train)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=5).filter(lambda sizes: sum(sizes) > 20),
    block_cells=st.integers(1, 20),
    window_blocks=st.integers(1, 6),
    start=st.integers(0, 400),
    chunks=st.lists(st.integers(0, 90), min_size=1, max_size=6),
    seed=st.integers(0, 2**40),
)
def test_any_chunking_is_the_same_sequence(sizes, block_cells, window_blocks, start, chunks, seed):
    make = dict(holdout_fraction=0.2, block_cells=block_cells, window_blocks=window_blocks)
    order = Order(sizes, seed, **make)
    edges = start + np.cumsum([0, *chunks])
    parts = [order.cells(a, b - a) for a, b in pairwise(edges.tolist())]
    fresh = Order(sizes, seed, **make).cells(start, sum(chunks))
    np.testing.assert_array_equal(np.concatenate(parts), fresh)
    assert fresh.dtype == np.int64


@pytest.mark.parametrize("window_blocks", [1, 4, 1000])
def test_windows_hold_what_they_say(window_blocks):
    order = Order([100, 37], 0, holdout_fraction=0.2, block_cells=10, window_blocks=window_blocks)
    for span in order.spans(0, order.n_train):
        window = order.window(span.epoch, span.window)
        assert len(window.stores) <= window_blocks
        start = order.offsets[window.stores] + window.starts
        np.testing.assert_array_equal(start[window.blocks] + window.rows, window.cells)
        assert np.all(window.rows < (window.stops - window.starts)[window.blocks])
        assert np.all(window.stops <= np.array([100, 37])[window.stores])


def test_following_windows_are_those_of_the_spans():
    order = Order([100, 37], 0, block_cells=10, window_blocks=4)
    spans = list(order.spans(0, 3 * order.n_train))
    assert [order.after(span.epoch, span.window) for span in spans[:-1]] == [
        (span.epoch, span.window) for span in spans[1:]
    ]
    assert spans[-1].epoch == 2


def test_seeds_and_epochs_are_different_orders_of_the_same_cells():
    first, other = Order([5000], 0), Order([5000], 1)
    n = first.n_train
    epochs = [first.cells(0, n), first.cells(n, n), other.cells(0, n)]
    for i, a in enumerate(epochs):
        for b in epochs[i + 1 :]:
            assert np.mean(a == b) < 0.01
            assert abs(np.corrcoef(a, b)[0, 1]) < 0.05


def test_order_does_not_change_between_versions():
    """Pinned: a run that is resumed under another numpy, or on another machine, goes on with the same cells."""
    order = Order([40, 25], 7, holdout_fraction=0.2, block_cells=8, window_blocks=3)
    assert order.cells(30, 12).tolist() == [35, 39, 53, 22, 57, 56, 55, 49, 19, 54, 21, 58]
    assert order.heldout().tolist() == [5, 10, 13, 14, 20, 23, 26, 28, 32, 33, 38, 50, 51, 52, 61, 63]


def test_shuffle_is_as_mixed_as_its_window_allows():
    n, block = 100_000, 50
    order = Order([n // 4] * 4, 0, block_cells=block, window_blocks=200)
    cells = order.cells(0, n)
    assert abs(np.corrcoef(np.arange(n), cells)[0, 1]) < 0.02

    def neighbours_share_a_block(cells):
        return np.mean(cells[1:] // block == cells[:-1] // block)

    ideal = (block - 1) / (200 * block)
    assert neighbours_share_a_block(cells) == pytest.approx(ideal, rel=0.2)
    narrow = Order([n // 4] * 4, 0, block_cells=block, window_blocks=2).cells(0, n)
    assert neighbours_share_a_block(narrow) == pytest.approx((block - 1) / (2 * block), rel=0.05)
    within = Order([n], 0, block_cells=block, window_blocks=10**6).cells(0, n)
    assert neighbours_share_a_block(within) == pytest.approx((block - 1) / n, rel=0.5)


def test_split_is_fair_and_keeps_when_stores_are_appended():
    before = Order([30_000, 20_000], 5, holdout_fraction=0.1)
    after = Order([30_000, 20_000, 40_000], 5, holdout_fraction=0.1)
    assert before.n_heldout == pytest.approx(5_000, rel=0.05)
    heldout = after.heldout()
    np.testing.assert_array_equal(heldout[heldout < 50_000], before.heldout())
    other = Order([30_000, 20_000], 6, holdout_fraction=0.1).heldout()
    assert len(np.intersect1d(other, before.heldout())) == pytest.approx(500, rel=0.2)
    first, second = (before.heldout()[before.heldout() < 20_000], before.heldout()[before.heldout() >= 30_000] - 30_000)
    assert len(np.intersect1d(first, second)) < 300  # two stores are not split alike
    assert np.all(np.isin(before.heldout(), Order([30_000, 20_000], 5, holdout_fraction=0.2).heldout()))


def test_whole_stores_are_held_out():
    order = Order([10, 20, 30], 0, holdout_stores={1}, block_cells=4)
    np.testing.assert_array_equal(order.heldout(), np.arange(10, 30))
    assert not np.isin(order.cells(0, 200), np.arange(10, 30)).any()


def test_subset_of_held_out_cells_is_drawn_from_all_and_nested():
    order = Order([3000, 1000], 0, holdout_fraction=0.5)
    few, more = order.heldout(200), order.heldout(400)
    assert len(few) == 200
    assert np.all(np.diff(few) > 0)
    assert np.all(np.isin(few, more))
    assert np.all(np.isin(more, order.heldout()))
    assert np.mean(few >= 3000) == pytest.approx(0.25, abs=0.1)
    np.testing.assert_array_equal(order.heldout(10**9), order.heldout())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(holdout_fraction=1.0), "holdout_fraction"),
        (dict(holdout_fraction=-0.1), "holdout_fraction"),
        (dict(holdout_fraction=float("nan")), "holdout_fraction"),
        (dict(holdout_stores={0, 1}), "no cells to train on"),
        (dict(block_cells=0), "block_cells"),
        (dict(window_blocks=0), "window_blocks"),
    ],
)
def test_unusable_input_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Order([5, 6], 0, **arguments)


def test_no_cells_and_negative_seed_are_refused():
    for sizes in ([], [0, 0]):
        with pytest.raises(InputError, match="no cells"):
            Order(sizes, 0)
    with pytest.raises(InputError, match="seed=-1"):
        Order([5], -1)
    with pytest.raises(ValueError, match="position -1"):
        Order([5], 0).cells(-1, 2)


def test_hosts_share_the_batch():
    rows = np.arange(24)
    for hosts in (1, 2, 3, 4, 24):
        parts = [rows[host_slice(24, host, hosts)] for host in range(hosts)]
        assert {len(part) for part in parts} == {24 // hosts}
        np.testing.assert_array_equal(np.concatenate(parts), rows)
    with pytest.raises(InputError, match="multiple of 5, such as 25"):
        host_slice(24, 0, 5)
    with pytest.raises(ValueError, match="host 2 of 2"):
        host_slice(24, 2, 2)


def test_counter_hash_is_uniform_and_keyed():
    draws = counter_hash((1, 2), np.arange(100_000))
    top = np.bincount((draws >> np.uint64(60)).astype(int), minlength=16)
    assert np.all(np.abs(top - 6250) < 400)
    assert len(np.unique(draws)) == 100_000
    assert not np.intersect1d(draws, counter_hash((1, 3), np.arange(100_000))).size
