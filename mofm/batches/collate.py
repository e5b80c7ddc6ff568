"""From rows of counts to tokens: which features of a cell the model sees, and as what values.

A cell has more features than a model has tokens, so each view of it is a sample. Of a cell with n expressed features,
in a view of L tokens of which a fraction f shall be expressed:

    expressed   e = min(n, max(1, round(f * L)))          uniform without replacement
    zero        z = min(n_zero, round(e / f) - e, L - e)  uniform without replacement, of the features measured as zero
    padding     the remaining L - e - z

The zeros follow the expressed ones, so the proportion e : z holds in shallow cells too, and padding takes the rest; it
falls short only where a cell has fewer zeros than asked for. A zero so stands for more features than an expressed token
does, in a shallow cell for more yet: `zero_weight_B` gives the likelihood by how many times (`objectives/masked.py`). A
feature that the file lacks was not measured and is never a zero; a feature that the model lacks is never a token, yet its
counts belong to the cell's library. In methylation a region without reads was not measured either, so there are no zeros:
every observed region may be a token.

What a token's value is depends on the omics type. A zero's is 0 in each that has them.

    RNA          log1p(count / library * 1e4): depth-normalised, log1p CP10k, as in scanpy and Seurat.
    ADT          log1p(count / g), g = exp(mean over the panel of log1p(count)): the centred log-ratio of Stoeckius et
                 al. (2017) in the form of Seurat's NormalizeData(method="CLR", margin=2), 0 at 0. The panel is all that
                 the dataset measures, known to the model or not. The library, by which the likelihood has rates, is of
                 this g as well (`batch.PANEL`): were it the total, a cell with one protein in abundance would have all
                 others low, in the likelihood's words and not in those of the log-ratio. (CITE-seq, RNA to protein,
                 150 steps: Pearson .422 by totals, .430 so, .430 where it begins.)
    ATAC         log1p(1e4 / regions open in the cell * idf) where open, whatever the number of fragments: TF-IDF of the
                 binarised matrix as in Signac (Stuart et al. 2021). idf, in `idf.py`, is what a feature's own gain is
                 for a gene: new regions have none of their own, and that one is open everywhere says little.
    methylation  (methylated + 1) / (reads + 2), the posterior mean of the region's fraction under a uniform prior: one
                 read says 1/3 or 2/3, many say what they say. The prior is uniform rather than the cell's own level, so
                 that the value of a token shown says nothing of one hidden.

The tokens of a cell are fixed by its counts, the set of its dataset's features and its seed, not by the order of the
file's columns. Sampling rather than ranking by expression is a choice: ranking takes several times as long, and would
hide the regulators, which are expressed low. The loop over cells is in `kernel.py`.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from mofm.axes import MODALITIES, Modality
from mofm.batch import TokenBatch
from mofm.batches.entries import cells_of
from mofm.batches.kernel import SOUND, TABLE, tokenise
from mofm.errors import InputError
from mofm.omics.rows import CountRows

PANEL = np.dtype(
    [
        ("column", np.int64),  # first of its columns
        ("columns", np.int64),
        ("row", np.int64),  # first of its rows
        ("rows", np.int64),  # as many as the last one asks that it knows, a multiple of 64
        ("known", np.int64),  # columns that the model knows
        ("is_ordered", np.bool_),  # whether these come in the order of the model's rows
        ("is_same", np.bool_),  # whether every column is the row of its own number
    ],
    align=True,
)
"""The record of a store's features: its part of the arrays of `KnownFeatures`."""


class KnownFeatures(NamedTuple):
    """The features of stores of one modality, as the kernel needs them: those of all datasets end to end.

    Attributes:
      modality: what the stores hold.
      names_D: what each dataset is called in errors.
      panels_D: `PANEL`, one a dataset.
      rows_C: int32. Column of a store -> row among the model's features of the modality; -1 where it has none.
      measured_F: uint8. 1 for each row that the store measures.
      weights_F: float32. ATAC: the idf of each row. Empty for other modalities.
    """

    modality: Modality
    names_D: tuple[str, ...]
    panels_D: np.ndarray
    rows_C: np.ndarray
    measured_F: np.ndarray
    weights_F: np.ndarray

    def columns_of(self, dataset: int) -> np.ndarray:
        """int32, the model's row of each column of a dataset's store; -1 where it has none."""
        panel = self.panels_D[dataset]
        return self.rows_C[panel["column"] :][: panel["columns"]]

    def measured_by(self, dataset: int) -> np.ndarray:
        """uint8, 1 for each of the model's rows that a dataset measures; none after the last known."""
        panel = self.panels_D[dataset]
        return self.measured_F[panel["row"] :][: panel["rows"]]

    def unsound(self, dataset: int, column: int) -> InputError:
        """The error that says that a cell of a dataset has an entry in a column that cannot be."""
        return InputError(
            f"{self.names_D[dataset]}: an entry is in column {column}, but a cell's columns ascend and are fewer than "
            f"{self.panels_D[dataset]['columns']}; the store is damaged, ingest its file again"
        )


class Scratch(NamedTuple):
    """Working memory of one thread (see `make_scratch`)."""

    is_zero: np.ndarray
    is_marked: np.ndarray
    bitmap: np.ndarray
    entry_of_row: np.ndarray
    of_cell: np.ndarray
    rows: np.ndarray
    entries: np.ndarray
    picked: np.ndarray
    table: np.ndarray


def known_features(
    feature_rows_G: np.ndarray,
    where: str = "dataset",
    modality: Modality = "rna",
    idf_G: np.ndarray | None = None,
) -> KnownFeatures:
    """Prepare a store's columns. `where` names its dataset in errors.

    Args:
      feature_rows_G: integer. Row of each column among the model's features of the modality; -1 where it has none.
      idf_G: ATAC: inverse document frequency of each column (see `idf.py`); 1 for all where None.

    Raises:
      InputError: two columns are the same row of the model.
    """
    rows_G = np.ascontiguousarray(feature_rows_G, np.int32)
    in_store_order = rows_G[rows_G >= 0]
    known = np.sort(in_store_order)
    if (twice := np.flatnonzero(known[1:] == known[:-1])).size:
        columns = np.flatnonzero(rows_G == known[twice[0]])
        raise InputError(f"{where}: columns {columns.tolist()} are one feature of the model; sum them and ingest again")
    width = -(-(int(known[-1]) + 1) // 64) * 64 if len(known) else 0
    measured_F = np.zeros(width, np.uint8)
    measured_F[known] = 1
    weights_F = np.ones(width if modality == "atac" else 0, np.float32)
    if modality == "atac" and idf_G is not None:
        weights_F[in_store_order] = np.asarray(idf_G)[rows_G >= 0]
    is_ordered, is_same = np.array_equal(known, in_store_order), np.array_equal(rows_G, np.arange(len(rows_G)))
    panels_D = np.array([(0, len(rows_G), 0, width, len(known), is_ordered, is_same)], PANEL)
    return KnownFeatures(modality, (where,), panels_D, rows_G, measured_F, weights_F)


def join_known(parts: Mapping[int, KnownFeatures]) -> KnownFeatures:
    """The features of single stores, by the numbers of their datasets, as those of all. Stores of equal columns share them;
    in ATAC they must have equal weights too."""
    panels_D, names_D = np.zeros(max(parts) + 1, PANEL), [""] * (max(parts) + 1)
    distinct: dict[bytes, KnownFeatures] = {}
    begins: dict[bytes, tuple[int, int]] = {}
    column, row = 0, 0
    for dataset, part in parts.items():
        key = part.rows_C.tobytes()
        if key not in distinct:
            distinct[key], begins[key] = part, (column, row)
            column, row = column + len(part.rows_C), row + len(part.measured_F)
        panels_D[dataset], names_D[dataset] = part.panels_D[0], part.names_D[0]
        panels_D[dataset]["column"], panels_D[dataset]["row"] = begins[key]
    arrays = zip(*(part[3:] for part in distinct.values()), strict=True)
    return KnownFeatures(next(iter(parts.values())).modality, tuple(names_D), panels_D, *map(np.concatenate, arrays))


def make_scratch(known: KnownFeatures) -> Scratch:
    """Scratch for cells of any of the datasets."""
    width, columns = (int(known.panels_D[name].max()) for name in ("rows", "columns"))
    # One place more: what is found is written before it is known whether it counts.
    of_cell, rows, entries, picked = (np.empty(max(width, columns) + 1, np.uint32) for _ in range(4))
    is_zero, is_marked = np.empty(width, np.uint8), np.empty(columns, np.uint8)
    bitmap, entry_of_row = np.empty(width // 64, np.uint64), np.empty(width, np.uint32)
    table = np.empty(TABLE, np.float32)
    return Scratch(is_zero, is_marked, bitmap, entry_of_row, of_cell, rows, entries, picked, table)


def empty_tokens(
    cells: int, tokens: int, modality: Modality = "rna", make: Callable[..., np.ndarray] = np.zeros
) -> TokenBatch:
    """A TokenBatch of nothing but padding, to be filled by `collate_into`.

    Args:
      make: gives an array of a shape and a dtype. Where it does not fill it with zeros, rows that are never filled hold
        anything.
    """
    return TokenBatch(
        features_BL=make((cells, tokens), np.int32),
        values_BL=make((cells, tokens), np.float32),
        counts_BL=make((cells, tokens), np.float32),
        mask_BL=make((cells, tokens), np.bool_),
        library_B=np.zeros(cells, np.float32),
        cell_B=np.full(cells, -1, np.int32),
        dataset_B=np.full(cells, -1, np.int32),
        totals_BL=make((cells, tokens), np.float32) if modality == "methylation" else None,
        zero_weight_B=np.zeros(cells, np.float32),
    )


def collate(
    rows: CountRows,
    feature_rows_G: np.ndarray,
    *,
    tokens: int,
    expressed_fraction: float,
    seeds_B: np.ndarray,
    cell_B: np.ndarray,
    dataset_B: np.ndarray,
    modality: Modality = "rna",
    idf_G: np.ndarray | None = None,
) -> TokenBatch:
    """Tokens of consecutive cells of one dataset. With expressed_fraction=1 and many tokens: all that is expressed.

    Args:
      rows: B cells, in columns of the dataset's store of the modality; with `hits` for methylation.
      feature_rows_G, idf_G: as in `known_features`.
      tokens: L, the most tokens of a cell.
      expressed_fraction: wished share of expressed features among the tokens, in (0, 1]. Methylation: always 1.
      seeds_B: uint64. Fixes each cell's sample.
      cell_B, dataset_B: int32, passed through.
      modality: what the rows are.

    Returns:
      TokenBatch of numpy arrays, (B, L).

    Raises:
      InputError: a value out of its range, a feature that occurs twice, or an entry in a column that does not exist.
    """
    known = known_features(feature_rows_G, modality=modality, idf_G=idf_G)
    out = empty_tokens(rows.n_cells, tokens, modality)
    rows = rows._replace(indices=_narrow(rows.indices), data=_narrow(rows.data), hits=_narrow(rows.hits))
    collate_into(out, cells_of(rows, 0), known, seeds_B, expressed_fraction)
    out.cell_B[:], out.dataset_B[:] = cell_B, dataset_B
    return out


def _narrow(array: np.ndarray | None) -> np.ndarray | None:
    """The same whole numbers as integers that `cells_of` takes."""
    if array is None or (array.dtype.kind in "ui" and array.itemsize <= 4 and array.flags.c_contiguous):
        return array
    return array.astype(np.uint32)


def collate_into(
    out: TokenBatch, cells_B: np.ndarray, known: KnownFeatures, seeds_B: np.ndarray, expressed_fraction: float
) -> None:
    """Fill a batch made by `empty_tokens`, every row of it. `cell_B` and `dataset_B` stay.

    Args:
      cells_B: `entries.CELL`, of any of the datasets of `known`; `NO_CELL` is a row of padding. What they point into is
        held meanwhile.
      seeds_B: uint64.

    Raises:
      InputError: the fraction is out of its range, or an entry is in a column that its dataset does not have, or out
        of order.
    """
    if not 0 < expressed_fraction <= 1:
        raise InputError(f"data.expressed_fraction={expressed_fraction}: must be more than 0 and at most 1")
    totals_BL = out.counts_BL  # not looked at
    if known.modality == "methylation":
        if not (cells_B["hits"] | (cells_B["length"] == 0)).all():
            raise ValueError("rows of methylation have no hits")
        expressed_fraction, totals_BL = 1.0, out.totals_BL
    most = max(1, round(expressed_fraction * out.features_BL.shape[1]))
    place, bad = tokenise(
        MODALITIES.index(known.modality), cells_B, *known[2:], seeds_B, most, expressed_fraction,
        out.features_BL, out.values_BL, out.counts_BL, out.mask_BL, out.library_B, out.zero_weight_B, totals_BL,
        *make_scratch(known)
    )  # fmt: skip
    if bad != SOUND:
        raise known.unsound(cells_B["dataset"][place], bad)
