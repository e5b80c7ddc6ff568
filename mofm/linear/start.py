"""All that is fitted on a corpus before training, as one value."""

from typing import NamedTuple

import numpy as np

from mofm.axes import Modality
from mofm.batch import Spaces
from mofm.linear.basis import Basis
from mofm.linear.components import Components
from mofm.linear.null import NullModel
from mofm.linear.own_components import OwnComponents
from mofm.linear.profiles import Profile
from mofm.linear.translation import DepthTranslation, LinearTranslation


class Start(NamedTuple):
    """The simple models that a run begins from, and is measured against.

    Attributes:
      null: the mean predictor of RNA.
      components: the linear model of cells.
      profiles: how each other modality is read out in it.
      spaces: the features of each other modality, with their mean predictors.
      depths: of each modality, the median library of a cell, float32.
      own: components of each other modality's own; empty, as the next two, where the model does not translate.
      linear: the linear model of one modality predicted from another.
      depth_linear: the same of a cell's depth in it.
    """

    null: NullModel
    components: Components
    profiles: dict[Modality, Profile]
    spaces: Spaces
    depths: dict[Modality, np.float32]
    own: dict[Modality, OwnComponents]
    linear: LinearTranslation
    depth_linear: DepthTranslation

    @property
    def basis(self) -> Basis:
        """What its linear models read of a cell."""
        return Basis(self.components, self.profiles, self.own)
