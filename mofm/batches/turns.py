"""Whose turn it is: which sequences the rows of a stratum come from at each step, and which of those rows are this host's.

Within a stratum a dataset of n cells has a share of n^temperature. At temperature 1 that is the share which a shuffle
of all its cells together gives, and so they are one sequence, each cell once an epoch. Below 1, small datasets come
round more often than large ones: each is a sequence of its own, of exact epochs, and they take turns by a fixed pattern,
repeated for ever, in which each is spread evenly. What comes at which turn is thus known without counting from the
start. Shares are met to within 1 / PERIOD; the order in which datasets take turns is the same under every seed.

In a batch, a stratum's rows are laid sequence by sequence, and those of a sequence block by block (see `windows.py`).
The consecutive rows of one host are then cells of few blocks, the same few in the batches that follow, and it reads
those alone, although what a batch holds and in which order does not depend on how many hosts there are.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mofm.batches.mixture import share_out

PERIOD = 4096
"""Turns of the pattern, at least; 16 for each dataset where there are very many."""


class Turns:
    """Which of several sequences is served at each turn of an endless order, and how far it is by then.

    Args:
      weights: of each sequence, in proportion to which it has turns.
    """

    def __init__(self, weights: Sequence[float]):
        self.counts = share_out(weights, max(PERIOD, 16 * len(weights))) if len(weights) > 1 else np.ones(1, np.int64)
        whose = np.repeat(np.arange(len(weights)), self.counts)
        rank = np.arange(len(whose)) - (np.cumsum(self.counts) - self.counts)[whose]
        # The golden ratio's multiples spread the first turns of equal sequences over the period, however many there are.
        first = (np.arange(len(weights)) * ((math.sqrt(5) - 1) / 2) + 0.5) % 1
        by_time = np.argsort((rank + first[whose]) / self.counts[whose], kind="stable")
        self._whose, self._rank = whose[by_time], rank[by_time]
        self._turns = np.argsort(
            self._whose, kind="stable"
        )  # of each sequence in the period, one sequence after another
        self._begins = np.cumsum(self.counts) - self.counts

    @property
    def period(self) -> int:
        """Turns after which the pattern repeats."""
        return len(self._whose)

    def take(self, position: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For each sequence that has turns among `count` from `position` on: its number, its first position, its turns.

        Its positions are consecutive. int64 all.
        """
        if len(self.counts) == 1:
            return np.zeros(1, np.int64), np.array([position]), np.array([count])
        period, turn = np.divmod(position + np.arange(count), len(self._whose))
        numbers, begins, counts = np.unique(self._whose[turn], return_index=True, return_counts=True)
        return numbers, period[begins] * self.counts[numbers] + self._rank[turn[begins]], counts

    def reached(self, number: int, position: int) -> int:
        """Turns of a sequence before `position`."""
        period, turn = divmod(position, self.period)
        return int(period * self.counts[number] + np.searchsorted(self._turns_of(number), turn))

    def turns_at(self, number: int, positions: np.ndarray) -> np.ndarray:
        """The turns at which a sequence is at some of its positions; int64 both."""
        period, place = np.divmod(positions, self.counts[number])
        return period * self.period + self._turns_of(number)[place]

    def of_others(self, number: int, position: int, count: int) -> int:
        """How many of `count` turns from `position` on are of sequences of smaller numbers."""
        return int(np.count_nonzero(self._whose[(position + np.arange(count)) % self.period] < number))

    def _turns_of(self, number: int) -> np.ndarray:
        return self._turns[self._begins[number] : self._begins[number] + self.counts[number]]


class Seat(NamedTuple):
    """The cells of one sequence in a batch: `count` of them from position `first` on. Once they are laid block by block,
    `[start, stop)` of them are this host's, from row `place` of the stratum's quota on."""

    number: int
    first: int
    count: int
    start: int
    stop: int
    place: int


SEAT = np.dtype([(name, np.int64) for name in Seat._fields])
"""The record of a `Seat`."""


class Seats:
    """This host's rows of a stratum's part of every batch.

    Args:
      turns: of the stratum's sequences.
      quota: rows of the stratum in each batch.
      start, stop: those of them that are this host's.
    """

    def __init__(self, turns: Turns, quota: int, start: int, stop: int):
        self._turns, self._quota, self._start, self._stop = turns, quota, start, stop

    @property
    def has_all(self) -> bool:
        """Whether every row is this host's."""
        return self._stop - self._start == self._quota

    def at(self, step: int) -> np.ndarray:
        """The seats (`SEAT`) of this host in the batch of a step, in the order of their rows."""
        numbers, firsts, counts = self._turns.take(step * self._quota, self._quota)
        return self._seated(numbers, firsts, counts, np.cumsum(counts) - counts)

    def _seated(self, numbers: np.ndarray, firsts: np.ndarray, counts: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Those seats of `counts` rows from `places` on of which some are this host's."""
        starts, stops = np.maximum(self._start - places, 0), np.minimum(self._stop - places, counts)
        seats = np.empty(len(numbers), SEAT)
        for name, values in zip(SEAT.names, (numbers, firsts, counts, starts, stops, places + starts), strict=True):
            seats[name] = values
        return seats[starts < stops]

    def reached(self, number: int, step: int) -> int:
        """Position of a sequence when a step begins."""
        return self._turns.reached(number, step * self._quota)

    def within(self, number: int, start: int, stop: int) -> Iterator[Seat]:
        """The seats of a sequence at all steps that take some of its positions `[start, stop)`."""
        turns = self._turns.turns_at(number, np.arange(start, stop))
        for step in np.unique(turns // self._quota).tolist():
            first = self.reached(number, step)
            before = self._turns.of_others(number, step * self._quota, self._quota)
            row = (number, first, self.reached(number, step + 1) - first, before)
            for seat in self._seated(*np.array(row)[:, None]).tolist():
                yield Seat(*seat)
