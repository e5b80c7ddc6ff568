"""What a model says of the links of its networks: for every TF and every gene, is there an edge, and of which sign?

Choices and their cost:
- TFs are asked in blocks, so that TFs x genes are never in memory at once: 1,600 x 60,000 pairs of two probabilities
  would take 768 MB.
- Of several networks the probabilities are averaged: a network is a way of asking, and none is right by itself.
- A gene does not regulate itself: such a pair is given no probability, as training asked of none.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
import pandas as pd

from mofm.errors import InputError, nearest_name
from mofm.inference.model import PretrainedModel
from mofm.nn import model as models
from mofm.nn.links import answer_log_probabilities
from mofm.omics.network_splits import HELD_OUT_EDGE, HELD_OUT_TF, TRAIN

BLOCK_PAIRS = 2**22
"""Pairs that are asked about at once."""
KNOWN = {TRAIN: "training", HELD_OUT_EDGE: "held out", HELD_OUT_TF: "held out"}
"""By split: what a person calls an edge that the tables have."""


@dataclass(frozen=True, eq=False)
class Network:
    """The networks of a model that are asked, and their edges.

    Attributes:
      names: of the networks.
      relations: their numbers.
      tfs: int32, ascending: rows of the TFs that have an edge in one of them.
      pairs: a row a (tf, target) of the tables, sorted: columns tf, target (rows), sign (of what the networks say
        together; 0 where they disagree or give none), known ("training", "held out") and network (names, ";" between).
    """

    names: tuple[str, ...]
    relations: tuple[int, ...]
    tfs: np.ndarray
    pairs: pd.DataFrame

    def known_signs(self, tfs: np.ndarray, genes: int) -> np.ndarray:
        """sign_TG of the pairs that training was shown: 1 or -1, NaN where it was shown no edge, 0 where no sign."""
        sign_TG = np.full((len(tfs), genes), np.nan, np.float32)
        shown = self.pairs[(self.pairs["known"] == "training") & self.pairs["tf"].isin(tfs)]
        sign_TG[np.searchsorted(tfs, shown["tf"]), shown["target"]] = shown["sign"]
        return sign_TG


def network_of(model: PretrainedModel, name: str | None = None) -> Network:
    """The networks of a model, or the one of this name.

    Raises:
      InputError: the model has learned no network, or none of this name.
    """
    if model.network is None:
        raise InputError(
            f"{model.workdir}: this model was trained without a regulatory network, so it knows no regulators; train one "
            "with --config.network.tables='[\"TABLE\"]' (DoRothEA, CollecTRI, or any TF -> target table)"
        )
    names = model.network.relations
    if name is not None and name not in names:
        raise InputError(
            f"{model.workdir}: no network {name!r}; the model knows {', '.join(names)}.{nearest_name(name, names)}"
        )
    relations = tuple(range(len(names))) if name is None else (names.index(name),)
    edges = model.network.edges
    edges = edges[edges["relation"].isin(relations)]
    return Network(
        tuple(names[one] for one in relations),
        relations,
        np.unique(edges["tf"].to_numpy(np.int32)),
        _pairs(edges, names),
    )


def _pairs(edges: pd.DataFrame, names: tuple[str, ...]) -> pd.DataFrame:
    """See `Network.pairs`. A pair that any network was trained on is known from training."""
    named = edges.assign(
        network=np.asarray(names, object)[edges["relation"]], known=edges["split"].map(KNOWN).astype(object)
    )
    grouped = named.sort_values(["tf", "target", "relation"]).groupby(["tf", "target"], as_index=False, sort=True)
    pairs = grouped.agg(sign=("sign", "sum"), known=("known", "max"), network=("network", ";".join))
    return pairs.assign(sign=np.sign(pairs["sign"]).astype(np.int8))


def find_tf(model: PretrainedModel, network: Network, name: str) -> int:
    """The row of a TF of the networks, by symbol or id.

    Raises:
      InputError: no TF of the networks has this name; the nearest that has is named.
    """
    genes = model.genes.iloc[network.tfs]
    for column in ("symbol", "id"):
        found = np.flatnonzero(genes[column].astype(str).str.casefold() == name.casefold())
        if len(found):
            return int(network.tfs[found[0]])
    known = [*genes["symbol"].astype(str), *genes["id"].astype(str)]
    hint = nearest_name(name, known) or nearest_name(name.upper(), known)
    raise InputError(f"{name!r} is none of the {len(genes):,} TFs of the model's networks.{hint}")


def link_blocks(model: PretrainedModel, network: Network, tfs: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of TFs with probability_TGA, float32, that they activate and that they repress each gene of the model."""
    genes = len(model.genes)
    step = max(1, BLOCK_PAIRS // model.spec.genes)
    for start in range(0, len(tfs), step):
        block = tfs[start : start + step]
        padded = np.pad(block, (0, step - len(block)), mode="edge")  # one shape, one compilation
        asked = [_ask(model.spec, model.params, model.states, padded, relation=one) for one in network.relations]
        probability_TGA = np.mean([np.asarray(one)[: len(block), :genes] for one in asked], axis=0)
        probability_TGA[np.arange(len(block)), block] = 0
        yield block, probability_TGA


@partial(jax.jit, static_argnames=("spec", "relation"))
def _ask(spec, params, states, tf_T, *, relation):
    logit_TGA = models.score_every_link(spec, params, states, tf_T, relation)
    return jax.numpy.exp(answer_log_probabilities(logit_TGA)[..., 1:])
