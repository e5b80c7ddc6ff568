"""AdamW with warm-up and a cosine or a warm-up-stable-decay schedule, and clipping by global norm."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from mofm.errors import InputError, check_at_least
from mofm.nn.model import Params


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimisation.

    Attributes:
      learning_rate: its peak.
      schedule: after the warm-up, "cosine" falls to the end; "wsd" stays, then falls linearly over the last
        `decay_share` of the run (a run under wsd can be branched off its plateau).
      warmup_steps: linear from 0.
      decay_share: of all steps, for "wsd".
      final_share: of the peak, where the schedule ends.
      weight_decay: decoupled, on matrices only; gains, biases, tables of identities, the map to the cell embedding and label
        heads are left alone. Adapters are drawn to 0, and so what they are added to to where it was.
      b1, b2: Adam's.
      clip_norm: global norm to which gradients are clipped.
      accumulate: parts into which a step's batch is cut, so that less has to fit into memory: the gradient is that of the
        whole batch, but for rounding (see `accumulate.py`). Not with translation or alignment.
    """

    learning_rate: float = 3e-4
    schedule: Literal["cosine", "wsd"] = "cosine"
    warmup_steps: int = 1_000
    decay_share: float = 0.2
    final_share: float = 0.1
    weight_decay: float = 0.05
    b1: float = 0.9
    b2: float = 0.98
    clip_norm: float = 1.0
    accumulate: int = 1

    def __post_init__(self):
        for name in ("learning_rate", "clip_norm"):
            if getattr(self, name) <= 0:
                raise InputError(f"optimizer.{name}={getattr(self, name)}: must be positive")
        check_at_least("optimizer", self, ("accumulate",), 1)
        check_at_least("optimizer", self, ("warmup_steps", "weight_decay"), 0)
        for name in ("decay_share", "final_share", "b1", "b2"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"optimizer.{name}={getattr(self, name)}: must be within 0 and 1")


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate of each step of a run that is `steps` long."""
    peak, end = config.learning_rate, config.learning_rate * config.final_share
    warmup = min(config.warmup_steps, steps)
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, max(steps, warmup + 1), end)
    decay = max(1, round(config.decay_share * steps))
    stages = [
        optax.linear_schedule(0.0, peak, max(warmup, 1)),
        optax.constant_schedule(peak),
        optax.linear_schedule(peak, end, decay),
    ]
    return optax.join_schedules(stages, [warmup, max(steps - decay, warmup)])


@lru_cache(maxsize=64)  # the same object for the same config: programs that were compiled with it are found again
def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """The gradient transformation of a run that is `steps` long."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            make_schedule(config, steps), config.b1, config.b2, weight_decay=config.weight_decay, mask=_decayed
        ),
    )


NOT_DECAYED = frozenset(
    (
        *(
            "tokenizer",
            "table",
            "loadings",
            "readout",
            "gene_log_rate",
            "gene_log_dispersion",
            "gene_depth_slope",
        ),  # tables
        *("to_cell", "spread", "bias", "heads"),
    )
)
"""Names in the path of a leaf: tables, of which a row that no batch touches must stay where it was; the map to the cell
embedding, which begins as an identity; levels; and heads of labels."""
STACKED = "blocks"
"""Name under which leaves have a first axis more, one entry a block."""


def _decayed(params: Params) -> Params:
    """True for the matrices of layers and for adapters."""

    def is_decayed(path: tuple, leaf: jax.Array) -> bool:
        names = {step.key for step in path if hasattr(step, "key")}
        return jnp.ndim(leaf) - (STACKED in names) >= 2 and not names & NOT_DECAYED

    return jax.tree_util.tree_map_with_path(is_decayed, params)
