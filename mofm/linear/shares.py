"""The linear read-out of whole cells on the host: what `nn/readout.py` does on the device, as sparse matrices."""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from mofm.batch import LEAST_WEIGHT


class Shares(NamedTuple):
    """What each cell's features weigh in its profile, by its depth: profile_NK = x_NF @ axes_FK - kept_N * centre_K.

    Attributes:
      x_NF: float64, CSR.
      kept_N: float64. What an average cell weighs in it: the sum of the cell's weights.
    """

    x_NF: sp.csr_matrix
    kept_N: np.ndarray

    def average_F(self) -> np.ndarray:
        """What an average cell's features weigh: centre_K = average_F @ axes_FK, by which profiles have mean 0."""
        return np.asarray(self.x_NF.sum(axis=0)).ravel() / max(self.kept_N.sum(), 1e-12)

    def profile_NK(self, axes_FK: np.ndarray, centre_K: np.ndarray) -> np.ndarray:
        """Of these axes, which have the features' gains."""
        return self.x_NF @ axes_FK - self.kept_N[:, None] * centre_K


def shares(value_NF: sp.csr_matrix, weight_N: np.ndarray, depth_N: np.ndarray | float = 1.0) -> Shares:
    """Of cells' values.

    Args:
      weight_N: what each cell's values are shares of: the sum of weight * gain over its features.
      depth_N: by which profiles are multiplied.
    """
    each_N = depth_N / (weight_N + LEAST_WEIGHT)
    return Shares(sp.csr_matrix(sp.diags(each_N) @ value_NF), each_N * weight_N)
