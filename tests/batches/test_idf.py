"""How common a region is, counted in some of a store's cells."""

from types import SimpleNamespace

import numpy as np
import pytest

from mofm.batches.idf import CELLS, corpus_idf, count_open, idf
from mofm.errors import InputError
from mofm.omics.rows import CountRows


class FakeStore:
    """Random open regions behind the interface of a store."""

    def __init__(self, cells, features, seed=0):
        self.name, self.n_cells, self.n_features = "atlas", cells, features
        rng = np.random.default_rng(seed)
        self.opened = rng.random((cells, features)) < rng.beta(0.5, 3, features)
        self.seen = np.zeros(cells, int)

    def read_rows(self, start, stop):
        self.seen[start:stop] += 1
        return SimpleNamespace(result=lambda: rows_of(self.opened[start:stop]))


def rows_of(opened_NG) -> CountRows:
    cells, columns = np.nonzero(opened_NG)
    indptr_N = np.concatenate([[0], np.cumsum(np.bincount(cells, minlength=len(opened_NG)))]).astype(np.int64)
    return CountRows(indptr_N, columns.astype(np.uint16), np.full(len(columns), 2, np.uint8))


def test_small_stores_are_counted_whole_and_together():
    one, other = FakeStore(130, 20), FakeStore(70, 10, seed=1)
    rows_one, rows_other = np.arange(20), np.arange(15, 25)
    weights = corpus_idf([one, other], [rows_one, rows_other], 27)
    opened, cells = np.zeros(27), np.zeros(27)
    for store, rows in ((one, rows_one), (other, rows_other)):
        opened[rows] += store.opened.sum(0)
        cells[rows] += store.n_cells
    np.testing.assert_allclose(weights, (1 + cells) / (1 + opened), rtol=1e-6)
    assert weights.dtype == np.float32
    assert np.all(weights[25:] == 1)
    assert np.all(one.seen == 1)


def test_a_sample_of_a_large_store_is_spread_over_it_and_near_the_whole():
    store = FakeStore(60_000, 8)
    weights = corpus_idf([store], [np.arange(8)], 8)
    assert store.seen.max() == 1
    assert CELLS * 0.9 < store.seen.sum() <= CELLS
    thirds = store.seen.reshape(3, -1).sum(1)
    assert thirds.min() > CELLS // 4
    common = store.opened.mean(0) > 0.02
    assert common.sum() >= 4
    np.testing.assert_allclose(weights[common], idf(60_000, store.opened.sum(0))[common], rtol=0.3)


def test_no_stores_is_no_regions():
    assert corpus_idf([], [], 0).shape == (0,)
    assert corpus_idf([FakeStore(0, 4)], [np.arange(4)], 4).tolist() == [1, 1, 1, 1]


def test_damage_is_told():
    with pytest.raises(InputError, match="atlas: an entry is in column 7, but there are 5 columns"):
        count_open([rows_of(np.eye(8, dtype=bool))], 5, "atlas")
