"""From logical axis names to mesh axes: the one place that decides how a weight or an activation is laid out.

A model file says what an axis *is* ("embed", "heads"); this table says where it lives. Unknown names and two axes of
one array on the same mesh axis raise, instead of silently replicating.
"""

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mofm import axes
from mofm.errors import InputError

RULES: dict[str, str | tuple[str, ...] | None] = {
    axes.CELLS: (axes.DATA, axes.FSDP),
    axes.TOKENS: None,
    axes.GENES: axes.TENSOR,
    axes.EMBED: axes.FSDP,
    axes.FFN: axes.TENSOR,
    axes.HEADS: axes.TENSOR,
    axes.HEAD_WIDTH: None,
    axes.BINS: None,
    axes.BLOCKS: None,
    axes.CELL_EMBED: None,
    axes.NETWORK: None,  # the network's weights are vectors: whole on every device
    axes.NETWORK_OUT: axes.TENSOR,
    axes.EDGES: (axes.DATA, axes.FSDP),
}


def partition(logical: tuple[str | None, ...]) -> PartitionSpec:
    """The mesh axes of an array whose axes are named `logical` (None: an axis that is never sharded).

    Raises:
      KeyError: a name that RULES does not know.
      ValueError: two axes of the array land on one mesh axis.
    """
    placed: list[str | tuple[str, ...] | None] = []
    for name in logical:
        if name is not None and name not in RULES:
            raise KeyError(f"logical axis {name!r} has no rule; known: {sorted(RULES)}")
        placed.append(None if name is None else RULES[name])
    used = [axis for place in placed if place for axis in ((place,) if isinstance(place, str) else place)]
    if len(used) != len(set(used)):
        raise ValueError(f"axes {logical} collide: they land on the mesh axes {used}")
    return PartitionSpec(*placed)


def sharding(mesh: Mesh, logical: tuple[str | None, ...]) -> NamedSharding:
    """`partition(logical)` on this mesh."""
    return NamedSharding(mesh, partition(logical))


def check_fits(mesh: Mesh, shape: tuple[int, ...], logical: tuple[str | None, ...]) -> None:
    """Refuse a weight that the mesh cannot divide.

    Raises:
      InputError: an axis of the weight is not a multiple of the devices it is laid over.
    """
    for size, name, place in zip(shape, logical, partition(logical), strict=True):
        parts = mesh.shape[place] if isinstance(place, str) else 1
        if size % parts:
            raise InputError(
                f"mesh.{place}={parts} does not divide the model's {name!r} axis of {size}: "
                f"set mesh.{place} to a divisor of {size}, or change the encoder's sizes"
            )


def constrain(x: jax.Array, logical: tuple[str | None, ...]) -> jax.Array:
    """Pin an activation's layout where a mesh is set (`jax.set_mesh`); the identity where none is."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, partition(logical))
