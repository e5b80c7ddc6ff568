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
from mofm.batch import FeatureSpace, TokenBatch, depth_weight, log_exposure, read_values
from mofm.linear.components import Components, link_matrix, token_matrices
from mofm.linear.shares import Shares, shares
from mofm.nn.linear import Part, Reader


class Profile(NamedTuple):
    """How another modality is read out in the components of RNA (`nn/readout.py`).

    By `scale`, profiles of the fitted cells have unit variance over all components. `scale_K` is that or less: where a
    component then varies more than in RNA, the excess is the noise of few reads or what RNA has no share in, and it is
    scaled down to as much. All profiles have mean 0: `mean_weight_G` is what an average cell's features weigh, by their genes;
    times the genes' rows it is that cell's mean. `log_depth` is the mean of the cells' log(library / LIBRARY_SCALE).
    """

    scale: np.ndarray
    scale_K: np.ndarray
    mean_weight_G: np.ndarray
    log_depth: np.ndarray


class CellProfiles(NamedTuple):
    """Attributes: cell_N, int32, the cells' numbers in the corpus; profile_NK, float64."""

    cell_N: np.ndarray
    profile_NK: np.ndarray


class ReadCells(NamedTuple):
    """What cells show, as `batch.read_values` has it.

    Attributes:
      cell_N, dataset_N: the cells' numbers and their data sets'.
      library_N: float64.
      value_NF, weight_NF: float64, CSR.
    """

    cell_N: np.ndarray
    dataset_N: np.ndarray
    library_N: np.ndarray
    value_NF: sp.csr_matrix
    weight_NF: sp.csr_matrix

    def shares(self, modality: Modality, gain_F: np.ndarray) -> Shares:
        """What the features weigh in a profile that has these gains; the gains themselves are the axes' business."""
        return shares(self.value_NF, self.weight_NF @ gain_F, depth_weight(self.library_N, modality))


def fit_profile(
    views: Sequence[TokenBatch], modality: Modality, space: FeatureSpace, components: Components
) -> Profile:
    """Scale and centre of a modality, of host batches as they are embedded: all that a cell has, or a large sample."""
    links_FG, gain_F = links_and_gains(space, components)
    axes_FK, mean_F = _axes(modality, space, components)
    cells = read_tokens(views, modality, mean_F)
    mean_weight_G, deviation_K, log_depth = np.zeros(links_FG.shape[1]), np.zeros(axes_FK.shape[1]), 0.0
    if len(cells.cell_N):
        read = cells.shares(modality, gain_F)
        average_F = read.average_F()
        mean_weight_G = (average_F * gain_F) @ links_FG
        deviation_K = read.profile_NK(axes_FK, average_F @ axes_FK).std(axis=0)
        log_depth = np.mean(log_exposure(cells.library_N))
    size = max(float(np.sqrt(np.mean(deviation_K**2))), 1e-6) if deviation_K.any() else 1.0
    scale = (-1.0 if modality == "methylation" else 1.0) / size
    excess_K = deviation_K / size / np.maximum(components.deviation_K, 1e-6)
    scale_K = scale / np.maximum(excess_K, 1.0)
    return Profile(*(np.asarray(leaf, np.float32) for leaf in (scale, scale_K, mean_weight_G, log_depth)))


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
    scale, known = (components.scale, components) if profile is None else (profile.scale_K, profile)
    # In float64 and one order of memory, so that the same numbers give the same bits whichever file they come from.
    rows_GK = np.ascontiguousarray(components.rows_GK, np.float64)
    centre_K = known.mean_weight_G.astype(np.float64) @ rows_GK
    parts = [(axes_FK * scale, links_and_gains(space, components)[1], centre_K * scale)]
    if own is not None:
        parts.append((own[0], np.ones(len(mean_F)), own[1]))
    parts = [Part(*(np.asarray(leaf, np.float32) for leaf in part)) for part in parts]
    return Reader(np.asarray(mean_F, np.float32), tuple(parts), known.log_depth)


def read_profiles(views: Sequence[TokenBatch], modality: Modality, reader: Reader) -> CellProfiles:
    """The linear profiles of the views' cells: `nn.linear.linear_profile` on the host."""
    cells = read_tokens(views, modality, reader.mean_F)
    columns = [cells.shares(modality, part.gain_F).profile_NK(part.axes_FR, part.centre_R) for part in reader.parts]
    log_depth_N = np.where(cells.library_N > 0, log_exposure(cells.library_N) - reader.log_depth, 0.0)
    return CellProfiles(cells.cell_N, np.column_stack([*columns, log_depth_N]))


def _axes(modality: Modality, space: FeatureSpace | None, components: Components) -> tuple[np.ndarray, np.ndarray]:
    """axes_FK without the modality's scale, and the mean_F that values are held against."""
    links_FG, gain_F = links_and_gains(space, components)
    axes_FK = (links_FG @ components.rows_GK) * gain_F[:, None]
    return axes_FK, np.zeros(len(gain_F)) if space is None else mean_values(modality, space)


def links_and_gains(space: FeatureSpace | None, components: Components) -> tuple[sp.csr_matrix, np.ndarray]:
    """weights_FG of the features' genes, and each feature's gain_F."""
    genes = len(components.rows_GK)
    links_FG = sp.identity(genes, format="csr") if space is None else link_matrix(space, genes)
    return links_FG, links_FG @ np.exp(components.log_gain_G.astype(np.float64))


def mean_values(modality: Modality, space: FeatureSpace) -> np.ndarray:
    """mean_F that values are held against: of methylation, where which regions were read says nothing; else 0."""
    return expit(space.base_F) if modality == "methylation" else np.zeros(len(space.base_F))


def read_tokens(views: Sequence[TokenBatch], modality: Modality, mean_F: np.ndarray) -> ReadCells:
    """What the cells of host batches show; rows of padding are left out."""
    found = []
    for view in views:
        value_BL, weight_BL = read_values(view, modality, mean_F[view.features_BL])
        given = view._replace(values_BL=value_BL, counts_BL=weight_BL)
        value_NF, weight_NF = token_matrices([given], len(mean_F), ("values_BL", "counts_BL"))
        value_NF.eliminate_zeros()
        rows_N = np.flatnonzero(view.cell_B >= 0)
        library_N = view.library_B[rows_N].astype(np.float64)
        found.append((view.cell_B[rows_N], view.dataset_B[rows_N], library_N, value_NF[rows_N], weight_NF[rows_N]))
    if not found:
        return ReadCells(*np.zeros((2, 0), np.int32), np.zeros(0), *[sp.csr_matrix((0, len(mean_F)))] * 2)
    *numbers, value_NF, weight_NF = zip(*found, strict=True)
    return ReadCells(*map(np.concatenate, numbers), *(sp.vstack(some, format="csr") for some in (value_NF, weight_NF)))
