"""A step's gradient as the sum of those of N parts of its batch, one after another, so that what is kept for the backward
pass is of one part alone.

Parts are cut along cells, each device of its own rows, so that nothing is sent. Every term of masked modelling is a mean
over the batch's hidden tokens, or over its cells; a part has as few of them as chance will have it, so its means weigh as
many as it has, and the sum is the gradient of the whole batch, but for rounding. Which tokens are hidden is decided for the
whole batch, as ever, and what the genes are, and the links, is computed once.

Translation and alignment compare cells of a batch with each other, and a sum over parts would be another objective: a config
with either is refused.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mofm.axes import CELLS, DATA, FSDP, Modality
from mofm.batch import CellBatch
from mofm.parallel.rules import constrain

Tree = TypeVar("Tree")


class Parts(NamedTuple):
    """N parts of a batch, as `jax.lax.scan` takes them; without the leading axis, one part.

    Attributes:
      batch: views of N x B / N cells.
      hidden: modality -> bool, N x B / N x L.
      tokens: modality -> float32, N. Each part's share of the batch's hidden tokens.
      cells: modality -> float32, N. Its share of the cells that have tokens.
    """

    batch: CellBatch
    hidden: dict[Modality, jax.Array]
    tokens: dict[Modality, jax.Array]
    cells: dict[Modality, jax.Array]


def cut(batch: CellBatch, hidden: dict[Modality, jax.Array], count: int, mesh: Mesh | None) -> Parts:
    """The parts of a batch whose rows divide by `count` times the devices that share them (`mesh.check_views`)."""
    devices = 1 if mesh is None else mesh.shape[DATA] * mesh.shape[FSDP]

    def cut_leaf(leaf: jax.Array) -> jax.Array:
        rows = leaf.shape[0] // (count * devices)
        apart = jnp.moveaxis(leaf.reshape(devices, count, rows, *leaf.shape[1:]), 1, 0)
        return constrain(
            apart.reshape(count, devices * rows, *leaf.shape[1:]), (None, CELLS, *[None] * (leaf.ndim - 1))
        )

    views, hidden = jax.tree.map(cut_leaf, (batch, hidden))
    tokens = {modality: _shares(hidden_NBL.sum(axis=(1, 2))) for modality, hidden_NBL in hidden.items()}
    cells = {modality: _shares(getattr(views, modality).mask_BL.any(axis=2).sum(axis=1)) for modality in hidden}
    return Parts(views, hidden, tokens, cells)


def sum_over(
    gradient: Callable[[Parts], tuple[Tree, dict[str, Any]]], parts: Parts, zeros: Tree
) -> tuple[Tree, dict[str, jax.Array]]:
    """(gradients, metrics), each the sum of what `gradient` gives of the parts. `zeros`: where the gradients' sum begins."""

    def add(total: Tree, part: Parts) -> tuple[Tree, dict[str, Any]]:
        gradients, metrics = gradient(part)
        return jax.tree.map(jnp.add, total, gradients), metrics

    total, metrics = jax.lax.scan(add, zeros, parts)
    return total, {name: values_N.sum(axis=0) for name, values_N in metrics.items()}


def _shares(count_N: jax.Array) -> jax.Array:
    return count_N / jnp.maximum(count_N.sum(), 1)
