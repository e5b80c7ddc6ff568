"""A model's head of responses: what treatments did to groups of cells, beside the run and in its bundle.

    response.json         the columns of obs that it learned, the model's step, and of each treatment its groups and figures
    response.safetensors  the groups' places in the embedding, and their changes

As the annotation head, it is of one step of its model: of another step the embeddings are others.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mofm.export.head_files import load_head, save_head

STEM = "response"
FILE = f"{STEM}.json"
VERSIONS = (1,)
KEYS = ("condition_key", "control", "groups_key")
ARRAYS = ("centre_KE", "move_KE", "change_KG")


@dataclass(frozen=True, eq=False)
class Response:
    """What a treatment did to K groups; how it is read is said in `inference/response.py`.

    Attributes:
      groups: their names.
      how, strength: the recipe by which groups are weighed.
      centre_KE, move_KE: float32, mean embedding of a group's control cells; that of its treated cells less it.
      change_KG: float32, mean log1p of counts per 10,000 of treated cells less that of control cells, of `ResponseHead.genes`.
      held_out: a row a group, predicted from the others; plain values (see `inference.response.held_out_figures`).
    """

    groups: tuple[str, ...]
    how: str
    strength: float
    centre_KE: np.ndarray
    move_KE: np.ndarray
    change_KG: np.ndarray
    held_out: list[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class ResponseHead:
    """What a model knows of treatments.

    Attributes:
      condition_key, control, groups_key: obs column of conditions, its value for untreated cells, and obs column of groups.
      step: of the model's checkpoint.
      genes: int32, rows of the model's gene table.
      of: by treatment.
    """

    condition_key: str
    control: str
    groups_key: str
    step: int
    genes: np.ndarray
    of: dict[str, Response]


def save_responses(folder: Path, head: ResponseHead) -> None:
    """Write it beside a model; what was there before is replaced."""
    arrays = {"genes": head.genes.astype(np.int32)}
    said = []
    for number, (name, one) in enumerate(head.of.items()):
        arrays |= {f"{number}/{key}": getattr(one, key).astype(np.float32) for key in ARRAYS}
        said.append(
            {
                "treatment": name,
                "groups": list(one.groups),
                "how": one.how,
                "strength": one.strength,
                "held_out": one.held_out,
            }
        )
    keys = {key: getattr(head, key) for key in (*KEYS, "step")}
    save_head(folder, STEM, VERSIONS[-1], {**keys, "treatments": said}, arrays)


def load_responses(folder: Path) -> ResponseHead | None:
    """The head beside a model; None where it has none.

    Raises:
      InputError: it is damaged, or of a newer mofm.
    """
    return load_head(folder, STEM, VERSIONS, _responses)


def _responses(record: dict, arrays: dict[str, np.ndarray]) -> ResponseHead:
    found = {}
    for number, said in enumerate(record["treatments"]):
        own = {key: arrays[f"{number}/{key}"] for key in ARRAYS}
        if {len(one) for one in own.values()} != {len(said["groups"])}:
            raise ValueError("groups and arrays differ in number")
        found[said["treatment"]] = Response(
            tuple(said["groups"]), str(said["how"]), float(said["strength"]), **own, held_out=said["held_out"]
        )
    keys = {key: str(record[key]) for key in KEYS}
    return ResponseHead(**keys, step=int(record["step"]), genes=arrays["genes"], of=found)
