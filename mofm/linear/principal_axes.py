"""Principal axes of a sparse matrix that is centred within datasets, and never made dense."""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator, svds


class Centred(NamedTuple):
    """x_NG less the means mean_MG of its datasets, and less what lies along the orthonormal off_RG; never made dense."""

    x_NG: sp.csr_matrix
    mean_MG: np.ndarray
    dataset_N: np.ndarray
    off_RG: np.ndarray | None = None

    def product(self, v_GK: np.ndarray) -> np.ndarray:
        """With v, (G,) or (G, K)."""
        v_GK = self._off(v_GK)
        return self.x_NG @ v_GK - (self.mean_MG @ v_GK)[self.dataset_N]

    def transposed(self, u_NK: np.ndarray) -> np.ndarray:
        """The transpose with u, (N,) or (N, K)."""
        cells, datasets = len(self.dataset_N), len(self.mean_MG)
        places = (self.dataset_N, np.arange(cells))
        total_MK = sp.csr_matrix((np.ones(cells), places), shape=(datasets, cells)) @ u_NK
        return self._off(self.x_NG.T @ u_NK - self.mean_MG.T @ total_MK)

    def squares(self) -> float:
        """Sum of squares of all entries."""
        total = self.x_NG.multiply(self.x_NG).sum() - np.bincount(self.dataset_N) @ np.sum(self.mean_MG**2, axis=1)
        if self.off_RG is None:
            return total
        along_NR = self.x_NG @ self.off_RG.T - (self.mean_MG @ self.off_RG.T)[self.dataset_N]
        return total - np.sum(along_NR**2)

    def _off(self, v_GK: np.ndarray) -> np.ndarray:
        return v_GK if self.off_RG is None else v_GK - self.off_RG.T @ (self.off_RG @ v_GK)


def denoising_axes(of: Centred, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """strength_K, and the leading principal axes (G, K), each scaled by (1 - noise / s^2)^2.

    s is its singular value, and the noise the mean of s^2 over the axes that are left out: Wiener's filter, passed
    twice. Of no, one, two and four passes, two served neighbours and linear probes best on real and simulated cells.
    """
    cells, genes = of.x_NG.shape[0], int(np.sum(of.mean_MG.any(axis=0)))
    strength_K, axes_GK = leading_axes(of, rank)
    noise = max(of.squares() - np.sum(strength_K**2), 0.0) / max(min(cells, genes) - rank, 1)
    return strength_K, axes_GK * np.maximum(1 - noise / np.maximum(strength_K**2, 1e-12), 0.0) ** 2


def leading_axes(of: Centred, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """strength_K and axes_GK: the leading singular values and right vectors, largest first, signs fixed."""
    centred = LinearOperator(
        of.x_NG.shape,
        matvec=lambda v: of.product(v.ravel()),
        rmatvec=lambda u: of.transposed(u.ravel()),
        dtype=np.float64,
    )
    start = np.random.default_rng(0).standard_normal(min(of.x_NG.shape))
    _, strength_K, axes_KG = svds(centred, rank, v0=start)
    order = np.argsort(-strength_K)
    axes_GK = axes_KG[order].T
    return strength_K[order], axes_GK * np.sign(axes_GK[np.abs(axes_GK).argmax(axis=0), np.arange(rank)])


def dataset_means(values_NG: sp.csr_matrix, dataset_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """mean_MG of each of the M datasets that are there, and each cell's number among them."""
    names, number_N = np.unique(dataset_N, return_inverse=True)
    cells = len(number_N)
    membership_MN = sp.csr_matrix((np.ones(cells), (number_N, np.arange(cells))), shape=(len(names), cells))
    return (membership_MN @ values_NG).toarray() / np.bincount(number_N)[:, None], number_N


def deviations(values_NG: sp.csr_matrix, mean_MG: np.ndarray, dataset_N: np.ndarray) -> np.ndarray:
    """Deviation of each gene within datasets; one in which it is nowhere expressed says nothing of it."""
    cells_M = np.bincount(dataset_N)
    squares_G = np.asarray(values_NG.multiply(values_NG).sum(axis=0)).ravel() - cells_M @ mean_MG**2
    cells_G = cells_M @ (mean_MG != 0)
    return np.sqrt(np.maximum(squares_G, 0) / np.maximum(cells_G, 1))
