"""The training objective: each part switched and weighted in the config, the total their weighted sum."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mofm.axes import MODALITIES, Modality
from mofm.batch import CellBatch, Kinship, Paired, Spaces, TokenBatch
from mofm.errors import InputError, check_at_least
from mofm.nn.assembly import Outputs
from mofm.objectives.alignment import AlignmentConfig, align
from mofm.objectives.fusion import Fuse, fused_modelling
from mofm.objectives.labels import Classes, LinearHead, label_parts
from mofm.objectives.masked import masked_modelling
from mofm.objectives.masking import hide
from mofm.objectives.translation import Direction, See, Translate, paired_translation, there_and_back

ALIGNMENT_KEY = 0xA11
"""Folded into a step's key for what is sampled in alignment, beside the modalities' numbers and the links'."""


class Answers(NamedTuple):
    """A model with its parameters as the objectives call it, or a baseline in its place.

    Attributes:
      see: what it makes of views.
      translate: what it makes of one modality from another; None where it does not.
      spaces: what the features are, where they are not genes.
      shared_width: columns of the cell embedding that are not a modality's own.
      log_temperature: of the contrast between views; None for a model without.
      mesh: over which the batch lies; None: on one device.
      heads: what predicts labels from the embeddings of a modality; of none where labels are not predicted.
      classes: what each distinguishes.
      kinship: of genes and labels, for the contrasts.
      fuse: what it makes of the views of one cell together; None where it does not fuse them.
    """

    see: See
    translate: Translate | None = None
    spaces: Spaces = MappingProxyType({})
    shared_width: int = 0
    log_temperature: jax.Array | None = None
    mesh: Mesh | None = None
    heads: Mapping[Modality, LinearHead] = MappingProxyType({})
    classes: Mapping[Modality, Classes] = MappingProxyType({})
    kinship: Kinship = Kinship()
    fuse: Fuse | None = None


@dataclass(frozen=True)
class ObjectivesConfig:
    """What is trained for, and how much each part weighs.

    Attributes:
      mask_rate: mean share of a cell's tokens whose value is hidden.
      mask_spread: each cell draws its rate uniformly within mask_rate +- mask_spread.
      token_weight: weight of predicting hidden counts from token states.
      cell_weight: weight of predicting hidden counts from the cell embedding alone.
      translation_weight: weight of predicting one view of a cell from another, where the model has a translator.
      cycle_weight: weight of predicting a cell from its own translation, there and back again.
      drift_weight: weight of its embedding's change on the way.
      fusion_weight: weight of masked modelling of cells of two modalities, each seeing the other, where the model fuses them.
      alignment: what brings views together, and keeps nuisances out of embeddings; all off.
      link_weight: weight of link prediction, where there is a regulatory network.
      link_warmup_steps: steps over which it rises from 0.
      links_per_step: edges asked about at a step.
      edge_dropout: chance of every other edge to be out of the graph of a step.
      pool_weight: cost of the mean square of what the attention pool adds to the linear profile. Without a cost the
        pool also carries what serves prediction a little and separates cells by nothing but their depth and their
        sample of tokens, and neighbours get worse.
      supervised_weight: weight of predicting labels from the embedding (see `labels.py`), for `mofm finetune --task`. Masked
        modelling beside it keeps what the model knows; with both its weights at 0 labels alone train it.
    """

    mask_rate: float = 0.4
    mask_spread: float = 0.3
    token_weight: float = 1.0
    cell_weight: float = 1.0
    pool_weight: float = 3.0
    translation_weight: float = 1.0
    cycle_weight: float = 0.1
    drift_weight: float = 0.1
    fusion_weight: float = 1.0
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    link_weight: float = 0.1
    link_warmup_steps: int = 0
    links_per_step: int = 1024
    edge_dropout: float = 0.1
    supervised_weight: float = 0.0

    def __post_init__(self):
        if not (0 < self.mask_rate < 1 and 0 <= self.mask_spread <= min(self.mask_rate, 1 - self.mask_rate)):
            raise InputError(
                f"objectives.mask_rate={self.mask_rate} +- mask_spread={self.mask_spread}: rates must stay within 0 and 1"
            )
        check_at_least("objectives", self, ("token_weight", "cell_weight", "pool_weight", "supervised_weight"), 0)
        if self.token_weight + self.cell_weight + self.supervised_weight == 0:
            raise InputError("objectives: one of token_weight, cell_weight and supervised_weight must be above 0")
        weights = (
            "translation_weight",
            "cycle_weight",
            "drift_weight",
            "fusion_weight",
            "link_weight",
            "link_warmup_steps",
        )
        check_at_least("objectives", self, weights, 0)
        check_at_least("objectives", self, ("links_per_step",), 1)
        if not 0 <= self.edge_dropout < 1:
            raise InputError(f"objectives.edge_dropout={self.edge_dropout}: must be at least 0 and less than 1")

    def hidden_tokens(self, batch: CellBatch, key: jax.Array) -> dict[Modality, jax.Array]:
        """hidden_BL of each view that is there: which of its tokens `total` hides at this key."""
        views = {modality: getattr(batch, modality) for modality in MODALITIES}
        return {
            modality: hide(jax.random.fold_in(key, index), view.mask_BL, self.mask_rate, self.mask_spread)
            for index, (modality, view) in enumerate(views.items())
            if view is not None
        }

    def masked_losses(self, parts: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """What masked modelling of a view adds to the loss: means over its hidden tokens, and a mean over its cells."""
        of_tokens = self.token_weight * parts["token_nll"] + self.cell_weight * parts["cell_nll"]
        return of_tokens, self.pool_weight * parts["pool_size"]

    def link_weight_at(self, step: jax.Array | int) -> jax.Array:
        """Weight of link prediction at a step."""
        return self.link_weight * jnp.minimum((step + 1) / max(self.link_warmup_steps, 1), 1.0)


def total(
    config: ObjectivesConfig, answers: Answers, batch: CellBatch, key: jax.Array, pairs: Sequence[Paired] = ()
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(loss, metrics) of a batch: float32 scalars. Pure: the same arguments give the same bits.

    `pairs` says which rows of the batch's views are of the same cells.
    """
    loss, metrics, seen = jnp.zeros(()), {}, {}
    hidden = config.hidden_tokens(batch, key)
    for modality, hidden_BL in hidden.items():
        view = getattr(batch, modality)
        seen[modality] = answers.see(view, hidden_BL, modality)
        parts = masked_modelling(seen[modality], view, hidden_BL, modality)
        of_tokens, of_cells = config.masked_losses(parts)
        loss += of_tokens
        loss += of_cells
        metrics |= {f"{modality}/{name}": value for name, value in parts.items()}
    for modality, head in answers.heads.items():
        if modality in seen:
            label_B = getattr(batch, modality).label_B
            parts = label_parts(seen[modality].embedding_BE, head, answers.classes[modality], label_B)
            loss += config.supervised_weight * parts["label_nll"] / len(answers.heads)
            metrics |= {f"{modality}/{name}": value for name, value in parts.items()}
    if answers.translate is not None:
        for part_loss, parts in (_of_pairs(config, answers, batch, seen, pairs), _of_all(config, answers, batch, seen)):
            loss, metrics = loss + part_loss, metrics | parts
    if answers.fuse is not None:
        part_loss, parts = _of_fused(config, answers.fuse, batch, seen, hidden, pairs)
        loss, metrics = loss + part_loss, metrics | parts
    if answers.shared_width:  # a baseline has no embeddings
        part_loss, parts = align(
            config.alignment,
            batch,
            seen,
            answers.see,
            answers.kinship,
            answers.shared_width,
            answers.log_temperature,
            jax.random.fold_in(key, ALIGNMENT_KEY),
            answers.mesh,
        )
        loss, metrics = loss + part_loss, metrics | parts
    return loss, {"loss": loss, **metrics}


def loss_weights(config: ObjectivesConfig, metrics: Iterable[str]) -> dict[str, float]:
    """What each metric weighs in the loss, by the names of all that `total` gives: loss = sum of weight * metric."""
    of_group: dict[str, set[str]] = {}
    for name in metrics:
        group, _, last = name.rpartition("/")
        of_group.setdefault(group, set()).add(last)
    masked = {"token_nll": config.token_weight, "cell_nll": config.cell_weight, "pool_size": config.pool_weight}
    translated = dict.fromkeys(("token_nll", "cell_nll"), config.translation_weight)
    back = dict.fromkeys(("back_token_nll", "back_cell_nll"), config.cycle_weight) | {"drift": config.drift_weight}
    fused = {name: config.fusion_weight * weight for name, weight in masked.items()}
    alignment = config.alignment
    apart = {f"batch_{alignment.batch_by}": alignment.batch_weight, "depth_hsic": alignment.depth_weight}
    between = {"contrast_loss": alignment.contrast_weight, "structure_loss": alignment.structure_weight}
    within = {"augment_loss": alignment.augment_weight} | apart
    views = [group for group in of_group if group in MODALITIES]
    weights = {f"{view}/{name}": weight for view in views for name, weight in masked.items()}
    for sign, parts in (("/", {"label_nll": config.supervised_weight}), ("_to_", translated), ("_to_", back),
                        ("_with_", fused), ("+", between), ("/", within)):  # fmt: skip
        groups = views if sign == "/" else [group for group in of_group if sign in group]
        having = [group for group in groups if of_group[group] & parts.keys()]
        weights |= {
            f"{group}/{name}": weight / len(having)
            for group in having
            for name, weight in parts.items()
            if name in of_group[group]
        }
    return weights


def _of_pairs(
    config: ObjectivesConfig, answers: Answers, batch: CellBatch, seen: dict[Modality, Outputs], pairs: Sequence[Paired]
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Translation of cells of which two modalities were measured, each way; every direction weighs the same."""
    if not config.translation_weight:
        return jnp.zeros(()), {}
    found: dict[Direction, list[dict[str, jax.Array]]] = {}
    for paired in pairs:
        parts_of = [
            _rows(batch, seen, modality, start, paired.rows) for modality, start in zip(*paired[:2], strict=True)
        ]
        for source, target in ((0, 1), (1, 0)):
            direction = Direction(paired.modalities[source], paired.modalities[target])
            (view, outputs), (asked, _) = parts_of[source], parts_of[target]
            found.setdefault(direction, []).append(
                paired_translation(answers.translate, outputs, view, asked, direction)
            )
    loss, metrics = jnp.zeros(()), {}
    for direction, several in found.items():
        mean = _over_strata(several, "pairs")
        loss += config.translation_weight * (mean["token_nll"] + mean["cell_nll"]) / len(found)
        metrics |= {f"{_named(direction)}/{name}": value for name, value in mean.items()}
    return loss, metrics


def _of_fused(
    config: ObjectivesConfig,
    fuse: Fuse,
    batch: CellBatch,
    seen: dict[Modality, Outputs],
    hidden: dict[Modality, jax.Array],
    pairs: Sequence[Paired],
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Masked modelling of cells of which two modalities were measured, fused; every modality beside another weighs the same."""
    if not config.fusion_weight:
        return jnp.zeros(()), {}
    found: dict[str, list[dict[str, jax.Array]]] = {}
    for paired in pairs:
        views, outputs, hides = {}, {}, {}
        for modality, start in zip(*paired[:2], strict=True):
            views[modality], outputs[modality] = _rows(batch, seen, modality, start, paired.rows)
            hides[modality] = hidden[modality][start : start + paired.rows]
        parts_of = fused_modelling(fuse, outputs, views, hides)
        for one, other in (paired.modalities, paired.modalities[::-1]):
            found.setdefault(f"{one}_with_{other}", []).append(parts_of[one])
    loss, metrics = jnp.zeros(()), {}
    for name, several in found.items():
        mean = _over_strata(several, "hidden")
        loss += config.fusion_weight * sum(config.masked_losses(mean)) / len(found)
        metrics |= {f"{name}/{part}": value for part, value in mean.items()}
    return loss, metrics


def _over_strata(several: list[dict[str, jax.Array]], count: str) -> dict[str, jax.Array]:
    """The means of several strata as one of all, each weighing as much as it counts; and what they count together."""
    count_S = jnp.stack([parts[count] for parts in several]).astype(jnp.float32)
    share_S = count_S / jnp.maximum(count_S.sum(), 1)
    mean = {name: share_S @ jnp.stack([parts[name] for parts in several]) for name in several[0] if name != count}
    return mean | {count: count_S.sum()}


def _rows(
    batch: CellBatch, seen: dict[Modality, Outputs], modality: Modality, start: int, rows: int
) -> tuple[TokenBatch, Outputs]:
    """Some rows of a view, and of what was made of it."""
    return jax.tree.map(lambda leaf: leaf[start : start + rows], (getattr(batch, modality), seen[modality]))


def _of_all(
    config: ObjectivesConfig, answers: Answers, batch: CellBatch, seen: dict[Modality, Outputs]
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """There and back again, of all cells: each modality of the batch to the next, the last to the first.

    Every modality is gone to and come from; all pairs would be as many programs to compile in one step.
    """
    loss, metrics = jnp.zeros(()), {}
    there = list(seen)
    directions = [Direction(*two) for two in zip(there, there[1:] + there[:1], strict=True)]
    if len(there) < 2 or not config.cycle_weight + config.drift_weight:
        return loss, metrics
    for direction in directions:
        view, other = getattr(batch, direction.source), getattr(batch, direction.target)
        rows = jnp.arange(view.mask_BL.shape[0]) % other.mask_BL.shape[0]
        # One row on, so that no cell is asked for the features that it shows itself.
        asked = jax.tree.map(lambda leaf: leaf[(rows + 1) % leaf.shape[0]], other)  # noqa: B023
        parts = there_and_back(
            answers.translate,
            answers.see,
            seen[direction.source],
            view,
            asked,
            direction,
            answers.spaces.get(direction.target),
            answers.shared_width,
        )
        survived = config.cycle_weight * (parts["back_token_nll"] + parts["back_cell_nll"])
        loss += (survived + config.drift_weight * parts["drift"]) / len(directions)
        metrics |= {f"{_named(direction)}/{name}": value for name, value in parts.items()}
    return loss, metrics


def _named(direction: Direction) -> str:
    return f"{direction.source}_to_{direction.target}"
