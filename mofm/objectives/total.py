"""The training objective: each part switched and weighted in the config, the total their weighted sum."""

from collections.abc import Callable
from dataclasses import dataclass

import jax

from mofm.axes import MODALITIES, Modality
from mofm.batch import CellBatch, TokenBatch
from mofm.errors import InputError
from mofm.nn.model import Outputs
from mofm.objectives.masked import masked_modelling
from mofm.objectives.masking import hide

Predictor = Callable[[TokenBatch, jax.Array, Modality], Outputs]
"""(view, hidden_BL, modality) -> Outputs: a model with its parameters, or a baseline that answers in its place."""


@dataclass(frozen=True)
class ObjectivesConfig:
    """What is trained for, and how much each part weighs.

    Attributes:
      mask_rate: mean share of a cell's tokens whose value is hidden.
      mask_spread: each cell draws its rate uniformly within mask_rate +- mask_spread.
      token_weight: weight of predicting hidden counts from token states.
      cell_weight: weight of predicting hidden counts from the cell embedding alone.
      pool_weight: cost of the mean square of what the attention pool adds to the linear profile. Without a cost the
        pool also carries what serves prediction a little and tells cells apart by nothing but their depth and their
        sample of tokens, and neighbours get worse.
    """

    mask_rate: float = 0.4
    mask_spread: float = 0.3
    token_weight: float = 1.0
    cell_weight: float = 1.0
    pool_weight: float = 3.0

    def __post_init__(self):
        if not (0 < self.mask_rate < 1 and 0 <= self.mask_spread <= min(self.mask_rate, 1 - self.mask_rate)):
            raise InputError(
                f"objectives.mask_rate={self.mask_rate} +- mask_spread={self.mask_spread}: rates must stay within 0 and 1"
            )
        if min(self.token_weight, self.cell_weight, self.pool_weight) < 0 or self.token_weight + self.cell_weight == 0:
            raise InputError(
                "objectives.token_weight, cell_weight and pool_weight must be >= 0, and one of the first two > 0"
            )


def total(
    config: ObjectivesConfig, predict: Predictor, batch: CellBatch, key: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(loss, metrics) of a batch: float32 scalars. Pure: the same arguments give the same bits."""
    loss, metrics = 0.0, {}
    for index, modality in enumerate(MODALITIES):
        view = getattr(batch, modality)
        if view is None:
            continue
        hidden_BL = hide(jax.random.fold_in(key, index), view.mask_BL, config.mask_rate, config.mask_spread)
        parts = masked_modelling(predict(view, hidden_BL, modality), view, hidden_BL, modality)
        loss += config.token_weight * parts["token_nll"] + config.cell_weight * parts["cell_nll"]
        loss += config.pool_weight * parts["pool_size"]
        metrics |= {f"{modality}/{name}": value for name, value in parts.items()}
    return loss, {"loss": loss, **metrics}
