"""A file's expression beside its embeddings, streamed: what can be summed over cells without holding cells x genes.

Values are log1p of counts per 10,000, z-scored by gene over the file's cells, less each cell's own mean over genes (a deep
or a strange cell is not more of everything). A gene that does not vary, or that the file lacks, is 0. All that is
asked of the values is linear in them, so the scaling goes into the loadings, and blocks stay sparse.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from mofm.batch import LIBRARY_SCALE
from mofm.inference.matching import Matching, merged
from mofm.omics.rows import CountRows
from mofm.omics.table import CountTable


@dataclass(frozen=True, eq=False)
class Profiles:
    """z-scored expression of the cells of an open table.

    Attributes:
      mean_G, scale_G: float64, mean of a gene's values, and 1 / their deviation; 0 where they do not vary.
      group_CG: float64, mean z-scored expression of each group of cells; the file's mean is 0.
    """

    table: CountTable
    matching: Matching
    mean_G: np.ndarray
    scale_G: np.ndarray
    group_CG: np.ndarray

    def scores(self, loading_GT: sp.csc_array) -> Iterator[np.ndarray]:
        """Blocks of score_NT, float64, in the order of the file: each cell's z-scored genes times their loadings."""
        scaled_GT = sp.csc_array(sp.diags_array(self.scale_G) @ loading_GT)
        offset_T, total_T = self.mean_G @ scaled_GT, np.asarray(loading_GT.sum(axis=0)).ravel()
        own_offset = self.mean_G @ self.scale_G
        varying = max(np.count_nonzero(self.scale_G), 1)
        for values_NG in log_values(self.table, self.matching, len(self.mean_G)):
            own_N = (values_NG @ self.scale_G - own_offset) / varying
            yield (values_NG @ scaled_GT).toarray() - offset_T - np.outer(own_N, total_T)


def read_profiles(table: CountTable, matching: Matching, genes: int, group_N: np.ndarray, groups: int) -> Profiles:
    """Moments of a table's expression, in one pass over its counts.

    Args:
      genes: of the model.
      group_N: each cell's group, -1 for none.
    """
    total_CG, squares_G, start = np.zeros((groups + 1, genes)), np.zeros(genes), 0
    for values_NG in log_values(table, matching, genes):
        cells = values_NG.shape[0]
        code = group_N[start : start + cells]
        code = np.where(code < 0, groups, code)  # the last row is of no group
        member_CN = sp.csr_matrix((np.ones(cells), (code, np.arange(cells))), shape=(groups + 1, cells))
        total_CG += (member_CN @ values_NG).toarray()
        squares_G += np.asarray(values_NG.multiply(values_NG).sum(axis=0)).ravel()
        start += cells
    mean_G = total_CG.sum(axis=0) / max(start, 1)
    variance_G = np.maximum(squares_G / max(start, 1) - mean_G**2, 0)
    varies_G = variance_G > 1e-9 * np.maximum(mean_G**2, 1e-9)
    scale_G = np.divide(1, np.sqrt(variance_G), out=np.zeros(genes), where=varies_G)
    cells_C1 = np.maximum(np.bincount(group_N[group_N >= 0], minlength=groups), 1)[:, None]
    group_CG = (total_CG[:groups] / cells_C1 - mean_G) * scale_G
    own_C1 = group_CG.sum(axis=1, keepdims=True) / max(np.count_nonzero(varies_G), 1)
    return Profiles(table, matching, mean_G, scale_G, (group_CG - own_C1) * varies_G)


def log_values(table: CountTable, matching: Matching, genes: int) -> Iterator[sp.csr_matrix]:
    """Blocks of log1p of counts per LIBRARY_SCALE of the cell, cells x genes of the model."""
    for rows in merged(table, matching):
        yield normalised(rows, matching.rows_F, genes)


def normalised(rows: CountRows, rows_F: np.ndarray, genes: int) -> sp.csr_matrix:
    """log1p of counts per LIBRARY_SCALE of the cell, cells x genes of the model."""
    cell = np.repeat(np.arange(rows.n_cells), np.diff(rows.indptr_N))
    library_N = np.bincount(cell, rows.data, rows.n_cells)
    gene = rows_F[rows.indices]
    known = gene >= 0
    value = np.log1p(rows.data[known] / library_N[cell[known]] * LIBRARY_SCALE)
    return sp.csr_matrix((value, (cell[known], gene[known])), shape=(rows.n_cells, genes))
