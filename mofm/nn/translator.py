"""What another modality of a cell would be: from the states of one view to those of features that were not measured.

The features asked for come as tokens whose values are all hidden, and each gathers what it needs of the source's token
states; the cell embedding moves to where the target's own embedding would lie. Both go into the one decoder, which then
says of a feature what it says of a hidden token of a view that was measured:

    token_D     = blocks(hidden token_D, the source's states)         cross-attention and feed-forward
    embedding_S = embedding_S + embedding_S @ move(source, target)     the shared columns; private ones are 0

Choices and their cost:
- What is asked does not change the answers: tokens of the target do not see each other, so a feature's prediction is the
  same alone or among 100,000, in blocks of any size. The cost is that the target's own correlations are known only through
  the source's states and the embedding.
- One decoder. What predicts a peak from RNA is the peak's own row, as where chromatin was measured, so a direction that
  has never seen a pair starts from what both sides learned of their own; `move` starts at zero, so that what is aligned by
  shared gene rows is read as it is. Pairs then train the difference.
- Directions share their blocks, or have each their own (`TranslatorConfig.shared`). `move` is always a direction's own.
- The spread of the likelihood is the cell's and the feature's: a translation knows where it does not know.
"""

import itertools
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from mofm.axes import CELL_EMBED, EMBED, MODALITIES, Modality
from mofm.errors import check_at_least
from mofm.nn.encoder import Encoder, Remat
from mofm.nn.layers import declare


@dataclass(frozen=True)
class TranslatorConfig:
    """How a model translates between its modalities.

    Attributes:
      blocks: depth of the cross-attention; 0 for a model that does not translate.
      shared: one stack of blocks for all directions; False: one for each ordered pair of modalities.
      linear: begin from the linear translation, fitted in closed form before the first step.
    """

    blocks: int = 0
    shared: bool = True
    linear: bool = True

    def __post_init__(self):
        check_at_least("translator", self, ("blocks",), 0)


class Translator(nn.Module):
    """(tokens of the target, states of the source, its embedding) -> the target's states, embedding and spread.

    Attributes:
      config, heads, ffn, remat: of the stacks.
      modalities: those that it translates among.
      shared_width: S, columns of the embedding that other modalities may know of.
    """

    config: TranslatorConfig
    heads: int
    ffn: int
    remat: Remat
    modalities: tuple[Modality, ...]
    width: int
    shared_width: int

    def setup(self):
        """Declares the weights."""
        kinds, shared = len(MODALITIES), self.shared_width
        stack = lambda: Encoder(self.config.blocks, self.heads, self.ffn, self.remat)  # noqa: E731
        self.stacks = {self._stack_of(*pair): stack() for pair in self.one_of_each_stack()}
        self.move_MMSS = declare(self, "move", (kinds, kinds, shared, shared), (None, None, CELL_EMBED, None), 0)
        self.spread_MD = declare(self, "spread", (kinds, self.width), (None, EMBED), 0)

    def one_of_each_stack(self) -> list[tuple[Modality, Modality]]:
        """A direction for each stack of blocks."""
        pairs = itertools.permutations(self.modalities, 2)
        return list({self._stack_of(*pair): pair for pair in pairs}.values())

    def _stack_of(self, source: Modality, target: Modality) -> str:
        return "any" if self.config.shared else f"{source}_to_{target}"

    def __call__(
        self,
        tokens_BLD: jax.Array,
        states_BMD: jax.Array,
        mask_BM: jax.Array,
        embedding_BE: jax.Array,
        source: Modality,
        target: Modality,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """states_BLD of the target's tokens, the cell's embedding_BE there, and what is added to the log spread_BL."""
        states_BLD = self.stacks[self._stack_of(source, target)](tokens_BLD, mask_BM, states_BMD)
        move_SS = self.move_MMSS[MODALITIES.index(source), MODALITIES.index(target)]
        shared_BS = embedding_BE[:, : self.shared_width]
        moved_BS = shared_BS + shared_BS @ move_SS
        private = embedding_BE.shape[1] - self.shared_width
        spread_BL = states_BLD.astype(jnp.float32) @ self.spread_MD[MODALITIES.index(target)]
        return states_BLD, jnp.pad(moved_BS, ((0, 0), (0, private))), spread_BL
