"""The linear baseline that every score stands beside, made as strong as it fairly can be.

Principal components of log1p counts per 10,000, of the most variable genes, each scaled to unit variance. Everything
is fitted on training cells only (genes, means, scales, components); test cells are projected. On pbmc68k_reduced
(5-fold, ten variants) scaling the genes was worth one to two points of accuracy, 20 to 50 components were alike, and
the choice among 200 to 765 genes made no difference beyond noise: hence the defaults.

The components are exact: the G x G covariance is summed over blocks of cells and decomposed. So there is no seed, the
memory is G^2 and a block whatever the number of cells, and the cost is N G^2 operations (a minute for a million
cells and 2,000 genes on 2 cores). Forming a covariance loses the components below 1e-7 of the first, which are noise.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from mofm.errors import InputError
from mofm.evaluation.scores import Readout, score

SCALE = 1e4
CLIP = 10.0
"""Scaled values are held within +-this many standard deviations, as by `scanpy.pp.scale(max_value=10)`."""
DISPERSION_BINS = 20
BLOCK_CELLS = 4096


class PCAEmbedding(NamedTuple):
    """Attributes: train_ND, test_ND, float32; genes, int64, the columns used; explained_D, share of their variance."""

    train_ND: np.ndarray
    test_ND: np.ndarray
    genes: np.ndarray
    explained_D: np.ndarray


def pca_embedding(
    counts_train: sp.csr_matrix,
    counts_test: sp.csr_matrix,
    components: int = 50,
    *,
    variable_genes: int | None = 2000,
    scale: bool = True,
) -> PCAEmbedding:
    """Principal components of the training cells, and the test cells on them.

    Args:
      counts_train, counts_test: CSR, cells x genes, raw counts >= 0, the same genes in the same order.
      components: D; lowered to what the training cells span.
      variable_genes: how many genes to take, by `variable`; None, or no fewer than there are, takes all.
      scale: divide each gene by its standard deviation over the training cells and clip at +-`CLIP`.

    Raises:
      InputError: different genes, fewer than 2 training cells, or no gene that varies among them.
    """
    train, test = log_normalised(counts_train), log_normalised(counts_test)
    if train.shape[1] != test.shape[1]:
        raise InputError(f"training cells have {train.shape[1]} genes and test cells {test.shape[1]}: align them first")
    if train.shape[0] < 2:
        raise InputError(f"principal components need at least 2 training cells, not {train.shape[0]}")
    genes = variable(train, variable_genes)
    train, test = train[:, genes], test[:, genes]
    mean_G, variance_G = _moments(train)
    scale_G = np.sqrt(variance_G) if scale else np.ones_like(variance_G)

    # Clipping moves the mean a little: centred again on what the components are fitted to.
    centre_G, covariance_GG = np.zeros(len(genes)), np.zeros((len(genes), len(genes)))
    for block_NG in _scaled_blocks(train, mean_G, scale_G, clip=scale):
        centre_G += block_NG.sum(axis=0)
        covariance_GG += block_NG.T @ block_NG
    centre_G /= train.shape[0]
    covariance_GG = covariance_GG / train.shape[0] - np.outer(centre_G, centre_G)
    axes_GD, explained_D = _leading_axes(covariance_GG, min(components, train.shape[0] - 1, len(genes)))

    def project(x: sp.csr_matrix) -> np.ndarray:
        blocks = [(block_NG - centre_G) @ axes_GD for block_NG in _scaled_blocks(x, mean_G, scale_G, clip=scale)]
        return np.concatenate([np.empty((0, axes_GD.shape[1])), *blocks]).astype(np.float32)

    return PCAEmbedding(project(train), project(test), genes, explained_D)


def majority(train_labels: Sequence, test_labels: Sequence, seed: int = 0) -> Readout:
    """The reader that knows nothing of a cell: every test cell gets the training cells' commonest label."""
    train, test = (np.asarray(labels, dtype=object).astype(str) for labels in (train_labels, test_labels))
    if not len(train) or not len(test):
        raise InputError(
            f"the majority baseline needs labels on both sides: {len(train)} training and {len(test)} test cells"
        )
    types, counts = np.unique(train, return_counts=True)
    return score("majority", train, test, np.full(len(test), types[np.argmax(counts)]), 0, seed)


def log_normalised(counts: sp.csr_matrix) -> sp.csr_matrix:
    """log1p of counts per 10,000 of the cell, float64 CSR. A cell without counts stays at zero."""
    counts = sp.csr_matrix(counts, dtype=np.float64)
    if counts.nnz and not (np.isfinite(counts.data).all() and counts.data.min() >= 0):
        raise InputError("the PCA baseline takes raw counts: found values that are negative or not finite")
    depth_N = np.asarray(counts.sum(axis=1)).ravel()
    factor_N = np.divide(SCALE, depth_N, out=np.zeros_like(depth_N), where=depth_N > 0)
    data = np.log1p(counts.data * np.repeat(factor_N, np.diff(counts.indptr)))
    return sp.csr_matrix((data, counts.indices, counts.indptr), shape=counts.shape)


def variable(log_counts: sp.csr_matrix, count: int | None) -> np.ndarray:
    """Columns of the `count` genes most dispersed for their mean, ascending. Genes that do not vary are never taken.

    The "seurat" flavour (Satija et al. 2015): log(variance / mean) of counts per 10,000, standardised among the genes
    of like log mean in `DISPERSION_BINS` equal bins.
    """
    linear = log_counts.copy()
    linear.data = np.expm1(linear.data)
    mean_G, variance_G = _moments(linear)
    varying = np.flatnonzero((mean_G > 0) & (variance_G > 1e-12 * mean_G**2))
    if len(varying) == 0:
        raise InputError("no gene varies among the training cells: there is nothing for principal components to find")
    if count is None or count >= len(varying):
        return varying
    dispersion = np.log(variance_G[varying] / mean_G[varying])
    level = np.log1p(mean_G[varying])
    bins = np.digitize(level, np.linspace(level.min(), level.max(), DISPERSION_BINS + 1)[1:-1])
    standardised = np.ones_like(dispersion)  # a gene alone in its bin has no peers: taken as one deviation above
    for number in np.unique(bins):
        peers = bins == number
        if (spread := dispersion[peers].std()) > 0:
            standardised[peers] = (dispersion[peers] - dispersion[peers].mean()) / spread
    return np.sort(varying[np.argsort(-standardised, kind="stable")[:count]])


def _moments(x: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance (ddof 0) of each column, zeros counted."""
    cells, genes = x.shape
    mean_G = np.bincount(x.indices, x.data, genes) / cells
    # Squares of deviations, not the difference of squares: exact also for genes that hardly vary.
    deviation = np.bincount(x.indices, (x.data - mean_G[x.indices]) ** 2, genes)
    zeros_G = cells - np.bincount(x.indices, minlength=genes)
    return mean_G, (deviation + zeros_G * mean_G**2) / cells


def _scaled_blocks(x: sp.csr_matrix, mean_G: np.ndarray, scale_G: np.ndarray, clip: bool) -> Iterator[np.ndarray]:
    for start in range(0, x.shape[0], BLOCK_CELLS):
        block_NG = (x[start : start + BLOCK_CELLS].toarray() - mean_G) / scale_G
        yield np.clip(block_NG, -CLIP, CLIP, out=block_NG) if clip else block_NG


def _leading_axes(covariance_GG: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first eigenvectors, each with its largest entry positive, and their share of the variance."""
    values_G, axes_GG = np.linalg.eigh(covariance_GG)
    axes_GD = axes_GG[:, ::-1][:, :count]
    largest_D = axes_GD[np.argmax(np.abs(axes_GD), axis=0), np.arange(count)]
    return axes_GD * np.sign(largest_D), np.maximum(values_G[::-1][:count], 0) / values_G.sum()
