"""What is no count is found at its place; names betray a matrix that lies on its side."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mofm.errors import InputError
from mofm.omics.checks import (
    BadValue,
    check_cell_names,
    check_orientation,
    finite_and_not_negative,
    gene_share,
    look_at,
    smallest_unsigned,
    whole_counts,
)
from mofm.omics.recover import Recovery, count_ratios, near_whole

HERE = Path("file.h5ad")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([], "empty"),
        ([0, 0], "empty"),
        ([0, 3, 1e6], "counts"),
        ([0.5, 9.2], "log-normalised"),
        ([0.5, 17.0], "fractional"),
        ([-0.5, 2.0], "scaled"),
        ([-1.0, 2.0], "negative"),
        ([np.nan, 1.0], "not finite"),
        ([np.inf, 1.0], "not finite"),
    ],
)
def test_look(values, kind):
    assert look_at(np.array(values, np.float32)).kind == kind


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint64, np.float32, np.float64])
def test_whole_counts_keeps_values(dtype):
    values = np.array([0, 1, 100, 7], dtype)
    counts = whole_counts(values)
    assert counts.dtype == np.uint8
    np.testing.assert_array_equal(counts, values)


BAD = {
    np.float32: (np.nan, np.inf, 1.5, -0.5, -1.0, -256.0, 300.5, 2.0**32, 2.0**40),
    np.float64: (-np.inf, 0.1, -65536.0, 2.0**32 - 0.5, 2.0**33),
    np.int64: (-1, -256, 2**32, 2**40),
    np.int8: (-1,),
    np.uint64: (2**32, 2**40),
}


@pytest.mark.parametrize("bad", [dtype(value) for dtype, values in BAD.items() for value in values])
def test_whole_counts_finds_the_first_bad_value(bad):
    values = np.array([1, 2, bad, 3, bad], bad.dtype)
    with pytest.raises(BadValue) as caught:
        whole_counts(values)
    assert caught.value.position == 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint64])
@pytest.mark.parametrize("largest", [255, 256, 2**16, 2**24, 2**31])
def test_whole_counts_are_as_wide_as_the_largest(dtype, largest):
    counts = whole_counts(np.array([3, largest, 0], dtype))
    assert counts.tolist() == [3, largest, 0]
    assert counts.dtype == np.min_scalar_type(largest)


def test_largest_count_fits():
    assert whole_counts(np.array([2.0**32 - 1]))[0] == 2**32 - 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.1])
def test_finite_and_not_negative(bad):
    finite_and_not_negative(np.array([0, 0.5, 9.0]))
    with pytest.raises(BadValue) as caught:
        finite_and_not_negative(np.array([0, bad]))
    assert caught.value.position == 1


@pytest.mark.parametrize(("largest", "dtype"), [(0, "u1"), (255, "u1"), (256, "u2"), (65535, "u2"), (65536, "u4")])
def test_smallest_unsigned(largest, dtype):
    narrow = smallest_unsigned(np.array([0, largest], np.uint32))
    assert narrow.dtype == np.dtype(dtype)
    assert narrow[1] == largest


def test_recovered_counts_are_exact_for_any_depth():
    rng = np.random.default_rng(0)
    counts = np.concatenate([[1], rng.integers(1, 5000, 999), [1, 7]])
    indptr_N = np.array([0, 1000, 1000, 1002])
    library = np.repeat([counts[:1000].sum(), 8], [1000, 2])
    values = np.log1p(counts / library * 1e4).astype(np.float32)
    ratios = count_ratios(indptr_N, values)
    np.testing.assert_array_equal(np.rint(ratios), counts)
    assert near_whole(ratios) == len(counts)


def test_no_entries_have_no_ratios():
    assert len(count_ratios(np.array([0, 0]), np.empty(0))) == 0
    assert not Recovery(0, 0).accepted


def test_recovery_needs_99_of_100():
    assert Recovery(99, 100).accepted
    assert not Recovery(989, 1000).accepted


def test_random_values_are_whole_one_time_in_ten():
    values = np.random.default_rng(0).uniform(0.5, 8, 10_000)
    assert near_whole(count_ratios(np.array([0, 10_000]), values)) / 10_000 < 0.15


def test_impossible_logs_are_refused():
    with pytest.raises(BadValue) as caught:
        count_ratios(np.array([0, 2]), np.array([0.1, 1000.0]))
    assert caught.value.position == 1


def test_cell_names():
    check_cell_names(HERE, pd.Index(["a", "b"]))
    with pytest.raises(InputError, match=r"1 of 3 cell names repeat an earlier one \(first: 'a'\)"):
        check_cell_names(HERE, pd.Index(["a", "b", "a"]))


BARCODES = ["AAACCTGAGAAACCAT-1", "TTTGTCATCTTTAGGG-2"]


@pytest.mark.parametrize(
    ("cells", "features", "turned"),
    [
        (BARCODES, ["CD3D", "MS4A1"], False),
        (["cell1", "cell2"], ["unknown1", "unknown2"], False),
        (["CD3D", "MS4A1"], ["cell1", "cell2"], True),
        (["CD3D", "MS4A1"], BARCODES, True),
        (["made-up-1", "made-up-2"], BARCODES, True),
        (["ENSMUSG00000000001.4", "ENSMUSG00000000003"], ["cell1", "cell2"], True),
        (["Cd3d", "Ms4a1"], ["cell1", "cell2"], True),
        (["CD3D", "MS4A1"], ["CD3D", "GNLY"], False),
    ],
)
def test_orientation(cells, features, turned):
    if turned:
        with pytest.raises(InputError, match="genes x cells"):
            check_orientation(HERE, cells, features, gene_share)
    else:
        check_orientation(HERE, cells, features, gene_share)


def test_gene_share():
    assert gene_share([]) == 0
    assert gene_share(["ENSG00000000003", "CD3D", "nobody", "AAACCTGAGAAACCAT-1"]) == 0.5
