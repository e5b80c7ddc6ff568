"""Augmentations of a view on device: two draws make two views of a cell, to be contrasted. Shapes stay as they are.

What `thin` can say again exactly of the view alone (formulas of values: `batches/collate.py`):

    RNA          all. Counts and library are thinned as one binomial draw of the cell's molecules, the part of the
                 library that is not in the view as one number; values follow.
    methylation  all. Methylated and other reads are thinned apart; regions left without a read were not measured.
    ADT          counts. Library and the divisor of values are of a mean of log1p(count) over the whole panel, of which the
                 view holds a sample. The panel's sum is taken to fall as that of the view's tokens does: exact where
                 every antibody that was counted is a token, as with L above the panel's size it mostly is, else an
                 estimate.
    ATAC         counts and library. A value holds idf / regions open in the cell, of which neither is in the view, but
                 their ratio can be read back from it. The cell's open regions are taken to get fewer as the view's do:
                 exact where each is a token, else an estimate whose relative error is below 1 / sqrt(open tokens).

What it cannot say again: which features are tokens. A shallower cell would have fewer expressed tokens, and zeros in
proportion to them; here tokens whose count falls to 0 stay as zeros, so that a thinned view has more zeros than
`data.expressed_fraction` asks for.
"""

import jax
import jax.numpy as jnp

from mofm.axes import Modality
from mofm.batch import LIBRARY_SCALE, PANEL, TokenBatch


def thin(key: jax.Array, view: TokenBatch, keep: jax.Array | float, modality: Modality) -> TokenBatch:
    """The view as if its cells had been sequenced less deep: each count n becomes Binomial(n, keep).

    Binomial subsampling of molecules, as in the count splitting of molecular cross-validation (Batson et al. 2019):
    of Poisson counts, what stays and what goes are independent. Features, values, counts, totals and library are those of the
    shallower cell, as far as the module's docstring says. A cell of which no molecule is left in all of its library
    becomes empty: all of its tokens padding, as it says nothing about any feature; ask `mask_BL.any(axis=1)`.

    Args:
      key: PRNG key; the same key draws the same on any number of devices.
      view: of the modality; of values as `collate.py` makes them.
      keep: chance of a molecule to stay, in (0, 1]; one number, or one a cell (B,). 1 changes nothing but by rounding.
      modality: of the view.
    """
    keep_B = jnp.broadcast_to(jnp.asarray(keep, jnp.float32), view.library_B.shape)
    was_BL = view.counts_BL if view.totals_BL is None else view.totals_BL  # the library is of these
    rest_B1 = jnp.maximum(view.library_B - jnp.sum(was_BL, axis=1), 0.0)[:, None]
    rest_B1 = jnp.where(modality == "adt", 0.0, rest_B1)  # whose library is no total
    # In one draw: it is a loop of its own that XLA compiles for seconds.
    others = [] if view.totals_BL is None else [was_BL - view.counts_BL]
    drawn = jax.random.binomial(key, jnp.concatenate([view.counts_BL, *others, rest_B1], axis=1), keep_B[:, None])
    tokens = view.mask_BL.shape[1]
    counts_BL, of_all_BL = drawn[:, :tokens], drawn[:, :tokens]
    if view.totals_BL is not None:
        of_all_BL = counts_BL + drawn[:, tokens : 2 * tokens]
    log_g_B = _log_mean(view, counts_BL) if modality == "adt" else None
    library_B = jnp.sum(drawn, axis=1) if log_g_B is None else PANEL * jnp.expm1(log_g_B)
    mask_BL = view.mask_BL.astype(bool) & (library_B > 0)[:, None]
    if modality == "methylation":
        values_BL, mask_BL = (counts_BL + 1.0) / (of_all_BL + 2.0), mask_BL & (of_all_BL > 0)
    elif modality == "adt":
        values_BL = jnp.log1p(counts_BL / jnp.exp(log_g_B)[:, None])
    elif modality == "atac":
        values_BL = _weighed_by_idf(view, counts_BL)
    else:
        values_BL = jnp.log1p(counts_BL / jnp.maximum(library_B, 1.0)[:, None] * LIBRARY_SCALE)
    thinned = view._replace(values_BL=values_BL, counts_BL=counts_BL, library_B=library_B)
    if modality == "methylation":
        thinned = thinned._replace(totals_BL=of_all_BL)
    return _only(thinned, mask_BL)


def drop_features(key: jax.Array, view: TokenBatch, rate: jax.Array | float) -> TokenBatch:
    """The view with each token left out with chance `rate`, as if it had not been sampled; a cell keeps at least one.

    The random mask among the augmentations of CLEAR (Han et al. 2022), here of tokens. What is left says what it said:
    values are of the whole cell, and so is the library.

    Args:
      key: PRNG key.
      rate: in [0, 1); one number, or one a cell (B,).
    """
    rate_B = jnp.broadcast_to(jnp.asarray(rate, jnp.float32), view.library_B.shape)
    draw_BL = jnp.where(view.mask_BL, jax.random.uniform(key, view.mask_BL.shape), -1.0)
    is_last_BL = draw_BL == draw_BL.max(axis=1, keepdims=True)
    return _only(view, view.mask_BL.astype(bool) & ((draw_BL >= rate_B[:, None]) | is_last_BL))


def family_views(view: TokenBatch, family_F: jax.Array, key: jax.Array) -> tuple[TokenBatch, TokenBatch]:
    """Two views of the same cells whose features are of different families: what one knows of a cell the other has to
    know from other genes. Subsets of features as views are SubTab's (Ucar et al. 2021); whole families, so that no view
    can answer from a paralogue of what it lacks, are a choice of ours.

    Each family goes to one side by the toss of a coin, and so does each feature of no family. It is one split for all
    cells of the batch: with one for each cell, the features that a view lacks would show which view is its other half.
    Every token is in exactly one of the views; either may be left without any (ask `mask_BL.any(axis=1)`). Values and
    library stay those of the whole cell.

    Args:
      view: of the modality whose features `family_F` gives.
      family_F: int32. Number of each feature's family, less than F; -1 for none.
      key: PRNG key.
    """
    family_F = jnp.asarray(family_F)
    features = len(family_F)
    coin_2F = jax.random.bernoulli(key, shape=(2 * features,))  # those of families, then those of features of none
    is_one_F = coin_2F[jnp.where(family_F >= 0, family_F, features + jnp.arange(features))]
    is_one_BL, mask_BL = is_one_F[view.features_BL], view.mask_BL.astype(bool)
    return _only(view, mask_BL & is_one_BL), _only(view, mask_BL & ~is_one_BL)


def _only(view: TokenBatch, mask_BL: jax.Array) -> TokenBatch:
    """The view with tokens outside of the mask made padding, as `TokenBatch` has it."""
    zeroed = {
        name: jnp.where(mask_BL, getattr(view, name), 0).astype(getattr(view, name).dtype)
        for name in ("features_BL", "values_BL", "counts_BL", "totals_BL")
        if getattr(view, name) is not None
    }
    return view._replace(mask_BL=mask_BL, **zeroed)


def _log_mean(view: TokenBatch, counts_BL: jax.Array) -> jax.Array:
    """log g_B: of the panel's geometric mean, lowered as the tokens' sum of log1p(count) is."""
    was_B, is_B = (jnp.sum(jnp.log1p(counts), axis=1) for counts in (view.counts_BL, counts_BL))
    return jnp.log1p(view.library_B / PANEL) * is_B / jnp.where(was_B > 0, was_B, 1.0)


def _weighed_by_idf(view: TokenBatch, counts_BL: jax.Array) -> jax.Array:
    """log1p(1e4 / regions open * idf): the weight read back from values, and the regions open fewer as the tokens' are."""
    was_B, is_B = (jnp.sum(counts > 0, axis=1).astype(jnp.float32) for counts in (view.counts_BL, counts_BL))
    fewer_B = jnp.where(is_B > 0, was_B / jnp.where(is_B > 0, is_B, 1.0), 1.0)
    return jnp.where(counts_BL > 0, jnp.log1p(jnp.expm1(view.values_BL) * fewer_B[:, None]), 0.0)
