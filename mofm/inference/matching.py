"""How a file's features meet a model: by identity, whatever the file calls them, and whatever the omics type.

Genes are looked up among the model's. Proteins and regions are spoken of in the model's genes (`batches/spaces.py`), so a
file's peaks need not be any that the model was trained on. What weighs a region's value, its idf and its mean
methylation, is taken of the file, in a pass of its own over the counts: of a new peak nobody else can know it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.special import logit

from mofm.axes import FEATURES
from mofm.batch import FeatureSpace
from mofm.batches.idf import count_open, idf
from mofm.batches.spaces import identities, known_share, make_space, of_measured
from mofm.errors import InputError
from mofm.omics.features import merge_columns
from mofm.omics.genome import GeneTable
from mofm.omics.identity import resolve
from mofm.omics.merge import ColumnMerger
from mofm.omics.orthologs import Orthologs
from mofm.omics.rows import CountRows
from mofm.omics.table import CountTable


@dataclass(frozen=True)
class Matching:
    """What a file's features are to a model.

    Attributes:
      named_by: the genes of the species that names were resolved by.
      names_from: where the names were found: "var_names" or a column of var.
      build: genome build of the regions; None where there are none.
      feature_C: int32. Column of the file -> feature; columns that name one feature are summed.
      ids: the features' identities.
      rows_F: int32. Feature -> row of the model's gene table (RNA), or number in `space`; -1 where the model knows none.
      space: the features of another modality than RNA; None for RNA.
      idf_F: float32, ATAC alone: weights of the regions' values.
      unmatched: names of the columns that the model does not know.
      notes: what else a person should know of how the names were read, a line each.
    """

    named_by: GeneTable
    names_from: str
    build: str | None
    feature_C: np.ndarray
    ids: list[str]
    rows_F: np.ndarray
    space: FeatureSpace | None
    idf_F: np.ndarray | None
    unmatched: list[str]
    notes: tuple[str, ...]


def match(
    table: CountTable,
    genes: pd.DataFrame,
    species: GeneTable,
    build: str | None = None,
    orthologs: Orthologs | None = None,
) -> Matching:
    """Find a table's features among what a model knows, its genes (columns id, symbol, measured).

    Args:
      species: the genes that names are resolved by.
      build, orthologs: see `resolve`.

    Raises:
      InputError: not one feature in common; or regions without places, of another build than is said, or of another
        species.
    """
    return _with_statistics(match_names(table, genes, species, build, orthologs), table)


def match_names(
    table: CountTable,
    genes: pd.DataFrame,
    species: GeneTable,
    build: str | None = None,
    orthologs: Orthologs | None = None,
) -> Matching:
    """`match` by the features' names alone: no count is read, and what weighs regions is not known. Raises as `match`."""
    found = resolve(table, species, build, orthologs)
    ids, feature_C = merge_columns(found.ids)
    row_of = {identity: row for row, identity in enumerate(genes["id"])}
    if table.modality == "rna":
        space, rows_F = None, np.array([row_of.get(name, -1) for name in ids], np.int32)
    else:
        measured = frozenset(genes["id"][genes["measured"]])
        space = make_space(of_measured(identities(table.modality, ids, species), measured), row_of)
        rows_F = np.where(known_share(space), np.arange(len(ids), dtype=np.int32), np.int32(-1))
    _check_any(table, rows_F, genes)
    unmatched = [str(name) for name, row in zip(table.var.index, rows_F[feature_C], strict=True) if row < 0]
    return Matching(
        named_by=species,
        names_from=found.features_from,
        build=found.build,
        feature_C=feature_C,
        ids=ids,
        rows_F=rows_F,
        space=space,
        idf_F=None,
        unmatched=unmatched,
        notes=found.notes,
    )


def merged(table: CountTable, matching: Matching) -> Iterable[CountRows]:
    """The table's rows, a column a feature."""
    return map(ColumnMerger(matching.feature_C), table.rows())


def _with_statistics(matching: Matching, table: CountTable) -> Matching:
    features = len(matching.rows_F)
    if table.modality == "atac":
        return replace(matching, idf_F=idf(*count_open(merged(table, matching), features, table.where)))
    if table.modality == "methylation":
        hits_F, reads_F = np.zeros(features), np.zeros(features)
        for rows in merged(table, matching):
            hits_F += np.bincount(rows.indices, rows.hits, features)
            reads_F += np.bincount(rows.indices, rows.data, features)
        overall = (hits_F.sum() + 1) / (reads_F.sum() + 2)
        base_F = logit((hits_F + overall) / (reads_F + 1)).astype(np.float32)
        return replace(matching, space=matching.space._replace(base_F=base_F))
    return matching


def _check_any(table: CountTable, rows_F: np.ndarray, genes: pd.DataFrame) -> None:
    if (rows_F >= 0).any():
        return
    given, known = (", ".join(map(str, some)) for some in (table.var.index[:3], genes["symbol"].head(3)))
    raise InputError(
        f"{table.path}: none of its {table.n_features:,} {FEATURES[table.modality]} ({given}, ...) speaks of any of the "
        f"model's {len(genes):,} genes ({known}, ...): check --species, and that var holds symbols, ids or places"
    )
