"""What a run whose labels move the encoder has beside the model: a linear head a modality, and adapters where it trains those.

It begins from heads that were fitted on the model's embeddings (linear probing, then tuning: Kumar et al. 2022), not from
nothing: a head of random directions would first pull the encoder about at random. So step 0 predicts labels as the probe does,
and the best step is no worse on the held-out cells than it.

What is trained is a tree of its own, and the gradient is taken with respect to it alone: what is frozen is in no gradient, has
no moments, and cannot be moved by decay or rounding.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mofm.axes import CELL_EMBED, Modality
from mofm.batches.stream import Stream
from mofm.files import written_whole
from mofm.nn.model import Params
from mofm.objectives.labels import Classes, LinearHead, balanced
from mofm.training.adapters import adapter_axes, fresh_adapters, merged, picked

FILE = "labels.npz"


class KnownHead(NamedTuple):
    """A head that was fitted on a model's embeddings; numpy.

    Attributes:
      names: of its C classes, ascending.
      weight_EC, bias_C: float32.
    """

    names: tuple[str, ...]
    weight_EC: np.ndarray
    bias_C: np.ndarray


KnownHeads = Mapping[Modality, KnownHead]


class TuningSpec(NamedTuple):
    """What fixes the shapes of a `Tuning`. Hashable.

    Attributes:
      rank: of the adapters; 0 for none.
      classes: how many the head of each modality distinguishes.
    """

    rank: int
    classes: tuple[tuple[Modality, int], ...]


class Tuning(NamedTuple):
    """The part of a run's state that tunes a model by labels.

    Attributes:
      heads: of each modality.
      adapters: nested as the parameters are (see `adapters.py`); empty where all of the parameters train.
      base: the matrices that the adapters are added to. They never change.
    """

    heads: dict[Modality, LinearHead]
    adapters: Params
    base: Params


def fresh_tuning(tuning: TuningSpec, logical: Params, params: Params, key: jax.Array) -> Tuning:
    """With heads of zeros, for the heads that are known to be put in their places, and adapters that change nothing."""
    width = params["to_cell"].shape[1]
    heads = {modality: LinearHead(jnp.zeros((width, n)), jnp.zeros(n)) for modality, n in tuning.classes}
    if not tuning.rank:
        return Tuning(heads, {}, {})
    axes = adapter_axes(logical)
    return Tuning(heads, fresh_adapters(axes, params, tuning.rank, key), picked(params, axes))


def tuning_axes(tuning: TuningSpec, logical: Params) -> Tuning:
    """The same with each leaf replaced by the tuple of its logical axes."""
    heads = {modality: LinearHead((CELL_EMBED, None), (None,)) for modality, _ in tuning.classes}
    axes = adapter_axes(logical) if tuning.rank else {}
    return Tuning(heads, axes, picked(logical, axes))


def trained(params: Params, tuning: Tuning | None) -> Params:
    """What the optimizer moves: the parameters, in a tuned run with the heads, or the adapters and the heads alone."""
    if tuning is None:
        return params
    moved = {"adapters": tuning.adapters} if tuning.adapters else {"params": params}
    return moved | {"heads": tuning.heads}


def opened(params: Params, tuning: Tuning | None, moved: Params) -> tuple[Params, Tuning | None]:
    """The parameters and the tuning, with what is trained being `moved`."""
    if tuning is None:
        return moved, None
    if not tuning.adapters:
        return moved["params"], tuning._replace(heads=moved["heads"])
    tuning = tuning._replace(adapters=moved["adapters"], heads=moved["heads"])
    return merged(params, tuning.base, tuning.adapters), tuning


def classes_of(heads: KnownHeads, stream: Stream) -> dict[Modality, Classes]:
    """What each head distinguishes, by the numbers of a stream's labels. Its weights are of training cells alone."""
    found = {}
    for modality, head in heads.items():
        class_of = {name: place for place, name in enumerate(head.names)}
        of_label = np.array([*(class_of.get(name, -1) for name in stream.labels), -1], np.int32)
        counts_C, counts = np.zeros(len(head.names), np.int64), stream.label_counts(modality)
        counts_C[of_label[:-1][of_label[:-1] >= 0]] = counts[of_label[:-1] >= 0]
        found[modality] = Classes(of_label, balanced(counts_C))
    return found


def save_heads(workdir: Path, heads: KnownHeads) -> None:
    """Write labels.npz, atomically: the heads that a run begins from."""
    arrays: dict[str, Any] = {}
    for modality, head in heads.items():
        arrays |= {f"{modality}/{name}": np.asarray(leaf) for name, leaf in head._asdict().items()}
    with written_whole(workdir / FILE) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def load_heads(workdir: Path) -> dict[Modality, KnownHead] | None:
    """The heads that the run began from; None where it has not begun."""
    if not (workdir / FILE).exists():
        return None
    with np.load(workdir / FILE, allow_pickle=False) as arrays:
        modalities = list(dict.fromkeys(name.split("/")[0] for name in arrays))
        parts = {modality: [arrays[f"{modality}/{name}"] for name in KnownHead._fields] for modality in modalities}
    return {
        modality: KnownHead(tuple(map(str, names)), weight_EC, bias_C)
        for modality, (names, weight_EC, bias_C) in parts.items()
    }
