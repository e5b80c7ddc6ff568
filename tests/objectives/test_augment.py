"""Augmented views are views that `collate` could have made, drawn from the right distribution, the same wherever drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse, stats

from mofm.axes import MODALITIES
from mofm.batches.collate import collate
from mofm.objectives.augment import drop_features, family_views, thin
from mofm.omics.rows import CountRows
from mofm.parallel.mesh import MeshConfig, make_mesh
from mofm.parallel.rules import sharding

KEY = jax.random.key(0)
COLUMNS = 40
IDF = np.random.default_rng(9).uniform(1, 50, COLUMNS).astype(np.float32)

thinned = jax.jit(thin, static_argnums=3)


def tokens_of(counts_NG, modality, hits_NG=None, tokens=64, expressed_fraction=0.5):
    """The view of some cells, as a run would make it; of all their features where `tokens` has room for them."""
    rows = sparse.csr_matrix(counts_NG.astype(np.int64))
    rows.sort_indices()
    hits = None
    if modality == "methylation":
        hits = hits_NG[counts_NG > 0]
    return collate(
        CountRows(rows.indptr.astype(np.int64), rows.indices, rows.data, hits),
        np.arange(counts_NG.shape[1]),
        tokens=tokens,
        expressed_fraction=expressed_fraction,
        seeds_B=np.arange(len(counts_NG), dtype=np.uint64),
        cell_B=np.arange(len(counts_NG)),
        dataset_B=np.zeros(len(counts_NG)),
        modality=modality,
        idf_G=IDF if modality == "atac" else None,
    )


def cells_of(modality, cells=30, seed=0, rate=3.0):
    rng = np.random.default_rng(seed)
    counts_NG = rng.poisson(rng.gamma(0.5, 2 * rate, COLUMNS), (cells, COLUMNS))
    return counts_NG, (rng.binomial(counts_NG, 0.3) if modality == "methylation" else None)


def by_feature(view, name):
    """(cell, feature) -> what the view says of it."""
    leaf = np.asarray(getattr(view, name))
    return {(b, int(view.features_BL[b, j])): leaf[b, j] for b, j in np.argwhere(np.asarray(view.mask_BL))}


def dense(view, name):
    """Counts of the view as cells x features."""
    out = np.zeros((len(view.library_B), COLUMNS), np.int64)
    for (cell, feature), value in by_feature(view, name).items():
        out[cell, feature] = value
    return out


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("keep", [0.5, 0.08])
def test_a_thinned_view_of_all_features_is_what_collate_makes_of_the_thinned_counts(modality, keep):
    """Values, counts, totals and library: of each feature whose count is left, and 0 for the others."""
    counts_NG, hits_NG = cells_of(modality)
    view = tokens_of(counts_NG, modality, hits_NG)
    thin_view = thinned(KEY, view, keep, modality)
    assert 0 < np.asarray(thin_view.library_B).sum() < 0.8 * view.library_B.sum()
    if modality == "methylation":
        again = tokens_of(dense(thin_view, "totals_BL"), modality, dense(thin_view, "counts_BL"))
    else:
        again = tokens_of(dense(thin_view, "counts_BL"), modality)
    np.testing.assert_allclose(thin_view.library_B, again.library_B, rtol=2e-5 if modality == "adt" else 0)
    for name in ("values_BL", "counts_BL") + ("totals_BL",) * (modality == "methylation"):
        ours, theirs = by_feature(thin_view, name), by_feature(again, name)
        compared = [key for key in theirs if key in ours]
        assert len(compared) > 50
        np.testing.assert_allclose(
            [ours[key] for key in compared], [theirs[key] for key in compared], rtol=2e-5, atol=1e-6
        )
        # Whatever is expressed is there; a count that fell to 0 is a zero, and in methylation no token.
        expressed = {key for key, value in by_feature(again, "values_BL").items() if value > 0}
        assert expressed <= set(ours)
        if modality == "methylation":
            assert set(ours) == expressed
        else:
            assert all(ours[key] == 0 for key in set(ours) - expressed)


@pytest.mark.parametrize("modality", MODALITIES)
def test_keeping_all_changes_nothing(modality):
    view = tokens_of(*cells_of(modality)[:1], modality, cells_of(modality)[1], tokens=16)
    same = thinned(KEY, view, 1.0, modality)
    for name, leaf in view._asdict().items():
        if leaf is not None:
            np.testing.assert_allclose(getattr(same, name), leaf, rtol=2e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("modality", MODALITIES)
def test_padding_stays_padding(modality):
    counts_NG, hits_NG = cells_of(modality)
    counts_NG[4] = 0
    view = tokens_of(counts_NG, modality, hits_NG, tokens=20)
    thin_view = thinned(KEY, view, 0.3, modality)
    is_padding_BL = ~np.asarray(thin_view.mask_BL)
    assert is_padding_BL[~view.mask_BL].all()
    assert is_padding_BL[4].all()
    for leaf in (thin_view.features_BL, thin_view.values_BL, thin_view.counts_BL, thin_view.totals_BL):
        assert leaf is None or not np.any(np.asarray(leaf)[is_padding_BL])
    for ours, theirs in zip(thin_view, view, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    np.testing.assert_array_equal(thin_view.cell_B, view.cell_B)
    if modality == "methylation":
        assert (np.asarray(thin_view.totals_BL)[~is_padding_BL] >= 1).all()
        assert (np.asarray(thin_view.counts_BL) <= np.asarray(thin_view.totals_BL)).all()


def test_counts_are_binomial_and_so_is_the_library_of_what_is_not_in_the_view():
    counts_NG = np.tile([[9, 0, 1, 300, 2] + [4] * (COLUMNS - 5)], (2000, 1))
    view = tokens_of(counts_NG, "rna", tokens=10, expressed_fraction=1.0)
    drawn = thinned(KEY, view, 0.25, "rna")
    library_B = np.asarray(drawn.library_B)
    total = counts_NG[0].sum()
    assert stats.kstest(library_B + np.random.default_rng(0).random(2000) - 0.5, _smoothed(total, 0.25)).pvalue > 1e-3
    for count in (1, 4, 9, 300):
        kept = np.asarray(drawn.counts_BL)[view.counts_BL == count]
        assert kept.max() <= count
        assert kept.mean() == pytest.approx(0.25 * count, abs=4 * np.sqrt(count * 0.1875 / len(kept)))
        assert kept.var() == pytest.approx(0.1875 * count, rel=0.2)
    assert (np.asarray(drawn.counts_BL).sum(axis=1) <= library_B).all()


def _smoothed(n, p):
    """Distribution of a binomial draw plus a uniform one on +-1/2."""
    below = lambda x: stats.binom.cdf(np.floor(x + 0.5) - 1, n, p)  # noqa: E731
    here = lambda x: stats.binom.pmf(np.floor(x + 0.5), n, p)  # noqa: E731
    return lambda x: below(x) + here(x) * (x + 0.5 - np.floor(x + 0.5))


@pytest.mark.parametrize("modality", ["atac", "adt"])
def test_an_estimated_value_is_right_in_the_mean(modality):
    """Of a view that holds a sample of the features: against what collate makes of the cell, thinned as a whole."""
    counts_NG, _ = cells_of(modality, cells=400, seed=3)
    whole, part = tokens_of(counts_NG, modality), tokens_of(counts_NG, modality, tokens=24)
    assert part.mask_BL.sum() < 0.7 * whole.mask_BL.sum()

    def divisors(view):
        """log of what counts (ADT) or idf (ATAC) are divided by, over cells."""
        counts_BL, values_BL = np.asarray(view.counts_BL), np.asarray(view.values_BL)
        number_BL = counts_BL if modality == "adt" else IDF[np.asarray(view.features_BL)]
        with np.errstate(all="ignore"):
            log_BL = np.where(counts_BL > 0, np.log(number_BL / np.expm1(values_BL)), np.nan)
        return np.nanmean(log_BL[(counts_BL > 0).any(axis=1)], axis=1)

    exact, estimated = (divisors(thinned(KEY, view, 0.4, modality)).mean() for view in (whole, part))
    fall = float(divisors(part).mean() - exact)
    assert fall > 0.15  # what is to be estimated is there
    assert float(estimated) == pytest.approx(float(exact), abs=0.2 * fall)


def test_each_cell_may_have_its_own_rate():
    counts_NG, _ = cells_of("rna", cells=4, rate=30)
    view = tokens_of(counts_NG, "rna")
    kept_B = np.asarray(thinned(KEY, view, jnp.array([1.0, 0.5, 0.1, 0.9]), "rna").library_B) / view.library_B
    np.testing.assert_allclose(kept_B, [1.0, 0.5, 0.1, 0.9], atol=0.06)


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_cell_of_which_nothing_is_left_is_empty(modality):
    """Not a cell of zeros: nobody looked."""
    counts_NG = np.zeros((50, COLUMNS), int)
    counts_NG[:, 3] = 1
    view = tokens_of(counts_NG, modality, counts_NG)
    thin_view = thinned(KEY, view, 0.3, modality)
    is_empty_B = np.asarray(thin_view.library_B) == 0
    assert 0 < is_empty_B.sum() < 50
    assert not np.asarray(thin_view.mask_BL)[is_empty_B].any()
    assert np.asarray(thin_view.mask_BL)[~is_empty_B].any(axis=1).all()
    assert all(np.isfinite(leaf).all() for leaf in thin_view if leaf is not None)


def test_dropping_leaves_the_stated_share_and_never_nothing():
    view = tokens_of(cells_of("rna", cells=400)[0], "rna")
    dropped = jax.jit(drop_features)(KEY, view, 0.3)
    mask_BL = np.asarray(dropped.mask_BL)
    assert not mask_BL[~view.mask_BL].any()
    assert mask_BL.sum() / view.mask_BL.sum() == pytest.approx(0.7, abs=0.02)
    for name in ("features_BL", "values_BL", "counts_BL"):
        np.testing.assert_array_equal(getattr(dropped, name), np.where(mask_BL, getattr(view, name), 0))
    np.testing.assert_array_equal(dropped.library_B, view.library_B)
    almost_all = jax.jit(drop_features)(KEY, view, jnp.full(400, 0.999))
    left_B = np.asarray(almost_all.mask_BL).sum(axis=1)
    assert set(left_B[view.mask_BL.any(axis=1)]) <= {1, 2, 3}
    assert (left_B == 1).mean() > 0.8
    empty = view._replace(mask_BL=np.zeros_like(view.mask_BL))
    assert not np.asarray(drop_features(KEY, empty, 0.5).mask_BL).any()


def test_families_are_split_between_the_views_and_nothing_is_lost():
    view = tokens_of(cells_of("rna")[0], "rna")
    family_F = np.repeat(np.arange(10), 4)
    family_F[::5] = -1
    sides = []
    for seed in range(40):
        one, other = jax.jit(family_views)(view, family_F, jax.random.key(seed))
        ones, others = by_feature(one, "values_BL"), by_feature(other, "values_BL")
        assert not set(ones) & set(others)
        assert ones | others == by_feature(view, "values_BL")
        in_one, in_other = ({feature for _, feature in side} for side in (ones, others))
        assert not in_one & in_other  # one split for all cells
        of = lambda features: {family_F[feature] for feature in features if family_F[feature] >= 0}  # noqa: E731
        assert not of(in_one) & of(in_other)
        sides.append([feature in in_one for feature in range(COLUMNS)])
        np.testing.assert_array_equal(one.cell_B, other.cell_B)
        np.testing.assert_array_equal(one.library_B, view.library_B)
    sides = np.array(sides)
    assert ((sides.mean(axis=0) > 0.15) & (sides.mean(axis=0) < 0.85)).all()
    of_none = sides[:, family_F < 0]
    assert (of_none.any(axis=1) & ~of_none.all(axis=1)).mean() > 0.9  # each by a coin of its own
    # A feature of no family goes its own way from the family whose number is the feature's.
    assert (sides[:, 5] != sides[:, 21]).any()
    assert family_F[5] == -1
    assert family_F[21] == 5


@pytest.mark.parametrize("modality", ["rna", "methylation"])
def test_draws_are_the_same_on_eight_devices_and_others_under_another_key(modality):
    view = tokens_of(*cells_of(modality, cells=16)[:1], modality, cells_of(modality, cells=16)[1])

    def augment(key, view):
        one, other = family_views(drop_features(key, view, 0.2), np.arange(COLUMNS) // 2, key)
        return thin(key, view, 0.5, modality), one, other

    program = jax.jit(augment)
    expected = program(KEY, view)
    mesh = make_mesh(MeshConfig(4, 2, 1))
    with jax.set_mesh(mesh):
        again = program(KEY, jax.device_put(view, sharding(mesh, ("cells",))))
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    for one, two in zip(expected, program(jax.random.key(1), view), strict=True):
        assert (np.asarray(one.mask_BL) != np.asarray(two.mask_BL)).any() or (
            np.asarray(one.counts_BL) != np.asarray(two.counts_BL)
        ).any()
