"""The compiled loop of `collate.py`: one cell at a time into one row of the batch. numba and nothing else.

A cell is entered into a bitmap over the model's rows and read back in their order, a sort for a few microseconds. Where
a value follows from the count and the cell alone it is looked up by count, as a cell has thousands of tokens but few
different counts. Draws are splitmix64, the same on every machine.
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
_SPARSE = 8  # draw zeros by trial while one trial in this many succeeds, else list them
_SCALE = float(LIBRARY_SCALE)
_RNA, _ATAC, _ADT, _METHYLATION = (MODALITIES.index(name) for name in ("rna", "atac", "adt", "methylation"))


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
def _enter(columns, data, rows_G, bitmap, counts):
    """Put a cell's entries into the bitmap and `counts`. Returns its total, and -1 or a column that does not exist."""
    library = 0.0
    for entry in range(len(columns)):
        column = np.int64(columns[entry])
        if column < 0 or column >= len(rows_G):
            return library, column
        library += data[entry]
        row = rows_G[column]
        if row >= 0:
            bitmap[row >> 6] |= np.uint64(1) << np.uint64(row & 63)
            counts[row] = data[entry]
    return library, np.int64(-1)


@numba.njit
def _enter_hits(columns, hits, rows_G, hits_of_row):
    """Put a cell's methylated reads by row."""
    for entry in range(len(columns)):
        row = rows_G[columns[entry]]
        if row >= 0:
            hits_of_row[row] = hits[entry]


@numba.njit
def _geometric_mean(data, n):
    """exp of the mean over n features of log1p(count); those without an entry have count 0."""
    total = 0.0
    for entry in range(len(data)):
        total += np.log1p(np.float64(data[entry]))
    return np.exp(total / n)


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


@numba.njit
def _sample_zeros(picked, bitmap, known, n, k, state):
    """Put a uniform sample of k of the n features that are known and not in the bitmap to the front of `picked`."""
    if (n - k) * _SPARSE < len(known) * 64:
        if k > 0:
            _sample(picked, _list_bits(bitmap, known, True, picked), k, state)
        return
    t = 0
    while t < k:
        row, state = _draw(state, len(known) * 64)
        w, bit = row >> 6, np.uint64(1) << np.uint64(row & 63)
        if known[w] & ~bitmap[w] & bit:
            bitmap[w] |= bit
            picked[t] = row
            t += 1


@numba.njit
def _log_ratios(values, counts, n, divisor, scale, table):
    """values = log1p(count / divisor * scale) of the first n tokens."""
    table[:] = -1.0
    for t in range(n):
        count = counts[t]
        small = np.int64(min(count, TABLE - 1.0))
        if small < TABLE - 1:
            if table[small] < 0:
                table[small] = np.log1p(count / divisor * scale)
            values[t] = table[small]
        else:
            values[t] = np.float32(np.log1p(count / divisor * scale))


@_compiled
def tokenise(
    kind, indptr, indices, data, hits, which, rows_G, known, n_known, weights, seeds, places, most, fraction,
    features_BL, values_BL, counts_BL, mask_BL, library_B, totals_BL, bitmap, counts, hits_of_row, picked, table
):  # fmt: skip
    """Fill one row of the batch for each cell. Returns -1, or a column that does not exist.

    `kind` is the modality's place in MODALITIES. `hits` and `totals_BL` are looked at for methylation alone, `weights`
    for ATAC alone. For methylation `fraction` is 1: it has no zeros.
    """
    length = features_BL.shape[1]
    for i in range(len(which)):
        place = places[i]
        first, last = indptr[which[i]], indptr[which[i] + 1]
        bitmap[: len(known)] = np.uint64(0)
        library, bad = _enter(indices[first:last], data[first:last], rows_G, bitmap, counts)
        if bad >= 0:
            return bad
        library_B[place] = library

        n = _list_bits(bitmap, known, False, picked)
        expressed = min(n, most)
        state = _sample(picked, n, expressed, seeds[i])
        for t in range(expressed):
            row = picked[t]
            features_BL[place, t], counts_BL[place, t], mask_BL[place, t] = row, counts[row], True

        if kind == _RNA:
            _log_ratios(values_BL[place], counts_BL[place], expressed, library, _SCALE, table)
        elif kind == _ADT:
            centre = _geometric_mean(data[first:last], len(rows_G))
            _log_ratios(values_BL[place], counts_BL[place], expressed, centre, 1.0, table)
        elif kind == _ATAC:
            share = _SCALE / max(last - first, 1)
            for t in range(expressed):
                values_BL[place, t] = np.log1p(share * weights[picked[t]])
        else:
            _enter_hits(indices[first:last], hits[first:last], rows_G, hits_of_row)
            for t in range(expressed):
                methylated, total = hits_of_row[picked[t]], counts[picked[t]]
                counts_BL[place, t], totals_BL[place, t] = methylated, total
                values_BL[place, t] = (methylated + 1.0) / (total + 2.0)

        zeros = min(n_known - n, np.int64(np.floor(expressed / fraction + 0.5)) - expressed, length - expressed)
        _sample_zeros(picked, bitmap, known, n_known - n, zeros, state)
        for t in range(zeros):
            features_BL[place, expressed + t], mask_BL[place, expressed + t] = picked[t], True
    return -1
