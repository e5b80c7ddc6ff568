"""The compiled loop of `collate.py`: one cell at a time into one row of the batch. numba and nothing else.

A cell's entries are brought into the order of the model's rows, so that its tokens do not depend on the order of the
store's columns. Most stores have them so already; those of others are entered into a bitmap over the rows and read
back, a sort for a few microseconds. What is sampled are places among them, marked in a bitmap, and read back in order.
Where a value follows from the count and the cell alone it is looked up by count, as a cell has thousands of tokens but
few different counts. Draws are splitmix64, the same on every machine. Every place of a row is written.
"""

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from mofm.axes import MODALITIES
from mofm.batch import LIBRARY_SCALE
from mofm.batches.order import mix64

TABLE = 256
"""Counts below this have their value computed once a cell."""
SOUND = -(2**62)
"""What `tokenise` returns where nothing is wrong: no number of a column."""
_SPARSE = 8  # draw zeros by trial while one trial in this many succeeds, else list them
_SCALE = float(LIBRARY_SCALE)
_RNA, _ATAC, _ADT, _METHYLATION = (MODALITIES.index(name) for name in ("rna", "atac", "adt", "methylation"))


@intrinsic
def _trailing_zeros(typing_context, word):
    """Index of the lowest set bit of a uint64 that is not 0."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return numba.types.int64(numba.types.uint64), generate


def compiled(function):
    """Compiled without the interpreter lock, and kept on disk where any place can be written."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # numba found no directory for its cache: a read-only container
        return numba.njit(nogil=True)(function)


_mix64 = numba.njit(mix64)  # numba's cache looks at this file only: who changes mix64 touches it too


@numba.njit
def _draw(state, n):
    """Two exactly uniform integers below n < 2**32 (Lemire 2019), and the generator's next state."""
    n, low32 = np.uint64(n), np.uint64(0xFFFFFFFF)
    while True:
        state += np.uint64(0x9E3779B97F4A7C15)
        word = _mix64(state)
        one, other = (word >> np.uint64(32)) * n, (word & low32) * n
        least = min(one & low32, other & low32)
        if least >= n or least >= (np.uint64(0x100000000) - n) % n:
            return np.int64(one >> np.uint64(32)), np.int64(other >> np.uint64(32)), state


@numba.njit
def _mark(bitmap, place):
    """Set a bit; returns 1 if it was not set before."""
    w, bit = place >> 6, np.uint64(1) << np.uint64(place & 63)
    is_new = np.int64((bitmap[w] & bit) == 0)
    bitmap[w] |= bit
    return is_new


@numba.njit
def _library(columns, data, n_columns):
    """A cell's total, and SOUND or a column that does not exist, or does not come after the one before it.

    What follows trusts that no column comes twice: it would write beyond its memory.
    """
    n, library, wrong = len(columns), np.int64(0), np.int64(0)
    for entry in range(n):
        library += np.int64(data[entry])  # of whole numbers, so that it is not one long chain of additions
    for entry in range(1, n):
        wrong += columns[entry] <= columns[entry - 1]
    if wrong or (n and (columns[0] < 0 or columns[n - 1] >= n_columns)):
        before = np.int64(-1)
        for entry in range(n):
            column = np.int64(columns[entry])
            if column <= before or column >= n_columns:
                return library, column
            before = column
    return library, np.int64(SOUND)


@numba.njit
def _in_order(columns, rows_G, rows, entries):
    """The model rows of a cell's entries, and which entries those are, where the columns are in the order of the rows;
    returns how many the model knows."""
    n = 0
    for entry in range(len(columns)):
        row = rows_G[columns[entry]]
        rows[n], entries[n] = row, entry
        n += row >= 0
    return n


@numba.njit
def _into_order(columns, rows_G, rows, entries, bitmap, entry_of_row):
    """As `_in_order`, of columns in any order."""
    bitmap[:] = np.uint64(0)
    for entry in range(len(columns)):
        row = rows_G[columns[entry]]
        if row >= 0:
            bitmap[row >> 6] |= np.uint64(1) << np.uint64(row & 63)
            entry_of_row[row] = entry
    n = _list_bits(bitmap, len(bitmap), np.uint64(0), rows)
    for i in range(n):
        entries[i] = entry_of_row[rows[i]]
    return n


@numba.njit
def _list_bits(bitmap, words, flip, places):
    """Which bits of the first words are set, after `flip`, ascending. Returns how many."""
    n = 0
    for w in range(words):
        word = bitmap[w] ^ flip
        while word != np.uint64(0):
            places[n] = w * 64 + _trailing_zeros(word)
            word &= word - np.uint64(1)
            n += 1
    return n


@numba.njit
def _sample(n, k, state, bitmap, places):
    """A uniform sample of k of the integers below n, ascending, into `places`. Draws the fewer: those in or those out."""
    words = (n + 63) >> 6
    bitmap[:words] = np.uint64(0)
    draws, flip = (k, np.uint64(0)) if 2 * k <= n else (n - k, ~np.uint64(0))
    while draws > 0:
        one, other, state = _draw(state, n)
        draws -= _mark(bitmap, one)
        if draws > 0:
            draws -= _mark(bitmap, other)
    if flip != 0 and n & 63:
        bitmap[words - 1] |= ~np.uint64(0) << np.uint64(n & 63)
    _list_bits(bitmap, words, flip, places)
    return state


@numba.njit
def _sample_zeros(rows, n, k, is_zero, available, state, places):
    """Put a uniform sample of k of the `available` features that are measured and not among the n `rows` into `places`.
    `is_zero` is 1 for every measured feature; it is left as it was."""
    for i in range(n):
        is_zero[rows[i]] = 0
    if (available - k) * _SPARSE < len(is_zero):
        m = 0
        for row in range(len(is_zero)):
            places[m] = row
            m += is_zero[row]
        for t in range(k):
            j, _, state = _draw(state, available - t)
            places[t], places[t + j] = places[t + j], places[t]
    else:
        t = 0
        while t < k:
            one, other, state = _draw(state, len(is_zero))
            places[t] = one
            t += is_zero[one]
            is_zero[one] = 0
            if t < k:
                places[t] = other
                t += is_zero[other]
                is_zero[other] = 0
        for t in range(k):
            is_zero[places[t]] = 1
    for i in range(n):
        is_zero[rows[i]] = 1


@numba.njit
def _geometric_mean(data, n):
    """exp of the mean over n features of log1p(count); those without an entry have count 0."""
    total = 0.0
    for entry in range(len(data)):
        total += np.log1p(np.float64(data[entry]))
    return np.exp(total / max(n, 1))


@numba.njit
def _log_ratios(values, counts, n, divisor, scale, table):
    """values = log1p(count / divisor * scale) of the first n tokens."""
    table[:] = -1.0
    for t in range(n):
        count = counts[t]
        if count < TABLE:
            small = np.int64(count)
            if table[small] < 0:
                table[small] = np.log1p(count / divisor * scale)
            values[t] = table[small]
        else:
            values[t] = np.float32(np.log1p(count / divisor * scale))


@numba.njit
def _zero_weight(n, expressed, absent, zeros):
    """How many times as many features one of the `zeros` stands for, of `absent` in all, as one of the `expressed` of n."""
    if n == 0 or absent == 0:
        return 1.0
    return absent * expressed / (n * zeros) if zeros else np.inf


@compiled
def tokenise(
    kind, indptr, indices, data, hits, which, rows_G, is_ordered, is_zero, n_known, weights, seeds, places, most, fraction,
    features_BL, values_BL, counts_BL, mask_BL, library_B, zero_weight_B, totals_BL, bitmap, entry_of_row, rows, entries,
    picked, table
):  # fmt: skip
    """Fill one row of the batch for each cell. Returns SOUND, or a column that cannot be (see `_library`).

    `kind` is the modality's place in MODALITIES. `hits` and `totals_BL` are looked at for methylation alone, `weights`
    for ATAC alone. For methylation `fraction` is 1: it has no zeros.
    """
    length = features_BL.shape[1]
    for i in range(len(which)):
        place = places[i]
        first, last = indptr[which[i]], indptr[which[i] + 1]
        columns, of_cell = indices[first:last], data[first:last]
        features, values, counts, mask = features_BL[place], values_BL[place], counts_BL[place], mask_BL[place]
        library, bad = _library(columns, of_cell, len(rows_G))
        if bad != SOUND:
            return bad
        library_B[place] = library

        all_known = is_ordered and n_known == len(rows_G)
        if all_known:
            n = len(columns)
            for entry in range(n):
                rows[entry] = rows_G[columns[entry]]
        elif is_ordered:
            n = _in_order(columns, rows_G, rows, entries)
        else:
            n = _into_order(columns, rows_G, rows, entries, bitmap[: len(is_zero) >> 6], entry_of_row)
        expressed = min(n, most)
        state = _sample(n, expressed, seeds[i], bitmap, picked)
        for t in range(expressed):
            features[t] = rows[picked[t]]
        if not all_known:
            for t in range(expressed):
                picked[t] = entries[picked[t]]
        for t in range(expressed):
            counts[t] = of_cell[picked[t]]

        if kind == _RNA:
            _log_ratios(values, counts, expressed, library, _SCALE, table)
        elif kind == _ADT:
            _log_ratios(values, counts, expressed, _geometric_mean(of_cell, len(rows_G)), 1.0, table)
        elif kind == _ATAC:
            share = _SCALE / max(last - first, 1)
            for t in range(expressed):
                values[t] = np.log1p(share * weights[features[t]])
        else:
            for t in range(expressed):
                methylated, total = np.float32(hits[first + picked[t]]), counts[t]
                counts[t], totals_BL[place, t] = methylated, total
                values[t] = (methylated + 1.0) / (total + 2.0)
            totals_BL[place, expressed:] = 0

        zeros = min(n_known - n, np.int64(np.floor(expressed / fraction + 0.5)) - expressed, length - expressed)
        if zeros > 0:
            _sample_zeros(rows, n, zeros, is_zero, n_known - n, state, picked)
            for t in range(zeros):
                features[expressed + t] = picked[t]
        shown = expressed + max(zeros, 0)
        unseen = 0 if kind == _METHYLATION else n_known - n
        zero_weight_B[place] = _zero_weight(n, expressed, unseen, max(zeros, 0))
        mask[:shown], mask[shown:] = True, False
        features[shown:] = 0
        values[expressed:] = 0
        counts[expressed:] = 0
    return SOUND
