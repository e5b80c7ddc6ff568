"""Low-rank adapters: what a matrix learns beside itself, as the product of two thin ones (LoRA, Hu et al. 2022).

    matrix = base + down @ up,   down: inputs x rank, up: rank x outputs

Choices and their cost:
- The product is added to the matrix at every step, before the model sees it. So the model, evaluation, checkpoints and bundles
  know of plain parameters alone, and nothing is left to merge. It costs a product of the matrix's size, and a gradient of that
  size for the time of a backward pass, both small beside those of a batch's tokens; what is saved is the optimizer's memory.
- `up` begins at 0, so step 0 is the model to the bit. `down` begins with deviation rank^-1/2 and there is no other scale: the
  entries of the matrix then move about as far at a step of Adam as they would if it were trained itself, so the learning rate
  of full tuning is one for adapters too.
- Adapted are the attention and feed-forward matrices of the encoders, the pool's keys and values, and what brings its sum to
  the embedding. With the blocks' alone the labels would hardly be heard: they reach the embedding through the pool, which a
  model trained on few cells keeps small.
- Written here, as the model's products are plain einsums over stacked blocks: libraries for flax put adapters into layers of
  its own, or swap the products as a function is traced.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mofm.axes import BLOCKS, EMBED
from mofm.errors import check_at_least
from mofm.nn.model import Params

INPUTS = {"query": 1, "key": 1, "value": 1, "out": 2, "gate": 1, "up": 1, "down": 1}
"""Names of matrices -> how many of their axes are inputs; the rest are outputs."""


@dataclass(frozen=True)
class AdaptersConfig:
    """What `mofm finetune --tune lora` trains.

    Attributes:
      rank: of the adapters; 0 trains the parameters themselves.
    """

    rank: int = 0

    def __post_init__(self):
        check_at_least("adapters", self, ("rank",), 0)


class Adapter(NamedTuple):
    """What is added to one matrix; for stacked blocks each has a leading axis of theirs.

    Attributes:
      down: float32, the matrix's inputs x rank.
      up: float32, rank x its outputs.
    """

    down: Any
    up: Any


def adapter_axes(logical: Params) -> Params:
    """The logical axes of the adapters of a model, nested as its parameters are, without those that have none.

    Args:
      logical: as `nn.model.logical_axes` gives them.
    """
    found = {}
    for path, axes in jax.tree_util.tree_leaves_with_path(logical, is_leaf=lambda leaf: isinstance(leaf, tuple)):
        names = [step.key for step in path]
        if (inputs := _inputs(names, axes)) is None:
            continue
        lead = int(axes[0] == BLOCKS)
        place = found
        for name in names[:-1]:
            place = place.setdefault(name, {})
        cut = lead + inputs
        place[names[-1]] = Adapter((*axes[:cut], None), (*axes[:lead], None, *axes[cut:]))
    return found


def fresh_adapters(axes: Params, params: Params, rank: int, key: jax.Array) -> Params:
    """Adapters that change nothing yet. `axes`: as `adapter_axes` gives them; `params`: of the model."""
    places, treedef = jax.tree.flatten(axes, is_leaf=lambda leaf: isinstance(leaf, Adapter))
    leaves = jax.tree.leaves(picked(params, axes))
    made = []
    for number, (place, leaf) in enumerate(zip(places, leaves, strict=True)):
        cut, lead = len(place.down) - 1, int(place.down[0] == BLOCKS)
        down = jax.random.normal(jax.random.fold_in(key, number), (*leaf.shape[:cut], rank)) * rank**-0.5
        made.append(Adapter(down, jnp.zeros((*leaf.shape[:lead], rank, *leaf.shape[cut:]))))
    return jax.tree.unflatten(treedef, made)


def picked(params: Params, adapters: Params) -> Params:
    """Of the parameters, those that have adapters, nested as they are."""
    if isinstance(adapters, Adapter):
        return params
    return {name: picked(params[name], inner) for name, inner in adapters.items()}


def merged(params: Params, base: Params, adapters: Params) -> Params:
    """The parameters with each adapted matrix being its base and what its adapter adds; the others are the very same."""
    if isinstance(adapters, Adapter):
        return base + product(adapters, base.shape)
    return params | {name: merged(params[name], base[name], inner) for name, inner in adapters.items()}


def product(adapter: Adapter, shape: tuple[int, ...]) -> jax.Array:
    """down @ up, in the shape of the matrix."""
    down, up = adapter
    rank = down.shape[-1]
    stacked = up.ndim + down.ndim - 2 - len(shape)  # both have the axis of the blocks
    lead = shape[:stacked]
    flat = jnp.matmul(down.reshape(*lead, -1, rank), up.reshape(*lead, rank, -1), precision="highest")
    return flat.reshape(shape)


def _inputs(names: list[str], axes: tuple[str | None, ...]) -> int | None:
    """How many axes of a parameter are inputs, after that of the blocks; None where it is not adapted."""
    if names == ["to_cell"]:
        return 1
    is_in_encoder = names[0] in ("encoder", "pool") or names[0].startswith("own_")
    is_matrix = names[-1] in INPUTS and EMBED in axes  # the pool's query is none
    return INPUTS[names[-1]] if is_in_encoder and is_matrix else None
