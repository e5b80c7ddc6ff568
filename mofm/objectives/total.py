"""The training objective: each part switched and weighted in the config, the total their weighted sum."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from mofm.axes import MODALITIES, Modality
from mofm.batch import CellBatch, TokenBatch
from mofm.errors import InputError, check_at_least
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
      link_weight: weight of link prediction, where there is a regulatory network.
      link_warmup_steps: steps over which it rises from 0.
      links_per_step: edges asked about at a step.
      edge_dropout: chance of every other edge to be out of the graph of a step.
      pool_weight: cost of the mean square of what the attention pool adds to the linear profile. Without a cost the
        pool also carries what serves prediction a little and tells cells apart by nothing but their depth and their
        sample of tokens, and neighbours get worse.
    """

    mask_rate: float = 0.4
    mask_spread: float = 0.3
    token_weight: float = 1.0
    cell_weight: float = 1.0
    pool_weight: float = 3.0
    link_weight: float = 0.1
    link_warmup_steps: int = 0
    links_per_step: int = 1024
    edge_dropout: float = 0.1

    def __post_init__(self):
        if not (0 < self.mask_rate < 1 and 0 <= self.mask_spread <= min(self.mask_rate, 1 - self.mask_rate)):
            raise InputError(
                f"objectives.mask_rate={self.mask_rate} +- mask_spread={self.mask_spread}: rates must stay within 0 and 1"
            )
        if min(self.token_weight, self.cell_weight, self.pool_weight) < 0 or self.token_weight + self.cell_weight == 0:
            raise InputError(
                "objectives.token_weight, cell_weight and pool_weight must be >= 0, and one of the first two > 0"
            )
        check_at_least("objectives", self, ("link_weight", "link_warmup_steps"), 0)
        check_at_least("objectives", self, ("links_per_step",), 1)
        if not 0 <= self.edge_dropout < 1:
            raise InputError(f"objectives.edge_dropout={self.edge_dropout}: must be at least 0 and less than 1")

    def link_weight_at(self, step: jax.Array | int) -> jax.Array:
        """Weight of link prediction at a step."""
        return self.link_weight * jnp.minimum((step + 1) / max(self.link_warmup_steps, 1), 1.0)


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
