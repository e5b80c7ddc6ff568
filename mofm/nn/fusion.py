"""One cell from its several views: token states that have seen its other views, and one embedding of it.

Each view's token states attend to the states of the cell's other views, both ways (the cross-modal attention of Husformer,
Wang et al. 2022), and the views' embeddings become one:

    fused_D = state_D + blocks(state_D, the other views' states) @ out(modality)     cross-attention and feed-forward
    joint_S = sum over the views that are there of weight(modality) * shared_S(fused states)

The joint embedding is of the shared columns. A modality's private ones come from its own view alone, stay beside them,
and serve its own decoder: the other modalities' predictions never hear of them.

Choices and their cost:
- `out` starts at zero and the weights alike: a fresh fusion is each view as it is, and the plain mean of their embeddings. So a
  model that was trained without may be given one. The cost: the blocks learn nothing until `out` has moved.
- A view that is absent is masked, never imputed: none of its tokens is seen, its weight is 0, and what is left of the cell is
  what it is without fusion, to the bit.
- Fusion comes after the encoder, not in it: a view alone is embedded as ever, and whoever has one modality pays nothing.
- Modalities share their blocks, or have each their own (`FusionConfig.shared`). `out` and weight are always a modality's own.
- Three views and more are seen as one set of tokens; training shows two at a time (`batch.Paired`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from mofm.axes import EMBED, MODALITIES, Modality
from mofm.errors import check_at_least
from mofm.nn.attend import MASKED_LOGIT
from mofm.nn.encoder import Encoder, Remat
from mofm.nn.layers import declare


@dataclass(frozen=True)
class FusionConfig:
    """How a model fuses the views of one cell.

    Attributes:
      blocks: depth of the cross-attention; 0 for a model that does not fuse.
      shared: one stack of blocks for all modalities; False: one for each.
    """

    blocks: int = 0
    shared: bool = True

    def __post_init__(self):
        check_at_least("fusion", self, ("blocks",), 0)


class Fusion(nn.Module):
    """(states of a view, states of the cell's other views) -> the view's states, fused.

    Attributes:
      config, heads, ffn, remat: of the stacks.
      modalities: those that it fuses.
      width: D.
    """

    config: FusionConfig
    heads: int
    ffn: int
    remat: Remat
    modalities: tuple[Modality, ...]
    width: int

    def setup(self):
        """Declares the weights."""
        kinds = len(MODALITIES)
        stack = lambda: Encoder(self.config.blocks, self.heads, self.ffn, self.remat)  # noqa: E731
        self.stacks = {self._stack_of(one): stack() for one in self.one_of_each_stack()}
        self.out_MDD = declare(self, "out", (kinds, self.width, self.width), (None, EMBED, None), 0)
        self.weight_M = declare(self, "weight", (kinds,), (None,), 0)

    def one_of_each_stack(self) -> list[Modality]:
        """A modality for each stack of blocks."""
        return list({self._stack_of(one): one for one in self.modalities}.values())

    def _stack_of(self, modality: Modality) -> str:
        return "any" if self.config.shared else modality

    def __call__(self, states_BLD: jax.Array, seen_BMD: jax.Array, mask_BM: jax.Array, modality: Modality) -> jax.Array:
        """The states of a view after they saw the M tokens that `mask_BM` allows; as they were where it allows none."""
        gathered_BLD = self.stacks[self._stack_of(modality)](states_BLD, mask_BM, seen_BMD)
        added_BLD = gathered_BLD @ self.out_MDD[MODALITIES.index(modality)].astype(states_BLD.dtype)
        return states_BLD + jnp.where(mask_BM.any(axis=1)[:, None, None], added_BLD, 0)

    def joint(self, embedding: Mapping[Modality, jax.Array], there: Mapping[Modality, jax.Array]) -> jax.Array:
        """joint_BS of the views' embedding_BS, of those that are `there` (bool, B; in each row at least one)."""
        logits_BV = jnp.stack(
            [jnp.where(there[one], self.weight_M[MODALITIES.index(one)], MASKED_LOGIT) for one in embedding], axis=1
        )
        weight_BV = jax.nn.softmax(logits_BV, axis=1)
        return sum(weight_BV[:, place, None] * some_BS for place, some_BS in enumerate(embedding.values()))
