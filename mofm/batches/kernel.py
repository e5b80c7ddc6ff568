"""The compiled loop of `collate.py`: one cell at a time into one row of the batch. numba and nothing else.

A cell's entries are brought into the order of the model's rows, so that its tokens do not depend on the order of the
store's columns. Most stores have them so already; those of others are entered into a bitmap over the rows and read
back, a sort for a few microseconds. What is sampled are places among them, marked and read back in order: marked by a
byte each, because to set bits of one word is to wait for the last to be set. Where a value follows from the count and the
cell alone it is looked up by count, as a cell has thousands of tokens but few different counts. Places are unsigned: numba
asks of every other index whether it counts from the end. Draws are splitmix64, the same on every machine. Every place of
a row is written.
"""

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from mofm.axes import MODALITIES
from mofm.batch import LIBRARY_SCALE, PANEL
from mofm.batches.entries import widen
from mofm.batches.logarithm import log1p
from mofm.batches.order import mix64

TABLE = 256
"""Counts below this have their value computed once a cell."""
SOUND = -(2**62)
"""What `tokenise` returns where nothing is wrong: no number of a column."""
_SPARSE = 8  # draw zeros by trial while one trial in this many succeeds, else list them
_SCALE, _PANEL = float(LIBRARY_SCALE), float(PANEL)
_RNA, _ATAC, _ADT, _METHYLATION = (MODALITIES.index(name) for name in ("rna", "atac", "adt", "methylation"))


@intrinsic
def _trailing_zeros(typing_context, word):
    """Index of the lowest set bit of a uint64 that is not 0."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return numba.types.uint64(numba.types.uint64), generate


def compiled(function):
    """Compiled without the interpreter lock, and kept on disk where any place can be written."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # numba found no directory for its cache: a read-only container
        return numba.njit(nogil=True)(function)


_mix64 = numba.njit(mix64)
# numba's cache looks at this file only: who changes mix64, widen or log1p touches it too.


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
            return one >> np.uint64(32), other >> np.uint64(32), state


@numba.njit
def _mark(is_marked, place):
    """Returns 1 if it was not marked before."""
    is_new = np.int64(1) - np.int64(is_marked[place])
    is_marked[place] = 1
    return is_new


@numba.njit
def _not_a_column(columns, n_columns):
    """SOUND, or a column that does not exist, or does not come after the one before it.

    What follows trusts that no column comes twice: it would write beyond its memory.
    """
    n, wrong = len(columns), np.int64(0)
    for entry in range(1, n):
        wrong += columns[entry] <= columns[entry - 1]
    if wrong or (n and (columns[0] < 0 or columns[n - 1] >= n_columns)):
        before = np.int64(-1)
        for entry in range(n):
            column = np.int64(columns[entry])
            if column <= before or column >= n_columns:
                return column
            before = column
    return np.int64(SOUND)


@numba.njit
def _total(counts):
    """Their sum, int64, and the largest. Whole numbers, so that neither is one long chain."""
    total, largest = np.int64(0), np.uint32(0)
    for entry in range(len(counts)):
        total += np.int64(counts[entry])
        largest = max(largest, counts[entry])
    return total, np.int64(largest)


@numba.njit
def _in_order(columns, rows_G, rows, entries):
    """The model rows of a cell's entries, and which entries those are, where the columns are in the order of the rows;
    returns how many the model knows. `columns` may be the first of `rows`."""
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
    n = np.uint64(0)
    for w in range(len(bitmap)):
        word = bitmap[w]
        while word != np.uint64(0):
            row = np.uint64(w * 64) + _trailing_zeros(word)
            rows[n], entries[n] = row, entry_of_row[row]
            word &= word - np.uint64(1)
            n += np.uint64(1)
    return np.int64(n)


@numba.njit
def _sample(n, k, state, is_marked, places):
    """A uniform sample of k of the integers below n, ascending, into `places`. Draws the fewer: those in or those out."""
    for place in range(n):
        is_marked[place] = 0
    draws, marked = (k, np.uint8(1)) if 2 * k <= n else (n - k, np.uint8(0))
    while draws > 0:
        one, other, state = _draw(state, n)
        draws -= _mark(is_marked, one)
        if draws > 0:
            draws -= _mark(is_marked, other)
    m = np.uint64(0)
    for place in range(n):
        places[m] = place
        m += np.uint64(is_marked[place] == marked)
    return state


@numba.njit
def _sample_zeros(rows, n, k, measured, is_zero, available, state, places):
    """Put a uniform sample of k of the `available` features that are measured and not among the n `rows` into `places`."""
    for row in range(len(is_zero)):  # copied tens of times as fast as `is_zero[:] = measured`
        is_zero[row] = measured[row]
    for i in range(n):
        is_zero[rows[i]] = 0
    if (available - k) * _SPARSE < len(is_zero):
        m = 0
        for row in range(len(is_zero)):
            places[m] = row
            m += is_zero[row]
        for t in range(k):
            j, _, state = _draw(state, available - t)
            other = np.uint64(t) + j
            places[t], places[other] = places[other], places[t]
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


@numba.njit
def _geometric_mean(counts, n):
    """exp of the mean over n features of log1p(count); those without an entry have count 0."""
    total = 0.0
    for entry in range(len(counts)):
        total += log1p(np.float64(counts[entry]))
    return np.exp(total / max(n, 1))


@numba.njit(error_model="numpy")  # else it checks each division, and takes one at a time
def _log_ratios(values, counts, n, largest, divisor, scale, table):
    """values = log1p(count / divisor * scale) of the first n tokens, of which none counts more than `largest`."""
    for count in range(min(largest + 1, TABLE)):
        table[count] = log1p(count / divisor * scale)
    for t in range(n):
        values[t] = table[np.uint8(counts[t])] if counts[t] < TABLE else log1p(counts[t] / divisor * scale)


@numba.njit
def _idf_weighted(values, features, n, share, weights):
    """values = log1p(share * weight of the feature) of the first n tokens."""
    for t in range(n):
        values[t] = log1p(share * weights[np.uint32(features[t])])


@numba.njit
def _zero_weight(n, expressed, absent, zeros):
    """How many times as many features one of the `zeros` stands for, of `absent` in all, as one of the `expressed` of n."""
    if n == 0 or absent == 0:
        return 1.0
    return absent * expressed / (n * zeros) if zeros else np.inf


@compiled
def tokenise(
    kind, cells_B, panels_D, rows_C, measured_F, weights_F, seeds_B, most, fraction,
    features_BL, values_BL, counts_BL, mask_BL, library_B, zero_weight_B, totals_BL,
    is_zero, is_marked, bitmap, entry_of_row, of_cell, rows, entries, picked, table
):  # fmt: skip
    """Fill one row of the batch for each cell (`entries.CELL`). Returns 0 and SOUND, or the row of a cell with a column
    that cannot be (see `_not_a_column`), and that column.

    `kind` is the modality's place in MODALITIES. `totals_BL` is looked at for methylation alone, `weights_F` for ATAC
    alone. For methylation `fraction` is 1: it has no zeros.
    """
    length = features_BL.shape[1]
    for i in range(len(cells_B)):
        features, values, counts, mask = features_BL[i], values_BL[i], counts_BL[i], mask_BL[i]
        cell = cells_B[i]
        if cell.dataset < 0:
            features[:], values[:], counts[:], mask[:] = 0, 0, 0, False
            library_B[i], zero_weight_B[i] = 0, 0
            if kind == _METHYLATION:
                totals_BL[i] = 0
            continue
        panel = panels_D[cell.dataset]
        rows_G = rows_C[panel.column : panel.column + panel.columns]
        measured = measured_F[panel.row : panel.row + panel.rows]
        # One column more than there are cannot ascend; there is room for no more.
        columns = rows[: min(cell.length, panel.columns + 1)]
        widen(cell.indices, cell.index_bytes, columns)
        bad = _not_a_column(columns, panel.columns)
        if bad != SOUND:
            return i, bad
        data = of_cell[: cell.length]
        widen(cell.data, cell.data_bytes, data)
        library, largest = _total(data)
        library_B[i] = library

        all_known = panel.is_ordered and panel.known == panel.columns
        if all_known:
            n = len(columns)
            if not panel.is_same:
                for entry in range(n):
                    rows[entry] = rows_G[columns[entry]]
        elif panel.is_ordered:
            n = _in_order(columns, rows_G, rows, entries)
        else:
            n = _into_order(columns, rows_G, rows, entries, bitmap[: panel.rows >> 6], entry_of_row)
        expressed = min(n, most)
        state = _sample(n, expressed, seeds_B[i], is_marked, picked)
        for t in range(expressed):
            features[t] = rows[picked[t]]
        if not all_known:
            for t in range(expressed):
                picked[t] = entries[picked[t]]
        for t in range(expressed):
            counts[t] = data[picked[t]]

        if kind == _RNA:
            _log_ratios(values, counts, expressed, largest, library, _SCALE, table)
        elif kind == _ADT:
            middle = _geometric_mean(data, panel.columns)
            library_B[i] = _PANEL * (middle - 1.0)
            _log_ratios(values, counts, expressed, largest, middle, 1.0, table)
        elif kind == _ATAC:
            share = _SCALE / max(len(data), 1)
            _idf_weighted(values, features, expressed, share, weights_F[panel.row : panel.row + panel.rows])
        else:
            widen(cell.hits, cell.data_bytes, data)
            for t in range(expressed):
                methylated, total = np.float32(data[picked[t]]), counts[t]
                counts[t], totals_BL[i, t] = methylated, total
                values[t] = (methylated + 1.0) / (total + 2.0)
            totals_BL[i, expressed:] = 0

        zeros = min(panel.known - n, np.int64(np.floor(expressed / fraction + 0.5)) - expressed, length - expressed)
        if zeros > 0:
            _sample_zeros(rows, n, zeros, measured, is_zero[: panel.rows], panel.known - n, state, picked)
            for t in range(zeros):
                features[expressed + t] = picked[t]
        shown = expressed + max(zeros, 0)
        unseen = 0 if kind == _METHYLATION else panel.known - n
        zero_weight_B[i] = _zero_weight(n, expressed, unseen, max(zeros, 0))
        mask[:shown], mask[shown:] = True, False
        features[shown:] = 0
        values[expressed:] = 0
        counts[expressed:] = 0
    return 0, SOUND
