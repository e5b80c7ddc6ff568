"""The regulatory networks of a run: read from tables, held out in part, made a graph, and kept in its directory.

Held-out edges are never passed as messages and never asked about as edges in training, in none of the networks: they are
what link prediction is judged by. Training does not know that they are held out, and so may draw one as a pair that is
none, as likely as the pairs that it is judged against: were they spared, that would give them away. Whole TFs can be held
out as well, all of whose edges are then new.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from mofm.batch import GeneGraph, LinkQuestions
from mofm.batches.graph import ask_about, make_graph
from mofm.corpus.digests import digest_of_text
from mofm.errors import InputError, check_at_least
from mofm.files import written_whole
from mofm.omics.genome import GeneTable
from mofm.omics.network_splits import TRAIN, hold_out, matched_negatives
from mofm.omics.networks import read_networks

ENDS = ("tf", "target")
FILE, REPORT = "network.parquet", "network.json"


@dataclass(frozen=True)
class NetworkConfig:
    """Which regulatory networks a model learns with.

    Attributes:
      tables: files of TF -> target edges, each "PATH" or "NAME=PATH": DoRothEA, CollecTRI, TRRUST, OmniPath, or any table
        with named columns (see `omics/networks.py`); motif hits too. Several are several relations. Empty: no network.
      confidences: levels of confidence to keep, such as ["A", "B", "C"]. Empty: all.
      tissues: tissues to keep. Empty: all.
      build: genome build of motif hits. None: found by their places.
      held_out_edges: share of the edges that training never sees, in [0, 1).
      held_out_tfs: share of the TFs all of whose edges training never sees, in [0, 1).
      edge_budget: edges that the graph is padded to. None: as many as there are, rounded up.
    """

    tables: tuple[str, ...] = ()
    confidences: tuple[str, ...] = ()
    tissues: tuple[str, ...] = ()
    build: str | None = None
    held_out_edges: float = 0.05
    held_out_tfs: float = 0.0
    edge_budget: int | None = None

    def __post_init__(self):
        for name in ("held_out_edges", "held_out_tfs"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"network.{name}={getattr(self, name)}: must be at least 0 and less than 1")
        if self.edge_budget is not None:
            check_at_least("network", self, ("edge_budget",), 1)


@dataclass(frozen=True, eq=False)
class RunNetwork:
    """The networks of a run.

    Attributes:
      edges: columns tf, target (int32 rows of the gene table), relation (int16), sign (int8), weight (float32), confidence
        (str), split (str: "train", "held_out_edge", "held_out_tf").
      relations: names of the networks.
      report: of each network, what became of its lines (see `read_networks`). Empty where it was loaded.
      notes: the same for a person, a line each.
    """

    edges: pd.DataFrame
    relations: tuple[str, ...]
    report: dict = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """What distinguishes these edges, and which of them are held out, from others."""
        return digest_of_text(self.edges.to_csv(index=False))

    def graph(self, genes: int, budget: int | None = None) -> GeneGraph:
        """The edges of training, over G gene rows."""
        return make_graph(self.edges[self.edges["split"] == TRAIN], genes, budget)

    def held_out(self, genes: int, seed: int) -> LinkQuestions | None:
        """Questions about the held-out edges, each beside a pair of the same TF that is none; None where there are none.

        Edges beside which no such pair can be found are not asked about.
        """
        asked = self.edges[self.edges["split"] != TRAIN]
        known, (tf_Q, target_Q) = ([edges[end].to_numpy() for end in ENDS] for edges in (self.edges, asked))
        other_Q = np.full_like(target_Q, -1)
        parts = asked.groupby(["split", "relation"]).indices.values()
        for number, part in enumerate(parts):  # each is its own pool: see `network_splits`
            positives = (tf_Q[part], target_Q[part])
            other_Q[part] = matched_negatives(positives, positives, known, genes, seed + number)[1]
        return ask_about(asked, (tf_Q, other_Q)) if (other_Q >= 0).any() else None


def read_network(config: NetworkConfig, genes: pd.DataFrame, species: GeneTable, seed: int) -> RunNetwork | None:
    """The networks of a config over a model's genes (columns id, symbol, measured); None where it names none.

    Raises:
      InputError: a table cannot be used (see `read_networks`), or nothing is left to train on.
    """
    if not config.tables:
        return None
    network = read_networks(
        config.tables, genes, species, confidences=config.confidences, tissues=config.tissues, build=config.build
    )
    split = hold_out(network.edges, config.held_out_edges, config.held_out_tfs, seed)
    return RunNetwork(network.edges.assign(split=split), network.relations, network.report, network.notes)


def save_network(workdir: Path, network: RunNetwork, genes: pd.DataFrame) -> None:
    """Write network.parquet, the edges with the ids and symbols of their genes and the name of their network, and
    network.json, what became of every line of the tables."""
    names = {f"{end}_{name}": genes[name].to_numpy()[network.edges[end]] for end in ENDS for name in ("id", "symbol")}
    of_relation = [network.relations[relation] for relation in network.edges["relation"]]
    table = network.edges.assign(network=of_relation, **names)
    with written_whole(workdir / FILE) as temporary:
        table.to_parquet(temporary, index=False)
    with written_whole(workdir / REPORT) as temporary:
        temporary.write_text(json.dumps(network.report, indent=2) + "\n", encoding="utf-8")


def load_network(workdir: Path) -> RunNetwork | None:
    """The networks of a run, or None where it has none."""
    path = workdir / FILE
    if not path.exists():
        return None
    table = pd.read_parquet(path)
    names = table.groupby("relation")["network"].first()  # each has an edge
    return RunNetwork(
        table.drop(columns=["network", *(f"{end}_{name}" for end in ENDS for name in ("id", "symbol"))]), tuple(names)
    )
