"""How each modality is read out in the components of RNA: the linear profile of a cell, whatever was measured of it.

It is `nn/readout.py` at the start of training, in numpy: what scales and centres are fitted on, and what the linear
translation starts from.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.special import expit

from mofm.axes import Modality
from mofm.batch import WEIGHED_BY_DEPTH, FeatureSpace, TokenBatch, log_exposure
from mofm.linear.components import Components, link_matrix, token_matrices
from mofm.nn.linear import Reader


class Profile(NamedTuple):
    """How another modality is read out in the components of RNA: profile_K = scale_K * (mean over tokens of (...) - that of an
    average cell), for ATAC with the factor of depth before each mean.

    By `scale`, profiles of the fitted cells have unit variance over all components. `scale_K` is that or less: where a
    component then varies more than in RNA, the excess is the noise of few reads or what RNA has no share in, and it is
    scaled down to as much (simulated RNA and ATAC: FOSCTTM .272 with it, .290 without). All profiles have mean 0:
    `mean_weight_G` is what an average cell's features weigh, by their genes; times the genes' rows it is that cell's mean.
    """

    scale: np.ndarray
    scale_K: np.ndarray
    mean_weight_G: np.ndarray


class CellProfiles(NamedTuple):
    """Attributes: cell_N, int32, the cells' numbers in the corpus; profile_NK, float64."""

    cell_N: np.ndarray
    profile_NK: np.ndarray


class ReadCells(NamedTuple):
    """Attributes: cell_N and dataset_N, the cells' numbers and their data sets'; x_NF, float64 CSR, what they show."""

    cell_N: np.ndarray
    dataset_N: np.ndarray
    x_NF: sp.csr_matrix


def fit_profile(
    views: Sequence[TokenBatch], modality: Modality, space: FeatureSpace, components: Components
) -> Profile:
    """Scale and centre of a modality, of host batches as they are embedded: all that a cell has, or a large sample."""
    links_FG, gain_F = _links(space, components)
    axes_FK, mean_F = _axes(modality, space, components)
    x_NF = weighted_values(views, modality, mean_F).x_NF
    mean_weight_G, deviation_K = np.zeros(links_FG.shape[1]), np.zeros(axes_FK.shape[1])
    if x_NF.shape[0]:
        mean_weight_G = (np.asarray(x_NF.mean(axis=0)).ravel() * gain_F) @ links_FG
        deviation_K = (x_NF @ axes_FK).std(axis=0)
    size = max(float(np.sqrt(np.mean(deviation_K**2))), 1e-6) if deviation_K.any() else 1.0
    scale = (-1.0 if modality == "methylation" else 1.0) / size
    excess_K = deviation_K / size / np.maximum(components.deviation_K, 1e-6)
    scale_K = scale / np.maximum(excess_K, 1.0)
    return Profile(*(np.asarray(leaf, np.float32) for leaf in (scale, scale_K, mean_weight_G)))


def make_reader(
    modality: Modality,
    space: FeatureSpace | None,
    components: Components,
    profile: Profile | None,
    own: tuple[np.ndarray, np.ndarray] | None = None,
) -> Reader:
    """The linear read-out of any features of a modality, as it is at the start. `space` and `profile` are None for RNA.

    Args:
      own: axes_FK of these features and centre_K of `OwnComponents`, whose columns come after the profile's.
    """
    axes_FK, mean_F = _axes(modality, space, components)
    # In float64 and one order of memory, so that the same numbers give the same bits whichever file they come from.
    rows_GK = np.ascontiguousarray(components.rows_GK, np.float64)
    centre_K = (components if profile is None else profile).mean_weight_G.astype(np.float64) @ rows_GK
    if profile is not None:
        axes_FK, centre_K = axes_FK * profile.scale_K, centre_K * profile.scale_K
    if own is not None:
        axes_FK, centre_K = np.hstack([axes_FK, own[0]]), np.concatenate([centre_K, own[1]])
    return Reader(*(np.asarray(leaf, np.float32) for leaf in (axes_FK, mean_F, centre_K)))


def read_profiles(views: Sequence[TokenBatch], modality: Modality, reader: Reader) -> CellProfiles:
    """The linear profiles of the views' cells: `nn.linear.linear_profile` on the host."""
    read = weighted_values(views, modality, reader.mean_F)
    return CellProfiles(read.cell_N, read.x_NF @ reader.axes_FR - reader.centre_R)


def _axes(modality: Modality, space: FeatureSpace | None, components: Components) -> tuple[np.ndarray, np.ndarray]:
    """axes_FK without the modality's scale, and the mean_F that values are held against."""
    links_FG, gain_F = _links(space, components)
    axes_FK = (links_FG @ components.rows_GK) * gain_F[:, None]
    return axes_FK, np.zeros(len(gain_F)) if space is None else mean_values(modality, space)


def _links(space: FeatureSpace | None, components: Components) -> tuple[sp.csr_matrix, np.ndarray]:
    """weights_FG of the features' genes, and each feature's gain_F."""
    genes = len(components.rows_GK)
    links_FG = sp.identity(genes, format="csr") if space is None else link_matrix(space, genes)
    return links_FG, links_FG @ np.exp(components.log_gain_G.astype(np.float64))


def mean_values(modality: Modality, space: FeatureSpace) -> np.ndarray:
    """mean_F that values are held against: of methylation, where which regions were read says nothing; else 0."""
    return expit(space.base_F) if modality == "methylation" else np.zeros(len(space.base_F))


def weighted_values(views: Sequence[TokenBatch], modality: Modality, mean_F: np.ndarray) -> ReadCells:
    """What each cell's tokens weigh in its profile: their part of a mean, with the factor of depth."""
    cells, datasets, values = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)], [sp.csr_matrix((0, len(mean_F)))]
    for view in views:
        (values_NF,) = token_matrices([view], len(mean_F), ("values_BL",))
        tokens_N = np.maximum(np.diff(values_NF.indptr), 1)
        values_NF.data = values_NF.data - mean_F[values_NF.indices]
        values_NF.eliminate_zeros()
        weight_N = np.ones(len(tokens_N))
        if modality in WEIGHED_BY_DEPTH:
            weight_N = np.exp(np.asarray(log_exposure(view.library_B), np.float64) / 2)
        is_there = np.flatnonzero(view.cell_B >= 0)
        values.append((sp.diags(weight_N / tokens_N) @ values_NF)[is_there])
        cells.append(view.cell_B[is_there])
        datasets.append(view.dataset_B[is_there])
    return ReadCells(np.concatenate(cells), np.concatenate(datasets), sp.vstack(values, format="csr"))
