"""Cells are paired by name, whatever their order; rows come out in the order asked for, in bounded memory or not."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from mofm.axes import MODALITIES
from mofm.errors import InputError
from mofm.omics.matrices import StoredMatrix, StoredRows
from mofm.omics.pairing import pair, part_name
from mofm.omics.select import SelectedMatrix, in_step
from mofm.omics.table import CountTable


def table(modality: str, names: list[str]) -> CountTable:
    obs, var = pd.DataFrame(index=pd.Index(names, dtype=object)), pd.DataFrame(index=["f"])
    return CountTable("file.h5mu", "h5mu", "file.h5mu", modality, "X", "csr", obs, var, source=None)


@given(
    st.dictionaries(
        st.sampled_from(MODALITIES), st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=1), min_size=1
    )
)
@settings(max_examples=300, deadline=None)
def test_every_cell_is_in_one_part_with_all_its_modalities(names):
    tables = [table(modality, names[modality]) for modality in MODALITIES if modality in names]
    parts = pair(tables, unpaired=True)
    seen = []
    for part in parts:
        rows = zip(*part.rows.values(), strict=True)
        cells = [{m: names[m][row] for m, row in zip(part.rows, cell, strict=True)} for cell in rows]
        assert all(len(set(cell.values())) == 1 for cell in cells)
        own = [next(iter(cell.values())) for cell in cells]
        assert own == [name for name in names[part.modalities[0]] if name in own]
        for name in own:
            assert part.modalities == tuple(m for m in MODALITIES if m in names and name in names[m])
        seen += own
        assert part.n_cells == len(own)
    assert sorted(seen) == sorted(set().union(*names.values()))
    assert len({part.modalities for part in parts}) == len(parts)
    assert [len(part.modalities) for part in parts] == sorted((len(part.modalities) for part in parts), reverse=True)


def test_parts_are_named():
    tables = [table("rna", list("abcd")), table("atac", list("cbe")), table("adt", list("cx"))]
    parts = pair(tables)
    assert [part_name("s", part, tables) for part in parts] == [
        "s",
        "s-rna-atac-only",
        "s-rna-only",
        "s-atac-only",
        "s-adt-only",
    ]
    alone = [table("atac", list("ab"))]
    assert [part_name("s", part, alone) for part in pair(alone)] == ["s"]


def test_a_modality_that_shares_no_cell_name_is_told():
    tables = [table("rna", ["a-1", "b-1"]), table("adt", ["b-1", "a-1"]), table("atac", ["S1#a-1", "S1#b-1"])]
    with pytest.raises(InputError, match="atac shares no cell name with rna") as caught:
        pair(tables)
    assert "'S1#a-1', rna has 'a-1'" in str(caught.value)
    assert "--unpaired" in str(caught.value)
    assert [part.modalities for part in pair(tables, unpaired=True)] == [("rna", "adt"), ("atac",)]


class InMemory(StoredMatrix):
    layout = "csr"

    def __init__(self, dense: np.ndarray):
        super().__init__("there", "X", dense.shape, dense.dtype, int(np.count_nonzero(dense)))
        self._matrix, self.passes = scipy.sparse.csr_matrix(dense), 0

    def rows(self, block_entries):
        self.passes += 1
        for start in range(0, self.shape[0], 3):
            part = self._matrix[start : start + 3]
            yield StoredRows(part.indptr.astype(np.int64), part.indices, part.data)

    def sample(self):
        return self._matrix.indices, self._matrix.data


def dense_of(blocks, n_columns: int) -> np.ndarray:
    matrices = [
        scipy.sparse.csr_array((b.values, b.indices, b.indptr_N), (len(b.indptr_N) - 1, n_columns)) for b in blocks
    ]
    return scipy.sparse.vstack(matrices).toarray()


@given(st.permutations(range(11)), st.integers(1, 11), st.sampled_from([np.float32, np.uint16, bool, np.float16]))
@settings(max_examples=60, deadline=None)
def test_rows_in_any_order(order, count, dtype):
    dense = (np.random.default_rng(0).poisson(0.8, (11, 7))).astype(dtype)
    matrix, wanted = (
        InMemory(dense.astype(np.float32 if dtype in (bool, np.float16) else dtype)),
        np.array(order[:count]),
    )
    selected = SelectedMatrix(matrix, wanted)
    for block_entries in (4, 1000):
        np.testing.assert_array_equal(dense_of(selected.rows(block_entries), 7), dense[wanted].astype(np.float32))
    assert selected.shape == (count, 7)
    assert matrix.passes == (2 if (np.diff(wanted) > 0).all() else 4)
    selected.close()


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.lists(st.integers(1, 4), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_two_matrices_in_step(left, right):
    size = min(sum(left), sum(right))
    dense = np.arange(size * 3).reshape(size, 3)

    def blocks(cuts):
        start = 0
        for cut in [*cuts, size]:
            part = scipy.sparse.csr_matrix(dense[start : min(start + cut, size)])
            if part.shape[0]:
                yield StoredRows(part.indptr.astype(np.int64), part.indices, part.data)
            start = min(start + cut, size)

    pairs = list(in_step(blocks(left), blocks(right)))
    assert all(len(one.indptr_N) == len(other.indptr_N) for one, other in pairs)
    for side in (0, 1):
        np.testing.assert_array_equal(dense_of([both[side] for both in pairs], 3), dense)
