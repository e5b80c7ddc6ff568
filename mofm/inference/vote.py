"""The vote of the nearest reference cells on a cell's label, and what its voices are worth.

The vote is that of `evaluation/annotation.py`, but for ties. Voters are the K labelled reference cells whose embeddings,
centred on the reference, point most nearly the same way (cosine), each with one voice. Nothing is trained.

A share of voices is no chance. What it is worth is learned from the reference's own cells, each named by the others:

- Chances are (voices + a)^b, made to add up to 1, with the a and b of the least log loss of those cells. Two numbers, so that
  few cells do, and chances of all labels, so that those of broader terms are sums (`naming.py`). On the principal components of
  pbmc68k_reduced (8 splits each) the log loss of "rightly named" was .44 and .42 with 200 and 400 reference cells; of isotonic
  regression on the share .46 and .43, which a hundred cells made worse than the share itself (.54, .49), and of the share .45.
- A cell is strange that is farther from all types of the reference (`places.py`) than SHARE_NEAR of the reference's cells are,
  each by what others teach: it may be of a type that the reference lacks, or of another technique. It was the mean cosine
  distance of the voters once: blood cells of types left out were found less often so, those of CITE-seq more often.

Both are promised for cells as those of the reference alone: another donor or technique brings cells that are farther and
are named worse.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.neighbors import NearestNeighbors

from mofm.errors import InputError
from mofm.export.heads import Places
from mofm.inference.naming import SHARE_KEPT
from mofm.inference.places import crossed_distances, fit_places

VOTERS = 15
LEAST_JUDGED, MOST_JUDGED = 50, 5_000
"""Reference cells that the voices are judged by: with fewer they are not judged, of more some are drawn."""
SHARE_NEAR = 0.99
EDGES = np.log([0.01, 10.0]), np.log([0.1, 10.0])
"""Between which a and b are looked for."""


class Votes(NamedTuple):
    """What K voters say of N cells.

    Attributes:
      voices_NC: float64, how many each label has.
      likeliest_N: the label of the most; of several, that of the nearest of their voters.
      neighbours_NK: int64, the voters, the nearest first: their places among all reference cells.
    """

    voices_NC: np.ndarray
    likeliest_N: np.ndarray
    neighbours_NK: np.ndarray

    @property
    def share_N(self) -> np.ndarray:
        """float32, the likeliest label's share of the voices."""
        voices_N = np.take_along_axis(self.voices_NC, self.likeliest_N[:, None], axis=1)[:, 0]
        return (voices_N / self.neighbours_NK.shape[1]).astype(np.float32)


class Worth(NamedTuple):
    """What voices are worth, by the reference's own cells.

    Attributes:
      added, power: a and b of (voices + a)^b.
      threshold: the chance that SHARE_KEPT of the rightly named of those cells have.
      far: distance from all types beyond which cells are strange.
      right: share of those cells that are rightly named by the others.
      cells: how many they are.
    """

    added: float
    power: float
    threshold: float
    far: float
    right: float
    cells: int

    def chances(self, voices_NC: np.ndarray) -> np.ndarray:
        """chance_NC, float64."""
        return np.exp(_log_chances(voices_NC, self.added, self.power))


@dataclass(frozen=True, eq=False)
class Electorate:
    """Reference cells that may vote.

    Attributes:
      labels: the C that they have, ascending.
      code_M: number of the label of each of M.
      place_M: their places among all reference cells.
      centre_E: mean of their embeddings.
      direction_ME: where they are from there.
      places: of the labels, from the centre too.
      nearest: finds them by that.
      voters: K.
    """

    labels: np.ndarray
    code_M: np.ndarray
    place_M: np.ndarray
    centre_E: np.ndarray
    direction_ME: np.ndarray
    places: Places
    nearest: NearestNeighbors
    voters: int

    def ask(self, embedding_NE: np.ndarray) -> Votes:
        """What they say of cells."""
        count = min(self.voters, len(self.code_M))
        return self._count(self.nearest.kneighbors(embedding_NE - self.centre_E, count, return_distance=False))

    def distance(self, embedding_NE: np.ndarray) -> np.ndarray:
        """distance_N, float64, of cells from the nearest type."""
        return self.places.distance(embedding_NE - self.centre_E)

    def judge(self, seed: int = 0) -> Worth | None:
        """What their voices are worth; None where too few are there to say."""
        if len(self.code_M) < LEAST_JUDGED or len(self.labels) < 2:
            return None
        rng = np.random.default_rng(seed)
        judged = np.sort(rng.permutation(len(self.code_M))[:MOST_JUDGED])
        votes = self._without_own(judged)
        true_N = self.code_M[judged]

        def loss(logs: np.ndarray) -> float:
            return -_log_chances(votes.voices_NC, *np.exp(logs))[np.arange(len(judged)), true_N].mean()

        found = minimize(loss, np.log([0.3, 1.0]), method="L-BFGS-B", bounds=EDGES)
        added, power = map(float, np.exp(found.x))
        chance_NC = np.exp(_log_chances(votes.voices_NC, added, power))
        right_N = votes.likeliest_N == true_N
        sure_N = np.take_along_axis(chance_NC, votes.likeliest_N[:, None], axis=1)[right_N, 0]
        threshold = float(np.quantile(sure_N, 1 - SHARE_KEPT, method="lower")) if len(sure_N) else 1.0
        distance_N = crossed_distances(self.direction_ME[judged], true_N, rng)
        far = float(np.quantile(distance_N, SHARE_NEAR, method="higher"))
        return Worth(added, power, threshold, far, float(right_N.mean()), len(judged))

    def _without_own(self, judged: np.ndarray) -> Votes:
        """What the others say of some of them."""
        count = min(self.voters, len(self.code_M) - 1)
        nearest_NK = self.nearest.kneighbors(self.direction_ME[judged], count + 1, return_distance=False)
        is_own_NK = nearest_NK == judged[:, None]
        is_own_NK[~is_own_NK.any(axis=1), -1] = True  # of more cells in one place than vote, it was not among them
        return self._count(nearest_NK[~is_own_NK].reshape(len(judged), count))

    def _count(self, nearest_NK: np.ndarray) -> Votes:
        code_NK = self.code_M[nearest_NK]
        voices_NC = np.zeros((len(code_NK), len(self.labels)))
        np.add.at(voices_NC, (np.arange(len(code_NK))[:, None], code_NK), 1.0)
        first_N1 = np.take_along_axis(voices_NC, code_NK, axis=1).argmax(axis=1)[
            :, None
        ]  # of the most, and so the nearest
        likeliest_N = np.take_along_axis(code_NK, first_N1, axis=1)[:, 0]
        return Votes(voices_NC, likeliest_N, self.place_M[nearest_NK])


def electorate(reference_ME: np.ndarray, labels: pd.Series, voters: int = VOTERS) -> Electorate:
    """Those of M reference cells that may vote: who has a label.

    Raises:
      InputError: no reference cell has a label, or `voters` is below 1.
    """
    if voters < 1:
        raise InputError(f"voters {voters}: must be at least 1")
    place_M = np.flatnonzero(labels.notna().to_numpy())
    if not len(place_M):
        raise InputError(
            f"obs[{str(labels.name)!r}] labels none of the {len(labels):,} reference cells; give another column"
        )
    code_M, names = pd.factorize(labels.iloc[place_M].astype(str), sort=True)
    centre_E = reference_ME[place_M].mean(axis=0)
    direction_ME = reference_ME[place_M] - centre_E
    nearest = NearestNeighbors(metric="cosine", algorithm="brute").fit(direction_ME)
    places = fit_places(direction_ME, code_M)
    return Electorate(names.to_numpy(object), code_M, place_M, centre_E, direction_ME, places, nearest, voters)


def _log_chances(voices_NC: np.ndarray, added: float, power: float) -> np.ndarray:
    return log_softmax(power * np.log(voices_NC + added), axis=1)
