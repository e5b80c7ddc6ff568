"""From rows of counts to tokens: which features of a cell the model sees, sampled in a compiled kernel.

A cell has more features than a model has tokens, so each view of it is a sample. Of a cell with n expressed features,
in a view of L tokens of which a fraction f shall be expressed:

    expressed   e = min(n, max(1, round(f * L)))          uniform without replacement
    zero        z = min(n_zero, round(e / f) - e, L - e)  uniform without replacement, of the features measured as zero
    padding     the remaining L - e - z

The zeros follow the expressed ones, so the proportion e : z holds in shallow cells too, and padding takes the rest; it
falls short only where a cell has fewer zeros than asked for. A feature that the file lacks was not measured and is
never a zero; a feature that the model lacks is never a token, yet its counts belong to the cell's library.

The tokens of a cell are fixed by its counts, the set of its dataset's features and its seed, not by the order of the
file's columns: the kernel enters the cell into a bitmap over the model's rows and reads it back in their order, a sort
for a few microseconds. Draws are splitmix64, the same on every machine. Values are looked up by count, as a cell has
thousands of tokens but few different counts. Sampling rather than ranking by expression is a choice: ranking takes
several times as long, and would hide the regulators, which are expressed low.
"""

from typing import NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from mofm.batch import LIBRARY_SCALE, TokenBatch
from mofm.batches.order import mix64
from mofm.errors import InputError
from mofm.omics.rows import CountRows

_SCALE = float(LIBRARY_SCALE)
_TABLE = 256  # counts below this have their value computed once a cell
_SPARSE = 8  # draw zeros by trial while one trial in this many succeeds, else list them


class KnownFeatures(NamedTuple):
    """The features of a dataset, as the kernel needs them.

    Attributes:
      rows_G: int32. Column of the dataset -> row of the model's gene table; -1 where the model has none.
      bitmap: uint64. Bit r % 64 of word r // 64 is set where the dataset measures row r. As long as its last row asks.
      n_known: int. Columns that the model knows.
    """

    rows_G: np.ndarray
    bitmap: np.ndarray
    n_known: int


class Scratch(NamedTuple):
    """Working memory of one thread, for datasets of up to `rows` model rows."""

    bitmap: np.ndarray
    counts: np.ndarray
    picked: np.ndarray
    table: np.ndarray


def known_features(feature_rows_G: np.ndarray, where: str = "dataset") -> KnownFeatures:
    """Prepare a dataset's columns. `where` names it in errors.

    Args:
      feature_rows_G: integer. Model row of each column; -1 where the model has none.

    Raises:
      InputError: two columns are the same row of the model.
    """
    rows_G = np.ascontiguousarray(feature_rows_G, np.int32)
    known = np.sort(rows_G[rows_G >= 0])
    if (twice := np.flatnonzero(known[1:] == known[:-1])).size:
        columns = np.flatnonzero(rows_G == known[twice[0]])
        raise InputError(f"{where}: columns {columns.tolist()} are one feature of the model; sum them and ingest again")
    width = -(-(int(known[-1]) + 1) // 64) if len(known) else 0
    bits = np.zeros(width * 64, bool)
    bits[known] = True
    bitmap = np.packbits(bits, bitorder="little").view("<u8").astype(np.uint64)
    return KnownFeatures(rows_G, bitmap, len(known))


def make_scratch(words: int) -> Scratch:
    """Scratch for bitmaps of up to `words` words."""
    return Scratch(
        np.zeros(words, np.uint64),
        np.empty(words * 64, np.float32),
        np.empty(words * 64, np.int32),
        np.empty(_TABLE, np.float32),
    )


def empty_tokens(cells: int, tokens: int) -> TokenBatch:
    """A TokenBatch of nothing but padding, to be filled by `collate_into`."""
    return TokenBatch(
        features_BL=np.zeros((cells, tokens), np.int32),
        values_BL=np.zeros((cells, tokens), np.float32),
        counts_BL=np.zeros((cells, tokens), np.float32),
        mask_BL=np.zeros((cells, tokens), bool),
        library_B=np.zeros(cells, np.float32),
        cell_B=np.full(cells, -1, np.int32),
        dataset_B=np.full(cells, -1, np.int32),
    )


def collate(
    rows: CountRows,
    feature_rows_G: np.ndarray,
    *,
    tokens: int,
    expressed_fraction: float,
    seeds_B: np.ndarray,
    cell_B: np.ndarray,
    dataset_B: np.ndarray,
) -> TokenBatch:
    """Tokens of consecutive cells of one dataset. With expressed_fraction=1 and many tokens: all that is expressed.

    Args:
      rows: B cells, in columns of the dataset.
      feature_rows_G: integer. Column of the dataset -> row of the model's gene table; -1 where the model has none.
      tokens: L, the most tokens of a cell.
      expressed_fraction: wished share of expressed features among the tokens, in (0, 1].
      seeds_B: uint64. Fixes each cell's sample.
      cell_B, dataset_B: int32, passed through.

    Returns:
      TokenBatch of numpy arrays, (B, L).

    Raises:
      InputError: a value out of its range, a feature that occurs twice, or an entry in a column that does not exist.
    """
    known = known_features(feature_rows_G)
    out = empty_tokens(rows.n_cells, tokens)
    out.cell_B[:], out.dataset_B[:] = cell_B, dataset_B
    every = np.arange(rows.n_cells)
    collate_into(out, every, rows, every, known, seeds_B, expressed_fraction, make_scratch(len(known.bitmap)))
    return out


def collate_into(
    out: TokenBatch,
    places: np.ndarray,
    rows: CountRows,
    which: np.ndarray,
    known: KnownFeatures,
    seeds: np.ndarray,
    expressed_fraction: float,
    scratch: Scratch,
    where: str = "dataset",
) -> None:
    """Fill rows `places` of a batch made by `empty_tokens` with cells `which` of `rows`. `cell_B` and `dataset_B` stay.

    Args:
      places, which: int64, equally long.
      seeds: uint64, one a cell written.
      scratch: of this thread alone, at least as wide as the dataset's bitmap.
      where: names the dataset in errors.

    Raises:
      InputError: the fraction is out of its range, or an entry is in a column that the dataset does not have.
    """
    if not 0 < expressed_fraction <= 1:
        raise InputError(f"data.expressed_fraction={expressed_fraction}: must be more than 0 and at most 1")
    most = max(1, round(expressed_fraction * out.features_BL.shape[1]))
    bad = _tokenise(
        *rows, which, known.rows_G, known.bitmap, known.n_known, seeds, places, most, expressed_fraction,
        out.features_BL, out.values_BL, out.counts_BL, out.mask_BL, out.library_B, *scratch
    )  # fmt: skip
    if bad >= 0:
        raise InputError(
            f"{where}: an entry is in column {bad}, but there are {len(known.rows_G)} columns; "
            "the store is damaged, ingest its file again"
        )


@intrinsic
def _trailing_zeros(typing_context, word):
    """Index of the lowest set bit of a uint64 that is not 0."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return numba.types.int64(numba.types.uint64), generate


def _compiled(function):
    """Compiled without the interpreter lock, and kept on disk where any place can be written."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # numba found no directory for its cache: a read-only container
        return numba.njit(nogil=True)(function)


_mix64 = numba.njit(mix64)  # numba's cache looks at this file only: who changes mix64 touches it too


@numba.njit
def _draw(state, n):
    """An exactly uniform integer below n < 2**32 (Lemire 2019), and the generator's next state."""
    n = np.uint64(n)
    while True:
        state += np.uint64(0x9E3779B97F4A7C15)
        product = (_mix64(state) >> np.uint64(32)) * n
        low = product & np.uint64(0xFFFFFFFF)
        if low >= n or low >= (np.uint64(0x100000000) - n) % n:
            return np.int64(product >> np.uint64(32)), state


@numba.njit
def _list_bits(bitmap, known, zeros, picked):
    """Model rows in ascending order: of the bitmap, or of what is known and not in it. Returns how many."""
    n = 0
    for w in range(len(known)):
        word = known[w] & ~bitmap[w] if zeros else bitmap[w]
        while word != np.uint64(0):
            picked[n] = w * 64 + _trailing_zeros(word)
            word &= word - np.uint64(1)
            n += 1
    return n


@numba.njit
def _sample(picked, n, k, state):
    """Move a uniform sample of k of the first n to the front: the first k steps of Fisher and Yates's shuffle."""
    if k == n:
        return state
    for i in range(k):
        j, state = _draw(state, n - i)
        picked[i], picked[i + j] = picked[i + j], picked[i]
    return state


@_compiled
def _tokenise(
    indptr, indices, data, which, rows_G, known, n_known, seeds, places, most, fraction,
    features_BL, values_BL, counts_BL, mask_BL, library_B, bitmap, counts, picked, table
):  # fmt: skip
    """Fill one row of the batch for each cell. Returns -1, or a column that does not exist."""
    length = features_BL.shape[1]
    one = np.uint64(1)
    for i in range(len(which)):
        place, state = places[i], seeds[i]
        bitmap[: len(known)] = np.uint64(0)
        library = 0.0
        for entry in range(indptr[which[i]], indptr[which[i] + 1]):
            column = np.int64(indices[entry])
            if column < 0 or column >= len(rows_G):
                return column
            library += data[entry]
            row = rows_G[column]
            if row >= 0:
                bitmap[row >> 6] |= one << np.uint64(row & 63)
                counts[row] = data[entry]
        library_B[place] = library

        n = _list_bits(bitmap, known, False, picked)
        expressed = min(n, most)
        state = _sample(picked, n, expressed, state)
        table[:] = -1.0
        for t in range(expressed):
            row = picked[t]
            count = counts[row]
            small = np.int64(min(count, _TABLE - 1.0))
            if small < _TABLE - 1:
                if table[small] < 0:
                    table[small] = np.log1p(count / library * _SCALE)
                value = table[small]
            else:
                value = np.float32(np.log1p(count / library * _SCALE))
            features_BL[place, t], counts_BL[place, t] = row, count
            values_BL[place, t], mask_BL[place, t] = value, True

        zeros = min(n_known - n, np.int64(np.floor(expressed / fraction + 0.5)) - expressed, length - expressed)
        if (n_known - n - zeros) * _SPARSE >= len(known) * 64:
            t = 0
            while t < zeros:
                row, state = _draw(state, len(known) * 64)
                w, bit = row >> 6, one << np.uint64(row & 63)
                if known[w] & ~bitmap[w] & bit:
                    bitmap[w] |= bit
                    picked[t] = row
                    t += 1
        elif zeros > 0:
            _sample(picked, _list_bits(bitmap, known, True, picked), zeros, state)
        for t in range(zeros):
            features_BL[place, expressed + t], mask_BL[place, expressed + t] = picked[t], True
    return -1
