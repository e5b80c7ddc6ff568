"""What a translation is asked for: features of the target modality, those of training or any others.

A model knows a feature by its genes, so it can be asked for peaks, antibodies and regions that no training data had. Of
those of training it knows the mean as well (`FeatureSpace.base_F`); a new one takes the mean that its place about its
genes predicts, by a linear fit over those of training, and their median spread. How features vary from cell to cell is
predicted from their genes; how high they lie in all cells, of a new one, only roughly. The linear translation of a new
feature is the mean of those of training's features that share its genes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from mofm.axes import FEATURES, MODALITIES, Modality
from mofm.batch import FeatureSpace
from mofm.batches.spaces import identities, known_share, make_space, of_measured
from mofm.errors import InputError
from mofm.inference.model import PretrainedModel
from mofm.linear.components import rows_by_feature
from mofm.omics.features import places_among
from mofm.omics.identity import resolve_features

Depth = Literal["median", "predicted"]
"""At which depth cells are predicted: all at the median one of training, so that they can be compared, or each at that which
its source predicts, as it would be measured."""

REGION_SUFFIXES = (".bed", ".bed.gz", ".narrowPeak", ".broadPeak")


@dataclass(frozen=True)
class Targets:
    """The features that are asked for, F in all.

    Attributes:
      modality: the target.
      var: index their names as asked, column `feature_id` the identity that each was taken for, and `trained`: whether
        training data had it.
      rows_F: int32. Number of each among the features of `space`; of RNA, its row of the gene table.
      space: the features; None for RNA.
      depth: median library of a training cell.
      depth_linear: for each source that knows it, loading_R of a cell's log depth; None where all are predicted at `depth`.
      linear: for each source that has a linear translation, its loading_FR of the features of `space`.
      unknown: names that were asked for and that speak of no gene of the model.
      build: genome build that regions were taken to be of; None where there are none.
    """

    modality: Modality
    var: pd.DataFrame
    rows_F: np.ndarray
    space: FeatureSpace | None
    depth: float
    depth_linear: dict[Modality, np.ndarray] | None
    linear: dict[Modality, np.ndarray]
    unknown: list[str]
    build: str | None


def find_targets(
    model: PretrainedModel,
    modality: Modality,
    names: list[str] | None = None,
    build: str | None = None,
    where: str = "",
    depth: Depth = "median",
) -> Targets:
    """The features of `modality` with these names; None: all that the model was trained on.

    Args:
      build: genome build of regions, by any of its names; None finds it by their names and places.
      where: what the names are from, for messages.
      depth: at which cells are predicted.

    Raises:
      InputError: the model does not translate, or not to this modality; or no name speaks of any gene of the model.
    """
    _check_direction(model, modality)
    start, trained = model.start, model.features(modality)
    median, depth_linear = float(start.depths[modality]), None
    if depth == "predicted":
        depth_linear = {
            source: loading_R for (source, target), loading_R in start.depth_linear.items() if target == modality
        }
    linear = {source: loading_FR for (source, target), loading_FR in start.linear.items() if target == modality}
    if names is None:
        var = pd.DataFrame(
            {"feature_id": trained["id"].to_numpy(), "trained": True}, index=_names_of(trained, modality)
        )
        rows_F = np.arange(len(var), dtype=np.int32)  # of RNA too: its features are the first rows of the gene table
        return Targets(modality, var, rows_F, start.spaces.get(modality), median, depth_linear, linear, [], None)
    found = resolve_features(pd.DataFrame(index=pd.Index(names)), modality, model.named_by, build, where)
    number_C = places_among(trained["id"], found.ids)
    var = pd.DataFrame({"feature_id": found.ids, "trained": number_C >= 0}, index=pd.Index(names))
    if modality == "rna":
        space, known_C, rows_C = None, number_C >= 0, number_C
    else:
        space = _space_of(model, modality, found.ids)
        space = _with_means(space, number_C, start.spaces[modality])
        linear = {
            source: rows_by_feature(space, number_C, start.spaces[modality], loading_FR, len(model.genes))
            for source, loading_FR in linear.items()
        }
        known_C, rows_C = known_share(space), np.arange(len(names), dtype=np.int32)
    if not known_C.any():
        raise InputError(
            f"{where}: none of its {len(names):,} {FEATURES[modality]} ({', '.join(names[:3])}, ...) speaks of any gene of "
            "the model: check that they are names, ids or places of the model's species"
        )
    unknown = [name for name, known in zip(names, known_C, strict=True) if not known]
    return Targets(modality, var[known_C], rows_C[known_C], space, median, depth_linear, linear, unknown, found.build)


def measured_depth(model: PretrainedModel, source: Modality, target: Modality) -> Depth:
    """The depth at which a translation is held against what was measured. Whether a region was seen open is decided by the
    cell's depth as well as by its state; other measurements are judged beside the cell's others, whatever its depth."""
    return "predicted" if target == "atac" and (source, target) in model.start.depth_linear else "median"


def read_names(path: Path, modality: Modality) -> list[str]:
    """Names of features in a file: a line each, or regions of a BED file. Twice the same counts once.

    Raises:
      InputError: it cannot be read, or holds none.
    """
    try:
        if path.name.endswith(REGION_SUFFIXES):
            frame = pd.read_csv(path, sep="\t", header=None, comment="#", usecols=[0, 1, 2], dtype=str)
            names = (frame[0] + ":" + frame[1] + "-" + frame[2]).tolist()
        else:
            names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); a text file with a name a line, or a BED file") from error
    names = list(dict.fromkeys(name for name in names if name and not name.startswith("#")))
    if not names:
        raise InputError(f"{path}: holds no names of {FEATURES[modality]}: a line each is expected")
    return names


def _check_direction(model: PretrainedModel, modality: Modality) -> None:
    there = model.spec.modalities
    if modality not in there:
        raise InputError(
            f"{model.name} never saw {modality}: it was trained on {', '.join(there)}. Translate to one of those, or "
            f"train on a corpus with {modality}"
        )
    if not model.spec.translates:
        raise InputError(
            f"{model.name} does not translate: train it with --config.translator.blocks=1 or more, on a corpus of "
            f"two or more of {', '.join(MODALITIES)}"
        )


def _names_of(trained: pd.DataFrame, modality: Modality) -> pd.Index:
    """Symbols where they identify genes or antibodies; of regions their ids."""
    symbols = trained["symbol"]
    return pd.Index(symbols if modality in ("rna", "adt") and symbols.is_unique else trained["id"], name=None)


def _space_of(model: PretrainedModel, modality: Modality, ids: list[str]) -> FeatureSpace:
    measured = frozenset(model.genes["id"][model.genes["measured"]])
    row_of = {identity: row for row, identity in enumerate(model.genes["id"])}
    return make_space(of_measured(identities(modality, list(ids), model.named_by), measured), row_of)


def _with_means(space: FeatureSpace, number_C: np.ndarray, trained: FeatureSpace) -> FeatureSpace:
    """The space with the means of training's features, and for others what their places predict."""
    is_old, old_C = number_C >= 0, np.maximum(number_C, 0)
    linked_F1, linked_C1 = (known_share(some)[:, None].astype(np.float64) for some in (trained, space))
    design_FP = np.hstack([np.ones((len(linked_F1), 1)), linked_F1, trained.place_FP])
    solution_P = np.linalg.lstsq(design_FP, trained.base_F.astype(np.float64), rcond=None)[0]
    predicted_C = np.hstack([np.ones((len(old_C), 1)), linked_C1, space.place_FP]) @ solution_P
    predicted_C = np.clip(predicted_C, *np.quantile(trained.base_F, [0.01, 0.99]))
    base_C = np.where(is_old, trained.base_F[old_C], predicted_C).astype(np.float32)
    spread_C = np.where(is_old, trained.spread_F[old_C], np.float32(np.median(trained.spread_F)))
    return space._replace(base_F=base_C, spread_F=spread_C)
