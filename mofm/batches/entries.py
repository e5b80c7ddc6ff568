"""Where the entries of cells lie in memory: what lets one compiled call make a batch of cells of any data sets.

The cells of a batch are of many data sets, whose stores differ in the types of their numbers and in their columns, and
lie in the memory of several windows. A record says of each cell where its entries begin, how many and how wide they are;
that makes any cells an array, to be cut and shuffled by numpy. A call for each data set instead took some 25 us, and of a
hundred data sets every batch has cells of fifty.

An address keeps nothing alive: who has records holds what they point into until they are done with.
"""

import numba
import numpy as np
from numba.extending import intrinsic

from mofm.omics.rows import CountRows

CELL = np.dtype(
    [
        ("indices", np.uintp),  # address of the first column
        ("data", np.uintp),  # address of the first count
        ("hits", np.uintp),  # methylation: address of the first count of methylated reads; else 0
        ("length", np.int32),  # entries
        ("dataset", np.int32),  # -1: no cell
        ("index_bytes", np.int16),  # of a column: 1, 2 or 4
        ("data_bytes", np.int16),  # of a count, and of one of methylated reads
    ],
    align=True,
)
"""The record of a cell."""
NO_CELL = np.array((0, 0, 0, 0, -1, 4, 4), CELL)
"""The record of a row of a batch that is padding."""
_WIDTHS = (1, 2, 4)


def cells_of(rows: CountRows, dataset: int) -> np.ndarray:
    """A record (`CELL`) for each cell of some rows of a dataset's store, `NO_CELL` for those that are lost.

    Raises:
      ValueError: the arrays are of a type that `widen` does not read.
    """
    cells_N = np.zeros(rows.n_cells, CELL)
    cells_N["dataset"], cells_N["length"] = dataset, np.diff(rows.indptr_N)
    cells_N["index_bytes"], cells_N["data_bytes"] = rows.indices.itemsize, rows.data.itemsize
    for name, array in (("indices", rows.indices), ("data", rows.data), ("hits", rows.hits)):
        if array is not None:
            if array.dtype.kind not in "ui" or array.itemsize not in _WIDTHS or not array.flags.c_contiguous:
                raise ValueError(f"{name} of {array.dtype}, {array.strides} bytes from one to the next")
            cells_N[name] = array.__array_interface__["data"][0] + rows.indptr_N[:-1] * array.itemsize
    if rows.lost_N is not None:
        cells_N[rows.lost_N] = NO_CELL
    return cells_N


def pointer_to(item: numba.types.Type):
    """What makes an address a pointer to numbers of a type, in compiled code."""

    @intrinsic
    def pointer(typing_context, address):
        def generate(context, builder, signature, arguments):
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return numba.types.CPointer(item)(numba.types.uintp), generate

    return pointer


_bytes, _halves, _words = (pointer_to(item) for item in (numba.uint8, numba.uint16, numba.uint32))


@numba.njit
def widen(address, width, out):
    """Fill `out` with the whole numbers of so many bytes each that lie at an address."""
    n = len(out)
    if width == 1:
        narrow = numba.carray(_bytes(address), n)
        for i in range(n):
            out[i] = narrow[i]
    elif width == 2:
        medium = numba.carray(_halves(address), n)
        for i in range(n):
            out[i] = medium[i]
    else:
        wide = numba.carray(_words(address), n)
        for i in range(n):
            out[i] = wide[i]
