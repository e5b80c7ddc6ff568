"""Turns found without counting from the start, and hosts' seats: the rows of every batch, shared out without a rest."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mofm.batches.turns import Seat, Seats, Turns

WEIGHTS = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=12)


def rows_of(taken):
    return list(zip(*(values.tolist() for values in taken), strict=True))


@settings(max_examples=60, deadline=None)
@given(weights=WEIGHTS, position=st.integers(0, 10**12), count=st.integers(1, 300), cut=st.integers(0, 300))
def test_turns_are_found_without_counting(weights, position, count, cut):
    turns, cut = Turns(weights), min(cut, count)

    def all_of(position, count):
        """(sequence, its position) of each turn."""
        return {(k, first + i) for k, first, taken in rows_of(turns.take(position, count)) for i in range(taken)}

    whole = all_of(position, count)
    assert len(whole) == count
    assert all_of(position, cut) | all_of(position + cut, count - cut) == whole
    for number, first, _ in rows_of(turns.take(position, count)):
        assert turns.reached(number, position) == first
    assert sum(turns.reached(k, position) for k in range(len(weights))) == position


@settings(max_examples=30, deadline=None)
@given(weights=st.lists(st.floats(1, 50), min_size=2, max_size=8), position=st.integers(0, 10**6))
def test_turns_are_spread_evenly(weights, position):
    """In any run of turns no sequence is far from its share."""
    turns, count = Turns(weights), 256
    shares = turns.counts / turns.counts.sum()
    np.testing.assert_allclose(shares, np.array(weights) / sum(weights), atol=1 / 4096)
    had = np.zeros(len(weights))
    for number, _, taken in rows_of(turns.take(position, count)):
        had[number] = taken
    assert np.abs(had - shares * count).max() <= 2


def test_one_sequence_has_every_turn():
    assert rows_of(Turns([3.0]).take(10**9, 5)) == [(0, 10**9, 5)]


@settings(max_examples=60, deadline=None)
@given(
    weights=WEIGHTS, quota=st.integers(1, 60), step=st.integers(0, 10**7), cuts=st.lists(st.integers(0, 60), max_size=3)
)
def test_seats_of_hosts_are_the_rows_of_the_stratum(weights, quota, step, cuts):
    turns = Turns(weights)
    bounds = [0, *sorted(min(cut, quota) for cut in cuts), quota]
    hosts = [Seats(turns, quota, start, stop) for start, stop in itertools.pairwise(bounds)]
    places, cells = [], []
    for host in hosts:
        for seat in map(Seat._make, host.at(step).tolist()):
            rows = seat.stop - seat.start
            assert 0 <= seat.start < seat.stop <= seat.count
            places += range(seat.place, seat.place + rows)
            cells += [(seat.number, seat.first, seat.count, row) for row in range(seat.start, seat.stop)]
    assert places == list(range(quota))
    whole = rows_of(turns.take(step * quota, quota))
    assert cells == [(number, first, count, row) for number, first, count in whole for row in range(count)]


@settings(max_examples=40, deadline=None)
@given(weights=WEIGHTS, quota=st.integers(1, 60), first=st.integers(0, 10**6), length=st.integers(1, 400))
def test_seats_of_some_positions_are_those_of_the_steps_that_take_them(weights, quota, first, length):
    seats = Seats(Turns(weights), quota, 0, quota)
    number = len(weights) - 1
    found = list(seats.within(number, first, first + length))
    assert found[0].first <= first < found[0].first + found[0].count
    assert found[-1].first < first + length <= found[-1].first + found[-1].count
    assert all(b.first == a.first + a.count for a, b in itertools.pairwise(found))


def test_a_host_of_all_rows_knows_it():
    turns = Turns([1.0])
    assert Seats(turns, 8, 0, 8).has_all
    assert not Seats(turns, 8, 0, 4).has_all
    assert len(Seats(turns, 8, 4, 4).at(3)) == 0
