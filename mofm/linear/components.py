"""The linear model: principal components of training cells, where the gene table and the embedding start.

Random rows leave a model to find by gradient descent what one singular value decomposition gives: which genes go
together. On 700 blood cells, models from random rows were still well below the linear baseline after 400 steps; from
here they begin at it. Spectral starts are old practice (of UMAP, of mixture models, of factor models), and a start is
all they are: rows, gains and read-out are trained on.

Values are log1p counts per ten thousand. Each gene is centred within each dataset, so that no component is spent on
what distinguishes datasets, divided by its deviation within datasets, and weighted by its signal, the share of its variance
that is more than counting noise. Of 20,000 genes of equal variance most are noise, and 500 cells of them gave components
well below those of the 2,000 most variable genes; weighted, they rose above them. The more cells, the better known is what
little signal a gene has, and the less it is held back for it (`FULL_CELLS`). The matrix stays sparse: centring is applied
to products with it, in a Lanczos iteration from a fixed start vector.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from mofm.axes import Modality
from mofm.batch import LIBRARY_SCALE, FeatureSpace, TokenBatch, depth_weight, log_exposure
from mofm.linear.principal_axes import Centred, dataset_means, denoising_axes, deviations
from mofm.linear.shares import shares

COMPONENTS = 32
"""Most components taken. Of 30, 64 and 128, the fewest served neighbours best and linear probes as well."""
VARIABLE_GENES = 2_000
"""Only so many genes enter the components, those of most variance above counting noise."""
FEW_CELLS = 500
"""Every data set weighs the same, so that a small one keeps components of its own beside an atlas; but one of fewer cells
than this weighs by their number, as it would spend components on noise. (With 700 blood cells beside 3,000 simulated
ones, weights by the square root of the number served both worse.)"""
STEADYING = 0.2
"""Added to a gene's deviation before dividing by it, so that rarely seen genes do not outweigh the others (the fudge
factor of Tusher et al. 2001). Of 0, 0.1, 0.2, 0.5 and 1, 0.2 served best or nearly so on both real data sets tried."""
FULL_CELLS = 1_000
"""A gene of signal s weighs as s / (s + FULL_CELLS / cells): by its signal where few cells show it, alike where many do.
(15-NN of others, by components of 8,000 simulated cells of 4,000 genes: .595, by s itself .480, all alike .571, principal
components .453; of 500 to 3,374 blood cells of Kang et al. as by s itself within .01. More in RESULTS.md of the benchmarks.)"""
CLIP = 10.0
"""Values are held below a gene's mean plus this many deviations, as by `scanpy.pp.scale(max_value=10)`."""
ROW_RMS = 0.3
"""Root mean square of the components' entries over genes: the size at which rows start."""
SILENT = -20.0
"""Log gain of a gene that no fitted cell expresses: its value does not enter a profile."""


class Components(NamedTuple):
    """A linear model of cells, as `nn/readout.py` reads it.

    Attributes:
      rows_GK: float32. Loadings, a column a component, of rms ROW_RMS; 0 for genes that do not enter.
      log_gain_G: float32. Log scale of a gene's value, log(sqrt(weight) / deviation) and a constant, by which the mean of those
        that enter is 1. SILENT for genes that do not.
      scale: float32. By it profiles of the fitted cells have unit variance over all components.
      mean_weight_G: float32. What an average cell's genes weigh, in all 1: its mean is mean_weight_G @ rows_GK.
      log_depth: float32. Mean of the fitted cells' log(library / LIBRARY_SCALE).
      deviation_K: float32. Standard deviation of the fitted cells' profiles in each component.
      others_GK: float32. Loadings, as rows_GK, of the genes that do not enter, from how they go along with the components;
        0 for those that do. The regulatory network reads them; a profile does not.
    """

    rows_GK: np.ndarray
    log_gain_G: np.ndarray
    scale: np.ndarray
    mean_weight_G: np.ndarray
    log_depth: np.ndarray
    deviation_K: np.ndarray
    others_GK: np.ndarray


class Cells(NamedTuple):
    """What views show: values and counts, CSR of N cells x genes, and each cell's library and dataset."""

    values_NG: sp.csr_matrix
    counts_NG: sp.csr_matrix
    library_N: np.ndarray
    dataset_N: np.ndarray


def fit_components(cells: Cells, width: int, off_RG: np.ndarray | None = None) -> Components:
    """Fit on cells of which all is known.

    Args:
      width: components that the model has room for; at most COMPONENTS are taken, and fewer than cells and genes.
      off_RG: orthonormal directions that no component looks along, such as those of `batch_directions.py`.
    """
    genes = cells.values_NG.shape[1]
    mean_MG, dataset_N = dataset_means(cells.values_NG, cells.dataset_N)
    deviation_G = deviations(cells.values_NG, mean_MG, dataset_N) + STEADYING
    values_NG = _clipped(cells.values_NG, mean_MG.max(axis=0) + CLIP * deviation_G)
    mean_MG = dataset_means(values_NG, dataset_N)[0]  # clipping moved them a little

    weight_M = np.maximum(np.bincount(dataset_N), FEW_CELLS) ** -0.5
    every_signal_G = _signal(cells.counts_NG, cells.library_N, dataset_N)
    every_weight_G = _weight(every_signal_G, _telling_cells(mean_MG > 0, dataset_N, weight_M))
    enters_G = _most(every_signal_G, VARIABLE_GENES) > 0
    gain_G = np.sqrt(enters_G * every_weight_G) / deviation_G
    removed = 0 if off_RG is None else len(off_RG)
    rank = min(
        COMPONENTS, width, *(most - removed - 1 for most in (len(dataset_N) - len(mean_MG), int(enters_G.sum())))
    )
    rows_GK = others_GK = np.zeros((genes, max(rank, 0)))
    if rank > 0:
        weighted_NG, weighted_MG = sp.diags(weight_M[dataset_N]) @ values_NG, weight_M[:, None] * mean_MG
        of = Centred(weighted_NG @ sp.diags(gain_G), weighted_MG * gain_G, dataset_N, off_RG)
        strength_K, rows_GK = denoising_axes(of, rank)
        rows_GK *= ROW_RMS / max(np.sqrt(np.mean(rows_GK[enters_G] ** 2)), 1e-12)
        other_gain_G = np.sqrt(~enters_G * every_weight_G) / deviation_G
        others = Centred(weighted_NG @ sp.diags(other_gain_G), weighted_MG * other_gain_G, dataset_N)
        # An axis is x.T @ (x @ axis) / strength^2 of the genes that it was found in, and reaches the others alike.
        others_GK = others.transposed(of.product(rows_GK)) / np.maximum(strength_K**2, 1e-12)
    gain_G /= max(gain_G[enters_G].mean(), 1e-12) if enters_G.any() else 1.0
    read = shares(values_NG, values_NG @ gain_G, depth_weight(cells.library_N, "rna"))
    mean_weight_G = read.average_F() * gain_G
    deviation_K = read.profile_NK(gain_G[:, None] * rows_GK, mean_weight_G @ rows_GK).std(axis=0)
    size = max(float(np.sqrt(np.mean(deviation_K**2))), 1e-6) if rank > 0 else 1.0
    log_gain_G = np.where(enters_G, np.log(np.maximum(gain_G, 1e-12)), SILENT)
    log_depth = np.mean(log_exposure(cells.library_N))
    leaves = (rows_GK, log_gain_G, 1 / size, mean_weight_G, log_depth, deviation_K / size, others_GK)
    return Components(*(np.asarray(leaf, np.float32) for leaf in leaves))


def read_cells(views: Iterable[TokenBatch], genes: int) -> Cells:
    """RNA, of host batches that show all that each cell expresses and no zeros."""
    values_NG, counts_NG = token_matrices(views := list(views), genes, ("values_BL", "counts_BL"))
    library_N = np.concatenate([view.library_B for view in views]).astype(np.float64)
    return Cells(values_NG, counts_NG, library_N, np.concatenate([view.dataset_B for view in views]))


def gene_activity(views: Iterable[TokenBatch], modality: Modality, space: FeatureSpace, genes: int) -> Cells:
    """Another modality as if it were RNA: counts of each gene's features by their weights, for a corpus without RNA.

    Methylation opposes expression: its unmethylated reads are counted.
    """
    views = list(views)
    if modality == "methylation":
        views = [view._replace(counts_BL=view.totals_BL - view.counts_BL) for view in views]
    (counts_NF,) = token_matrices(views, len(space.base_F), ("counts_BL",))
    counts_NG = sp.csr_matrix(counts_NF @ link_matrix(space, genes))
    library_N = np.maximum(np.asarray(counts_NG.sum(axis=1)).ravel(), 1e-9)
    values_NG = counts_NG.copy()
    values_NG.data = np.log1p(values_NG.data / np.repeat(library_N, np.diff(values_NG.indptr)) * LIBRARY_SCALE)
    return Cells(values_NG, counts_NG, library_N, np.concatenate([view.dataset_B for view in views]))


def link_matrix(space: FeatureSpace, genes: int) -> sp.csr_matrix:
    """weights_FG: features x genes."""
    features, links = space.genes_FK.shape
    feature = np.repeat(np.arange(features), links)
    entries = (space.weights_FK.ravel().astype(np.float64), (feature, space.genes_FK.ravel()))
    return sp.csr_matrix(entries, shape=(features, genes))


def rows_by_feature(
    space: FeatureSpace, number_C: np.ndarray, known: FeatureSpace, rows_FR: np.ndarray, genes: int
) -> np.ndarray:
    """rows_CR, float32, of the features of `space`: their own by their number among the known features, or, where that is -1,
    by their genes, each gene's being the mean of those of the known features that speak of it."""
    of_FG, of_CG = link_matrix(known, genes), link_matrix(space, genes)
    weight_G = np.asarray(of_FG.sum(axis=0)).ravel()
    rows_GR = (of_FG.T @ rows_FR) / np.maximum(weight_G, 1e-9)[:, None]
    is_known_C1 = (number_C >= 0)[:, None]
    return np.where(is_known_C1, rows_FR[np.maximum(number_C, 0)], of_CG @ rows_GR).astype(np.float32)


def token_matrices(views: Sequence[TokenBatch], features: int, leaves: Sequence[str]) -> list[sp.csr_matrix]:
    """Cells x features matrices of leaves of the views' tokens."""
    columns = np.concatenate([view.features_BL[view.mask_BL] for view in views])
    lengths = np.concatenate([view.mask_BL.sum(axis=1) for view in views])
    indptr_N, shape = np.concatenate([[0], np.cumsum(lengths)]), (len(lengths), features)
    data = [np.concatenate([getattr(view, leaf)[view.mask_BL] for view in views]).astype(np.float64) for leaf in leaves]
    return [sp.csr_matrix((one, columns, indptr_N), shape=shape) for one in data]


def _clipped(values_NG: sp.csr_matrix, most_G: np.ndarray) -> sp.csr_matrix:
    data = np.minimum(values_NG.data, most_G[values_NG.indices])
    return sp.csr_matrix((data, values_NG.indices, values_NG.indptr), shape=values_NG.shape)


def _signal(counts_NG: sp.csr_matrix, library_N: np.ndarray, dataset_N: np.ndarray) -> np.ndarray:
    """Share of each gene's variance that is more than a Poisson's, in [0, 1): 1 - 1 / (mean squared Pearson residual).

    Residuals (x - mu) / sqrt(mu) are of the mean predictor mu = library * gene's share within each dataset, their squares
    held below the number of cells (Lause et al. 2021). A zero's square is mu, so the sums need the stored entries alone.
    """
    cells, genes = counts_NG.shape
    cell_of = np.repeat(np.arange(cells), np.diff(counts_NG.indptr))
    square_G, expected_G = np.zeros(genes), np.zeros(genes)
    for dataset in np.unique(dataset_N):
        mine = dataset_N[cell_of] == dataset
        columns, x = counts_NG.indices[mine], counts_NG.data[mine]
        total_G, depth = np.bincount(columns, x, genes), library_N[dataset_N == dataset].sum()
        mu = library_N[cell_of[mine]] * (total_G / max(depth, 1.0))[columns]
        square_G += np.bincount(columns, np.minimum((x - mu) ** 2 / mu, cells) - mu, genes) + total_G
        expected_G += (total_G > 0) * np.sum(dataset_N == dataset)
    return np.maximum(1 - expected_G / np.maximum(square_G, 1e-9), 0.0) * (expected_G > 0)


def _telling_cells(expressed_MG: np.ndarray, dataset_N: np.ndarray, weight_M: np.ndarray) -> np.ndarray:
    """How many cells inform of each gene: of those of the datasets that express it, the effective number (Kish's) under their
    squared weights, so that a small dataset of genes of its own is no better known for standing beside a large one."""
    cells_M = np.bincount(dataset_N)
    once_G, twice_G = ((cells_M * weight_M**power) @ expressed_MG for power in (2, 4))
    return once_G**2 / np.maximum(twice_G, 1e-30)


def _weight(signal_G: np.ndarray, cells_G: np.ndarray) -> np.ndarray:
    """What genes of such signals weigh, in [0, 1): of a signal of 1, as much whether many cells showed it or few."""
    few_G = FULL_CELLS / np.maximum(cells_G, 1.0)
    return signal_G * (1 + few_G) / (signal_G + few_G)


def _most(x_G: np.ndarray, count: int) -> np.ndarray:
    """The `count` largest entries, 0 in place of the others; of equals the first."""
    kept = np.argsort(-x_G, kind="stable")[:count]
    return np.bincount(kept, x_G[kept], len(x_G))
