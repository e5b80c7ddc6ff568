"""What `mofm evaluate` judges on: the cells of one file, dealt to folds, with the model's embeddings and those of peers.

Choices and their cost:
- Counts of the judged cells are in memory, as the linear baselines need them; of more than `max_cells`, that many are
  taken by lot.
- Every cell is judged once, in the fold whose readers and baselines never saw it. `split` says what is kept apart:
  cells (each label dealt evenly over the folds), the groups of an obs column (donors, datasets: a group is in one fold
  whole), or what the model's own training saw from what it did not.
- A peer is what is in obsm already. It was made by whoever put it there, and mofm cannot know from which cells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from mofm.axes import Modality
from mofm.errors import InputError, nearest_name
from mofm.evaluation.annotation import stratified_folds
from mofm.evaluation.resample import LEAST_DRAWS
from mofm.evaluation.translation_baselines import COMPONENTS, Measured, measured_of
from mofm.omics.readers import Reading
from mofm.omics.rows import join_rows
from mofm.omics.table import CountTable

BY_CELL, UNSEEN = "cell", "unseen"
"""Values of `split` that are no obs column."""
BY_PCA = f"weights by PCA ({COMPONENTS})"
"""A baseline of perturbation."""
TAKEN = frozenset(["mofm", f"PCA ({COMPONENTS})", "majority", "noise", "chance", "gene activity", "ridge on pairs"])
TAKEN |= {BY_PCA, "no change", "mean change", "ridge on profiles"}
"""Names of methods that no peer may have."""


@dataclass(frozen=True)
class Settings:
    """What is asked of an evaluation.

    Attributes:
      tasks: names; None for all that the data and the model allow.
      label_key, batch_key: obs columns: what a cell is called, and its technical batch.
      split: "cell", "unseen" (judged are the cells that the model's training never saw), or an obs column of groups.
      folds: of cells or groups.
      seed: of folds, lots and draws.
      bootstrap: draws of an interval.
      compare: name -> key of obsm: embeddings that are judged beside mofm's.
      network: a table of TF -> target edges, for the task of regulation.
      condition_key, control: obs column of what was done to a cell, and its value for nothing, for the task of perturbation.
      corpus: where the model's training corpus lies now; None for where it lay.
      max_cells, max_features: the most that are judged.
      umap: draw the map of the embedding.
    """

    tasks: tuple[str, ...] | None = None
    label_key: str | None = None
    batch_key: str | None = None
    split: str = BY_CELL
    folds: int = 5
    seed: int = 0
    bootstrap: int = 1000
    compare: Mapping[str, str] = field(default_factory=dict)
    network: Path | None = None
    condition_key: str | None = None
    control: str | None = None
    corpus: Path | None = None
    max_cells: int = 20_000
    max_features: int = 2_000
    umap: bool = True

    def __post_init__(self):
        least = {"folds": 2, "seed": 0, "bootstrap": LEAST_DRAWS, "max_cells": 20, "max_features": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least {value}")
        if taken := TAKEN & set(self.compare):
            raise InputError(f"--compare {min(taken)}=...: that name is taken; give the embedding another")


@dataclass(frozen=True, eq=False)
class View:
    """The judged cells of one modality.

    Attributes:
      adata: counts in X (and layers["methylated"]), the file's var; obs is their names alone.
      place_N: int64, their rows among `Cells.names`.
      embedding_NE: the model's.
      peers: name -> embedding, finite.
      own: names of the peers that are of this modality alone, not of whole cells.
      report: of `PretrainedModel.embed`.
    """

    adata: anndata.AnnData
    place_N: np.ndarray
    embedding_NE: np.ndarray
    peers: dict[str, np.ndarray]
    own: frozenset[str]
    report: dict

    @property
    def measured(self) -> Measured:
        """The counts as baselines take them."""
        return measured_of(self.adata)


@dataclass(frozen=True, eq=False)
class Cells:
    """The judged cells and what is said of them.

    Attributes:
      names: unique.
      labels, batches, conditions: object, None where missing; None where none were asked for.
      groups: what the folds keep whole; None where they keep nothing.
      fold_N: int64, the fold that each is judged in; -1 for one that is only learned from.
    """

    names: pd.Index
    labels: np.ndarray | None
    batches: np.ndarray | None
    conditions: np.ndarray | None
    groups: np.ndarray | None
    fold_N: np.ndarray

    @property
    def folds(self) -> list[int]:
        """Those that have cells."""
        return sorted(set(self.fold_N[self.fold_N >= 0].tolist()))


def all_names(tables: Sequence[CountTable]) -> pd.Index:
    """The cells of all tables, in the order of the first that has them."""
    return pd.Index(list(dict.fromkeys(str(name) for table in tables for name in table.obs.index)))


def column(tables: Sequence[CountTable], names: pd.Index, key: str, option: str) -> np.ndarray:
    """One obs column of the cells as text, None where it is missing; where several modalities have it, the first.

    Raises:
      InputError: no modality has it, or it is empty.
    """
    holders = [table.obs for table in tables if key in table.obs]
    if not holders:
        known = list(dict.fromkeys(str(name) for table in tables for name in table.obs.columns))
        has = f"it has {', '.join(known[:12])}" if known else "it has no columns"
        raise InputError(f"{tables[0].path}: {option} {key}: obs has no such column; {has}.{nearest_name(key, known)}")
    found = pd.Series(pd.NA, index=names, dtype=object)
    for obs in holders:
        values = obs[key].astype(object)
        values.index = values.index.astype(str)
        found = found.where(found.notna(), values.reindex(names))
    if found.isna().all():
        raise InputError(f"{tables[0].path}: {option} {key}: obs[{key!r}] is empty; give another column")
    return np.array([None if pd.isna(value) else str(value) for value in found], dtype=object)


def by_lot(names: pd.Index, most: int, seed: int) -> pd.Index:
    """At most so many of the cells, by lot, in their order."""
    if len(names) <= most:
        return names
    return names[np.sort(np.random.default_rng([seed, 0]).choice(len(names), most, replace=False))]


def in_memory(table: CountTable, names: pd.Index) -> tuple[anndata.AnnData, np.ndarray]:
    """The table's cells that are among `names`, in its order, and their places there."""
    place_N = names.get_indexer(table.obs.index.astype(str))
    rows = np.flatnonzero(place_N >= 0)
    if len(rows) < len(place_N):
        with table.take(rows) as part:
            adata = _adata(part)
    else:
        adata = _adata(table)
    return adata, place_N[rows]


def _adata(table: CountTable) -> anndata.AnnData:
    rows = join_rows(list(table.rows()))
    shape = (rows.n_cells, table.n_features)

    def matrix(data: np.ndarray) -> sp.csr_matrix:
        return sp.csr_matrix((data.astype(np.float32), rows.indices, rows.indptr_N), shape=shape)

    layers = {} if rows.hits is None else {"methylated": matrix(rows.hits)}
    obs = pd.DataFrame(index=table.obs.index.astype(str))
    var = table.var.copy()
    var.index = var.index.astype(str)
    return anndata.AnnData(matrix(rows.data), obs=obs, var=var, layers=layers)


def deal(split: str, cells: int, labels: np.ndarray | None, groups: np.ndarray | None, settings: Settings,
         is_seen: np.ndarray | None) -> np.ndarray:  # fmt: skip
    """fold_N of cells (see `Cells`).

    Raises:
      InputError: fewer than two groups, or of seen and unseen cells there are not both.
    """
    if split == UNSEEN:
        return _deal_unseen(is_seen)
    if split == BY_CELL:
        names = np.full(cells, "") if labels is None else np.array(["" if x is None else x for x in labels])
        return stratified_folds(names, min(settings.folds, cells), settings.seed)
    known = np.array([group is not None for group in groups])
    names, code_N, counts = np.unique(groups[known].astype(str), return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise InputError(
            f"--split {split}: obs[{split!r}] has one group ({names[0]}); two are needed to keep one apart"
        )
    fold_G, filled = np.empty(len(names), np.int64), np.zeros(min(settings.folds, len(names)))
    for group in np.argsort(-counts, kind="stable"):  # the largest first, each to the emptiest fold
        fold_G[group] = np.argmin(filled)
        filled[fold_G[group]] += counts[group]
    fold_N = np.full(cells, -1, np.int64)
    fold_N[known] = fold_G[code_N]
    return fold_N


def _deal_unseen(is_seen: np.ndarray | None) -> np.ndarray:
    if is_seen is None:
        raise InputError(
            "--split unseen: it is unknown which cells the model was trained on, as its corpus is not where it was; say "
            "with --corpus where it lies now, or leave --split out"
        )
    if is_seen.all() or is_seen.sum() < 2:
        many = "all of the cells were" if is_seen.all() else f"{int(is_seen.sum())} of the cells were"
        advice = "give cells that were held out of it" if is_seen.all() else "so --split cell judges unseen cells alone"
        raise InputError(f"--split unseen: {many} in the model's training; {advice}")
    return np.where(is_seen, -1, 0).astype(np.int64)


def reading_of(modality: Modality) -> Reading:
    """How a `View.adata` is read."""
    return Reading(modality)
