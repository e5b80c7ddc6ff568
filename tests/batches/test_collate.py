"""Tokens are a fair, repeatable sample of what the file says, and of nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from mofm.batch import LIBRARY_SCALE
from mofm.batches.collate import collate, collate_into, empty_tokens, join_known, known_features
from mofm.batches.entries import NO_CELL, cells_of
from mofm.batches.gather import gather
from mofm.batches.kernel import _mix64
from mofm.batches.logarithm import log1p
from mofm.batches.order import mix64
from mofm.errors import InputError
from mofm.omics.rows import CountRows


def as_rows(dense_NG) -> CountRows:
    dense_NG = np.asarray(dense_NG)
    cells, columns = np.nonzero(dense_NG)
    indptr_N = np.concatenate([[0], np.cumsum(np.bincount(cells, minlength=len(dense_NG)))]).astype(np.int64)
    return CountRows(indptr_N, columns.astype(np.uint16), dense_NG[cells, columns].astype(np.uint16))


def tokens_of(
    dense_NG, feature_rows_G, *, tokens, expressed_fraction=0.75, seeds=None, hits=None, kind=np.uint16, **modality
):
    n = len(dense_NG)
    seeds = np.arange(n, dtype=np.uint64) if seeds is None else np.asarray(seeds, np.uint64)
    feature_rows_G = np.asarray(feature_rows_G, np.int32)
    cell_B, dataset_B = np.arange(n, dtype=np.int32), np.full(n, 3, np.int32)
    rest = dict(tokens=tokens, expressed_fraction=expressed_fraction, seeds_B=seeds, cell_B=cell_B, dataset_B=dataset_B)
    rows = as_rows(dense_NG)
    rows = rows._replace(data=rows.data.astype(kind))
    if hits is not None and modality["modality"] == "methylation":
        rows = rows._replace(hits=np.asarray(hits)[np.nonzero(np.asarray(dense_NG))].astype(kind))
    return collate(rows, feature_rows_G, **rest, **modality)


def random_counts(seed, cells, columns, density):
    rng = np.random.default_rng(seed)
    return rng.geometric(0.3, (cells, columns)) * (rng.random((cells, columns)) < density)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    columns=st.integers(1, 300),
    density=st.sampled_from([0.0, 0.02, 0.3, 0.9, 1.0]),
    unknown=st.sampled_from([0.0, 0.3, 1.0]),
    gaps=st.sampled_from([1, 40]),
    tokens=st.integers(1, 200),
    fraction=st.sampled_from([0.05, 0.5, 0.75, 0.9, 1.0]),
)
def test_every_token_says_what_the_file_says(seed, columns, density, unknown, gaps, tokens, fraction):
    rng = np.random.default_rng(seed)
    dense = random_counts(seed, 4, columns, density)
    feature_rows = rng.permutation(columns * gaps)[:columns]
    feature_rows[rng.random(columns) < unknown] = -1
    batch = tokens_of(dense, feature_rows, tokens=tokens, expressed_fraction=fraction)
    column_of = {row: column for column, row in enumerate(feature_rows) if row >= 0}
    np.testing.assert_array_equal(batch.library_B, dense.sum(1))
    assert all(np.isfinite(leaf).all() for leaf in batch[:7])
    assert batch.totals_BL is None
    for cell in range(4):
        mask = batch.mask_BL[cell]
        features, counts = batch.features_BL[cell, mask], batch.counts_BL[cell, mask]
        assert len(set(features)) == len(features)
        truth = np.array([dense[cell, column_of[row]] for row in features])
        np.testing.assert_array_equal(counts, truth)
        values = np.log1p(truth / max(dense[cell].sum(), 1) * LIBRARY_SCALE)
        np.testing.assert_allclose(batch.values_BL[cell, mask], values, rtol=1e-6)
        for padded in (batch.features_BL, batch.values_BL, batch.counts_BL):
            assert not padded[cell, ~mask].any()
        assert not np.any(mask[1:] & ~mask[:-1])  # padding comes last

        n = np.count_nonzero(dense[cell][feature_rows >= 0])
        n_zero = np.count_nonzero(feature_rows >= 0) - n
        expressed = min(n, max(1, round(fraction * tokens)))
        zeros = min(n_zero, int(expressed / fraction + 0.5) - expressed, tokens - expressed)
        assert np.count_nonzero(counts) == expressed
        assert np.count_nonzero(counts == 0) == zeros
        shown = np.array([[n_zero, zeros], [n, expressed]], float)
        with np.errstate(divide="ignore", invalid="ignore"):
            stands_for = shown[:, 0] / shown[:, 1]  # how many features, a zero and another
            weight = stands_for[0] / stands_for[1] if n and n_zero else 1.0
        np.testing.assert_allclose(batch.zero_weight_B[cell], weight, rtol=1e-6)


def test_types_are_those_of_the_contract():
    batch = tokens_of(random_counts(0, 3, 50, 0.3), np.arange(50), tokens=10)
    kinds = [np.int32, np.float32, np.float32, np.bool_, np.float32, np.int32, np.int32]
    assert [leaf.dtype for leaf in batch[:7]] == kinds
    assert [leaf.shape for leaf in batch[:7]] == [(3, 10)] * 4 + [(3,)] * 3
    assert (batch.zero_weight_B.dtype, batch.zero_weight_B.shape) == (np.float32, (3,))
    assert batch.cell_B.tolist() == [0, 1, 2]
    assert batch.dataset_B.tolist() == [3, 3, 3]


def test_large_counts_and_full_and_empty_cells():
    dense = np.zeros((3, 8), int)
    dense[0] = [1, 254, 255, 256, 257, 60_000, 3, 2]  # no zeros; across the end of the value table
    dense[1, 7] = 9  # only in a column that the model lacks
    batch = tokens_of(dense, [5, 4, 3, 2, 1, 0, 6, -1], tokens=8, expressed_fraction=0.9)
    np.testing.assert_array_equal(batch.counts_BL[0], [60_000, 257, 256, 255, 254, 1, 3, 0])
    expected = np.log1p(batch.counts_BL[0, :7] / dense[0].sum() * LIBRARY_SCALE)
    np.testing.assert_allclose(batch.values_BL[0, :7], expected, rtol=1e-6)
    assert batch.mask_BL.sum(1).tolist() == [7, 0, 0]
    assert batch.library_B.tolist() == [dense[0].sum(), 9, 0]


def test_all_expressed_features_of_a_cell_in_the_order_of_the_model():
    dense = random_counts(1, 5, 200, 0.4)
    feature_rows = np.random.default_rng(0).permutation(500)[:200]
    batch = tokens_of(dense, feature_rows, tokens=200, expressed_fraction=1.0)
    for cell in range(5):
        np.testing.assert_array_equal(
            batch.features_BL[cell, batch.mask_BL[cell]], np.sort(feature_rows[dense[cell] > 0])
        )


@pytest.mark.parametrize("tokens", [30, 400])
def test_column_order_of_the_file_changes_nothing(tokens):
    dense = random_counts(2, 6, 300, 0.5)
    feature_rows = np.random.default_rng(1).permutation(1000)[:300]
    feature_rows[:20] = -1
    reference = tokens_of(dense, feature_rows, tokens=tokens)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(300)
        for a, b in zip(reference, tokens_of(dense[:, order], feature_rows[order], tokens=tokens), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_cell_does_not_depend_on_its_neighbours():
    dense = random_counts(3, 6, 100, 0.4)
    together = tokens_of(dense, np.arange(100), tokens=40, seeds=np.arange(6) + 10)
    for cell in range(6):
        alone = tokens_of(dense[[cell]], np.arange(100), tokens=40, seeds=[cell + 10])
        np.testing.assert_array_equal(alone.features_BL[0], together.features_BL[cell])
        np.testing.assert_array_equal(alone.values_BL[0], together.values_BL[cell])


@pytest.mark.parametrize("modality", ["rna", "atac", "adt", "methylation"])
def test_cells_of_many_datasets_are_made_in_one_call_as_each_alone(modality):
    """Each dataset has columns, an order of them, types and memory of its own; two have the same columns."""
    rng, stores = np.random.default_rng(11), {}
    weights_F = rng.gamma(2.0, 3.0, 400).astype(np.float32)
    for number in (0, 1, 2, 4, 5, 7, 8):  # the others have none of this modality
        columns = int(rng.integers(1, 90))
        some = rng.permutation(400)[:columns]
        feature_rows = [np.arange(columns), np.sort(some), some][number % 3]
        if number == 8:
            columns, feature_rows = len(stores[7][0]), stores[7][0]
        feature_rows = np.where(rng.random(columns) < 0.2 * (number % 2), -1, feature_rows)
        rows = as_rows(random_counts(number, 6, columns, 0.5))
        rows = rows._replace(indices=rows.indices.astype([np.uint16, np.uint32][number % 2]))
        rows = rows._replace(data=rows.data.astype([np.uint8, np.uint16, np.uint32][number % 3]))
        if modality == "methylation":
            rows = rows._replace(hits=rng.binomial(rows.data, 0.5).astype(rows.data.dtype))
        stores[number] = feature_rows, rows
    known = join_known(
        {number: known_features(of, f"set {number}", modality, weights_F[of]) for number, (of, _) in stores.items()}
    )
    cells = np.concatenate([cells_of(rows, number) for number, (_, rows) in stores.items()])
    whose = np.repeat(list(stores), 6)
    order = rng.permutation(len(cells))[:30]
    cells_B, seeds_B = cells[order], rng.integers(0, 2**63, 30).astype(np.uint64)
    cells_B[[3, 17]] = NO_CELL
    rest = dict(expressed_fraction=0.6, modality=modality)
    out = empty_tokens(30, 25, modality, lambda shape, dtype: np.full(shape, 1, dtype))
    collate_into(out, cells_B, known, seeds_B, 0.6)
    counts = gather(cells_B, known, order)
    for row, number in enumerate(whose[order]):
        entries = slice(*counts.indptr_B[row : row + 2])
        if row in (3, 17):
            assert not any(leaf[row].any() for leaf in out[:5])
            assert (entries.start, counts.cell_B[row], counts.dataset_B[row]) == (entries.stop, -1, -1)
            continue
        feature_rows, rows = stores[number]
        seed = dict(seeds_B=np.repeat(seeds_B[row], 6), cell_B=0, dataset_B=0, idf_G=weights_F[feature_rows])
        alone, mine = collate(rows, feature_rows, tokens=25, **seed, **rest), order[row] % 6
        for leaf, truth in zip(out, alone, strict=True):
            if truth is not None and leaf is not out.cell_B and leaf is not out.dataset_B:
                np.testing.assert_array_equal(leaf[row], truth[mine])
        there = slice(*rows.indptr_N[mine : mine + 2])
        np.testing.assert_array_equal(counts.features[entries], feature_rows[rows.indices[there]])
        np.testing.assert_array_equal(counts.counts[entries], rows.data[there])
        if modality == "methylation":
            np.testing.assert_array_equal(counts.hits[entries], rows.hits[there])
        assert (counts.cell_B[row], counts.dataset_B[row]) == (order[row], number)
    few = join_known({5: known_features(stores[5][0][:1], "set 5", modality)})
    with pytest.raises(InputError, match="set 5: an entry is in column"):
        collate_into(out, cells[whose == 5], few, seeds_B, 0.6)


def test_logarithms_are_those_of_numpy():
    x = np.concatenate([[0.0], 10.0 ** np.random.default_rng(0).uniform(-12, 12, 100_000)])
    made = np.array([log1p(one) for one in x])
    np.testing.assert_allclose(made, np.log1p(x), rtol=4e-16)
    assert np.mean(made.astype(np.float32) == np.log1p(x).astype(np.float32)) == 1


def test_records_are_of_arrays_that_compiled_code_reads():
    rows = as_rows(random_counts(0, 3, 20, 0.5))
    for wrong in (rows.data.astype(np.float32), rows.data.astype(np.int64), np.repeat(rows.data, 2)[::2]):
        with pytest.raises(ValueError, match="data of"):
            cells_of(rows._replace(data=wrong), 0)


def expect_uniform(times_drawn, draws, sample):
    """Chi-square of how often each of n was in a sample without replacement, which lowers the variance."""
    n = len(times_drawn)
    expected = draws * sample / n
    statistic = np.sum((times_drawn - expected) ** 2) / expected / (1 - sample / n) * (n - 1) / n
    assert 0.001 < chi2.cdf(statistic, n - 1) < 0.999


@pytest.mark.parametrize("n_zero", [10, 40, 160], ids=["zeros listed", "zeros listed or tried", "zeros tried"])
def test_samples_are_uniform_without_replacement(n_zero):
    draws, n, tokens = 4000, 40, 20
    dense = np.zeros((1, n + n_zero), int)
    dense[0, :n] = np.arange(1, n + 1)
    feature_rows = np.random.default_rng(0).permutation(n + n_zero)
    batch = tokens_of(np.repeat(dense, draws, 0), feature_rows, tokens=tokens, expressed_fraction=0.75)
    assert batch.mask_BL.all()
    times = np.bincount(batch.features_BL.ravel(), minlength=n + n_zero)[feature_rows]
    expect_uniform(times[:n], draws, 15)
    expect_uniform(times[n:], draws, 5)
    held = np.zeros((draws, n + n_zero))
    np.put_along_axis(held, batch.features_BL.astype(int), 1, axis=1)
    pairs = (held.T @ held)[np.ix_(feature_rows[:n], feature_rows[:n])][np.triu_indices(n, 1)]
    chance = 15 * 14 / (n * (n - 1))
    assert np.all(np.abs(pairs / draws - chance) < 5 * np.sqrt(chance * (1 - chance) / draws))


def test_seeds_fix_the_sample():
    dense = np.repeat(random_counts(4, 1, 200, 0.5), 3, 0)
    batch = tokens_of(dense, np.arange(200), tokens=40, seeds=[5, 5, 2**64 - 1])
    np.testing.assert_array_equal(batch.features_BL[0], batch.features_BL[1])
    assert len(np.intersect1d(batch.features_BL[0], batch.features_BL[2])) < 25


def test_draws_are_pinned():
    """A run that is resumed elsewhere draws the same tokens."""
    batch = tokens_of(np.arange(60)[None] % 3, np.arange(60)[::-1], tokens=12, seeds=[2**63 + 11])
    assert batch.features_BL[0].tolist() == [18, 22, 27, 33, 37, 40, 46, 52, 57, 53, 11, 44]
    words = np.random.default_rng(0).integers(0, 2**64, 50, dtype=np.uint64)
    assert [_mix64(word) for word in words] == mix64(words).tolist()


@pytest.mark.parametrize("data_type", [np.uint8, np.uint32, np.float32])
def test_kinds_of_integers_make_no_difference(data_type):
    rows = as_rows(random_counts(6, 4, 90, 0.5))
    other = rows._replace(indices=rows.indices.astype(np.int32), data=rows.data.astype(data_type))
    other.data.flags.writeable = False
    rest = dict(tokens=30, expressed_fraction=0.8, seeds_B=np.arange(4, dtype=np.uint64), cell_B=0, dataset_B=0)
    for a, b in zip(collate(rows, np.arange(90), **rest), collate(other, np.arange(90), **rest), strict=True):
        np.testing.assert_array_equal(a, b)


def test_unusable_input_is_refused():
    dense = random_counts(7, 2, 10, 0.9)
    with pytest.raises(InputError, match=r"columns \[2, 5\] are one feature"):
        tokens_of(dense, [0, 1, 2, 3, 4, 2, 6, 7, 8, -1], tokens=5)
    with pytest.raises(InputError, match="store is damaged"):
        tokens_of(dense, np.arange(4), tokens=5)
    for fraction in (0.0, 1.5, float("nan")):
        with pytest.raises(InputError, match="expressed_fraction"):
            tokens_of(dense, np.arange(10), tokens=5, expressed_fraction=fraction)


PANELS = st.integers(1, 120)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), columns=PANELS, tokens=st.integers(1, 150), density=st.sampled_from([0.0, 0.3, 1.0]))
def test_proteins_are_centred_log_ratios_over_the_panel(seed, columns, tokens, density):
    """Seurat's CLR, zeros and proteins that the model lacks in the mean."""
    dense = random_counts(seed, 4, columns, density) * 37
    feature_rows = np.random.default_rng(seed).permutation(columns)
    feature_rows[: columns // 3] = -1
    batch = tokens_of(dense, feature_rows, tokens=tokens, modality="adt")
    column_of = np.argsort(feature_rows)[columns // 3 :] if columns // 3 else np.argsort(feature_rows)
    column_of = {int(feature_rows[column]): column for column in column_of}
    for cell in range(4):
        ratios = np.log1p(dense[cell] / np.exp(np.log1p(dense[cell]).mean()))
        mask = batch.mask_BL[cell]
        columns_of_tokens = [column_of[row] for row in batch.features_BL[cell, mask]]
        np.testing.assert_allclose(batch.values_BL[cell, mask], ratios[columns_of_tokens], rtol=1e-6)
        np.testing.assert_array_equal(batch.counts_BL[cell, mask], dense[cell, columns_of_tokens])
    np.testing.assert_allclose(batch.library_B, 100 * np.expm1(np.log1p(dense).mean(1)), rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), columns=PANELS, tokens=st.integers(1, 150), density=st.sampled_from([0.0, 0.3, 1.0]))
def test_open_regions_are_weighed_by_tf_idf_whatever_their_fragments(seed, columns, tokens, density):
    rng = np.random.default_rng(seed)
    dense, idf_G = random_counts(seed, 4, columns, density), rng.gamma(2.0, 10.0, columns).astype(np.float32)
    feature_rows = rng.permutation(columns * 3)[:columns]
    feature_rows[rng.random(columns) < 0.2] = -1
    batch = tokens_of(dense, feature_rows, tokens=tokens, modality="atac", idf_G=idf_G)
    once = tokens_of(dense > 0, feature_rows, tokens=tokens, modality="atac", idf_G=idf_G)
    np.testing.assert_array_equal(batch.values_BL, once.values_BL)
    np.testing.assert_array_equal(batch.features_BL, once.features_BL)
    column_of = {int(row): column for column, row in enumerate(feature_rows) if row >= 0}
    for cell in range(4):
        mask = batch.mask_BL[cell]
        columns_of_tokens = np.array([column_of[row] for row in batch.features_BL[cell, mask]], int)
        counts = dense[cell, columns_of_tokens]
        tf = (counts > 0) / max(np.count_nonzero(dense[cell]), 1)
        np.testing.assert_allclose(
            batch.values_BL[cell, mask], np.log1p(1e4 * tf * idf_G[columns_of_tokens]), rtol=1e-6
        )
        np.testing.assert_array_equal(batch.counts_BL[cell, mask], counts)
    np.testing.assert_array_equal(batch.library_B, dense.sum(1))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), columns=PANELS, tokens=st.integers(1, 150), density=st.sampled_from([0.0, 0.3, 1.0]))
def test_methylation_has_what_was_observed_and_no_zeros(seed, columns, tokens, density):
    rng = np.random.default_rng(seed)
    totals = random_counts(seed, 4, columns, density)
    hits = rng.binomial(totals, rng.random(columns))
    feature_rows = rng.permutation(columns * 3)[:columns]
    feature_rows[rng.random(columns) < 0.2] = -1
    batch = tokens_of(totals, feature_rows, tokens=tokens, modality="methylation", hits=hits)
    column_of = {int(row): column for column, row in enumerate(feature_rows) if row >= 0}
    for cell in range(4):
        mask = batch.mask_BL[cell]
        columns_of_tokens = np.array([column_of[row] for row in batch.features_BL[cell, mask]], int)
        k, n = hits[cell, columns_of_tokens], totals[cell, columns_of_tokens]
        assert np.all(n > 0)
        assert mask.sum() == min(tokens, np.count_nonzero(totals[cell][feature_rows >= 0]))
        np.testing.assert_array_equal(batch.counts_BL[cell, mask], k)
        np.testing.assert_array_equal(batch.totals_BL[cell, mask], n)
        np.testing.assert_allclose(batch.values_BL[cell, mask], (k + 1) / (n + 2), rtol=1e-6)
        for padded in (batch.features_BL, batch.values_BL, batch.counts_BL, batch.totals_BL):
            assert not padded[cell, ~mask].any()
    np.testing.assert_array_equal(batch.library_B, totals.sum(1))
    assert batch.totals_BL.dtype == np.float32


@pytest.mark.parametrize("modality", ["rna", "atac", "adt", "methylation"])
def test_columns_in_any_order_and_stored_in_any_type_are_the_same_cell(modality):
    rng = np.random.default_rng(5)
    dense, feature_rows = random_counts(5, 6, 90, 0.4), rng.permutation(200)[:90]
    hits, idf_G = rng.binomial(dense, 0.4), rng.gamma(2.0, 3.0, 90)
    reference = tokens_of(dense, feature_rows, tokens=40, modality=modality, hits=hits, idf_G=idf_G)
    order = rng.permutation(90)
    moved = dict(modality=modality, hits=hits[:, order], idf_G=idf_G[order])
    wide = tokens_of(dense[:, order], feature_rows[order], tokens=40, kind=np.uint32, **moved)
    for a, b in zip(reference, wide, strict=True):
        np.testing.assert_array_equal(a, b)
    more = tokens_of(dense[:1], feature_rows, tokens=400, modality=modality, hits=hits[:1], idf_G=idf_G)
    values = np.full(200, np.nan)
    values[more.features_BL[0, more.mask_BL[0]]] = more.values_BL[0, more.mask_BL[0]]
    shown = reference.mask_BL[0] & (reference.values_BL[0] > 0)  # more room shows all of it, and as the same values
    np.testing.assert_array_equal(values[reference.features_BL[0, shown]], reference.values_BL[0, shown])


def test_methylation_without_methylated_reads_is_refused():
    with pytest.raises(ValueError, match="hits"):
        tokens_of(random_counts(0, 2, 10, 0.5), np.arange(10), tokens=5, modality="methylation")


@pytest.mark.parametrize("columns", [[3, 3], [0] * 5000, [5, 4], [2, 10], [-1, 3]])
def test_columns_that_cannot_be_are_refused_before_anything_is_written(columns):
    data = np.ones(len(columns), np.uint8)
    rows = CountRows(np.array([0, len(columns)]), np.array(columns, np.int32), data)
    rest = dict(tokens=4, expressed_fraction=1.0, seeds_B=np.zeros(1, np.uint64), cell_B=0, dataset_B=0)
    with pytest.raises(InputError, match="an entry is in column"):
        collate(rows, np.arange(10), **rest)
