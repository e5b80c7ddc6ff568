"""What brings the views of a cell together, and keeps out of its embedding what is not the cell's.

    contrast    InfoNCE between the views of every two modalities, matching ones near, others far (`contrastive.py`)
    structure   cells that are alike in one modality are alike in the other (`structure.py`)
    batch       embeddings of a technical batch are distributed as those of another (`invariance.py: mmd`)
    depth       embeddings do not tell how deep a cell was read (`invariance.py: hsic`)

Each is of the shared columns of the embeddings that masked modelling made, whose hidden tokens differ from view to view:
so what matches them is not one sample of tokens. Where labels are known, the last two compare cells of a label with each
other, so that biology that goes along with a batch is kept.
"""

import itertools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mofm.axes import MODALITIES, Modality
from mofm.batch import CellBatch, TokenBatch, log_exposure
from mofm.errors import InputError, check_at_least
from mofm.nn.model import Outputs
from mofm.objectives.contrastive import Known, info_nce
from mofm.objectives.invariance import hsic, mmd
from mofm.objectives.rows import sample_rows
from mofm.objectives.structure import structure_agreement


@dataclass(frozen=True)
class AlignmentConfig:
    """How views are aligned. A weight of 0 switches its part off.

    Attributes:
      contrast_weight: of the contrast between views of different modalities.
      label_weight: of another cell of the same label (`data.label_key`) as a positive, against 1 for the cell itself.
      mask_same_label: cells of the same known label that are no positives are no negatives either.
      structure_weight: of the agreement of similarities.
      batch_weight: of the likeness of technical batches (`data.batch_key`).
      depth_weight: of the independence from depth.
      cells: most cells that are compared all with all, for the last three.
    """

    contrast_weight: float = 0.0
    label_weight: float = 0.0
    mask_same_label: bool = False
    structure_weight: float = 0.0
    batch_weight: float = 0.0
    depth_weight: float = 0.0
    cells: int = 512

    def __post_init__(self):
        weights = ("contrast_weight", "label_weight", "structure_weight", "batch_weight", "depth_weight")
        check_at_least("objectives.alignment", self, weights, 0)
        check_at_least("objectives.alignment", self, ("cells",), 2)

    def check_keys(self, label_key: str | None, batch_key: str | None) -> None:
        """Raises `InputError` where it asks for what the data are not asked for."""
        if (self.label_weight or self.mask_same_label) and label_key is None:
            raise InputError(
                "objectives.alignment: label_weight and mask_same_label need labels: set data.label_key to a column of obs"
            )
        if self.batch_weight and batch_key is None:
            raise InputError("objectives.alignment.batch_weight needs batches: set data.batch_key to a column of obs")


def align(
    config: AlignmentConfig,
    batch: CellBatch,
    seen: dict[Modality, Outputs],
    shared_width: int,
    log_temperature: jax.Array | None,
    key: jax.Array,
    mesh: Mesh | None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(loss, metrics) of a batch's embeddings; every pair of modalities, and every modality, weighs the same.

    Args:
      seen: what the model made of the batch's views.
      log_temperature: of the contrast; None where the model has none.
      mesh: over which the batch lies; None: on one device.
    """
    loss, metrics = jnp.zeros(()), {}
    shared = {modality: outputs.embedding_BE[:, :shared_width] for modality, outputs in seen.items()}
    pairs = list(itertools.combinations(seen, 2))
    for one, other in pairs:
        views = getattr(batch, one), getattr(batch, other)
        if config.contrast_weight:
            part, told = info_nce(
                shared[one],
                shared[other],
                *map(_known, views),
                log_temperature,
                mesh,
                label_weight=config.label_weight,
                mask_same_label=config.mask_same_label,
            )
            loss += config.contrast_weight * part / len(pairs)
            metrics |= {f"{one}+{other}/contrast_{name}": value for name, value in told.items()}
        if config.structure_weight:
            pair_key = jax.random.fold_in(key, MODALITIES.index(one) * len(MODALITIES) + MODALITIES.index(other))
            cells = (_known(view).cell_B for view in views)
            part, told = structure_agreement(pair_key, shared[one], shared[other], *cells, cells=config.cells)
            loss += config.structure_weight * part / len(pairs)
            metrics |= {f"{one}+{other}/structure_{name}": value for name, value in told.items()}
    for modality, embedding_BE in shared.items():
        parts = _nuisances(
            config, getattr(batch, modality), embedding_BE, jax.random.fold_in(key, MODALITIES.index(modality))
        )
        loss += sum(weight * value for weight, value in parts.values()) / len(shared)
        metrics |= {f"{modality}/{name}": value for name, (_, value) in parts.items()}
    return loss, metrics


def _known(view: TokenBatch) -> Known:
    """What is known of a view's rows; one without a token takes no part."""
    cell_B = jnp.where(view.mask_BL.any(axis=1), view.cell_B, -1)
    return Known(cell_B, jnp.full_like(cell_B, -1) if view.label_B is None else view.label_B)


def _nuisances(
    config: AlignmentConfig, view: TokenBatch, embedding_BE: jax.Array, key: jax.Array
) -> dict[str, tuple[float, jax.Array]]:
    """Name -> (weight, value) of what a modality's embeddings should not tell."""
    if not config.batch_weight + config.depth_weight:
        return {}
    is_there_B = _known(view).cell_B >= 0
    rows, is_there_B = sample_rows(key, is_there_B, config.cells)
    some_BE = embedding_BE[rows]
    label_B = None if view.label_B is None else view.label_B[rows]
    parts = {}
    if config.batch_weight:
        group_B = jnp.where(is_there_B, view.batch_B[rows], -1)
        parts["batch_mmd"] = config.batch_weight, mmd(some_BE, group_B, label_B)
    if config.depth_weight:
        depth_B1 = log_exposure(view.library_B[rows])[:, None]
        parts["depth_hsic"] = config.depth_weight, hsic(some_BE, depth_B1, is_there_B, label_B)
    return parts
