"""Quotas: whole numbers that keep to their shares."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mofm.batches.mixture import (
    host_part,
    make_strata,
    parse_stratum,
    rows_of_views,
    share_out,
    shares_of,
    view_rows,
)
from mofm.errors import InputError

RNA, ATAC, BOTH = ("rna",), ("atac",), ("rna", "atac")
WEIGHTS = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=12)


def strata_of(modalities, cells, batch_size=32, quotas=None, temperature=1.0, multiple=1):
    rest = dict(quotas=quotas or {}, temperature=temperature, multiple=multiple)
    return make_strata(modalities, cells, batch_size=batch_size, **rest)


@given(weights=WEIGHTS, more=st.integers(0, 500))
def test_units_are_shared_out_whole_and_near_their_shares(weights, more):
    units = len(weights) + more
    given = share_out(weights, units)
    exact = np.array(weights) / sum(weights) * units
    assert given.sum() == units
    assert given.min() >= 1
    if exact.min() >= 1:
        assert np.abs(given - exact).max() < 1
    order = np.argsort(weights)
    assert np.all(np.diff(given[order]) >= 0) or len(set(weights)) < len(weights)


def test_strata_are_sets_of_modalities_in_a_fixed_order():
    strata = strata_of([BOTH, RNA, BOTH, ATAC, RNA], [10, 20, 30, 40, 0])
    assert [(s.name, s.datasets) for s in strata] == [("rna", (1,)), ("atac", (3,)), ("rna+atac", (0, 2))]
    assert [s.quota for s in strata] == [6, 13, 13]
    assert rows_of_views(strata) == {"rna": 19, "atac": 26}
    assert view_rows(strata, "atac") == {1: slice(0, 13), 2: slice(13, 26)}


def test_temperature_lifts_the_small():
    modalities, cells = [RNA, RNA, BOTH], [900_000, 100, 2_500]
    assert [s.quota for s in strata_of(modalities, cells, 1000)] == [997, 3]
    # square roots: 948.7 + 10 against 50
    assert [s.quota for s in strata_of(modalities, cells, 1000, temperature=0.5)] == [950, 50]
    assert [s.quota for s in strata_of(modalities, cells, 1000, temperature=0.0)] == [667, 333]
    assert [s.quota for s in strata_of(modalities, cells, 10)] == [9, 1]


def test_given_quotas_are_kept_in_whole_rows():
    quotas = {"atac+rna": 1, "rna": 2, "atac": 1}
    strata = strata_of([BOTH, RNA, ATAC], [1, 10**6, 50], 64, quotas, multiple=8)
    assert {s.name: s.quota for s in strata} == {"rna": 32, "atac": 16, "rna+atac": 16}
    uneven = strata_of([BOTH, RNA, ATAC], [1, 10**6, 50], 40, quotas, multiple=8)
    assert sum(s.quota for s in uneven) == 40
    assert all(s.quota % 8 == 0 for s in uneven)


def test_parts_of_hosts_are_the_view():
    strata = strata_of([RNA, ATAC, BOTH], [30, 10, 24], 64)
    for modality in ("rna", "atac"):
        rows = view_rows(strata, modality)
        for hosts in (1, 2):
            found = []
            for host in range(hosts):
                part = host_part(strata, modality, host, hosts)
                for share in shares_of(strata, modality, part):
                    first = rows[share.stratum].start + share.start
                    assert first - part.start == share.place
                    found += range(first, first + share.stop - share.start)
            assert found == list(range(rows_of_views(strata)[modality]))


def test_names_of_strata():
    assert parse_stratum("adt+rna") == ("rna", "adt")
    for name in ("", "rna+", "rna+rna", "protein"):
        with pytest.raises(InputError, match="no set of modalities"):
            parse_stratum(name)
    with pytest.raises(InputError, match="Did you mean 'atac'"):
        parse_stratum("rna+atak")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(quotas={"rna": 1}), "the corpus has rna, rna\\+atac: give each"),
        (dict(quotas={"rna": 1, "rna+atac": 1, "adt": 1}), "names rna, rna\\+atac, adt"),
        (dict(quotas={"rna": 1, "rna+atac": 1, "atac+rna": 1}), "one share"),
        (dict(batch_size=1), "need 1 rows each"),
        (dict(batch_size=32, multiple=32), "need 32 rows each"),
        (dict(batch_size=30, multiple=4), "multiple of data.quota_multiple=4"),
    ],
)
def test_what_cannot_be_shared_is_told(changes, said):
    with pytest.raises(InputError, match=said):
        strata_of([RNA, BOTH], [5, 6], **changes)


def test_a_view_that_does_not_divide_names_the_remedy():
    strata = strata_of([RNA, BOTH], [5, 3], 8)
    with pytest.raises(InputError, match=r"5 rna, 3 rna\+atac.*3 rows of atac.*data.quota_multiple=2"):
        host_part(strata, "atac", 0, 2)
