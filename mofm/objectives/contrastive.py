"""Contrastive alignment: matching views of cells near, others far, over the global batch.

InfoNCE (van den Oord et al. 2018) in the symmetric form of CLIP (Radford et al. 2021), with any number of weighted
positives a query as in the "out" form of SupCon (Khosla et al. 2020): rows of the same cell, and by choice cells of the
same label or of labels that an ontology has near each other. How B x C similarities are met without being held is in
`blockwise.py`.

For whoever makes the views: two views of a cell made of one count vector share its depth, which the value of any token
of count 1 shows to the last digit, and a model can match by that alone. Thin each by a rate of its own (`augment.py`).
"""

import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mofm.axes import DATA, FSDP
from mofm.objectives.blockwise import NOWHERE, How, Known, Positives, QueryLosses, query_losses
from mofm.objectives.likelihoods import masked_mean
from mofm.objectives.rows import unit_rows

LOG_TEMPERATURE_BOUNDS = (math.log(0.01), math.log(1.0))
"""CLIP's largest scale is 100; above a temperature of 1 even opposite rows hardly differ."""


def info_nce(
    one_BE: jax.Array,
    other_CE: jax.Array,
    one: Known,
    other: Known,
    log_temperature: jax.Array,
    mesh: Mesh | None = None,
    *,
    label_weight: jax.Array | float = 0.0,
    affinity_YY: jax.Array | None = None,
    mask_same_label: bool = False,
    chunk: int = 1024,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(loss, metrics) of two views: the mean of both directions, each the mean over its queries of

        nll_i = - sum_j w_ij (s_ij - logsumexp_k s_ik) / sum_j w_ij,    s_ij = cos(one_i, other_j) / temperature

    (Khosla et al. 2020, equation 2, with weights). w_ij is the first of these that holds: 1 for rows of the same cell,
    `label_weight` for the same known label, `affinity_YY` for two known labels, else 0. Mind that of n cells of a
    label each weighs `label_weight`: at 1 / n they weigh as much as the cell itself. Row i of one view and of the other
    are a pair by giving them the same `cell_B`; rows without a pair are negatives, and no queries unless their label has
    positives. Without a positive in the batch the loss is 0, and so is every gradient.

    Two augmentations of the same cells are contrasted by the same function: `one` and `other` then say the same.

    Args:
      one_BE, other_CE: embeddings, of any scale and float type. B and C may differ. A row of length 0 is similar to
        nothing (0) and gets no gradient.
      one, other: what is known of their rows.
      log_temperature: scalar, learned; see `bounded_log_temperature`.
      mesh: over which rows are laid along "data" and "fsdp" together: both B and C must be multiples of these devices,
        which is the caller's duty (`parallel.mesh.check_views`). None: all rows are on one device.
      label_weight: >= 0; may be traced. No gradient.
      affinity_YY: float32 >= 0 over Y labels, all labels less than Y; [label in one, label in other]. The diagonal is
        `label_weight`'s. No gradient.
      mask_same_label: leave pairs of the same known label out of the denominator unless they are positives: cells that
        should not be pushed apart, though nothing pulls them together.
      chunk: keys compared at once: a device's memory is its rows x chunk.

    Returns:
      loss: float32.
      metrics: float32. "loss"; "matched", share of rows with a row of the same cell in the other view whose nearest row
        there is one of these (one as near that is not is a miss); "queries", rows of both views that have a positive;
        "temperature".
    """
    if chunk < 1:
        raise ValueError(f"chunk={chunk}: at least 1 key has to be compared at once")
    how = How(mask_same_label, chunk, mesh if mesh is not None and mesh.shape[DATA] * mesh.shape[FSDP] > 1 else None)
    log_temperature = bounded_log_temperature(jnp.asarray(log_temperature, jnp.float32))
    one_BE, other_CE = _directions(one_BE, one), _directions(other_CE, other)
    # Half of the temperature on either side: each is a query once.
    one_BE, other_CE = (x * jnp.exp(-0.5 * log_temperature) for x in (one_BE, other_CE))
    weight = jnp.asarray(label_weight, jnp.float32)
    affinity_YY = None if affinity_YY is None else jnp.asarray(affinity_YY, jnp.float32)
    there = Positives(weight, affinity_YY)
    back = Positives(weight, None if affinity_YY is None else affinity_YY.T)
    ways = (
        query_losses(how, one_BE, other_CE, one, other, there),
        query_losses(how, other_CE, one_BE, other, one, back),
    )
    loss = sum(masked_mean(way.nll_B, way.weight_B > 0) for way in ways) / 2
    return loss, {
        "loss": loss,
        "matched": _matched(ways),
        "queries": sum(jnp.sum(way.weight_B > 0) for way in ways).astype(jnp.float32),
        "temperature": jnp.exp(log_temperature),
    }


@jax.custom_vjp
def bounded_log_temperature(x: jax.Array) -> jax.Array:
    """x clipped to LOG_TEMPERATURE_BOUNDS, with a gradient that dies only outward.

    Descent that would take x further out of its bounds is stopped, and such as would bring it back is let through, so
    that a temperature which an optimizer's momentum carried past a bound is not lost there, as it is with `jnp.clip`.
    Weight decay pulls it to log 1: leave it out of that.
    """
    return jnp.clip(x, *LOG_TEMPERATURE_BOUNDS)


def _bounded_forward(x):
    return bounded_log_temperature(x), x


def _bounded_backward(x, slope):
    least, most = LOG_TEMPERATURE_BOUNDS
    is_outward = ((x <= least) & (slope > 0)) | ((x >= most) & (slope < 0))  # descent goes against the slope
    return (jnp.where(is_outward, 0.0, slope),)


bounded_log_temperature.defvjp(_bounded_forward, _bounded_backward)


def _directions(x_BE: jax.Array, known: Known) -> jax.Array:
    """Rows of unit length; those that take no part are 0 whatever they hold, as 0 times infinity is no number."""
    return unit_rows(jnp.where((known.cell_B >= 0)[:, None], x_BE, 0.0))


def _matched(ways: tuple[QueryLosses, ...]) -> jax.Array:
    hits = sum(jnp.sum((way.own_B > NOWHERE) & (way.own_B > way.others_B)) for way in ways)
    return hits / jnp.maximum(sum(jnp.sum(way.own_B > NOWHERE) for way in ways), 1)
