"""Translation between modalities: what a pair teaches, and what a cell teaches that was never measured twice.

Paired cells: the negative log-likelihood of one view's measurements, predicted from the other view of the same cell, in both
directions, from token states and from the cell embedding alone, as masked modelling has it.

Unpaired cells: there and back again (Zhu et al. 2017). A cell is translated to features that some other cell of the batch
shows in the other modality; the translation is read as if it had been measured, with means in the place of values, so
that gradients pass; and then its own measurements are predicted from it. The cell must survive the round trip ("back_nll"), and
so must its embedding ("drift": one less the cosine, against the embedding it set out with, which takes no gradient). The
cosine is of what differs from the mean of the batch: neither scale nor level of a soft view's read-out is that of a measured
one (means in the place of values are small), and a level that all cells share, which is quickly learned, would make all alike.

The source is what masked modelling has already encoded, its hidden tokens hidden: one pass serves both.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mofm.axes import Modality
from mofm.batch import FeatureSpace, TokenBatch, log_exposure
from mofm.nn.assembly import Outputs, Translation
from mofm.nn.decoder import Prediction
from mofm.objectives.likelihoods import masked_mean
from mofm.objectives.masked import likelihood
from mofm.objectives.moments import moments
from mofm.objectives.rows import centred, unit_rows

Translate = Callable[[Outputs, jax.Array, TokenBatch, Modality, Modality], Translation]
"""(outputs of the source's views, their shown_BM, what is asked for, source, target) -> Translation."""
See = Callable[[TokenBatch, jax.Array, Modality], Outputs]
"""(view, hidden_BL, modality) -> Outputs."""


class Direction(NamedTuple):
    """What a translation starts from and goes to."""

    source: Modality
    target: Modality


def paired_translation(
    translate: Translate, outputs: Outputs, source_view: TokenBatch, target_view: TokenBatch, direction: Direction
) -> dict[str, jax.Array]:
    """How well the second view's measurements are predicted from the first's: nats a measurement.

    Row i of both is one cell where both say the same `cell_B`; other rows do not count.

    Returns:
      "token_nll", "cell_nll": from the source's token states, and from its embedding alone.
      "pairs": cells that count.
    """
    paired_B = (source_view.cell_B == target_view.cell_B) & (source_view.cell_B >= 0)
    prediction = translate(outputs, source_view.mask_BL, target_view, *direction).prediction
    scored_BL = target_view.mask_BL & paired_B[:, None]
    return _nll(prediction, target_view, scored_BL, direction.target) | {"pairs": paired_B.sum()}


def there_and_back(
    translate: Translate,
    see: See,
    outputs: Outputs,
    view: TokenBatch,
    asked: TokenBatch,
    direction: Direction,
    space: FeatureSpace | None,
    shared_width: int,
) -> dict[str, jax.Array]:
    """What becomes of cells that go to another modality and come back.

    Args:
      outputs, view: the cells, as they were seen.
      asked: rows of the target modality, as many as `view` has, whichever cells' they are: their features and depths.
      space: of the target's features.
      shared_width: columns of the embedding that must survive.

    Returns:
      "back_token_nll", "back_cell_nll": nats a measurement of `view`, predicted from its translation.
      "drift": mean of 1 - cosine of the embedding there with the embedding it set out with, either less its mean over cells.
      "came_back": cells that count.
    """
    there = translate(outputs, view.mask_BL, asked, *direction)
    soft = soft_view(there.prediction, asked, direction.target, space)
    seen = see(soft, jnp.zeros_like(soft.mask_BL), direction.target)
    back = translate(seen, soft.mask_BL, view, direction.target, direction.source)
    is_there_B = (view.cell_B >= 0) & (asked.cell_B >= 0)
    back_nll = _nll(back.prediction, view, view.mask_BL & is_there_B[:, None], direction.source)
    start_BE, there_BE = jax.lax.stop_gradient(outputs.embedding_BE), seen.embedding_BE
    start_BE, there_BE = (unit_rows(centred(x[:, :shared_width], is_there_B)) for x in (start_BE, there_BE))
    drift_B = 1 - jnp.sum(there_BE * start_BE, axis=1)
    survived = {f"back_{name}": value for name, value in back_nll.items()}
    return survived | {"drift": masked_mean(drift_B, is_there_B), "came_back": is_there_B.sum()}


def soft_view(prediction: Prediction, asked: TokenBatch, modality: Modality, space: FeatureSpace | None) -> TokenBatch:
    """A view as it would look if each measurement were its mean: differentiable in the prediction.

    Values follow the formulas of `batches/collate.py`, at the mean. What those take of the whole cell is taken of what is
    at hand: ADT's panel is the view's own tokens; of ATAC, the regions open in a cell are its fragments, and idf is one
    over the chance that the mean predictor gives at that depth.
    """
    mean_BL, _ = moments(prediction, prediction.token_BL, asked.library_B, modality)
    depth_B1 = log_exposure(asked.library_B)[:, None]
    if modality == "rna":
        values_BL = jnp.log1p(mean_BL * jnp.exp(-depth_B1))
    elif modality == "adt":
        level_B = jax.vmap(masked_mean)(jnp.log1p(mean_BL), asked.mask_BL)
        values_BL = jnp.log1p(mean_BL * jnp.exp(-level_B)[:, None])
    elif modality == "atac":
        idf_BL = 1 / jnp.maximum(jax.nn.sigmoid(space.base_F[asked.features_BL] + depth_B1), 1e-4)
        values_BL = mean_BL * jnp.log1p(jnp.exp(-depth_B1) * idf_BL)
    else:
        reads_BL = asked.totals_BL
        values_BL, mean_BL = (mean_BL * reads_BL + 1) / (reads_BL + 2), mean_BL * reads_BL
    values_BL = jnp.where(asked.mask_BL, values_BL, 0.0)
    return asked._replace(values_BL=values_BL, counts_BL=jnp.where(asked.mask_BL, mean_BL, 0.0))


def _nll(prediction: Prediction, view: TokenBatch, scored_BL: jax.Array, modality: Modality) -> dict[str, jax.Array]:
    return {
        "token_nll": masked_mean(likelihood(prediction, prediction.token_BL, view, modality), scored_BL),
        "cell_nll": masked_mean(likelihood(prediction, prediction.cell_BL, view, modality), scored_BL),
    }
