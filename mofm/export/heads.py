"""Task heads beside a model: what an embedding is read for, as arrays and JSON in the run's directory and in its bundle.

    annotation.json         the column of obs that it learned, the model's step, and for each modality its labels and figures
    annotation.safetensors  weights and biases

A head is of one step of its model: of another step the embeddings are others.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from mofm.axes import Modality
from mofm.errors import InputError
from mofm.export.tensors import load_tensors, save_tensors
from mofm.files import written_whole

ANNOTATION = "annotation"
FILES = (f"{ANNOTATION}.json", f"{ANNOTATION}.safetensors")
VERSION = 1


@dataclass(frozen=True, eq=False)
class LabelHead:
    """A linear reading of cell labels: softmax((embedding_NE @ weight_EC + bias_C) / temperature).

    Attributes:
      labels: the C names.
      weight_EC, bias_C: float32.
      temperature: fitted on held-out cells, so that confidences are chances to be right.
      threshold: a confidence below it says that the label is unknown.
      figures: of the held-out cells, and how many cells of what it learned from; plain values.
    """

    labels: tuple[str, ...]
    weight_EC: np.ndarray
    bias_C: np.ndarray
    temperature: float
    threshold: float
    figures: dict[str, Any]

    def logits(self, embedding_NE: np.ndarray) -> np.ndarray:
        """logit_NC, float64, before the temperature."""
        return embedding_NE.astype(np.float64) @ self.weight_EC + self.bias_C

    def probabilities(self, embedding_NE: np.ndarray) -> np.ndarray:
        """chance_NC, float64: of each label."""
        return softmax(self.logits(embedding_NE) / self.temperature, axis=1)


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
    """Write them beside a model; what was there before is replaced, the arrays first."""
    arrays, said = {}, {}
    for modality, head in heads.of.items():
        arrays |= {f"{modality}/weight_EC": head.weight_EC, f"{modality}/bias_C": head.bias_C}
        said[modality] = {
            "labels": list(head.labels),
            "temperature": head.temperature,
            "threshold": head.threshold,
            "figures": head.figures,
        }
    (folder / FILES[0]).unlink(missing_ok=True)  # never the table of one head with the arrays of another
    save_tensors(folder, ANNOTATION, arrays)
    record = {"version": VERSION, "label_key": heads.label_key, "step": heads.step, "modalities": said}
    with written_whole(folder / FILES[0]) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def load_heads(folder: Path) -> AnnotationHeads | None:
    """The heads beside a model; None where it has none.

    Raises:
      InputError: they are damaged, or of a newer mofm.
    """
    path = folder / FILES[0]
    if not path.exists():
        return None
    arrays = load_tensors(folder, ANNOTATION)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["version"] != VERSION:
            raise InputError(f"{path}: of version {record['version']}, this mofm reads version {VERSION}")
        heads = {
            modality: LabelHead(
                tuple(said["labels"]),
                arrays[f"{modality}/weight_EC"],
                arrays[f"{modality}/bias_C"],
                float(said["temperature"]),
                float(said["threshold"]),
                said["figures"],
            )
            for modality, said in record["modalities"].items()
        }
        return AnnotationHeads(record["label_key"], int(record["step"]), heads)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not the head of a model ({error!r}): damaged; fit it again") from error
