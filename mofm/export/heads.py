"""Task heads beside a model: what an embedding is read for, as arrays and JSON in the run's directory and in its bundle.

    annotation.json         the column of obs that it learned, the model's step, and for each modality its labels and figures
    annotation.safetensors  weights and biases, and the types' places in the embedding

A head is of one step of its model: of another step the embeddings are others. Version 1 knew no places: such a head names
cells by its confidence alone, as it did.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import softmax

from mofm.axes import Modality
from mofm.export.head_files import load_head, save_head

ANNOTATION = "annotation"
FILES = (f"{ANNOTATION}.json", f"{ANNOTATION}.safetensors")
VERSIONS = (1, 2)


class Places(NamedTuple):
    """Where C types lie in an embedding.

    Attributes:
      place_CE, whiten_EE: float32. embedding_NE @ whiten_EE is as far from a row of `place_CE` as a cell is from a type.
    """

    place_CE: np.ndarray
    whiten_EE: np.ndarray

    def distance(self, embedding_NE: np.ndarray) -> np.ndarray:
        """distance_N, float64, from the nearest type; a cell of a known one is at about 1."""
        return cdist(embedding_NE.astype(np.float64) @ self.whiten_EE, self.place_CE).min(axis=1)


@dataclass(frozen=True, eq=False)
class LabelHead:
    """A linear reading of cell labels: softmax((embedding_NE @ weight_EC + bias_C) / temperature).

    Attributes:
      labels: the C names.
      weight_EC, bias_C: float32.
      temperature: fitted on held-out cells, so that confidences are chances to be right.
      threshold: a confidence below it says that the label is unknown.
      figures: of the cells that it was judged by, and how many cells of what it learned from; plain values.
      places: of the labels; None where they are not known.
      far: a distance from them beyond it says that the label is unknown.
    """

    labels: tuple[str, ...]
    weight_EC: np.ndarray
    bias_C: np.ndarray
    temperature: float
    threshold: float
    figures: dict[str, Any]
    places: Places | None = None
    far: float = np.inf

    def logits(self, embedding_NE: np.ndarray) -> np.ndarray:
        """logit_NC, float64, before the temperature."""
        return embedding_NE.astype(np.float64) @ self.weight_EC + self.bias_C

    def probabilities(self, embedding_NE: np.ndarray) -> np.ndarray:
        """chance_NC, float64: of each label."""
        return softmax(self.logits(embedding_NE) / self.temperature, axis=1)

    def strangeness(self, embedding_NE: np.ndarray) -> np.ndarray | None:
        """float64: how far cells are from all known types, 1 being as far as one may be; None where that is not known."""
        return None if self.places is None else self.places.distance(embedding_NE) / self.far


@dataclass(frozen=True, eq=False)
class AnnotationHeads:
    """The head of each modality whose cells had labels.

    Attributes:
      label_key: column of obs that they learned.
      step: of the model's checkpoint.
    """

    label_key: str
    step: int
    of: dict[Modality, LabelHead]


def save_heads(folder: Path, heads: AnnotationHeads) -> None:
    """Write them beside a model; what was there before is replaced."""
    arrays, said = {}, {}
    for modality, head in heads.of.items():
        arrays |= {f"{modality}/weight_EC": head.weight_EC, f"{modality}/bias_C": head.bias_C}
        said[modality] = {
            "labels": list(head.labels),
            "temperature": head.temperature,
            "threshold": head.threshold,
            "figures": head.figures,
        }
        if head.places is not None:
            arrays |= {f"{modality}/{name}": array for name, array in head.places._asdict().items()}
            said[modality]["far"] = head.far if np.isfinite(head.far) else None
    save_head(
        folder, ANNOTATION, VERSIONS[-1], {"label_key": heads.label_key, "step": heads.step, "modalities": said}, arrays
    )


def load_heads(folder: Path) -> AnnotationHeads | None:
    """The heads beside a model; None where it has none.

    Raises:
      InputError: they are damaged, or of a newer mofm.
    """
    return load_head(folder, ANNOTATION, VERSIONS, _heads)


def _heads(record: dict, arrays: dict[str, np.ndarray]) -> AnnotationHeads:
    heads = {modality: _head(said, arrays, modality) for modality, said in record["modalities"].items()}
    return AnnotationHeads(record["label_key"], int(record["step"]), heads)


def _head(said: dict, arrays: dict[str, np.ndarray], modality: Modality) -> LabelHead:
    labels, weight_EC, bias_C = tuple(said["labels"]), arrays[f"{modality}/weight_EC"], arrays[f"{modality}/bias_C"]
    width, places, far = len(weight_EC), None, np.inf
    if "far" in said:
        places = Places(*(arrays[f"{modality}/{name}"] for name in Places._fields))
        far = np.inf if said["far"] is None else float(said["far"])
    shapes = [weight_EC.shape, bias_C.shape, *(array.shape for array in places or ())]
    if shapes != [(width, len(labels)), (len(labels),), (len(labels), width), (width, width)][: len(shapes)]:
        raise ValueError(f"arrays of shapes {shapes} for {len(labels)} labels")
    given = float(said["temperature"]), float(said["threshold"]), said["figures"]
    return LabelHead(labels, weight_EC, bias_C, *given, places, far)
