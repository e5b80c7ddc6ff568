"""Which TFs regulate which genes in which of the user's groups of cells: `regulators(model, IN, groupby)`.

Of every pair of a TF and a gene, in every group of cells,

    score = belief * (the TF's mean activity in the group) * sqrt(|mean shift of the gene's expression in the group|)

is what the TF is expected to do to the gene there, beside the average cell of the file: above 0 it raises it. Belief is the
sign of an edge that the networks give; of every other pair it is NEW * (d * |d|), d = P(activates) - P(represses) by the
model. Activities are those of `activities.py`, shifts as in `profiles.py`.

Measured as there, against the true contribution, effect * (the TF's mean activity in the type less that over all cells).
Average precision of |score| for contributions above .1 nats (.38% of all pairs, .09% of those that training was not shown),
mean over types; and correlation with the contribution:

                                            all pairs           not shown in training
                                            AP     r            AP     r
    known edges * activity                  .570   .649         .001
    d * activity                            .159   .276         .072   .130
    d |d| * activity                        .171   .337         .083   .173
    d |d| * activity * sqrt(shift)          .200   .428         .094   .237
    belief * activity * sqrt(shift)         .620   .724         .090   .234    this

So a known edge that fits the group is worth much more than one that the model thinks of: of the first 20 pairs of a type
that training was not shown 16% are true, of the first 100 8% (by chance .1%), and of these the signs are right of 95%. They
are hypotheses; `known` marks them.

These are of the simulation that the recipe was chosen on, and of the day it was; tests/benchmarks/regulators.py judges the
code as it is, on others.

Choices and their cost:
- Held-out edges are known to the tables but were not shown to the model: they are ranked as new ones are, and marked.
- Pairs are scored in blocks of TFs, and only the first K of a group are kept.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mofm.errors import InputError
from mofm.inference.activities import tf_activities
from mofm.inference.groups import Groups, read_groups
from mofm.inference.links import Network, link_blocks, network_of
from mofm.inference.model import RNA, Embedding, Options, PretrainedModel
from mofm.inference.profiles import read_profiles
from mofm.omics.readers import Reading, Source

NEW = 0.5
"""Of the belief in a pair that no network has."""
COLUMNS = (
    "group", "rank", "tf", "target", "tf_id", "target_id", "score", "confidence", "sign", "known", "networks",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Regulators:
    """The regulators of a file's cells.

    Attributes:
      embedding: of the cells; their names and the report are there.
      tfs: symbols of the T TFs (ids where a symbol is not unique), in the order of the gene table.
      activity_NT: float32, z-scored over the file's cells.
      groups: of the cells.
      top: a row a group and rank: columns group, rank, tf, tf_id, activity (mean z-score of the group's cells), targets
        (its edges among those of the group). All TFs, the most active first.
      edges: a row an edge of a group, best first: columns as in `COLUMNS`. confidence is P(edge) by the model; sign
        "activates" or "represses"; known "training", "held out", or "" where no network has it.
      notes: what a person should know, a line each.
      groupby: the column of obs that the groups are of.
    """

    embedding: Embedding
    tfs: tuple[str, ...]
    activity_NT: np.ndarray
    groups: Groups
    top: pd.DataFrame
    edges: pd.DataFrame
    notes: tuple[str, ...]
    groupby: str


def regulators(
    model: PretrainedModel,
    path: Source,
    groupby: str,
    reading: Reading = RNA,
    *,
    network: str | None = None,
    top: int = 10_000,
    min_cells: int = 10,
    **options,
) -> Regulators:
    """The TFs and the edges that distinguish a file's groups of cells.

    Args:
      path: RNA, as `PretrainedModel.embed` takes it.
      groupby: a column of its obs. Cells without a label count in the file's average, not in a group.
      network: name of the network that is asked; None for all that the model knows.
      top: edges kept of each group.
      min_cells: groups of fewer cells are left out, and said.
      options: fields of `Options`.

    Raises:
      InputError: as `embed`, `network_of` and `read_groups`; or `top` is below 1.
    """
    if top < 1:
        raise InputError(f"top {top}: must be at least 1")
    asked, chosen = network_of(model, network), Options(**options)
    with model.opened(path, reading, chosen) as matched:
        ((table, matching),) = matched
        groups = read_groups(table, groupby, min_cells)
        embedding = model.embed_table(table, matching, chosen)
        profiles = read_profiles(table, matching, len(model.genes), groups.code_N, len(groups.names))
        activity_NT = tf_activities(model, asked, profiles, embedding.embedding_NE)
    shift_CT = groups.means(activity_NT)
    edges = rank_edges(model, asked, groups.names, shift_CT, profiles.group_CG, top)
    return Regulators(
        embedding,
        unique_symbols(model, asked.tfs),
        activity_NT,
        groups,
        _rank_tfs(model, asked, groups.names, shift_CT, edges),
        edges,
        _notes(groups, groupby, min_cells),
        groupby,
    )


def unique_symbols(model: PretrainedModel, rows: np.ndarray) -> tuple[str, ...]:
    """Symbols of genes, with the id behind those that several share."""
    genes = model.genes.iloc[rows]
    shared = genes["symbol"].duplicated(keep=False)
    return tuple(
        f"{one.symbol} ({one.id})" if twice else str(one.symbol)
        for one, twice in zip(genes.itertuples(index=False), shared, strict=True)
    )


def beliefs(network: Network, tfs: np.ndarray, probability_TGA: np.ndarray) -> np.ndarray:
    """belief_TG, in [-1, 1]: how surely, and with which sign, each TF regulates each gene (see above)."""
    d_TG = probability_TGA[..., 0] - probability_TGA[..., 1]
    known_TG = network.known_signs(tfs, d_TG.shape[1])
    known_TG = np.where(known_TG == 0, np.sign(d_TG), known_TG)
    return np.where(np.isnan(known_TG), NEW * d_TG * np.abs(d_TG), known_TG).astype(np.float32)


def rank_edges(
    model: PretrainedModel,
    network: Network,
    groups: tuple[str, ...],
    shift_CT: np.ndarray,
    shift_CG: np.ndarray,
    top: int,
) -> pd.DataFrame:
    """The first `top` edges of each group by |score|; pairs of score 0 are none. See `Regulators.edges`."""
    size_CG = np.sqrt(np.abs(shift_CG)).astype(np.float32)
    best: list[list[pd.DataFrame]] = [[] for _ in groups]
    for block, probability_TGA in link_blocks(model, network, network.tfs):
        belief_TG = beliefs(network, block, probability_TGA)
        exists_TG = probability_TGA.sum(axis=-1)
        place_T = np.searchsorted(network.tfs, block)
        for group in range(len(groups)):
            score_TG = belief_TG * shift_CT[group, place_T, None].astype(np.float32) * size_CG[group]
            found = _largest(score_TG, top)
            columns = {"tf": block[found[0]], "target": found[1], "score": score_TG[found], "belief": belief_TG[found]}
            best[group].append(pd.DataFrame({**columns, "confidence": exists_TG[found]}))
            best[group] = [_first(pd.concat(best[group], ignore_index=True), top)]
    table = pd.concat([part[0].assign(group=name) for name, part in zip(groups, best, strict=True)], ignore_index=True)
    return _named(model, network, table)


def _largest(score_TG: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of the largest absolute scores that are not 0."""
    size = np.abs(score_TG).ravel()
    chosen = np.arange(len(size)) if top >= len(size) else np.argpartition(-size, top - 1)[:top]
    return np.unravel_index(np.sort(chosen[size[chosen] > 0]), score_TG.shape)


def _first(table: pd.DataFrame, top: int) -> pd.DataFrame:
    order = np.lexsort((table["target"], table["tf"], -np.abs(table["score"])))[:top]
    return table.iloc[order].assign(rank=np.arange(1, len(order) + 1))


def _named(model: PretrainedModel, network: Network, table: pd.DataFrame) -> pd.DataFrame:
    table = table.merge(network.pairs[["tf", "target", "known", "network"]], on=["tf", "target"], how="left")
    genes = {end: model.genes.iloc[table[end].to_numpy()] for end in ("tf", "target")}
    return pd.DataFrame(
        {
            "group": table["group"].astype(object),
            "rank": table["rank"].astype(np.int64),
            **{end: genes[end]["symbol"].astype(str).to_numpy(object) for end in genes},
            **{f"{end}_id": genes[end]["id"].astype(str).to_numpy(object) for end in genes},
            "score": table["score"].astype(np.float32),
            "confidence": table["confidence"].astype(np.float32),
            "sign": np.where(table["belief"] > 0, "activates", "represses").astype(object),
            "known": table["known"].fillna("").astype(object),
            "networks": table["network"].fillna("").astype(object),
        },
        columns=list(COLUMNS),
    )


def _rank_tfs(
    model: PretrainedModel, network: Network, groups: tuple[str, ...], shift_CT: np.ndarray, edges: pd.DataFrame
) -> pd.DataFrame:
    """See `Regulators.top`."""
    names, ids = np.array(unique_symbols(model, network.tfs), object), model.genes["id"].to_numpy(object)[network.tfs]
    targets = edges.groupby(["group", "tf_id"]).size()
    parts = []
    for name, shift_T in zip(groups, shift_CT, strict=True):
        order = np.argsort(-shift_T, kind="stable")
        count = targets.reindex([(name, one) for one in ids[order]], fill_value=0).to_numpy(np.int64)
        columns = {"tf": names[order], "tf_id": ids[order], "activity": shift_T[order].astype(np.float32)}
        parts.append(pd.DataFrame({"group": name, "rank": np.arange(1, len(order) + 1), **columns, "targets": count}))
    return pd.concat(parts, ignore_index=True)


def _notes(groups: Groups, groupby: str, min_cells: int) -> tuple[str, ...]:
    notes = []
    if groups.unlabelled:
        notes.append(f"{groups.unlabelled:,} cells have no {groupby}: they count in the file's average, in no group")
    if groups.too_small:
        named = ", ".join(f"{name} ({cells:,})" for name, cells in list(groups.too_small.items())[:5])
        more = f" and {len(groups.too_small) - 5:,} more" if len(groups.too_small) > 5 else ""
        notes.append(f"groups of fewer than {min_cells:,} cells are left out: {named}{more}")
    if len(groups.names) == 1:
        notes.append(
            f"{groupby} has one group: what is found is how it differs from the file's other cells, if there are any"
        )
    return tuple(notes)
