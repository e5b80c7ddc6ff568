"""What a modality says beside RNA's components: principal components of its own features.

The profile (`profiles.py`) sees another modality through the genes of its features and in the components of RNA. What its
features say beyond that is lost to the linear translation, and it is much of what ridge regression on them uses. So the
linear translation reads both, side by side. (Ridge on the profile, on these and on both, one fold each: 396 cells of
CITE-seq, proteins to RNA, .064, .069 and .069; A549, ATAC to RNA, .059, .058 and .068.) RNA needs none: its profile is its own.

They are no part of the cell embedding, where they would set the modalities of a cell apart.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from mofm.axes import Modality
from mofm.batch import FeatureSpace, TokenBatch
from mofm.linear.components import COMPONENTS, STEADYING
from mofm.linear.principal_axes import Centred, dataset_means, deviations, leading_axes
from mofm.linear.profiles import mean_values, read_tokens
from mofm.linear.shares import shares


class OwnComponents(NamedTuple):
    """Read as `nn/linear.py` has it, every feature with a gain of 1.

    Attributes:
      axes_FK: float32. A row a feature; profiles of the fitted cells have unit variance over all components.
      centre_K: float32. The profile of an average cell.
    """

    axes_FK: np.ndarray
    centre_K: np.ndarray


def fit_own_components(views: Sequence[TokenBatch], modality: Modality, space: FeatureSpace) -> OwnComponents:
    """Fit on host batches as they are embedded. No columns where there are too few cells or features for any.

    Features are centred within data sets, so that no axis is spent on what distinguishes those, and divided by their
    deviation, steadied by STEADYING of the mean one.
    """
    shown = read_tokens(views, modality, mean_values(modality, space))
    cells, features = shown.value_NF.shape
    gain_F = np.ones(features)
    share_NF = shares(shown.value_NF, shown.weight_NF @ gain_F).x_NF
    mean_MF, dataset_N = dataset_means(share_NF, shown.dataset_N)
    deviation_F = deviations(share_NF, mean_MF, dataset_N)
    varies_F = deviation_F > 0
    rank = min(COMPONENTS, cells - len(mean_MF) - 1, int(varies_F.sum()) - 1)
    if rank < 1:
        return OwnComponents(np.zeros((features, 0), np.float32), np.zeros(0, np.float32))
    weight_F = varies_F / (deviation_F + STEADYING * deviation_F[varies_F].mean())
    _, axes_FK = leading_axes(Centred(share_NF @ sp.diags(weight_F), mean_MF * weight_F, dataset_N), rank)
    axes_FK *= weight_F[:, None]
    read = shown.shares(modality, gain_F)
    centre_K = read.average_F() @ axes_FK
    size = max(float(np.sqrt(np.mean(read.profile_NK(axes_FK, centre_K).var(axis=0)))), 1e-12)
    return OwnComponents((axes_FK / size).astype(np.float32), (centre_K / size).astype(np.float32))
