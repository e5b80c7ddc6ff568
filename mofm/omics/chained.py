"""Several stored matrices of the same columns as one, the rows of each behind those of the one before."""

from collections.abc import Iterator, Sequence

import numpy as np

from mofm.errors import InputError
from mofm.omics.matrices import StoredMatrix, StoredRows
from mofm.sampling import evenly

_SAMPLED = 4
"""So many matrices are sampled, spread evenly: a sample of each would grow with their number."""


def chain(matrices: Sequence[StoredMatrix]) -> StoredMatrix:
    """The matrix itself where there is one. Raises `InputError` where they have different numbers of columns."""
    return matrices[0] if len(matrices) == 1 else ChainedMatrix(matrices)


class ChainedMatrix(StoredMatrix):
    """The rows of several matrices. Closing it frees the scratch space of each."""

    def __init__(self, matrices: Sequence[StoredMatrix]):
        first = matrices[0]
        widths = {matrix.shape[1] for matrix in matrices}
        if len(widths) > 1:
            raise InputError(f"{first.path}: {first.name} has {sorted(widths)} columns in its parts; write it again")
        shape = (sum(matrix.shape[0] for matrix in matrices), first.shape[1])
        dtype = np.result_type(*(matrix.dtype for matrix in matrices))
        super().__init__(first.path, first.name, shape, dtype, sum(matrix.n_stored for matrix in matrices))
        self.layout, self._matrices = first.layout, tuple(matrices)

    @property
    def keep_zeros(self) -> bool:
        """As of the matrices."""
        return self._matrices[0].keep_zeros

    @keep_zeros.setter
    def keep_zeros(self, keep: bool) -> None:
        """For each of them."""
        for matrix in self._matrices:
            matrix.keep_zeros = keep

    def rows(self, block_entries: int) -> Iterator[StoredRows]:
        """The rows of each in turn. No block has rows of two."""
        for matrix in self._matrices:
            yield from matrix.rows(block_entries)
            matrix.close()

    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        """Samples of a few of them."""
        places = evenly(len(self._matrices), _SAMPLED)
        columns, values = zip(*(self._matrices[place].sample() for place in places), strict=True)
        return np.concatenate(columns), np.concatenate(values)

    def sample_rows(self) -> StoredRows | None:
        """Of the one in the middle."""
        return self._matrices[len(self._matrices) // 2].sample_rows()

    def close(self) -> None:
        """Closes each."""
        for matrix in self._matrices:
            matrix.close()
