"""What the linear models read of a cell: fitted once, and the same for all of them."""

from collections.abc import Mapping
from typing import NamedTuple

from mofm.axes import Modality
from mofm.linear.components import Components
from mofm.linear.own_components import OwnComponents
from mofm.linear.profiles import Profile


class Basis(NamedTuple):
    """Attributes:
    components: of RNA.
    profiles: how each other modality is read in them.
    own: components of each other modality's own; empty where the model does not translate.
    """

    components: Components
    profiles: Mapping[Modality, Profile]
    own: Mapping[Modality, OwnComponents]
