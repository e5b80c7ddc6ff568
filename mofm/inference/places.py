"""Where the cells of each type lie in the embedding, and so how far from all of them a new cell is.

A type is a Gaussian about the mean of its cells. The covariance is that within types, one for all, shrunk towards a ball as the
number of cells asks for (Ledoit and Wolf 2004); a cell's distance is the Mahalanobis distance to the nearest mean, divided by
the square root of the width. Lee et al. 2018 find strange images by it, in the features of a classifier.

It separates cells of a type left out from those of the others better than confidence, a covariance of each type, the distance
to the nearest mean or neighbours by angle or straight line, or the same less the distance to the mean of all cells. It costs
a matrix of the embedding's width squared, and a type of several far clouds is one wide ball.
"""

import numpy as np
from sklearn.covariance import ledoit_wolf

from mofm.export.heads import Places

PARTS = 5
"""Of so many parts each is named by what the others teach."""


def fit_places(embedding_NE: np.ndarray, code_N: np.ndarray) -> Places:
    """The places of the types 0 .. C - 1, each of which has a cell."""
    x_NE = embedding_NE.astype(np.float64)
    counts_C1 = np.bincount(code_N)[:, None]
    mean_CE = np.zeros((len(counts_C1), x_NE.shape[1]))
    np.add.at(mean_CE, code_N, x_NE)
    mean_CE /= counts_C1
    covariance_EE, _ = ledoit_wolf(x_NE - mean_CE[code_N], assume_centered=True)
    variance_E, axis_EE = np.linalg.eigh(covariance_EE)
    # An axis on which no type varies would count infinitely; to rounding it says nothing.
    floor = max(variance_E[-1] * 1e-6, np.finfo(np.float32).tiny)
    whiten_EE = axis_EE / np.sqrt(np.maximum(variance_E, floor) * len(variance_E))
    return Places((mean_CE @ whiten_EE).astype(np.float32), whiten_EE.astype(np.float32))


def crossings(code_N: np.ndarray, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """(cells to learn from, the others), int64 each: each cell is among the others of one of PARTS, by chance.

    The cells of each type are spread evenly over the parts.
    """
    order = rng.permutation(len(code_N))
    part_N = np.empty(len(code_N), np.int64)
    part_N[order[np.argsort(code_N[order], kind="stable")]] = np.arange(len(code_N)) % PARTS
    return [(np.flatnonzero(part_N != part), np.flatnonzero(part_N == part)) for part in np.unique(part_N)]


def crossed_distances(embedding_NE: np.ndarray, code_N: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """distance_N of each cell by the places that the other parts teach."""
    distance_N = np.empty(len(code_N))
    for learned, others in crossings(code_N, rng):
        _, code = np.unique(code_N[learned], return_inverse=True)
        distance_N[others] = fit_places(embedding_NE[learned], code).distance(embedding_NE[others])
    return distance_N
