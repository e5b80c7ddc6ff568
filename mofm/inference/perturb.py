"""What happens to cells where a TF is knocked out or overexpressed, in silico: `perturb(model, IN, [Change(...)])`.

Two estimates of the shift of every gene's log rate, and neither is an experiment:

    network   the change of the TF's activity in the cell (a knock-out takes it from where it is, 0 at the file's 1st
              percentile to 1 at its 99th, to 0; overexpression adds log10(fold)) times the belief in its edges
              (`regulators.py`), and SECOND times that of the TFs it changes times the belief in theirs. In units of a sure
              edge, not nats.
    model     the TF's counts set to 0 or multiplied, the cell embedded again, and the decoder asked again, nats; for a
              knock-out the TF's edges leave the graph as well, so that no gene hears of it.

A masked model knows what goes along with the TF, not what follows from it. Measured as in `activities.py`, knock-outs of
the 10 TFs of most edges in 256 cells: how |shift| separates the TF's true direct targets from other genes (AUROC), and how
often a target's shift has the right sign (balanced); of all targets, and of the fifth that training was not shown.

                                       all targets       held out
                                       AUROC   sign      AUROC   sign
    network                            .933    .942      .654    .727
    model                              .593    .688      .581    .697
    model, the graph left as it is     .535    .677      .577    .691

So go by `network`: it is given most of the answer, and is better where it is not. A knock-out moves a cell by .02 of the
typical distance: what a model says of one TF's counts is small beside what it says of a cell.

These are of the simulation that the recipe was chosen on, and of the day it was; tests/benchmarks/regulators.py judges the
code as it is, on others.

Choices and their cost:
- The tokens of a cell stay as they are but for the TF's, which is there before and after, if as a zero; other genes' values
  are not normalised anew. Else the lot by which tokens are drawn would move cells more than one gene does.
- How far a cell moves is stated beside the file's typical distance: the median over cells from the mean embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pandas as pd

from mofm.batch import LIBRARY_SCALE, TokenBatch
from mofm.errors import InputError
from mofm.inference.activities import tf_activities
from mofm.inference.groups import Groups, read_groups
from mofm.inference.links import Network, find_tf, link_blocks, network_of
from mofm.inference.matching import Matching
from mofm.inference.model import RNA, Embedding, Options, PretrainedModel, encode, gene_states
from mofm.inference.profiles import read_profiles
from mofm.inference.regulators import beliefs
from mofm.nn import model as models
from mofm.omics.readers import Reading, Source
from mofm.omics.rows import CountRows
from mofm.omics.table import CountTable
from mofm.progress import cells_progress

FOLD = 10.0
"""Of an overexpression that does not say."""
SECOND = 0.3
"""Share of a change that is passed on by the TFs that are changed."""
EVERY_CELL = "all cells"
"""The one group where the user gave no column."""


@dataclass(frozen=True)
class Change:
    """What is done to a TF.

    Attributes:
      tf: symbol or id.
      fold: 0 knocks it out; above 1 its counts are multiplied, as if there were 1 at least.
    """

    tf: str
    fold: float = 0.0

    def __post_init__(self):
        if not (self.fold == 0 or 1 < self.fold < np.inf):
            raise InputError(f"{self.tf}={self.fold:g}: a fold of overexpression is a number above 1")

    def __str__(self) -> str:
        return f"{self.tf} x {self.fold:g}" if self.fold else f"{self.tf} knocked out"


@dataclass(frozen=True, eq=False)
class Perturbation:
    """What a change does to a file's cells.

    Attributes:
      embedding: of the cells as they are.
      changed_NE: of the cells after the change.
      shift_N: float32, how far each is moved, 1 being the file's typical distance.
      groups: a row a group: group, cells, shift (mean), toward (the other group that the mean move points to most), cosine.
      genes: a row a gene and group: group, gene, gene_id, network, model (see above), known ("training", "held out", "":
        whether the networks have an edge from a changed TF), confidence (P(edge) by the model, the largest over the changed
        TFs), sign (of that edge). The largest |network| of a group first.
      notes: what a person should know, a line each.
    """

    embedding: Embedding
    changed_NE: np.ndarray
    shift_N: np.ndarray
    groups: pd.DataFrame
    genes: pd.DataFrame
    notes: tuple[str, ...]


def perturb(
    model: PretrainedModel,
    path: Source,
    changes: Sequence[Change],
    groupby: str | None = None,
    reading: Reading = RNA,
    *,
    network: str | None = None,
    min_cells: int = 10,
    **options,
) -> Perturbation:
    """Knock out or overexpress TFs in every cell of a file.

    Args:
      path: RNA, as `PretrainedModel.embed` takes it.
      changes: one or more, of different TFs.
      groupby: a column of its obs; None for all cells as one group.
      network, min_cells, options: as `regulators`.

    Raises:
      InputError: as `embed`, `network_of`, `find_tf` and `read_groups`; no change, or two of one TF.
    """
    asked, chosen = network_of(model, network), Options(**options)
    rows = np.array([find_tf(model, asked, change.tf) for change in changes], np.int32)
    if not len(rows) or len(np.unique(rows)) < len(rows):
        raise InputError("name at least one TF to knock out or to overexpress, and each once")
    folds = np.array([change.fold for change in changes])
    with model.opened(path, reading, chosen) as matched:
        ((table, matching),) = matched
        groups = _one_group(table) if groupby is None else read_groups(table, groupby, min_cells)
        embedding = model.embed_table(table, matching, chosen)
        states = gene_states(model.spec, model.params, _graph_without(model, rows[folds == 0]))
        plain_NE, changed_NE = _embed_both(model, states.rows_GD, table, matching, rows, folds, chosen)
        profiles = read_profiles(table, matching, len(model.genes), groups.code_N, len(groups.names))
        activity_NT = tf_activities(model, asked, profiles, embedding.embedding_NE)
    by_model_CG = _decoded(model, states.rows_GD, groups, changed_NE) - _decoded(
        model, model.states.rows_GD, groups, plain_NE
    )
    by_network_CG = propagate(model, asked, groups.means(_changes(asked, activity_NT, rows, folds)))
    move_NE = changed_NE - plain_NE
    apart = plain_NE - plain_NE.mean(axis=0)
    typical = max(float(np.median(np.linalg.norm(apart, axis=1))), 1e-12)
    shift_N = (np.linalg.norm(move_NE, axis=1) / typical).astype(np.float32)
    absent = sorted(set(rows) - set(matching.rows_F))
    notes = [f"{model.genes['symbol'].iloc[row]} is not in the file: its counts are taken as 0" for row in absent]
    return Perturbation(
        embedding,
        changed_NE,
        shift_N,
        _moves(groups, plain_NE, move_NE, shift_N),
        _gene_table(model, asked, groups.names, rows, by_network_CG, by_model_CG),
        tuple(notes),
    )


def propagate(model: PretrainedModel, network: Network, change_CT: np.ndarray) -> np.ndarray:
    """shift_CG by the networks of changes of the activity of their TFs in C groups, in two hops."""
    first_CG = _hop(model, network, change_CT)
    passed_CT = SECOND * np.where(change_CT == 0, first_CG[:, network.tfs], 0)
    return first_CG + _hop(model, network, passed_CT)


def _hop(model: PretrainedModel, network: Network, change_CT: np.ndarray) -> np.ndarray:
    shift_CG = np.zeros((len(change_CT), len(model.genes)))
    moved = np.flatnonzero(np.any(change_CT != 0, axis=0))
    for block, probability_TGA in link_blocks(model, network, network.tfs[moved]):
        places = np.searchsorted(network.tfs, block)
        shift_CG += change_CT[:, places] @ beliefs(network, block, probability_TGA)
    return shift_CG


def _changes(network: Network, activity_NT: np.ndarray, rows: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """change_NT of the activity of TFs, 1 being from off to on."""
    change_NT = np.zeros_like(activity_NT)
    for row, fold in zip(rows, folds, strict=True):
        place = np.searchsorted(network.tfs, row)
        low, high = np.quantile(activity_NT[:, place], (0.01, 0.99))
        level_N = np.clip((activity_NT[:, place] - low) / max(high - low, 1e-9), 0, 1)
        change_NT[:, place] = -level_N if fold == 0 else np.log10(fold)
    return change_NT


def _graph_without(model: PretrainedModel, rows: np.ndarray):
    """The graph of the model, the edges that leave these TFs unseen."""
    graph = model.network.graph(model.spec.genes)
    return graph._replace(weight_M=np.where(np.isin(graph.tf_M, rows), np.float32(0), graph.weight_M))


def _embed_both(
    model: PretrainedModel,
    rows_GD,
    table: CountTable,
    matching: Matching,
    rows: np.ndarray,
    folds: np.ndarray,
    options: Options,
) -> tuple[np.ndarray, np.ndarray]:
    """embedding_NE of the cells as they are and as they are changed, over the same tokens."""
    before, after = [], []
    with cells_progress("perturbing", table.n_cells, options.quiet) as advance:
        for part, view in model.views(table, matching, options):
            count_BK = np.zeros((len(view.mask_BL), len(rows)), np.float32)
            count_BK[: part.n_cells] = _counts_of(part, matching.rows_F, rows)
            changed_BK = np.where(folds == 0, 0, np.maximum(count_BK, 1) * folds).astype(np.float32)
            for said, genes_GD, kept in ((count_BK, model.states.rows_GD, before), (changed_BK, rows_GD, after)):
                changed = with_counts(view, rows, said)
                embedding_BE = encode(model.spec, model.params, genes_GD, changed, table.modality, matching.space)
                kept.append(np.asarray(embedding_BE)[: part.n_cells])
            advance(part.n_cells)
    return np.concatenate(before), np.concatenate(after)


def _counts_of(part: CountRows, rows_F: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """count_BK of some genes."""
    cell, gene = np.repeat(np.arange(part.n_cells), np.diff(part.indptr_N)), rows_F[part.indices]
    return np.stack([np.bincount(cell, part.data * (gene == row), part.n_cells) for row in rows], axis=1)


def with_counts(view: TokenBatch, rows: np.ndarray, count_BK: np.ndarray) -> TokenBatch:
    """A view of RNA in which K genes have these counts: their tokens, with one appended where a cell has none.

    The library stays, and so do the values of other tokens. A cell without tokens stays without.
    """
    library_B1 = np.maximum(view.library_B, 1)[:, None]
    value_BK = np.log1p(count_BK / library_B1 * LIBRARY_SCALE).astype(np.float32)
    is_one_BLK = (view.features_BL[..., None] == rows) & view.mask_BL[..., None]
    has_BK, is_any_BL = is_one_BLK.any(axis=1), is_one_BLK.any(axis=2)
    append_BK = ~has_BK & view.mask_BL.any(axis=1, keepdims=True)

    def set_to(old_BL, new_BK):
        inside_BL = np.where(is_any_BL, np.einsum("blk,bk->bl", is_one_BLK, new_BK), old_BL)
        return np.concatenate([inside_BL, new_BK * append_BK], axis=1).astype(old_BL.dtype)

    return view._replace(
        features_BL=np.concatenate([view.features_BL, rows * append_BK], axis=1).astype(np.int32),
        values_BL=set_to(view.values_BL, value_BK),
        counts_BL=set_to(view.counts_BL, count_BK),
        mask_BL=np.concatenate([view.mask_BL, append_BK], axis=1),
    )


def _decoded(model: PretrainedModel, rows_GD, groups: Groups, embedding_NE: np.ndarray) -> np.ndarray:
    """Mean log rate of each gene in each group, above the mean predictor's; through the groups' mean factors."""
    factor_ND = models.cell_factors(model.spec, model.params, jnp.asarray(embedding_NE))
    return groups.means(np.asarray(factor_ND, np.float64)) @ np.asarray(rows_GD, np.float64)[: len(model.genes)].T


def _one_group(table: CountTable) -> Groups:
    cells = table.n_cells
    return Groups((EVERY_CELL,), np.zeros(cells, np.int64), np.array([cells]), 0, {})


def _moves(groups: Groups, plain_NE: np.ndarray, move_NE: np.ndarray, shift_N: np.ndarray) -> pd.DataFrame:
    """See `Perturbation.groups`."""
    centre_CE, move_CE = groups.means(plain_NE), groups.means(move_NE)
    shift_C = groups.means(shift_N[:, None])[:, 0]
    way_CCE = centre_CE[None] - centre_CE[:, None]
    size_CC = np.linalg.norm(way_CCE, axis=-1) * np.linalg.norm(move_CE, axis=-1)[:, None]
    cosine_CC = np.einsum("cde,ce->cd", way_CCE, move_CE) / np.maximum(size_CC, 1e-12)
    np.fill_diagonal(cosine_CC, -np.inf)
    best = cosine_CC.argmax(axis=1)
    alone = len(groups.names) == 1
    return pd.DataFrame(
        {
            "group": list(groups.names),
            "cells": groups.sizes,
            "shift": shift_C,
            "toward": [""] if alone else [groups.names[one] for one in best],
            "cosine": [np.nan] if alone else cosine_CC[np.arange(len(best)), best],
        }
    )


def _gene_table(
    model: PretrainedModel,
    network: Network,
    names: tuple[str, ...],
    rows: np.ndarray,
    by_network_CG: np.ndarray,
    by_model_CG: np.ndarray,
) -> pd.DataFrame:
    """See `Perturbation.genes`."""
    genes = len(model.genes)
    tfs = np.sort(rows)
    probability_TGA = np.concatenate([part for _, part in link_blocks(model, network, tfs)])
    belief_TG, exists_TG = beliefs(network, tfs, probability_TGA), probability_TGA.sum(axis=-1)
    strongest = np.abs(belief_TG).argmax(axis=0)
    belief_G = belief_TG[strongest, np.arange(genes)]
    edges = network.pairs[network.pairs["tf"].isin(rows)].groupby("target")["known"].max()
    known_G = edges.reindex(np.arange(genes)).fillna("").to_numpy(object)
    shared = {
        "gene": model.genes["symbol"].astype(str).to_numpy(object),
        "gene_id": model.genes["id"].astype(str).to_numpy(object),
        "known": known_G,
        "confidence": exists_TG.max(axis=0),
        "sign": np.where(belief_G > 0, "activates", np.where(belief_G < 0, "represses", "")).astype(object),
    }
    parts = []
    for name, of_network_G, of_model_G in zip(names, by_network_CG, by_model_CG, strict=True):
        said = {"network": of_network_G.astype(np.float32), "model": of_model_G.astype(np.float32)}
        part = pd.DataFrame({"group": name, **shared, **said})
        parts.append(part.iloc[np.argsort(-np.abs(part["network"]), kind="stable")])
    table = pd.concat(parts, ignore_index=True)
    return table[["group", "gene", "gene_id", "network", "model", "known", "confidence", "sign"]]
