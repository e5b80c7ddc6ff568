"""What a translation has to beat: the mean, ridge regression and nearest neighbours, on components of the source.

The recipe, the same for every pair of omics types, fitted on training cells alone:

    source   RNA          30 principal components of log1p counts per 10,000, of the 2,000 most variable genes, centred
                          and not scaled (`baselines.pca_embedding`)
             ADT          centred log ratio, as many principal components as there are, at most 30
             ATAC         open or not; log1p(1e4 * idf / regions open in the cell), idf = log(1 + N / (1 + cells open));
                          30 singular vectors (LSI)
             methylation  fraction of reads methylated, its mean among the training cells where not measured; 30
                          principal components
    target   RNA          log1p counts per 10,000; judged by correlation
             ADT          centred log ratio; correlation
             ATAC         open or not, 0 or 1; AUROC
             methylation  fraction, NaN where not measured; correlation
    mean     each target feature's mean over training cells
    ridge    penalty by leave-one-out over the training cells (sklearn's RidgeCV, which does it in closed form), one for
             all target features, scaled to variance 1; from a grid of nine decades, relative to the source's variance
    k-NN     mean of the 15 nearest training cells (Euclidean, components as loud as they are)

Choices and their cost, measured on real cells (5 folds; CITE-seq of 500 PBMC, RNA to ADT, Pearson: ridge .421, k-NN
.404; sci-CAR of 2,641 A549 cells, RNA to the 5,000 most open peaks, AUROC: .546, .511, and ATAC to RNA, Pearson: .055,
.017):
- Genes scaled to variance 1 cost .015 on CITE-seq and gave .003 on A549 (2 folds): not scaled.
- A penalty for each target feature gave .427 on CITE-seq, and lost .001 in both directions of A549: one for all.
- The first LSI component is depth (r = .94 on A549) and is often dropped. Kept, k-NN is .017 and not .009 (ATAC to RNA)
  and ridge as good (.055, .056): how deep a cell was read says something of its other omics.
- Whitened components cost k-NN .04 on CITE-seq. The source's depth as a further column cost ridge .003 (A549, 2 folds).
- Methylation of a training cell in components and as a target is imputed by the mean, so ridge shrinks where coverage
  is thin, as it should; the truth that is judged is never imputed.
"""

from typing import NamedTuple

import anndata
import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import svds
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.neighbors import NearestNeighbors

from mofm.axes import Modality
from mofm.errors import InputError
from mofm.evaluation.baselines import SCALE, log_normalised, pca_embedding
from mofm.sampling import evenly

COMPONENTS = 30
NEIGHBOURS = 15
PENALTIES = np.logspace(-2, 7, 19)
"""Of ridge, times the mean variance of the source's components."""
BLOCK_ENTRIES = 2**23
"""Numbers of a block of target features that ridge fits at once; some ten times this memory."""


class Measured(NamedTuple):
    """Cells of one modality.

    Attributes:
      counts: CSR, cells x features, >= 0: counts of molecules or fragments, total reads of methylation.
      methylated: methylated reads, the same shape; None of other modalities.
    """

    counts: sp.csr_matrix
    methylated: sp.csr_matrix | None = None


class Translations(NamedTuple):
    """Attributes: mean_NF, ridge_NF, knn_NF; float32, test cells x target features, on the target's scale."""

    mean_NF: np.ndarray
    ridge_NF: np.ndarray
    knn_NF: np.ndarray


def measured_of(adata: anndata.AnnData) -> Measured:
    """Counts, and of methylation the methylated reads."""
    layer = adata.layers.get("methylated")
    return Measured(*(None if one is None else sp.csr_matrix(one) for one in (adata.X, layer)))


def baseline_translations(
    source: Modality, source_train: Measured, source_test: Measured, target_train_NF: np.ndarray
) -> Translations:
    """Test cells' targets by all three, from their source values.

    Args:
      source: what the source is.
      source_train, source_test: its training and test cells.
      target_train_NF: `target_values` of the training cells, in the same order; NaN where not measured.

    Raises:
      InputError: training cells that do not fit their targets, or fewer than 2.
    """
    cells = source_train.counts.shape[0]
    if cells != len(target_train_NF) or cells < 2:
        raise InputError(f"translation: {cells} training cells came with {len(target_train_NF)} targets; 2 are needed")
    train_ND, test_ND = source_components(source, source_train, source_test)
    filled_NF = np.asarray(target_train_NF, np.float32)
    if np.isnan(filled_NF).any():
        filled_NF = _filled(filled_NF, _measured_mean(filled_NF))
    mean_F = filled_NF.mean(axis=0, dtype=np.float64).astype(np.float32)
    return Translations(
        np.tile(mean_F, (len(test_ND), 1)),
        ridge(train_ND, filled_NF, test_ND),
        nearest(train_ND, filled_NF, test_ND),
    )


def source_components(
    modality: Modality, train: Measured, test: Measured, components: int = COMPONENTS
) -> tuple[np.ndarray, np.ndarray]:
    """Training and test cells on components that were fitted on the training cells; float32, D of at most `components`."""
    if modality == "rna":
        return pca_embedding(train.counts, test.counts, components, scale=False)[:2]
    if modality == "atac":
        return _lsi(train.counts, test.counts, components)
    train_NF, test_NF = target_values(modality, train), target_values(modality, test)
    if modality == "methylation":
        mean_F = _measured_mean(train_NF)
        train_NF, test_NF = _filled(train_NF, mean_F), _filled(test_NF, mean_F)
    fitted = PCA(min(components, *train_NF.shape), svd_solver="full").fit(train_NF)
    return fitted.transform(train_NF).astype(np.float32), fitted.transform(test_NF).astype(np.float32)


def target_values(modality: Modality, cells: Measured) -> np.ndarray:
    """What is predicted and judged, dense float32, cells x features (the recipe above).

    Raises:
      InputError: methylation without its methylated reads.
    """
    if modality == "rna":
        return log_normalised(cells.counts).toarray().astype(np.float32)
    if modality == "adt":
        return centred_log_ratio(cells.counts)
    if modality == "atac":
        return (cells.counts.toarray() > 0).astype(np.float32)
    if cells.methylated is None:
        raise InputError("methylation is total and methylated reads: the methylated ones were not given")
    total_NF = cells.counts.toarray().astype(np.float32)
    return np.divide(cells.methylated.toarray(), total_NF, out=np.full_like(total_NF, np.nan), where=total_NF > 0)


def target_columns(modality: Modality, cells: Measured, columns: np.ndarray) -> np.ndarray:
    """Some columns of `target_values`, which stand beside all features of the cell, or of ADT beside all that are given;
    the others never become dense."""
    if modality == "rna":
        return log_normalised(cells.counts)[:, columns].toarray().astype(np.float32)
    if modality == "adt":
        return centred_log_ratio(cells.counts)[:, columns]
    return target_values(modality, Measured(*(None if one is None else one[:, columns] for one in cells)))


def values_at_depth(modality: Modality, mean_NF: np.ndarray, depth_N: np.ndarray) -> np.ndarray:
    """Means of a translation, for cells of these depths, on the scale of `target_values`."""
    if modality == "adt":
        return centred_log_ratio(mean_NF)
    return np.log1p(mean_NF / depth_N[:, None] * SCALE) if modality == "rna" else mean_NF


def centred_log_ratio(counts: sp.csr_matrix | np.ndarray) -> np.ndarray:
    """log1p of a cell's counts less their mean over its features; float32. Takes predicted means as well as counts."""
    logs_NF = np.log1p(counts.toarray() if sp.issparse(counts) else np.asarray(counts)).astype(np.float32)
    return logs_NF - logs_NF.mean(axis=1, keepdims=True)


def ridge(train_ND: np.ndarray, target_NF: np.ndarray, test_ND: np.ndarray) -> np.ndarray:
    """Test cells' targets by ridge regression, float32; its penalty by leave-one-out over training cells."""
    train_ND, test_ND = np.asarray(train_ND, np.float64), np.asarray(test_ND, np.float64)
    penalty = _choose_penalty(train_ND, target_NF)
    predicted_NF = np.empty((len(test_ND), target_NF.shape[1]), np.float32)
    step = max(1, BLOCK_ENTRIES // len(train_ND))
    for start in range(0, target_NF.shape[1], step):
        block = slice(start, start + step)
        model = Ridge(penalty).fit(train_ND, target_NF[:, block].astype(np.float64))
        predicted_NF[:, block] = model.predict(test_ND).reshape(len(test_ND), -1)
    return predicted_NF


def _choose_penalty(train_ND: np.ndarray, target_NF: np.ndarray) -> float:
    """The penalty with the least squared error of targets scaled to variance 1: each weighs as much as in a score."""
    deviation_F = target_NF.std(axis=0, dtype=np.float64)
    asked = np.flatnonzero(deviation_F > 0)
    penalties = PENALTIES * max(train_ND.var(axis=0).mean(), np.finfo(np.float64).tiny)
    if len(asked) == 0:
        return penalties[-1]
    most = max(1, BLOCK_ENTRIES // len(train_ND))
    asked = asked[evenly(len(asked), most)]
    return RidgeCV(penalties).fit(train_ND, target_NF[:, asked] / deviation_F[asked]).alpha_


def nearest(train_ND: np.ndarray, target_NF: np.ndarray, test_ND: np.ndarray, k: int = NEIGHBOURS) -> np.ndarray:
    """The mean target of each test cell's k nearest training cells, float32."""
    k = min(k, len(train_ND))
    neighbours_NK = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(train_ND).kneighbors(test_ND)[1]
    rows = np.arange(len(test_ND) + 1) * k
    weights = sp.csr_matrix(
        (np.full(neighbours_NK.size, 1 / k, np.float32), neighbours_NK.ravel(), rows), (len(test_ND), len(train_ND))
    )
    return weights @ np.asarray(target_NF, np.float32)


def _lsi(train: sp.csr_matrix, test: sp.csr_matrix, components: int) -> tuple[np.ndarray, np.ndarray]:
    open_F = np.bincount(train.tocsr().indices[train.data > 0], minlength=train.shape[1])
    idf_F = np.log1p(train.shape[0] / (1 + open_F))

    def weighed(counts: sp.csr_matrix) -> sp.csr_matrix:
        is_open = sp.csr_matrix(counts > 0, dtype=np.float64)
        share_N = 1e4 / np.maximum(np.diff(is_open.indptr), 1)
        weights = (sp.diags(share_N) @ is_open @ sp.diags(idf_F)).tocsr()
        weights.data = np.log1p(weights.data)
        return weights

    train_NF = weighed(train)
    # A start that is given, and neither random nor all alike: the same components on every run.
    start = np.linspace(1, 2, min(train_NF.shape))
    _, size_D, axes_DF = svds(train_NF, min(components, min(train_NF.shape) - 1), v0=start)
    axes_FD = axes_DF[np.argsort(-size_D)].T
    return (train_NF @ axes_FD).astype(np.float32), (weighed(test) @ axes_FD).astype(np.float32)


def _measured_mean(x_NF: np.ndarray) -> np.ndarray:
    """Mean of each feature's measured cells; that of all features for one that was never measured."""
    measured_NF = ~np.isnan(x_NF)
    cells_F = measured_NF.sum(axis=0)
    sum_F = np.sum(x_NF, axis=0, where=measured_NF, dtype=np.float64)
    overall = sum_F.sum() / max(cells_F.sum(), 1)
    return np.divide(sum_F, cells_F, out=np.full(len(sum_F), overall), where=cells_F > 0)


def _filled(x_NF: np.ndarray, mean_F: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(x_NF), mean_F, x_NF).astype(np.float32)
