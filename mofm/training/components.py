"""The linear model: principal components of training cells, where the gene table and the embedding start.

Random rows leave a model to find by gradient descent what one singular value decomposition tells it: which genes go
together. On 700 blood cells, models from random rows were still well below the linear baseline after 400 steps; from
here they begin at it. Spectral starts are old practice (of UMAP, of mixture models, of factor models), and a start is
all they are: rows, gains and read-out are trained on.

Values are log1p counts per ten thousand. Each gene is centred within each dataset, so that no component is spent on
what tells datasets apart, and divided by its deviation within datasets. The matrix stays sparse: centring is applied to
products with it, in a Lanczos iteration from a fixed start vector.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator, svds

from mofm.batch import TokenBatch

COMPONENTS = 128
"""Most components taken; how much each of them counts is for the filter to say."""
TEMPERATURE = 0.5
"""A data set of n cells weighs as n^TEMPERATURE: a small one keeps components of its own beside a large one."""
STEADYING = 0.2
"""Added to a gene's deviation before dividing by it, so that rarely seen genes do not outweigh the others (the fudge
factor of Tusher et al. 2001). Of 0, 0.1, 0.2, 0.5 and 1, 0.2 served best or nearly so on both real data sets tried."""
CLIP = 10.0
"""Values are held below a gene's mean plus this many deviations, as by `scanpy.pp.scale(max_value=10)`."""
ROW_RMS = 0.3
"""Root mean square of the components' entries over genes: the size at which rows start."""
SILENT = -20.0
"""Log gain of a gene that no fitted cell expresses: its value does not enter a profile."""


class Components(NamedTuple):
    """A linear model of cells: profile_K = mean over a cell's tokens of value * exp(log_gain_G) * rows_GK, less its mean.

    Attributes:
      rows_GK: float32. Loadings, a column a component, of rms ROW_RMS; 0 for genes that do not vary.
      log_gain_G: float32. Log scale of a gene's value, -log(deviation) and a constant, by which profiles of the fitted
        cells have unit variance over all components. SILENT for genes that do not vary.
      mean_weight_G: float32. Mean over cells of value * gain / tokens, so that the centre is mean_weight_G @ rows_GK.
    """

    rows_GK: np.ndarray
    log_gain_G: np.ndarray
    mean_weight_G: np.ndarray


def fit_components(views: Iterable[TokenBatch], genes: int, width: int, expressed_fraction: float) -> Components:
    """Fit on host batches that show all that each cell expresses and no zeros.

    Args:
      views: numpy leaves.
      genes: G.
      width: components that the model has room for; at most COMPONENTS are taken, and fewer than cells and genes.
      expressed_fraction: share of expressed features among the tokens that the model is shown.
    """
    values_NG, dataset_N = _sparse_values(views, genes)
    mean_MG, dataset_N = _dataset_means(values_NG, dataset_N)
    deviation_G = _deviations(values_NG, mean_MG, dataset_N)
    values_NG.data = np.minimum(values_NG.data, (mean_MG.max(axis=0) + CLIP * deviation_G)[values_NG.indices])
    mean_MG = _dataset_means(values_NG, dataset_N)[0]  # clipping moved them a little

    varies_G = mean_MG.max(axis=0) > 0
    gain_G = np.where(varies_G, 1 / deviation_G, 0.0)
    rank = min(COMPONENTS, width, len(dataset_N) - len(mean_MG) - 1, int(varies_G.sum()) - 1)
    rows_GK = np.zeros((genes, max(rank, 0)))
    if rank > 0:
        weight_M = np.bincount(dataset_N) ** ((TEMPERATURE - 1) / 2)
        scaled_NG = sp.diags(weight_M[dataset_N]) @ values_NG @ sp.diags(gain_G)
        rows_GK = _denoising_axes(scaled_NG, weight_M[:, None] * mean_MG * gain_G, dataset_N, rank)
        rows_GK *= ROW_RMS / max(np.sqrt(np.mean(rows_GK[varies_G] ** 2)), 1e-12)
    expressed_N = np.maximum(np.diff(values_NG.indptr), 1)
    weights_NG = sp.diags(expressed_fraction / expressed_N) @ values_NG @ sp.diags(gain_G)
    size = np.sqrt(np.mean((weights_NG @ rows_GK).var(axis=0))) if rank > 0 else 1.0
    size = max(float(size), 1e-6)
    mean_weight_G = np.asarray(weights_NG.mean(axis=0)).ravel()
    log_gain_G = np.where(varies_G, -np.log(deviation_G * size), SILENT)
    return Components(*(leaf.astype(np.float32) for leaf in (rows_GK, log_gain_G, mean_weight_G / size)))


def _sparse_values(views: Iterable[TokenBatch], genes: int) -> tuple[sp.csr_matrix, np.ndarray]:
    """Cells x genes values of the views' tokens, and each cell's dataset."""
    features, values, lengths, datasets = [], [], [], []
    for view in views:
        features.append(view.features_BL[view.mask_BL])
        values.append(view.values_BL[view.mask_BL].astype(np.float64))
        lengths.append(view.mask_BL.sum(axis=1))
        datasets.append(view.dataset_B)
    indptr_N = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    shape = (len(indptr_N) - 1, genes)
    matrix = sp.csr_matrix((np.concatenate(values), np.concatenate(features), indptr_N), shape=shape)
    return matrix, np.concatenate(datasets)


def _dataset_means(values_NG: sp.csr_matrix, dataset_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """mean_MG of each of the M datasets that are there, and each cell's number among them."""
    names, number_N = np.unique(dataset_N, return_inverse=True)
    cells = len(number_N)
    membership_MN = sp.csr_matrix((np.ones(cells), (number_N, np.arange(cells))), shape=(len(names), cells))
    return (membership_MN @ values_NG).toarray() / np.bincount(number_N)[:, None], number_N


def _deviations(values_NG: sp.csr_matrix, mean_MG: np.ndarray, dataset_N: np.ndarray) -> np.ndarray:
    """Steadied deviation of each gene within datasets; one in which it is nowhere expressed says nothing of it."""
    cells_M = np.bincount(dataset_N)
    squares_G = np.asarray(values_NG.multiply(values_NG).sum(axis=0)).ravel() - cells_M @ mean_MG**2
    cells_G = cells_M @ (mean_MG > 0)
    return np.sqrt(np.maximum(squares_G, 0) / np.maximum(cells_G, 1)) + STEADYING


def _denoising_axes(x_NG: sp.csr_matrix, mean_MG: np.ndarray, dataset_N: np.ndarray, rank: int) -> np.ndarray:
    """The leading principal axes (G, K) of x less its datasets' means, each scaled by (1 - noise / s^2)^2.

    s is its singular value, and the noise the mean of s^2 over the axes that are left out: Wiener's filter, passed
    twice. Of no, one, two and four passes, two served neighbours and linear probes best on real and simulated cells.
    """
    cells, genes = x_NG.shape[0], int(np.sum(mean_MG.max(axis=0) > 0))
    strength_K, axes_GK = _leading_axes(x_NG, mean_MG, dataset_N, rank)
    total = x_NG.multiply(x_NG).sum() - np.bincount(dataset_N) @ np.sum(mean_MG**2, axis=1)
    noise = max(total - np.sum(strength_K**2), 0.0) / max(min(cells, genes) - rank, 1)
    return axes_GK * np.maximum(1 - noise / np.maximum(strength_K**2, 1e-12), 0.0) ** 2


def _leading_axes(
    x_NG: sp.csr_matrix, mean_MG: np.ndarray, dataset_N: np.ndarray, rank: int
) -> tuple[np.ndarray, np.ndarray]:
    """strength_K and axes_GK: the leading singular values and right vectors, largest first, signs fixed."""
    datasets = len(mean_MG)

    def product(v_G: np.ndarray) -> np.ndarray:
        v_G = v_G.ravel()
        return x_NG @ v_G - (mean_MG @ v_G)[dataset_N]

    def transposed(u_N: np.ndarray) -> np.ndarray:
        u_N = u_N.ravel()
        return x_NG.T @ u_N - np.bincount(dataset_N, u_N, datasets) @ mean_MG

    centred = LinearOperator(x_NG.shape, matvec=product, rmatvec=transposed, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(min(x_NG.shape))
    _, strength_K, axes_KG = svds(centred, rank, v0=start)
    order = np.argsort(-strength_K)
    axes_GK = axes_KG[order].T
    return strength_K[order], axes_GK * np.sign(axes_GK[np.abs(axes_GK).argmax(axis=0), np.arange(rank)])
