"""The scores of (tf, target) pairs that a model's stand beside: from the network alone, and from expression.

Choices and their cost:
- `degree_scores` sees no cell. What it gets is what a benchmark gives away.
- `regulon_scores` is the strong simple one that is seldom printed: a TF is as active as its known targets are
  expressed, and regulates what goes along with that. A model that trained on the same edges has to beat it.
- Correlations are signed; whether there is an edge is judged by the absolute value.
- Scores of expression are linear in it, so cells pass in blocks and only the covariances of TFs x targets are held:
  N T U operations, 8 T U bytes and a block, whatever the number of cells.
- A gene that does not vary says nothing: its z-scores are 0, and so are its correlations.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from sklearn.utils.sparsefuncs import mean_variance_axis

from mofm.errors import InputError

BLOCK_CELLS = 4096


class Activities(NamedTuple):
    """Attributes: tfs, int32, T, ascending; activity_NT, float32, standard deviations of expression."""

    tfs: np.ndarray
    activity_NT: np.ndarray


def degree_scores(train_edges: pd.DataFrame, genes: int, tf: np.ndarray, target: np.ndarray) -> np.ndarray:
    """log1p of the TF's number of training targets, times log1p of the target's number of training TFs. float64.

    A TF or a target without training edges scores 0, so all pairs of a held-out TF tie.

    Args:
      train_edges: tf, target; a pair counts once, whatever its relations.
      genes: G, the rows of the gene table.
    """
    pairs = train_edges[["tf", "target"]].drop_duplicates()
    of_tf_G, of_target_G = (np.log1p(np.bincount(pairs[end], minlength=genes)) for end in ("tf", "target"))
    return of_tf_G[tf] * of_target_G[target]


def pearson_scores(values_NG: sp.csr_matrix, tf: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Pearson correlation of the TF's mRNA and the target's over cells, signed. float64; symmetric, so of no direction.

    Args:
      values_NG: CSR, cells x genes of the gene table, log1p-normalised.

    Raises:
      InputError: fewer than 2 cells, or values that are not finite.
    """
    tfs, tf_code = np.unique(tf, return_inverse=True)
    scaled = _Scaled(values_NG)
    covariance_TU, variance_T, target_code = scaled.covariances(scaled.genes(tfs), target)
    return _ratio(covariance_TU[tf_code, target_code], variance_T[tf_code])


def regulon_scores(
    values_NG: sp.csr_matrix, train_edges: pd.DataFrame, tf: np.ndarray, target: np.ndarray
) -> np.ndarray:
    """Correlation of the TF's activity, as its other training targets show it, with the target's expression. float64.

    Activity is the signed mean of z-scored expression of the TF's training targets, as in `tf_activities`. The target
    that is scored is left out of it where it is one of them. Where no other varies, the TF's own mRNA stands in.

    Args:
      values_NG: CSR, cells x genes of the gene table, log1p-normalised.
      train_edges: tf, target, sign. A sign that is 0, or that relations disagree on, counts as activation.

    Raises:
      InputError: fewer than 2 cells, or values that are not finite.
    """
    tfs, tf_code = np.unique(tf, return_inverse=True)
    scaled = _Scaled(values_NG)
    signs_GT = _signs(train_edges, tfs, scaled.varies_G)
    covariance_TU, variance_T, target_code = scaled.covariances(scaled.loadings(signs_GT), target)
    # Without the target, of sign s and variance 1, the sum of the others S - s z has these moments.
    covariance, sign = covariance_TU[tf_code, target_code], _entries(signs_GT, target, tf_code)
    others = np.asarray(abs(signs_GT).sum(axis=0)).ravel()[tf_code] - abs(sign)
    score = _ratio(covariance - sign, variance_T[tf_code] - 2 * sign * covariance + sign**2)
    if (alone := others == 0).any():
        score[alone] = pearson_scores(values_NG, np.asarray(tf)[alone], np.asarray(target)[alone])
    return score


def tf_activities(
    values_NG: sp.csr_matrix, edges: pd.DataFrame, method: Literal["signed_mean", "mrna"] = "signed_mean"
) -> Activities:
    """How active each TF of the network is in each cell.

    Args:
      values_NG: CSR, cells x genes of the gene table, log1p-normalised.
      edges: tf, target, sign. A sign that is 0, or that relations disagree on, counts as activation.
      method: "signed_mean" is that of the z-scored expression of the TF's targets, repressed ones negated (decoupleR's
        "wmean" of unit weights, Badia-i-Mompel et al. 2022, without its permutations); 0 where no target varies.
        "mrna" is the z-scored expression of the TF itself.

    Raises:
      InputError: fewer than 2 cells, or values that are not finite.
    """
    tfs = np.unique(edges["tf"].to_numpy(np.int32))
    scaled = _Scaled(values_NG)
    if method == "mrna":
        loadings_GT = scaled.genes(tfs)
    else:
        signs_GT = _signs(edges, tfs, scaled.varies_G)
        targets_T = np.maximum(np.asarray(abs(signs_GT).sum(axis=0)).ravel(), 1)
        loadings_GT = scaled.loadings(signs_GT @ sp.diags_array(1 / targets_T))
    blocks = [block_NT.astype(np.float32) for block_NT in scaled.blocks(loadings_GT)]
    return Activities(tfs, np.concatenate(blocks))


class _Scaled:
    """Expression whose genes have mean 0 and variance 1 over cells, or 0 where they do not vary; dense in blocks only.

    A loading is a column of weights of z-scored genes, as weights of the values themselves.
    """

    def __init__(self, values_NG: sp.csr_matrix):
        self.values_NG = sp.csr_matrix(values_NG, dtype=np.float64)
        if self.values_NG.shape[0] < 2 or not np.isfinite(self.values_NG.data).all():
            raise InputError("correlations need at least 2 cells and values that are finite")
        self.mean_G, variance_G = mean_variance_axis(self.values_NG, axis=0)
        self.varies_G = variance_G > 1e-12 * self.mean_G**2
        self.scale_G = np.divide(1, np.sqrt(variance_G), out=np.zeros_like(variance_G), where=self.varies_G)

    def loadings(self, weights_GT: sp.csc_array) -> sp.csc_array:
        return sp.csc_array(sp.diags_array(self.scale_G) @ weights_GT)

    def genes(self, rows: np.ndarray) -> sp.csc_array:
        """Loadings of single genes."""
        chosen = (np.ones(len(rows)), (rows, np.arange(len(rows))))
        return self.loadings(sp.csc_array(chosen, shape=(len(self.mean_G), len(rows))))

    def blocks(self, loadings_GT: sp.csc_array) -> Iterator[np.ndarray]:
        """Yields float64 blocks of cells x loadings."""
        offset_T = self.mean_G @ loadings_GT
        for start in range(0, self.values_NG.shape[0], BLOCK_CELLS):
            yield (self.values_NG[start : start + BLOCK_CELLS] @ loadings_GT).toarray() - offset_T

    def covariances(self, loadings_GT: sp.csc_array, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Covariances of loadings x targets U, the variances of the loadings, and the column of each of `target`."""
        targets, code = np.unique(target, return_inverse=True)
        covariance_TU, variance_T = np.zeros((loadings_GT.shape[1], len(targets))), np.zeros(loadings_GT.shape[1])
        for one_NT, other_NU in zip(self.blocks(loadings_GT), self.blocks(self.genes(targets)), strict=True):
            covariance_TU += one_NT.T @ other_NU
            variance_T += np.sum(one_NT**2, axis=0)
        cells = self.values_NG.shape[0]
        return covariance_TU / cells, variance_T / cells, code


def _signs(edges: pd.DataFrame, tfs: np.ndarray, varies_G: np.ndarray) -> sp.csc_array:
    """Genes x TFs: 1 or -1 where the TF has the target and the target varies."""
    pairs = edges[edges["tf"].isin(tfs)].groupby(["tf", "target"], as_index=False)["sign"].sum()
    pairs = pairs[varies_G[pairs["target"].to_numpy()]]
    sign = np.where(pairs["sign"] < 0, -1.0, 1.0)
    places = pairs["target"].to_numpy(), np.searchsorted(tfs, pairs["tf"].to_numpy())
    return sp.csc_array((sign, places), shape=(len(varies_G), len(tfs)))


def _entries(matrix: sp.csc_array, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    if not len(rows):
        return np.empty(0)
    return np.asarray(sp.csr_matrix(matrix)[rows, columns]).ravel()


def _ratio(covariance: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Correlation with something of variance 1, 0 where there is no variance."""
    spread = np.sqrt(np.maximum(variance, 0))
    return np.divide(covariance, spread, out=np.zeros_like(covariance), where=spread > 1e-6).clip(-1, 1)
