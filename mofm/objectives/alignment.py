"""What brings the views of a cell together, and keeps out of its embedding what is not the cell's.

    contrast    InfoNCE between the views of every two modalities, matching ones near, others far (`contrastive.py`)
    augment     the same between two draws of one view: molecules and tokens left out (`augment.py`), and, where families of
                genes are known, each draw with the RNA of other families
    structure   cells that are alike in one modality are alike in the other (`structure.py`)
    batch       embeddings of a technical batch are distributed as those of another (`invariance.py`, by `batch_by`)
    depth       embeddings do not show how deep a cell was read (`invariance.py: hsic`)

Each is of the shared columns of embeddings: of those that masked modelling made, whose hidden tokens differ from view to view,
so that what matches them is not one sample of tokens; the draws are embedded for it. Where labels are known, the last two
compare cells of a label with each other, so that biology that goes along with a batch is kept.
"""

import itertools
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mofm.axes import MODALITIES, Modality
from mofm.batch import CellBatch, Kinship, TokenBatch, log_exposure
from mofm.errors import InputError, check_at_least, nearest_name
from mofm.nn.assembly import Outputs
from mofm.objectives.augment import drop_features, family_views, thin
from mofm.objectives.contrastive import Known, info_nce
from mofm.objectives.invariance import adversary, group_hsic, hsic, mmd
from mofm.objectives.rows import sample_rows
from mofm.objectives.structure import structure_agreement
from mofm.objectives.translation import See

BATCH_MEASURES = {"mmd": mmd, "hsic": group_hsic, "adversary": adversary}
"""What `batch_by` names."""
AUGMENT_KEY = 0xA06
"""Folded into a modality's key for its augmented draws."""


@dataclass(frozen=True)
class AlignmentConfig:
    """How views are aligned. A weight of 0 switches its part off.

    Attributes:
      contrast_weight: of the contrast between views of different modalities.
      augment_weight: of the contrast between two augmented draws of a view.
      keep_least: each draw keeps a share of a cell's molecules, a number between this and 1 of its own, so that depth does not
        show which draws match.
      drop_rate: chance of each of a draw's tokens to be left out.
      families: of genes, a table of genes and their families or "symbols" (see `omics/families.py`): of RNA each draw shows
        other families. None: both draw from all genes.
      label_weight: of another cell of the same label (`data.label_key`) as a positive, against 1 for the cell itself.
      ontology: an OBO file, such as the Cell Ontology's, that labels are terms of.
      ontology_weight: of a cell whose label is near in it, times how near: half for a parent or child, a quarter for a sibling.
      mask_same_label: cells of the same known label that are no positives are no negatives either.
      structure_weight: of the agreement of similarities.
      batch_weight: of the likeness of technical batches (`data.batch_key`).
      batch_by: how it is measured: "hsic", which mixed simulated batches best at the two weights tried, "mmd" or "adversary".
      depth_weight: of the independence from depth.
      cells: most cells that are compared all with all, for the last three.
    """

    contrast_weight: float = 0.0
    augment_weight: float = 0.0
    keep_least: float = 0.5
    drop_rate: float = 0.2
    families: str | None = None
    label_weight: float = 0.0
    ontology: str | None = None
    ontology_weight: float = 0.0
    mask_same_label: bool = False
    structure_weight: float = 0.0
    batch_weight: float = 0.0
    batch_by: str = "hsic"
    depth_weight: float = 0.0
    cells: int = 512

    def __post_init__(self):
        weights = ("contrast_weight", "augment_weight", "label_weight", "ontology_weight")
        check_at_least("objectives.alignment", self, (*weights, "structure_weight", "batch_weight", "depth_weight"), 0)
        check_at_least("objectives.alignment", self, ("cells",), 2)
        if not 0 < self.keep_least <= 1:
            raise InputError(f"objectives.alignment.keep_least={self.keep_least}: must be more than 0 and at most 1")
        if not 0 <= self.drop_rate < 1:
            raise InputError(f"objectives.alignment.drop_rate={self.drop_rate}: must be at least 0 and less than 1")
        if self.batch_by not in BATCH_MEASURES:
            raise InputError(
                f"objectives.alignment.batch_by={self.batch_by!r}: give one of {', '.join(BATCH_MEASURES)}."
                f"{nearest_name(self.batch_by, BATCH_MEASURES)}"
            )
        if self.families and not self.augment_weight:
            raise InputError("objectives.alignment.families: they part the draws of augment_weight; set it above 0")
        if bool(self.ontology) != bool(self.ontology_weight):
            raise InputError("objectives.alignment: ontology and ontology_weight belong together; set both, or neither")

    @property
    def contrasts(self) -> bool:
        """Whether anything is contrasted, and there is a temperature to learn."""
        return self.contrast_weight + self.augment_weight > 0

    def check_keys(self, label_key: str | None, batch_key: str | None) -> None:
        """Raises `InputError` where it asks for what the data are not asked for."""
        if (self.label_weight or self.mask_same_label or self.ontology) and label_key is None:
            raise InputError(
                "objectives.alignment: label_weight, ontology and mask_same_label need labels: set data.label_key to a column "
                "of obs"
            )
        if self.batch_weight and batch_key is None:
            raise InputError("objectives.alignment.batch_weight needs batches: set data.batch_key to a column of obs")


def align(
    config: AlignmentConfig,
    batch: CellBatch,
    seen: dict[Modality, Outputs],
    see: See,
    kinship: Kinship,
    shared_width: int,
    log_temperature: jax.Array | None,
    key: jax.Array,
    mesh: Mesh | None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(loss, metrics) of a batch's embeddings; every pair of modalities, and every modality, weighs the same.

    Args:
      seen: what the model made of the batch's views.
      see: makes it of others.
      kinship: families of genes and nearness of labels, for the parts of `config` that ask for them.
      log_temperature: of the contrast; None where the model has none.
      mesh: over which the batch lies; None: on one device.
    """
    loss, metrics = jnp.zeros(()), {}
    affinity_YY = kinship.affinity_YY
    contrast = partial(
        info_nce,
        log_temperature=log_temperature,
        mesh=mesh,
        label_weight=config.label_weight,
        affinity_YY=None if affinity_YY is None else config.ontology_weight * affinity_YY,
        mask_same_label=config.mask_same_label,
    )
    shared = {modality: outputs.embedding_BE[:, :shared_width] for modality, outputs in seen.items()}
    pairs = list(itertools.combinations(seen, 2))
    for one, other in pairs:
        views = getattr(batch, one), getattr(batch, other)
        if config.contrast_weight:
            part, measured = contrast(shared[one], shared[other], *map(_known, views))
            loss += config.contrast_weight * part / len(pairs)
            metrics |= {f"{one}+{other}/contrast_{name}": value for name, value in measured.items()}
        if config.structure_weight:
            pair_key = jax.random.fold_in(key, MODALITIES.index(one) * len(MODALITIES) + MODALITIES.index(other))
            cells = (_known(view).cell_B for view in views)
            part, measured = structure_agreement(pair_key, shared[one], shared[other], *cells, cells=config.cells)
            loss += config.structure_weight * part / len(pairs)
            metrics |= {f"{one}+{other}/structure_{name}": value for name, value in measured.items()}
    for modality, embedding_BE in shared.items():
        view, of_key = getattr(batch, modality), jax.random.fold_in(key, MODALITIES.index(modality))
        if config.augment_weight:
            family_F = kinship.family_G if modality == "rna" else None
            draws = two_draws(config, view, modality, family_F, jax.random.fold_in(of_key, AUGMENT_KEY))
            embeddings = (see(draw, jnp.zeros_like(draw.mask_BL), modality).embedding_BE for draw in draws)
            part, measured = contrast(*(some_BE[:, :shared_width] for some_BE in embeddings), *map(_known, draws))
            loss += config.augment_weight * part / len(shared)
            metrics |= {f"{modality}/augment_{name}": value for name, value in measured.items()}
        parts = _nuisances(config, view, embedding_BE, of_key)
        loss += sum(weight * value for weight, value in parts.values()) / len(shared)
        metrics |= {f"{modality}/{name}": value for name, (_, value) in parts.items()}
    return loss, metrics


def two_draws(
    config: AlignmentConfig, view: TokenBatch, modality: Modality, family_F: jax.Array | None, key: jax.Array
) -> tuple[TokenBatch, TokenBatch]:
    """Two augmented draws of a view, of the families of genes that fell to each where those are known."""
    split_key, *keys = jax.random.split(key, 3)
    parts = (view, view) if family_F is None else family_views(view, family_F, split_key)

    def draw(part: TokenBatch, key: jax.Array) -> TokenBatch:
        share_key, thin_key, drop_key = jax.random.split(key, 3)
        keep_B = jax.random.uniform(share_key, view.library_B.shape, minval=config.keep_least, maxval=1.0)
        return drop_features(drop_key, thin(thin_key, part, keep_B, modality), config.drop_rate)

    one, other = (draw(part, key) for part, key in zip(parts, keys, strict=True))
    return one, other


def _known(view: TokenBatch) -> Known:
    """What is known of a view's rows; one without a token takes no part."""
    cell_B = jnp.where(view.mask_BL.any(axis=1), view.cell_B, -1)
    return Known(cell_B, jnp.full_like(cell_B, -1) if view.label_B is None else view.label_B)


def _nuisances(
    config: AlignmentConfig, view: TokenBatch, embedding_BE: jax.Array, key: jax.Array
) -> dict[str, tuple[float, jax.Array]]:
    """Name -> (weight, value) of what a modality's embeddings should not show."""
    if not config.batch_weight + config.depth_weight:
        return {}
    is_there_B = _known(view).cell_B >= 0
    rows, is_there_B = sample_rows(key, is_there_B, config.cells)
    some_BE = embedding_BE[rows]
    label_B = None if view.label_B is None else view.label_B[rows]
    parts = {}
    if config.batch_weight:
        group_B = jnp.where(is_there_B, view.batch_B[rows], -1)
        measure = BATCH_MEASURES[config.batch_by]
        parts[f"batch_{config.batch_by}"] = config.batch_weight, measure(some_BE, group_B, label_B)
    if config.depth_weight:
        depth_B1 = log_exposure(view.library_B[rows])[:, None]
        parts["depth_hsic"] = config.depth_weight, hsic(some_BE, depth_B1, is_there_B, label_B)
    return parts
