"""The linear translation: every feature of one modality predicted from a cell's linear profile in another, in closed form.

    change of a feature = <profile_R of the source, loading_R of the feature>

The profile is the cell's in the components of RNA and, of another source than RNA, in components of its own
(`own_components.py`).

A translator that starts from nothing must find by gradient descent what one ridge regression gives. (500 PBMC of CITE-seq,
RNA to protein, one split: .392 after 200 steps from nothing, where ridge has .436.) From here it begins at ridge regression
and learns what is not linear; what is fitted here is not trained on (`nn/linear.py`).

Each measurement's response z is its deviation from the feature's mean over the slope of the mean in the predictor there (one
Newton step of the likelihood, whose weights are taken as equal): nats, or of RNA and ATAC the share by which the mean changes.

    RNA          log1p counts per 10,000, over 1 - exp(-mean)
    ADT          log1p counts less their mean over the cell's proteins
    ATAC         open or not, less the chance at the cell's depth, over p (1 - p)
    methylation  fraction of reads methylated, over m (1 - m) and the share of cells in which it was read; 0 where not

    loading_R = argmin  sum over cells of (z - <profile_R, loading_R>)^2 / max(var z, NOISY)  +  penalty |loading_R|^2

so that what is rarely seen, and varies by many nats for that alone, moves little. The penalty is one for a direction, by
leave-one-out over its pairs of cells, in closed form, each feature weighing the same.

Where a direction has no pairs, profiles of both lie in the same components of RNA all the same, by the genes of their
features: what the target's own profile says of its features, in cells that have no pair, is read from the source's. Pairs,
where there are some, start from that or from nothing, whichever the left-out cells prefer. (Were it fitted on the cells of the
pairs too, it would know the cells left out, and be preferred for that: CITE-seq, proteins to RNA, .063 where pairs alone
have .068.)

Proteins have a level and a spread by pairs too (`protein_law.py`), about what pairs left out, in FOLDS parts, were predicted.
(CITE-seq, RNA to protein, held-out cells: 3.107 nats a count without, 3.014 so; of genes it would be .003, and costs minutes.)

By pairs a cell's depth in the target is predicted as well, by the same regression of its log on the profile: cells that
give much in one omics type may give much in another. Measurements can be predicted at that depth, or all at one.
(A549, RNA to ATAC: predicted depths alone order the cells of a peak with an AUROC of .555; ridge regression on the
peaks, which cannot separate the two, has .546.)
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import permutations
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.special import expit, logit

from mofm.axes import Modality
from mofm.batch import FeatureSpace, Spaces, TokenBatch, log_exposure
from mofm.linear.basis import Basis
from mofm.linear.components import token_matrices
from mofm.linear.profiles import CellProfiles, make_reader, read_profiles
from mofm.linear.protein_law import fit_law
from mofm.nn.linear import Reader
from mofm.objectives.translation import Direction
from mofm.sampling import evenly

Measured = Callable[[int, Modality], np.ndarray]
"""A dataset's number and a modality -> which of its features it measures, bool."""
Axes = tuple[np.ndarray, np.ndarray, np.ndarray]
"""u_NK, size_K and axes_KR: the singular value decomposition of centred profiles."""
Views = Mapping[Modality, Sequence[TokenBatch]]
LinearTranslation = dict[Direction, np.ndarray]
"""loading_FR of each direction: float32, a row a feature of the target (of RNA a row of the gene table), a column for each of
the profile's, and then level and spread (`nn/linear.py`)."""
DepthTranslation = dict[Direction, np.ndarray]
"""loading_R of each direction that has pairs: float32, nats of depth."""

MIN_PAIRS = 10
"""Fewer show nothing that leaving one out could judge."""
PENALTIES = np.logspace(-2, 6, 17)
NOISY = 4.0
"""Variance of a response, squared nats, above which it is mostly noise."""
CHECKED_CELLS, CHECKED_FEATURES, LOTS = 1_000, 128, 19
"""By how many cells and features it is judged whether pairs are pairs, and against how many pairings by lot."""
FOLDS, LAW_CELLS = 5, 4_096
"""Into how many parts pairs are cut to find level and spread, and of how many pairs at most."""
BLOCK_ENTRIES = 2**23
"""Responses that are held at once; some four times their bytes are in use."""


class _Target(NamedTuple):
    """What cells show of a modality, CSR of N cells x features; `reads_NF` of methylation alone."""

    modality: Modality
    cell_N: np.ndarray
    counts_NF: sp.csr_matrix
    reads_NF: sp.csr_matrix | None
    library_N: np.ndarray
    dataset_N: np.ndarray

    @property
    def level_N(self) -> np.ndarray:
        """Mean of a cell's log1p counts over all features: what a centred log ratio is centred by."""
        return np.asarray(self.counts_NF.log1p().mean(axis=1)).ravel()

    def of(self, rows_N: np.ndarray) -> "_Target":
        """Some of the cells."""
        reads_NF = None if self.reads_NF is None else self.reads_NF[rows_N]
        leaves = (leaf[rows_N] for leaf in (self.library_N, self.dataset_N))
        return _Target(self.modality, self.cell_N[rows_N], self.counts_NF[rows_N], reads_NF, *leaves)


def fit_linear_translation(
    whole: Views,
    expressed: Views,
    spaces: Spaces,
    basis: Basis,
    measured: Measured,
    report: Callable[[str], object] = print,
) -> tuple[LinearTranslation, DepthTranslation]:
    """Loadings of every direction between the modalities of some training cells; none where there are no components.

    Args:
      whole: host batches as cells are embedded.
      expressed: host batches that show all that the same cells express, and no zeros.
      spaces: features of all but RNA, with their mean predictors.
      measured: which features a dataset measures.
      report: is given a line for each two modalities whose pairs predict no more than cells paired by lot.
    """
    genes, shared = basis.components.rows_GK.shape
    if not shared:
        return {}, {}
    readers = make_readers(whole, spaces, basis)
    read = {modality: read_profiles(views, modality, readers[modality]) for modality, views in whole.items()}
    shown = {
        modality: _read_target(views, modality, len(spaces[modality].base_F) if modality in spaces else genes)
        for modality, views in expressed.items()
    }
    found, depths, helps = {}, {}, {}
    for source, target in permutations(read, 2):
        profile_NR, pairs = _matched(read[source], shown[target])
        enough, cell_N = len(profile_NR) >= MIN_PAIRS, shown[target].cell_N
        others = shown[target].of(np.flatnonzero(~(enough & np.isin(cell_N, pairs.cell_N))))
        own_NR, others = _matched(read[target], others)
        loading_FR = np.pad(_fit(own_NR[:, :shared], others), ((0, 0), (0, profile_NR.shape[1] - shared)))
        law_F2 = np.zeros((len(loading_FR), 2))
        if enough:
            helps[source, target] = pairs_help(profile_NR, pairs)
            prior_FR, loading_FR = loading_FR, _fit(profile_NR, pairs, loading_FR)
            if target == "adt":
                law_F2 = _protein_law(profile_NR, pairs, prior_FR, spaces[target], measured)
            depths[Direction(source, target)] = _fit_depth(profile_NR, pairs.library_N)
        found[Direction(source, target)] = np.column_stack([loading_FR, law_F2]).astype(np.float32)
    for (one, other), does_help in helps.items():
        if one < other and not (does_help or helps[other, one]):
            report(
                f"warning: of cells left out, {one} and {other} predict each other no better than cells paired by lot: are "
                "cells paired by names or an order that are not theirs? (Or they are too shallow, or too few.)"
            )
    return found, depths


def pairs_help(profile_NR: np.ndarray, target: _Target) -> bool:
    """Whether pairs predict the target of cells left out better than LOTS pairings of the same cells by lot do."""
    rows_N = evenly(len(profile_NR), CHECKED_CELLS)
    cells_F = np.bincount(target.counts_NF.indices, minlength=target.counts_NF.shape[1])
    checked_F = np.sort(np.argsort(-cells_F, kind="stable")[:CHECKED_FEATURES])
    z_NF = responses(target.of(rows_N), checked_F)
    axes = np.linalg.svd(profile_NR[rows_N] - profile_NR[rows_N].mean(axis=0), full_matrices=False)

    def gain(order_N: np.ndarray) -> float:
        error_P = _left_out(axes, z_NF[order_N], np.zeros_like(z_NF))
        return 1 - error_P.min() / error_P[-1]  # at the highest penalty nothing is predicted

    rng = np.random.default_rng(0)
    return gain(np.arange(len(rows_N))) > max(gain(rng.permutation(len(rows_N))) for _ in range(LOTS))


def make_readers(modalities: Iterable[Modality], spaces: Spaces, basis: Basis) -> dict[Modality, Reader]:
    """How the linear translation reads each modality."""
    parts = (basis.profiles, basis.own)
    return {
        modality: make_reader(modality, spaces.get(modality), basis.components, *(part.get(modality) for part in parts))
        for modality in modalities
    }


def _read_target(views: Sequence[TokenBatch], modality: Modality, features: int) -> _Target:
    leaves = ("counts_BL", "totals_BL") if modality == "methylation" else ("counts_BL",)
    counts_NF, *reads = token_matrices(views, features, leaves)
    cell_N, library_N, dataset_N = (
        np.concatenate([getattr(view, leaf) for view in views]) for leaf in ("cell_B", "library_B", "dataset_B")
    )
    target = _Target(modality, cell_N, counts_NF, reads[0] if reads else None, library_N.astype(np.float64), dataset_N)
    return target.of(np.flatnonzero((cell_N >= 0) & (library_N > 0)))


def _matched(read: CellProfiles, target: _Target) -> tuple[np.ndarray, _Target]:
    """The cells that both have, once each and in one order."""
    _, first, second = np.intersect1d(read.cell_N, target.cell_N, return_indices=True)
    return read.profile_NK[first], target.of(second)


def _fit_depth(profile_NR: np.ndarray, library_N: np.ndarray) -> np.ndarray:
    """loading_R of the log library."""
    z_N1 = np.log(library_N)[:, None]
    z_N1 = z_N1 - z_N1.mean()
    axes = np.linalg.svd(profile_NR - profile_NR.mean(axis=0), full_matrices=False)
    penalty = PENALTIES[np.argmin(_left_out(axes, z_N1, np.zeros_like(z_N1)))]
    return _solved(axes, z_N1, z_N1, penalty)[0].astype(np.float32)


def _fit(profile_NK: np.ndarray, target: _Target, prior_FK: np.ndarray | None = None) -> np.ndarray:
    """loading_FK, float64. With a prior, loadings are that and what is fitted to the remainder, or fitted alone.

    Fewer than MIN_PAIRS cells say nothing: the prior stays, or 0.
    """
    cells, width = profile_NK.shape
    features = target.counts_NF.shape[1]
    loading_FK = np.zeros((features, width))
    if cells < MIN_PAIRS:
        return loading_FK if prior_FK is None else prior_FK
    centred_NK = profile_NK - profile_NK.mean(axis=0)
    axes = np.linalg.svd(centred_NK, full_matrices=False)
    most = max(1, BLOCK_ENTRIES // cells)
    seen_F = np.unique(target.counts_NF.indices)
    judged_F = seen_F[evenly(len(seen_F), most)]
    z_NF = responses(target, judged_F)
    known = [np.zeros_like(loading_FK)] + ([] if prior_FK is None or not prior_FK.any() else [prior_FK])
    errors = [_left_out(axes, z_NF, centred_NK @ one_FK[judged_F].T) for one_FK in known]
    best = int(np.argmin([error_P.min() for error_P in errors]))
    penalty = PENALTIES[np.argmin(errors[best])]
    for start in range(0, len(seen_F), most):
        block_F = seen_F[start : start + most]
        z_NF = responses(target, block_F)
        rest_NF = z_NF - centred_NK @ known[best][block_F].T
        loading_FK[block_F] = _solved(axes, z_NF, rest_NF, penalty) + known[best][block_F]
    return loading_FK


def _protein_law(
    profile_NK: np.ndarray, target: _Target, prior_FK: np.ndarray, space: FeatureSpace, measured: Measured
) -> np.ndarray:
    """law_F2, level and spread of proteins, about what the other pairs predict of each part of them."""
    rows_N = evenly(len(profile_NK), LAW_CELLS)  # a corpus comes data set after data set
    profile_NK, target = profile_NK[rows_N], target.of(rows_N)
    datasets, number_N = np.unique(target.dataset_N, return_inverse=True)
    measured_NF = np.stack([measured(int(dataset), target.modality) for dataset in datasets])[number_N]
    change_NF, part_N = np.zeros(target.counts_NF.shape), np.arange(len(rows_N)) % FOLDS
    for part in range(FOLDS):
        shown, left_out = np.flatnonzero(part_N != part), np.flatnonzero(part_N == part)
        change_NF[left_out] = profile_NK[left_out] @ _fit(profile_NK[shown], target.of(shown), prior_FK).T
    log_depth_N = np.asarray(log_exposure(target.library_N), np.float64)
    return fit_law(target.counts_NF.toarray(), measured_NF, change_NF, log_depth_N, space)


def _solved(axes: Axes, z_NF: np.ndarray, rest_NF: np.ndarray, penalty: float) -> np.ndarray:
    """loading_FR of what is left of the responses z."""
    shrunk_KF, _ = _shrunk(axes[1], z_NF, penalty)
    return (shrunk_KF * (axes[0].T @ rest_NF)).T @ axes[2]


def _shrunk(size_K: np.ndarray, z_NF: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """size / (size^2 + penalty max(var z, NOISY)) of each axis and feature, and var z_F."""
    variance_F = z_NF.var(axis=0)
    return size_K[:, None] / (size_K[:, None] ** 2 + penalty * np.maximum(variance_F, NOISY)), variance_F


def _left_out(axes: Axes, z_NF: np.ndarray, known_NF: np.ndarray) -> np.ndarray:
    """Squared error of each cell predicted from the others, over var z: its mean over features for each of PENALTIES."""
    u_NK, size_K, _ = axes
    rest_NF = z_NF - known_NF
    rest_NF -= rest_NF.mean(axis=0)
    share_KF = u_NK.T @ rest_NF
    errors = []
    for penalty in PENALTIES:
        shrunk_KF, variance_F = _shrunk(size_K, z_NF, penalty)
        hat_KF = size_K[:, None] * shrunk_KF
        leverage_NF = 1 / len(z_NF) + u_NK**2 @ hat_KF
        left_NF = (rest_NF - u_NK @ (hat_KF * share_KF)) / np.maximum(1 - leverage_NF, 1e-6)
        errors.append(np.mean(np.mean(left_NF**2, axis=0) / np.maximum(variance_F, 1e-12)))
    return np.array(errors)


def responses(target: _Target, columns_F: np.ndarray) -> np.ndarray:
    """z_NF of some features, float64, dense: means 0 over the cells."""
    counts_NF = target.counts_NF[:, columns_F].toarray()
    log_depth_N1 = np.asarray(log_exposure(target.library_N))[:, None]
    if target.modality == "rna":
        value_NF = np.log1p(counts_NF * np.exp(-log_depth_N1))
        z_NF = value_NF / np.maximum(-np.expm1(-value_NF.mean(axis=0)), 1e-6)
    elif target.modality == "adt":
        z_NF = np.log1p(counts_NF) - target.level_N[:, None]
    elif target.modality == "atac":
        open_NF = (counts_NF > 0).astype(np.float64)
        chance_F = (open_NF.sum(axis=0) + 0.5) / (len(open_NF) + 1)
        expected_NF = expit(logit(chance_F) + log_depth_N1 - log_depth_N1.mean())
        z_NF = (open_NF - expected_NF) / (chance_F * (1 - chance_F))
    else:
        reads_NF = target.reads_NF[:, columns_F].toarray()
        read_NF = reads_NF > 0
        mean_F = (counts_NF.sum(axis=0) + 0.5) / (reads_NF.sum(axis=0) + 1)
        deviation_NF = np.where(read_NF, counts_NF / np.maximum(reads_NF, 1) - mean_F, 0.0)
        share_F = np.maximum(read_NF.mean(axis=0), 1e-6)
        z_NF = deviation_NF / (mean_F * (1 - mean_F) * share_F)
    return z_NF - z_NF.mean(axis=0)
