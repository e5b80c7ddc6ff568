"""Embeddings that say nothing of nuisances: of the batch a cell is from (`mmd`, `group_hsic`, or what an adversary can read
of it, `adversary`), of its depth (`hsic`).

All of them compare all rows with all, B x B: where B is large, of a sample (`rows.sample_rows`), as a few hundred cells
give the gradient its direction. Kernels are Gaussian; their bandwidths are in units of the mean squared distance of the
rows compared. The gradient goes through that too: it never asks an embedding to shrink or to grow, as one at a fixed
bandwidth does, under which all cells in one point are the best of all.

With `label_B` the biology is kept: rows are compared only with rows of the same label, as batches differ in the cell
types they hold, and depth differs between cell types. Rows of no known label take no part then, since it is unknown
what they may be compared with.
"""

from functools import partial

import jax
import jax.numpy as jnp

BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Of the mixture of kernels in `mmd`, in units of the mean squared distance."""

PENALTIES = (0.01, 0.1, 1.0, 10.0)
"""Of which the discriminator in `adversary` takes the best, in units of an axis' mean sum of squares; of more columns than
cells only as many axes vary as there are cells, less one for each label."""

CONSTANT = 1e-11
"""Squares of relative differences below this are float32's rounding: what varies no more is taken as constant."""


def mmd(
    embedding_BE: jax.Array,
    group_B: jax.Array,
    label_B: jax.Array | None = None,
    bandwidths: tuple[float, ...] = BANDWIDTHS,
) -> jax.Array:
    """Squared maximum mean discrepancy between groups of cells, float32: 0 in the mean where they are distributed alike.

    For two groups g, h (Gretton et al. 2012, equation 3, unbiased):

        MMD^2 = mean of k(x, x') over pairs in g + mean over pairs in h - 2 mean of k(x, y) over g x h

    k the mean of Gaussian kernels exp(-d^2 / (b m)), m the mean squared distance and b each of the bandwidths (a mixture
    as in Li et al. 2015). Of more groups: the mean over all pairs of groups, each weighted by its pairs of cells; with
    labels, over all pairs of groups within a label. At least -2 / (cells of the smaller group - 1) and at most 2: being
    unbiased it may fall below 0, and groups of two or three cells make it noisy, not wrong. 0, and no gradient, where
    there are no two groups of two cells each.

    Args:
      embedding_BE: of any float type.
      group_B: int32; -1 for rows that are not counted.
      label_B: int32, -1 for not known; compare within labels.
      bandwidths: more than 0.
    """
    is_in_B = group_B >= 0 if label_B is None else (group_B >= 0) & (label_B >= 0)
    same_label_BB = _within(is_in_B, label_B)
    same_BB = same_label_BB & (group_B[:, None] == group_B)
    is_in_B &= same_BB.sum(axis=1) > 1  # a cell that is its group's only one says nothing of how the group is spread
    among_BB = same_label_BB & is_in_B[:, None] & is_in_B
    same_BB &= among_BB
    all_B, group_size_B = among_BB.sum(axis=1), same_BB.sum(axis=1)
    # A group's own pairs count once for every cell that it is compared with.
    own_weight_B = (all_B - group_size_B) / jnp.maximum(group_size_B - 1, 1)
    is_self_BB = jnp.eye(len(group_B), dtype=bool)
    weight_BB = jnp.where(same_BB & ~is_self_BB, own_weight_B[:, None], 0.0) - (among_BB & ~same_BB)
    distance_BB = _relative_distances(embedding_BE, is_in_B, among_BB & (all_B > group_size_B)[:, None])
    kernel_BB = sum(jnp.exp(-distance_BB / bandwidth) for bandwidth in bandwidths) / len(bandwidths)
    # Each pair of groups comes in twice, once from either side; so does the 2 of the cross term.
    pairs = (all_B - group_size_B).sum() / 2
    return jnp.sum(weight_BB * kernel_BB) / jnp.maximum(pairs, 1.0)


def hsic(
    embedding_BE: jax.Array, nuisance_BN: jax.Array, mask_B: jax.Array, label_B: jax.Array | None = None
) -> jax.Array:
    """How much embeddings depend on continuous nuisances, float32 in [0, 1]: the normalised Hilbert-Schmidt criterion.

        HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)),    HSIC(K, L) = tr(K H L H),  H = I - 1/n

    (Gretton et al. 2005; normalised as the CKA of Kornblith et al. 2019), K and L Gaussian kernels exp(-d^2 / m) of the
    embeddings and of the nuisances, m the mean squared distance. 1 where each determines the other, and near 0, not 0,
    where they are independent: about the kernels' effective dimensions over n, so that values compare at one n alone,
    and hundreds of cells are needed. With labels each label's block is centred on its own. 0, with no gradient, where
    either side does not vary.

    Args:
      embedding_BE, nuisance_BN: of any float type. Give depth as its logarithm; bring several nuisances to one scale.
      mask_B: bool, the rows that count.
      label_B: int32, -1 for not known; compare within labels.
    """
    is_in_B = mask_B.astype(bool) if label_B is None else mask_B.astype(bool) & (label_B >= 0)
    within_BB = _within(is_in_B, label_B)
    one_BB, other_BB = (_centred_kernel(x, is_in_B, within_BB) for x in (embedding_BE, nuisance_BN))
    own, others, pairs = jnp.sum(one_BB * one_BB), jnp.sum(other_BB * other_BB), within_BB.sum()
    varies = jnp.minimum(own, others) > CONSTANT * pairs
    both = jnp.sqrt(jnp.where(varies, own, 1.0)) * jnp.sqrt(jnp.where(varies, others, 1.0))
    return jnp.where(varies, jnp.sum(one_BB * other_BB) / both, 0.0)


def group_hsic(embedding_BE: jax.Array, group_B: jax.Array, label_B: jax.Array | None = None) -> jax.Array:
    """`hsic` of the groups that cells are of: any two groups are equally far apart. `group_B` int32, -1 for not counted."""
    return hsic(embedding_BE, _members(group_B, group_B >= 0), group_B >= 0, label_B)


def adversary(embedding_BE: jax.Array, group_B: jax.Array, label_B: jax.Array | None = None) -> jax.Array:
    """How well the best linear discriminator predicts a cell's group, taught by all other cells: nats, float32, at least 0.

    -log(1 - R^2) / 2, the information between two Gaussians of such a correlation, where R^2 is the share of the variance of
    membership that ridge regression on the embedding explains of cells left out one by one (Allen's PRESS); 0 where it
    explains none, so an embedding of many columns is not said to predict what fits by chance. The penalty is the best of a
    few: of as many columns as cells, little is predicted at a small one. R^2 itself would hardly fall where it is near 1,
    however the embedding moves. With labels, of what varies within a label.

    The discriminator is the optimum for these very cells, in closed form (as in Sadeghi, Yu & Boddeti 2019), so there is
    none to train beside the model, to keep, or to fall behind, as one behind a reversed gradient does; what is before it is
    taught to hide the groups as there.

    Args:
      group_B: int32; -1 for rows that are not counted.
      label_B: int32, -1 for not known; compare within labels.
    """
    is_in_B = group_B >= 0 if label_B is None else (group_B >= 0) & (label_B >= 0)
    within_BB = _within(is_in_B, label_B)
    same_BB = within_BB & (group_B[:, None] == group_B)
    is_in_B &= within_BB.sum(axis=1) > same_BB.sum(axis=1)  # of a label in one group alone nothing can be learned
    within_BB &= is_in_B[:, None]
    rows_B = jnp.maximum(within_BB.sum(axis=1), 1)

    def centred(x_BF: jax.Array) -> jax.Array:
        return x_BF - product(within_BB / rows_B[:, None], x_BF)

    product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    raw_BE = jnp.where(is_in_B[:, None], embedding_BE.astype(jnp.float32), 0.0)
    x_BE, group_BF = centred(raw_BE), centred(_members(group_B, is_in_B))
    apart = jnp.sum(jnp.where(is_in_B, 1 - 1 / rows_B, 0.0))  # cells less one for each label
    axes = jnp.maximum(jnp.minimum(x_BE.shape[1], apart), 1)
    size = jnp.sum(jnp.square(x_BE)) / axes
    varies = size > CONSTANT * jax.lax.stop_gradient(jnp.sum(jnp.square(raw_BE))) / axes
    x_BE /= jnp.sqrt(jnp.where(varies, size, 1.0))

    def left_out(penalty: jax.Array) -> jax.Array:
        """Sum of squared errors of cells that are predicted by all others."""
        read_EB = jnp.linalg.solve(product(x_BE.T, x_BE) + penalty * jnp.eye(x_BE.shape[1]), x_BE.T)
        predicted_BF = product(x_BE, product(read_EB, group_BF))
        own_B = jnp.minimum(jnp.sum(x_BE * read_EB.T, axis=1) + 1 / rows_B, 1 - 1e-5)  # what a cell says of itself
        return jnp.sum(jnp.square((group_BF - predicted_BF) / (1 - own_B)[:, None]))

    least = jnp.min(jax.vmap(left_out)(jnp.asarray(PENALTIES)))
    by_mean = jnp.sum(jnp.square(group_BF / (1 - 1 / jnp.maximum(rows_B, 2))[:, None]))
    unexplained = jnp.where(varies, least, 1.0) / jnp.where(varies, by_mean, 1.0)
    return jnp.maximum(-jnp.log(unexplained) / 2, 0.0)


def _members(group_B: jax.Array, is_in_B: jax.Array) -> jax.Array:
    """member_BB, float32: as good as a column of zeros and ones for each group, whose number need not be known."""
    same_BB = is_in_B[:, None] & is_in_B & (group_B[:, None] == group_B)
    return same_BB / jnp.sqrt(jnp.maximum(same_BB.sum(axis=0), 1))


def _within(is_in_B: jax.Array, label_B: jax.Array | None) -> jax.Array:
    """bool BB: rows that may be compared, a row with itself among them."""
    both_BB = is_in_B[:, None] & is_in_B
    return both_BB if label_B is None else both_BB & (label_B[:, None] == label_B)


def _relative_distances(x_BE: jax.Array, is_in_B: jax.Array, mask_BB: jax.Array) -> jax.Array:
    """Squared distances of rows over their mean over the mask's pairs of different rows; all 0 where there is none but by
    rounding. Rows that are not in are taken as 0, whatever they hold."""
    x_BE = jnp.where(is_in_B[:, None], x_BE.astype(jnp.float32), 0.0)
    rows = jnp.maximum(is_in_B.sum(), 1)
    size = jax.lax.stop_gradient(jnp.sum(jnp.square(x_BE)) / rows)
    # About their mean: what is far from 0 would lose its differences in the squares.
    x_BE = jnp.where(is_in_B[:, None], x_BE - jax.lax.stop_gradient(x_BE.sum(axis=0) / rows), 0.0)
    squared_B = jnp.sum(jnp.square(x_BE), axis=1)
    product_BB = jnp.matmul(x_BE, x_BE.T, precision=jax.lax.Precision.HIGHEST)
    squared_BB = jnp.maximum(squared_B[:, None] + squared_B - 2 * product_BB, 0.0)
    mask_BB = mask_BB & ~jnp.eye(len(mask_BB), dtype=bool)
    mean = jnp.sum(squared_BB * mask_BB) / jnp.maximum(mask_BB.sum(), 1)
    differs = mean > CONSTANT * size
    return jnp.where(differs, squared_BB / jnp.where(differs, mean, 1.0), 0.0)


def _centred_kernel(x_BE: jax.Array, is_in_B: jax.Array, within_BB: jax.Array) -> jax.Array:
    """H K H of each block of rows that may be compared, 0 outside of them."""
    kernel_BB = jnp.exp(-_relative_distances(x_BE, is_in_B, within_BB)) * within_BB
    size_B = jnp.maximum(within_BB.sum(axis=1), 1)
    mean_B = kernel_BB.sum(axis=1) / size_B  # of a row within its block; the kernel is symmetric
    block_mean_B = (within_BB @ mean_B) / size_B
    return (kernel_BB - mean_B[:, None] - mean_B + block_mean_B[:, None]) * within_BB
