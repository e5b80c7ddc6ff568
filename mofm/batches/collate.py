"""From rows of counts to tokens: which features of a cell the model sees, and as what values.

A cell has more features than a model has tokens, so each view of it is a sample. Of a cell with n expressed features,
in a view of L tokens of which a fraction f shall be expressed:

    expressed   e = min(n, max(1, round(f * L)))          uniform without replacement
    zero        z = min(n_zero, round(e / f) - e, L - e)  uniform without replacement, of the features measured as zero
    padding     the remaining L - e - z

The zeros follow the expressed ones, so the proportion e : z holds in shallow cells too, and padding takes the rest; it
falls short only where a cell has fewer zeros than asked for. A zero so stands for more features than an expressed token
does, in a shallow cell for more yet: `zero_weight_B` tells the likelihood by how many times (`objectives/masked.py`). A
feature that the file lacks was not measured and is never a zero; a feature that the model lacks is never a token, yet its
counts belong to the cell's library. In methylation a region without reads was not measured either, so there are no zeros:
every observed region may be a token.

What a token's value is depends on the omics type. A zero's is 0 in each that has them.

    RNA          log1p(count / library * 1e4): depth-normalised, log1p CP10k, as in scanpy and Seurat.
    ADT          log1p(count / g), g = exp(mean over the panel of log1p(count)): the centred log-ratio of Stoeckius et
                 al. (2017) in the form of Seurat's NormalizeData(method="CLR", margin=2), 0 at 0. The panel is all that
                 the dataset measures, known to the model or not.
    ATAC         log1p(1e4 / regions open in the cell * idf) where open, whatever the number of fragments: TF-IDF of the
                 binarised matrix as in Signac (Stuart et al. 2021). idf, in `idf.py`, is what a feature's own gain is
                 for a gene: new regions have none of their own, and that one is open everywhere tells little.
    methylation  (methylated + 1) / (reads + 2), the posterior mean of the region's fraction under a uniform prior: one
                 read says 1/3 or 2/3, many say what they say. The prior is uniform rather than the cell's own level, so
                 that the value of a token shown tells nothing of one hidden.

The tokens of a cell are fixed by its counts, the set of its dataset's features and its seed, not by the order of the
file's columns. Sampling rather than ranking by expression is a choice: ranking takes several times as long, and would
hide the regulators, which are expressed low. The loop over cells is in `kernel.py`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mofm.axes import MODALITIES, Modality
from mofm.batch import TokenBatch
from mofm.batches.kernel import SOUND, TABLE, tokenise
from mofm.errors import InputError
from mofm.omics.rows import CountRows


class KnownFeatures(NamedTuple):
    """The features of a dataset's store, as the kernel needs them.

    Attributes:
      modality: what the store holds.
      rows_G: int32. Column of the store -> row among the model's features of the modality; -1 where it has none.
      is_ordered: bool. Whether the columns that the model knows come in the order of its rows.
      measured: uint8. 1 for each row that the store measures. As long as its last row asks, a multiple of 64.
      n_known: int. Columns that the model knows.
      weights: float32. ATAC: the idf of each row, as long as `measured`. Empty for other modalities.
    """

    modality: Modality
    rows_G: np.ndarray
    is_ordered: bool
    measured: np.ndarray
    n_known: int
    weights: np.ndarray


class Scratch(NamedTuple):
    """Working memory of one thread, for datasets whose `measured` is up to so long (see `make_scratch`)."""

    is_zero: np.ndarray
    bitmap: np.ndarray
    entry_of_row: np.ndarray
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
    measured = np.zeros(width, np.uint8)
    measured[known] = 1
    weights = np.ones(width if modality == "atac" else 0, np.float32)
    if modality == "atac" and idf_G is not None:
        weights[in_store_order] = np.asarray(idf_G)[rows_G >= 0]
    return KnownFeatures(modality, rows_G, np.array_equal(known, in_store_order), measured, len(known), weights)


def make_scratch(rows: int) -> Scratch:
    """Scratch for datasets of up to `rows` model rows, rounded up to a multiple of 64."""
    width = -(-rows // 64) * 64
    # One place more: what is found is written before it is known whether it counts.
    rows, entries, picked = (np.empty(width + 1, np.int32) for _ in range(3))
    bitmap, entry_of_row = np.zeros(width // 64, np.uint64), np.empty(width, np.int32)
    return Scratch(np.empty(width, np.uint8), bitmap, entry_of_row, rows, entries, picked, np.empty(TABLE, np.float32))


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


def leave_out(out: TokenBatch, places: np.ndarray) -> None:
    """Makes rows of a batch padding, whatever they were: a cell that is lost has a place, but no token and no name."""
    for leaf in out:
        if leaf is not None:
            leaf[places] = 0
    for leaf in (out.cell_B, out.dataset_B, out.label_B, out.batch_B):
        if leaf is not None:
            leaf[places] = -1


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
    out.cell_B[:], out.dataset_B[:] = cell_B, dataset_B
    every = np.arange(rows.n_cells)
    collate_into(out, every, rows, every, known, seeds_B, expressed_fraction, make_scratch(len(known.measured)))
    return out


def collate_into(
    out: TokenBatch,
    places: np.ndarray,
    rows: CountRows,
    which: np.ndarray,
    known: KnownFeatures,
    seeds: np.ndarray,
    expressed_fraction: float,
    scratch: Scratch,
    where: str = "dataset",
) -> None:
    """Fill rows `places` of a batch made by `empty_tokens` with cells `which` of `rows`. `cell_B` and `dataset_B` stay.

    Args:
      out, rows: both of `known.modality`.
      places, which: int64, equally long.
      seeds: uint64, one a cell written.
      scratch: of this thread alone, at least as wide as `known.measured`.
      where: names the dataset in errors.

    Raises:
      InputError: the fraction is out of its range, or an entry is in a column that the dataset does not have, or out
        of order.
    """
    if not 0 < expressed_fraction <= 1:
        raise InputError(f"data.expressed_fraction={expressed_fraction}: must be more than 0 and at most 1")
    hits, totals_BL = rows.data, out.counts_BL  # not looked at, of a type that the kernel was compiled for already
    if known.modality == "methylation":
        if rows.hits is None:
            raise ValueError("rows of methylation have no hits")
        expressed_fraction, hits, totals_BL = 1.0, rows.hits, out.totals_BL
    most = max(1, round(expressed_fraction * out.features_BL.shape[1]))
    is_zero = scratch.is_zero[: len(known.measured)]
    is_zero[:] = known.measured
    bad = tokenise(
        MODALITIES.index(known.modality), rows.indptr_N, rows.indices, rows.data, hits, which,
        known.rows_G, known.is_ordered, is_zero, known.n_known, known.weights, seeds, places, most, expressed_fraction,
        out.features_BL, out.values_BL, out.counts_BL, out.mask_BL, out.library_B, out.zero_weight_B, totals_BL, *scratch[1:]
    )  # fmt: skip
    if bad != SOUND:
        raise InputError(
            f"{where}: an entry is in column {bad}, but a cell's columns ascend and are fewer than {len(known.rows_G)}; "
            "the store is damaged, ingest its file again"
        )
