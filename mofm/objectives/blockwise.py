"""The loss of each query against all keys of a global batch, in blocks: B x C similarities never exist at once.

Each device keeps its queries, and the keys travel around a ring of devices (`jax.lax.ppermute`); what is here is met in
chunks, the logsumexp carried on from one to the next (Milakov & Gimelshein 2018; the ring is that of Liu et al. 2023).

The gradient is written by hand. Differentiating the ring would keep the keys of every stop, which is the global batch on
each device, unless all of it is computed twice. Here the backward pass goes around again, with one logsumexp and one sum
of weights a query kept from the forward pass, and the gradient of the keys travels with them, home at the end. Memory is
linear in a device's rows; there is no second derivative.

Similarities are products in full float32 (`Precision.HIGHEST`): divided by a temperature of 0.01, the third digit that
TF32 or bfloat16 passes lose is a tenth of a nat.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from mofm.axes import DATA, FSDP

NOWHERE = -1e30
"""Less than any similarity, and finite: its difference with itself is a number."""

_product = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


class Known(NamedTuple):
    """What is known of each row of a view.

    Attributes:
      cell_B: int32. Two rows of one cell share it, in one view or in two. -1: padding, or a row that shall take no part
        (a view of which no token is left), neither as a query nor as a key.
      label_B: int32. What the cell is, as far as it is known; -1 where it is not.
    """

    cell_B: jax.Array
    label_B: jax.Array


class Positives(NamedTuple):
    """How much a pair of different cells is a positive, by their labels.

    Attributes:
      same_label: float32 scalar >= 0. Weight of a pair of the same known label.
      affinity_YY: float32 >= 0, or None. Weight of a pair of two known labels [that of the query, that of the key]; its
        diagonal is not looked at.
    """

    same_label: jax.Array
    affinity_YY: jax.Array | None


class How(NamedTuple):
    """What a compilation is made for.

    Attributes:
      mask_same_label: leave pairs of the same known label that are no positives out of the denominator.
      chunk: keys met at once.
      mesh: devices that share the rows, along "data" and "fsdp"; None where that is one.
    """

    mask_same_label: bool
    chunk: int
    mesh: Mesh | None


class QueryLosses(NamedTuple):
    """What `query_losses` says of each query, float32.

    Attributes:
      nll_B: nats; 0 for a query without a positive.
      weight_B: weights of its positives, summed.
      own_B, others_B: the largest similarity to a key of its own cell, and to any other key; NOWHERE where there is none.
    """

    nll_B: jax.Array
    weight_B: jax.Array
    own_B: jax.Array
    others_B: jax.Array


class _Keys(NamedTuple):
    """C keys in K chunks."""

    key_KCE: jax.Array
    cell_KC: jax.Array
    label_KC: jax.Array


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def query_losses(
    how: How, query_BE: jax.Array, key_CE: jax.Array, query: Known, key: Known, positives: Positives
) -> QueryLosses:
    """nll_i = logsumexp_j s_ij - sum_j w_ij s_ij / sum_j w_ij, where s_ij = query_i . key_j.

    w_ij is 1 for a pair of the same cell, else what `positives` says. The logsumexp is over all keys that are there,
    less those that `how.mask_same_label` leaves out. Only `nll_B` has a gradient, and only embeddings get one.

    Args:
      query_BE, key_CE: float32, of finite numbers where padded too; rows divide the devices that share them.
    """
    return _forward(how, query_BE, key_CE, query, key, positives)[0]


def _forward(how, *arguments):
    """(losses, residuals)."""
    losses, log_total_B = _on_devices(how, _local_losses, arguments)
    return losses, (arguments, losses.weight_B, log_total_B)


def _backward(how, residuals, cotangents):
    (*rows, positives), weight_B, log_total_B = residuals
    slope_B = jnp.where(weight_B > 0, cotangents.nll_B, 0.0)
    gradients = _on_devices(how, _local_gradients, (*rows, positives), weight_B, log_total_B, slope_B)
    return *gradients, None, None, None


query_losses.defvjp(_forward, _backward)


def _on_devices(how: How, function: Callable[..., Any], arguments: tuple, *more_B: jax.Array) -> Any:
    """function(how, axes, *arguments, *more_B), each device with its rows; axes are None where one device has all."""
    if how.mesh is None:
        return function(how, None, *arguments, *more_B)
    rows, whole, axes = PartitionSpec((DATA, FSDP)), PartitionSpec(), (DATA, FSDP)
    specs = (rows, rows, rows, rows, whole) + (rows,) * len(more_B)
    local = partial(function, how, axes)
    return jax.shard_map(local, mesh=how.mesh, in_specs=specs, out_specs=rows)(*arguments, *more_B)


def _local_losses(how, axes, query_BE, key_CE, query, key, positives):
    """QueryLosses, and the logsumexp, of this device's queries."""

    def meet(so_far, keys):
        top_B, total_B, scored_B, weight_B, own_B, others_B = so_far
        similarity_BC = _product("be,ce->bc", query_BE, keys.key_KCE)
        weight_BC, counts_BC, is_own_BC, is_other_BC = _relations(how, positives, query, keys)
        highest = lambda mask_BC: jnp.max(jnp.where(mask_BC, similarity_BC, NOWHERE), axis=1)  # noqa: E731
        new_B = jnp.maximum(top_B, highest(counts_BC))
        shares_BC = jnp.exp(jnp.where(counts_BC, similarity_BC - new_B[:, None], NOWHERE))
        total_B = total_B * jnp.exp(top_B - new_B) + shares_BC.sum(axis=1)
        scored_B += (weight_BC * similarity_BC).sum(axis=1)
        own_B, others_B = jnp.maximum(own_B, highest(is_own_BC)), jnp.maximum(others_B, highest(is_other_BC))
        return (new_B, total_B, scored_B, weight_B + weight_BC.sum(axis=1), own_B, others_B), None

    nothing_B = jnp.zeros_like(query_BE[:, 0])
    nowhere_B = jnp.full_like(nothing_B, NOWHERE)
    start = (nowhere_B, nothing_B, nothing_B, nothing_B, nowhere_B, nowhere_B)
    end, _ = _tour(axes, _chunks(how, key_CE, key), start, None, meet)
    top_B, total_B, scored_B, weight_B, own_B, others_B = end
    log_total_B = top_B + jnp.log(jnp.where(total_B > 0, total_B, 1.0))
    is_query_B = weight_B > 0
    nll_B = jnp.where(is_query_B, log_total_B - scored_B / jnp.where(is_query_B, weight_B, 1.0), 0.0)
    return QueryLosses(nll_B, weight_B, own_B, others_B), log_total_B


def _local_gradients(how, axes, query_BE, key_CE, query, key, positives, weight_B, log_total_B, slope_B):
    """Gradients of this device's queries and keys: d nll_i / d s_ij = softmax_ij - w_ij / sum_j w_ij."""
    per_weight_B1 = (1.0 / jnp.where(weight_B > 0, weight_B, 1.0))[:, None]

    def meet(slopes_BE, keys):
        similarity_BC = _product("be,ce->bc", query_BE, keys.key_KCE)
        weight_BC, counts_BC, _, _ = _relations(how, positives, query, keys)
        # Where a pair does not count its similarity may be above the logsumexp by any amount.
        share_BC = jnp.exp(jnp.where(counts_BC, similarity_BC - log_total_B[:, None], NOWHERE))
        slope_BC = slope_B[:, None] * (share_BC - weight_BC * per_weight_B1)
        slopes_BE += _product("bc,ce->be", slope_BC, keys.key_KCE)
        return slopes_BE, _product("bc,be->ce", slope_BC, query_BE)

    keys = _chunks(how, key_CE, key)
    query_slopes_BE, key_slopes_KCE = _tour(axes, keys, jnp.zeros_like(query_BE), jnp.zeros_like(keys.key_KCE), meet)
    return query_slopes_BE, key_slopes_KCE.reshape(-1, key_CE.shape[1])[: len(key_CE)]


def _relations(how: How, positives: Positives, query: Known, keys: _Keys) -> tuple[jax.Array, ...]:
    """Of each query with each key of a chunk: weight as a positive, and whether it is in the denominator, is of the same
    cell, is of another."""
    cell_B1, label_B1 = query.cell_B[:, None], query.label_B[:, None]
    is_there_BC = (cell_B1 >= 0) & (keys.cell_KC >= 0)
    is_own_BC = is_there_BC & (cell_B1 == keys.cell_KC)
    is_known_BC = is_there_BC & (label_B1 >= 0) & (keys.label_KC >= 0)
    is_same_BC = is_known_BC & (label_B1 == keys.label_KC)
    weight_BC = jnp.where(is_same_BC, positives.same_label, 0.0)
    if positives.affinity_YY is not None:
        # Rows first: a gather of rows and one of columns are fast where one of single numbers is not.
        affinity_BY = positives.affinity_YY[jnp.maximum(query.label_B, 0)]
        affinity_BC = jnp.take(affinity_BY, jnp.maximum(keys.label_KC, 0), axis=1)
        weight_BC = jnp.where(is_known_BC & ~is_same_BC, affinity_BC, weight_BC)
    weight_BC = jnp.where(is_own_BC, 1.0, weight_BC)
    counts_BC = is_there_BC
    if how.mask_same_label:
        counts_BC &= ~is_same_BC | (weight_BC > 0)
    return weight_BC, counts_BC, is_own_BC, is_there_BC & ~is_own_BC


def _chunks(how: How, key_CE: jax.Array, key: Known) -> _Keys:
    """The keys in chunks of `how.chunk`, the last filled with padding; in one chunk where they are fewer."""
    keys = len(key_CE)
    chunk = min(how.chunk, keys)
    padding = -keys % chunk
    fill = lambda x, value: jnp.pad(x, ((0, padding),) + ((0, 0),) * (x.ndim - 1), constant_values=value)  # noqa: E731
    return _Keys(
        fill(key_CE, 0.0).reshape(-1, chunk, key_CE.shape[1]),
        fill(key.cell_B, -1).reshape(-1, chunk),
        fill(key.label_B, -1).reshape(-1, chunk),
    )


def _tour(axes: tuple[str, ...] | None, keys: _Keys, carry: Any, gains: Any, meet: Callable[..., Any]) -> tuple:
    """Every device's keys come by once, and are home again at the end.

    meet(carry, chunk of keys) -> (carry, what that chunk gains); gains travel with their keys.

    Returns:
      (carry, gains): gains of this device's own keys, from all devices.
    """

    def stop(keys, gains, carry):
        carry, more = jax.lax.scan(meet, carry, keys)
        return jax.tree.map(jnp.add, gains, more), carry

    if axes is None:
        gains, carry = stop(keys, gains, carry)
        return carry, gains
    devices = jax.lax.axis_size(axes)
    ring = [(device, (device + 1) % devices) for device in range(devices)]

    def travel(_, state):
        keys, gains, carry = state
        gains, carry = stop(keys, gains, carry)
        keys, gains = jax.tree.map(lambda x: jax.lax.ppermute(x, axes, ring), (keys, gains))
        return keys, gains, carry

    _, gains, carry = jax.lax.fori_loop(0, devices, travel, (keys, gains, carry))
    return carry, gains
