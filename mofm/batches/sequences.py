"""The cells of a stratum, of all its sequences at once.

Below temperature 1 each dataset is a sequence with windows of its own (see `turns.py`), and of a hundred of them every batch
has two or three cells. To ask each reader for them took 35 us, more than making their tokens. So what a window is cut from
is kept here in a record a sequence, and one compiled call fills all seats whose cells are in the window that their
sequence is at. Readers are asked where one moves on, or has a window to ask for or to let go: a few times a window.
"""

import threading
from collections.abc import Sequence

import numba
import numpy as np

from mofm.batches.entries import CELL, pointer_to
from mofm.batches.kernel import compiled
from mofm.batches.turns import Seat, Seats
from mofm.batches.windows import Blocks, Cells, Current, WindowReader

_WORDS = CELL.itemsize // 8
_WINDOW = np.dtype(
    [
        ("first", np.int64),  # position of its first cell in the sequence
        ("due", np.int64),  # the reader is to be asked for cells up to here or later
        ("cells", np.int64),  # how many it has; 0: there is none yet
        ("blocks", np.int64),  # how many
        ("block", np.uintp),  # address of the block of each cell, int64
        ("index", np.uintp),  # address of the global index of each cell, int64
        ("entries", np.uintp),  # address of the `CELL` of each cell
    ]
)
"""The record of a window."""


class Sequences:
    """The sequences of a stratum in one modality. Safe to share between threads.

    Args:
      readers: of each, in the order of their numbers.
      seats: this host's rows of the stratum.
    """

    def __init__(self, readers: Sequence[WindowReader], seats: Seats):
        self._readers, self._seats = readers, seats
        self._windows_S = np.zeros(len(readers), _WINDOW)
        self._held: list[Blocks | None] = [None] * len(readers)  # what the records point into
        self._lock = threading.Lock()

    def fill(self, out: Cells, place: int, step: int, stop: int) -> None:
        """Put the cells of the batch of a step into `out`, the first of the stratum's quota into row `place`, which may be
        before the first one. Windows after it are asked for if a step before `stop` will need them."""
        seats_N = self._seats.at(step)
        with self._lock:
            windows_S, held = self._windows_S.copy(), self._held.copy()
        is_left_N = np.empty(len(seats_N), bool)
        _lay(seats_N, windows_S, place, out.index_B, out.cells_B.view(np.uint64).reshape(-1, _WORDS), is_left_N)
        out.held.append(held)
        for row in seats_N[is_left_N].tolist():
            seat = Seat(*row)
            until = self._seats.reached(seat.number, stop)
            current = self._readers[seat.number].fill(out, place + seat.place, seat, until)
            self._move(seat.number, current)

    def _move(self, number: int, current: Current) -> None:
        """Serve a sequence from another window."""
        window, entries_N = current.blocks.window, current.blocks.cells()
        arrays = (window.blocks, window.cells, entries_N)
        addresses = (array.__array_interface__["data"][0] for array in arrays)
        record = (current.first, current.due, len(window.cells), len(window.stores), *addresses)
        with self._lock:
            self._windows_S[number], self._held[number] = record, current.blocks


_integers, _words = pointer_to(numba.int64), pointer_to(numba.uint64)


@compiled
def _lay(seats_N, windows_S, place, index_B, words_BW, is_left_N):
    """Fill the seats whose cells are in the window of their sequence and before it is due, block by block, the cells of a
    block in the order served; says which are left. `words_BW` is what `CELL` of a batch consist of."""
    for s in range(len(seats_N)):
        seat = seats_N[s]
        window = windows_S[seat.number]
        first, last = seat.first - window.first, seat.first - window.first + seat.count
        is_left_N[s] = first < 0 or last > window.cells or seat.first + seat.count >= window.due
        if is_left_N[s]:
            continue
        block_N = numba.carray(_integers(window.block), window.cells)
        index_N = numba.carray(_integers(window.index), window.cells)
        words_N = numba.carray(_words(window.entries), window.cells * words_BW.shape[1])
        next_K = np.zeros(window.blocks + 1, np.int64)
        for cell in range(first, last):
            next_K[block_N[cell] + 1] += 1
        for block in range(1, window.blocks):
            next_K[block] += next_K[block - 1]
        for cell in range(first, last):
            rank = next_K[block_N[cell]]
            next_K[block_N[cell]] += 1
            if seat.start <= rank < seat.stop:
                row = place + seat.place + rank - seat.start
                index_B[row] = index_N[cell]
                for word in range(words_BW.shape[1]):
                    words_BW[row, word] = words_N[cell * words_BW.shape[1] + word]
