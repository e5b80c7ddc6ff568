"""The pretrained model that a run begins from, and what of the run it settles.

The encoder, the translator, the fusion, the regulatory network and what a cell's tokens are drawn like are the model's:
another size is another model. Only a model without fusion may be given one, which begins by changing nothing. Objectives and
the numbers of tokens are its own too, until the config says otherwise. Optimizer, length and cells are the new run's.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from mofm.axes import FEATURES, Modality
from mofm.batch import Spaces
from mofm.corpus.datasets import Corpus
from mofm.errors import InputError
from mofm.linear.start import Start
from mofm.nn.model import Params
from mofm.nn.spec import ModelSpec
from mofm.training.config import Config, build_config
from mofm.training.network import RunNetwork

SETTLED = ("encoder", "translator", "fusion", "grn", "network", "data.expressed_fraction")
"""What the model says, and no config can change."""
RANK = 8
"""Of the adapters of `--tune lora`, where the config does not say."""
FREE = ("encoder.remat", "encoder.compute_dtype", "network.edge_budget")
"""Of that, how it is computed: memory and speed."""
LIKE_THE_MODEL = ("data.tokens", "data.atac_tokens", "data.adt_tokens", "data.methylation_tokens", "objectives")
"""What is as in the model's own training where the config does not say."""
LEAST_KNOWN = 0.2
"""Of the corpus's features, or of the model's genes where those are fewer: so many must be in common."""


@dataclass(frozen=True, eq=False)
class Origin:
    """A trained model, as a new run takes it over.

    Attributes:
      name, step: which it is.
      params: float32, on the host.
      genes: columns id, symbol, measured: what the rows of its gene table stand for.
      features: columns id, symbol, modality: what it was trained on.
      network: its regulatory networks; None for a model of none.
      start: the simple models that it began from.
      species: of its cells.
      before: what its own run recorded of the model that it began from; None where it began from nothing.
    """

    name: str
    step: int
    config: Config
    spec: ModelSpec
    params: Params
    genes: pd.DataFrame
    features: pd.DataFrame
    network: RunNetwork | None
    start: Start
    species: str
    before: dict[str, Any] | None = None

    @cached_property
    def digest(self) -> str:
        """What distinguishes these parameters from any others, whether they lie in a run or in a bundle."""
        digest = hashlib.sha256("\n".join(self.genes["id"]).encode())
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.params):
            digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
            digest.update(np.ascontiguousarray(leaf))
        return digest.hexdigest()

    def record(self) -> dict[str, Any]:
        """What the new run remembers of it: name, step, digest, and what it was itself begun from."""
        said = {"name": self.name, "step": self.step, "digest": self.digest}
        return said if self.before is None else said | {"from": self.before}


def finetune_config(
    values: ConfigDict | Mapping[str, Any],
    overrides: Sequence[str],
    origin: Origin,
    label_key: str | None = None,
    rank: int = 0,
    batch_key: str | None = None,
) -> Config:
    """The config of a run that begins from a model: `values` and overrides as for training, over what the model settles.

    Args:
      label_key: column of obs whose labels move the encoder; None where none do.
      rank: of the adapters through which they do; 0 moves the parameters themselves.
      batch_key: column of obs that says of which technical batch a cell is, where the run begins without batches.

    Raises:
      InputError: as `build_config`; or a key is set that the model settles, or against these.
    """
    given = values.to_dict() if isinstance(values, ConfigDict) else values
    asked = [*_keys(given), *(override.partition("=")[0] for override in overrides)]
    settled = [one for one in SETTLED if one != "fusion" or origin.config.fusion.blocks]
    for key in asked:
        if key not in FREE and any(key == one or key.startswith(f"{one}.") for one in settled):
            raise InputError(
                f"config: {key} is settled by the model {origin.name}, which the run begins from; leave it out, or pretrain "
                "another model with `mofm train`"
            )
    tree: dict[str, Any] = {}
    for key in (*SETTLED, *LIKE_THE_MODEL):
        *groups, last = key.split(".")
        ours, theirs = tree, origin.config.to_dict()
        for group in groups:
            ours, theirs = ours.setdefault(group, {}), theirs[group]
        ours[last] = theirs[last]
    tree["objectives"] |= {"supervised_weight": 0.0 if label_key is None else 1.0}  # its task is no part of a model
    tree["adapters"] = {"rank": rank}
    columns = {"label_key": label_key, "batch_key": batch_key}
    tree["data"] |= {key: column for key, column in columns.items() if column is not None}
    config = build_config(_over(tree, given), list(overrides))
    _check_tuned(config, label_key, rank)
    for key, column in columns.items():
        if column not in (None, getattr(config.data, key)):
            raise InputError(
                f"data.{key}={getattr(config.data, key)}: --task names the column {column!r}; leave data.{key} out"
            )
    return config


def _check_tuned(config: Config, label_key: str | None, rank: int) -> None:
    weight = config.objectives.supervised_weight
    if (weight > 0) != (label_key is not None):
        asked = (
            "needs --tune lora or full"
            if weight
            else "leaves the labels unheard; set it above 0, or give another --tune"
        )
        raise InputError(f"objectives.supervised_weight={weight}: {asked}")
    if (config.adapters.rank > 0) != (rank > 0):
        asked = "set it above 0, or give --tune full" if rank else "needs --tune lora"
        raise InputError(f"adapters.rank={config.adapters.rank}: {asked}")


def check_corpus(origin: Origin, corpus: Corpus) -> None:
    """Refuse a corpus that the model cannot be trained on, before anything is written.

    Raises:
      InputError: another species, or a modality that the model never saw.
    """
    species = corpus.manifest.species
    if species != origin.species:
        raise InputError(
            f"{corpus.path}: cells of {species}, and {origin.name} is a model of {origin.species}; ingest them with "
            "--orthologs, or begin from a model of their species"
        )
    if strange := [modality for modality in corpus.modalities if modality not in origin.spec.modalities]:
        raise InputError(
            f"{corpus.path}: has {', '.join(strange)}, which {origin.name} never saw (it was trained on "
            f"{', '.join(origin.spec.modalities)}); ingest the others alone (mofm ingest --modality), or pretrain a model on "
            "all of them"
        )


def genes_known(origin: Origin, corpus: Corpus, spaces: Spaces, row_G: np.ndarray) -> list[str]:
    """How much of the corpus the model knows, a line a modality.

    Args:
      row_G: the model's row of each of the run's genes; -1 for one that it does not know.

    Raises:
      InputError: too little: another species, or names of another kind.
    """
    lines, is_known_G = [], row_G >= 0
    for modality in corpus.modalities:
        if modality == "rna":
            is_known_F = is_known_G[: int((corpus.features["modality"] == "rna").sum())]
        else:
            space = spaces[modality]
            is_known_F = ((space.weights_FK > 0) & is_known_G[space.genes_FK]).any(axis=1)
        known, features = int(is_known_F.sum()), len(is_known_F)
        of_model = int((origin.features["modality"] == "rna").sum()) if modality == "rna" else features
        _check_enough(origin, corpus, modality, known, min(features, of_model))
        lines.append(f"{modality}: knows {known:,} of the corpus's {features:,} {FEATURES[modality]}")
    if new := int((~is_known_G).sum()):
        lines.append(f"{new:,} genes are new to it")
    return lines


def _check_enough(origin: Origin, corpus: Corpus, modality: Modality, known: int, possible: int) -> None:
    if known < LEAST_KNOWN * possible or not known:
        ids = corpus.features.loc[corpus.features["modality"] == modality, "id"]
        ours, theirs = (", ".join(map(str, some.head(3))) for some in (ids, origin.genes["id"]))
        raise InputError(
            f"{corpus.path}: {origin.name} knows {known:,} of its {len(ids):,} {FEATURES[modality]} ({ours}, ...; the model's "
            f"genes are {theirs}, ...), fewer than {LEAST_KNOWN:.0%} of what could be in common: check the species and the "
            "names that the corpus was ingested with"
        )


def _keys(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted keys of nested dicts."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _keys(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts, those of `above` first."""
    both = {key: _over(below[key], value) for key, value in above.items() if _are_groups(below.get(key), value)}
    return {**below, **above, **both}


def _are_groups(*values: Any) -> bool:
    return all(isinstance(value, Mapping) for value in values)
