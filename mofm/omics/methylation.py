"""Methylation matrices, read as methylated reads out of total reads.

Three forms are known, over genes, promoters or tiles alike:

- methylated and total reads: a layer `methylated` (or its other names below) and a layer `total`, or the totals in X;
- fractions and total reads: a layer `total`, and fractions in X or a layer `fraction`; methylated reads are their product;
- fractions alone. How many reads stand behind one is then not known. Where every fraction is 0 or 1 each stands for one
  read, else each for 100, of which round(100 * fraction) are methylated: a note says so.

What was not measured is not stored in a sparse matrix, is NaN in a dense one, and has no total. So a stored 0 is a
measured absence of methylation: fractions that were made sparse by dropping zeros have lost it, and a note says that too.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from mofm.errors import InputError
from mofm.omics.checks import BadValue
from mofm.omics.choice import Candidate, Place, check_named, load_candidate, matrix_keys
from mofm.omics.counts import keep_entries, located, sort_columns, to_counts
from mofm.omics.matrices import StoredRows
from mofm.omics.rows import CountRows
from mofm.omics.select import in_step
from mofm.omics.table import take_rows

METHYLATED = ("methylated", "meth", "methylated_reads", "mc", "mcg", "hits")
TOTALS = ("total", "totals", "coverage", "cov", "total_reads", "reads", "depth")
FRACTIONS = ("fraction", "fractions", "beta", "ratio", "frac", "methylation")
READS_OF_A_FRACTION = 100

_REMEDY = "methylation is fractions from 0 to 1, or methylated and total reads in layers['methylated'] and ['total']"


@dataclasses.dataclass(frozen=True)
class MethylationSource:
    """Methylated reads, or fractions, and the total reads behind them.

    Attributes:
      hits: methylated reads, or fractions.
      totals: total reads; None where each fraction stands for `reads`.
      reads: how many reads a fraction stands for; 0 where `hits` are reads.
    """

    hits: Candidate
    totals: Candidate | None
    reads: int

    def blocks(self, block_entries: int) -> Iterator[CountRows]:
        """All cells: total reads as `data`, methylated reads as `hits`. Raises `BadValue` with `cell` and `column`."""
        if self.totals is None:
            for rows in self.hits.rows(block_entries):
                yield _of_fractions(rows, self.reads)
            return
        pairs = in_step(self.totals.rows(block_entries), self.hits.rows(block_entries))
        for totals, hits in pairs:
            yield _of_parts(to_counts(totals), hits) if self.reads else _of_reads(to_counts(totals), to_counts(hits))

    def take(self, wanted: np.ndarray) -> "MethylationSource":
        """The cells of these numbers, in this order."""
        totals = None if self.totals is None else take_rows(self.totals, wanted)
        return dataclasses.replace(self, hits=take_rows(self.hits, wanted), totals=totals)

    def close(self) -> None:
        """Frees scratch space."""
        for candidate in (self.hits, self.totals):
            if candidate is not None:
                candidate.matrix.close()


def has_methylation_layers(keys: dict[str, str]) -> bool:
    """Whether the names of an AnnData's matrices are those of methylated reads and their totals."""
    return _layer(keys, METHYLATED) is not None and (_layer(keys, TOTALS) is not None or "X" in keys)


def choose_methylation(
    place: Place, counts_from: str | None, block_entries: int
) -> tuple[MethylationSource, str, str, tuple[str, ...]]:
    """The matrices to take: (their source, name of the totals, name of the methylated reads or fractions, notes).

    Args:
      counts_from: the matrix of fractions or, where there are methylated reads, of totals; None finds it.

    Raises:
      InputError: there are none, or a sample of the values is out of range.
    """
    keys = matrix_keys(place.group, place.where)
    if counts_from is not None:
        check_named(place.where, keys, counts_from)
    hits, totals = _layer(keys, METHYLATED), _layer(keys, TOTALS)
    if hits is not None:
        totals = counts_from or totals or ("X" if "X" in keys else None)
        if totals in (None, hits):
            raise InputError(f"{place.where}: {hits} has no total reads beside it; put them in layers['total'] or X")
        source = MethylationSource(*(load_candidate(place, name, keys[name]) for name in (hits, totals)), 0)
        return source, totals, hits, ()
    fractions = counts_from or _layer(keys, FRACTIONS) or next(name for name in ("X", *keys) if name in keys)
    if fractions == totals:
        raise InputError(f"{place.where}: {totals} has total reads but no methylated ones beside it; {_REMEDY}")
    candidate = load_candidate(place, fractions, keys[fractions])
    _check_sample(place.where, candidate)
    candidate.matrix.keep_zeros = True
    if totals is not None:
        source = MethylationSource(candidate, load_candidate(place, totals, keys[totals]), 1)
        return source, totals, fractions, (f"methylated reads are {fractions} * {totals}, rounded",)
    reads, notes = _reads_of(candidate, block_entries)
    return MethylationSource(candidate, None, reads), fractions, fractions, notes


def _layer(keys: dict[str, str], names: tuple[str, ...]) -> str | None:
    of_lower = {name.removeprefix("layers/").lower(): name for name in keys if name.startswith("layers/")}
    return next((of_lower[name] for name in names if name in of_lower), None)


def _check_sample(where: str, candidate: Candidate) -> None:
    _, values = candidate.matrix.sample()
    good = _missing(values) | ((values >= 0) & (values <= 1))
    if not good.all():
        bad = values[int(np.argmin(good))]
        raise InputError(f"{where}: {candidate.matrix.name} holds {bad:.6g}, no fraction; {_REMEDY}")


def _reads_of(candidate: Candidate, block_entries: int) -> tuple[int, tuple[str, ...]]:
    """How many reads a fraction stands for, and what is to be said of it. Looks at all values if a sample is 0 or 1."""
    _, values = candidate.matrix.sample()
    binary = _are_binary(values) and all(_are_binary(rows.values) for rows in candidate.rows(block_entries))
    reads = 1 if binary else READS_OF_A_FRACTION
    notes = [
        "fractions are all 0 or 1: each counts as one read"
        if binary
        else f"fractions without total reads: each counts as {reads} reads, round({reads} * fraction) of them methylated"
    ]
    if candidate.matrix.layout != "dense" and len(values) and not (values == 0).any():
        notes.append("a sparse matrix of fractions without a stored 0: regions measured as unmethylated may be lost")
    return reads, tuple(notes)


def _are_binary(values: np.ndarray) -> bool:
    return bool((_missing(values) | (values == 0) | (values == 1)).all())


def _missing(values: np.ndarray) -> np.ndarray:
    return np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)


def _of_fractions(rows: StoredRows, reads: int) -> CountRows:
    indptr_N, indices, fractions = _fractions(keep_entries(rows, ~_missing(rows.values)))
    hits = np.rint(fractions.astype(np.float64) * reads).astype(np.uint8)
    return CountRows(indptr_N, indices, np.full(len(indices), reads, np.uint8), hits)


def _of_parts(totals: CountRows, rows: StoredRows) -> CountRows:
    """Methylated reads as the product of total reads and fractions. Where no read was counted a fraction says nothing."""
    counted = np.isin(_keys(rows.indptr_N, rows.indices), _keys(totals.indptr_N, totals.indices))
    missing = _missing(rows.values)
    if (counted & missing).any():
        _fail(
            rows.indptr_N, rows.indices, int(np.argmax(counted & missing)), "no fraction (NaN) where reads were counted"
        )
    indptr_N, indices, fractions = _fractions(keep_entries(rows, ~missing & (counted | (rows.values != 0))))
    place = _places(totals, indptr_N, indices)
    hits = np.zeros_like(totals.data)
    hits[place] = np.rint(fractions.astype(np.float64) * totals.data[place])
    return totals._replace(hits=hits)


def _of_reads(totals: CountRows, hits: CountRows) -> CountRows:
    place = _places(totals, hits.indptr_N, hits.indices)
    above = hits.data > totals.data[place]
    if above.any():
        bad = int(np.argmax(above))
        _fail(hits.indptr_N, hits.indices, bad, f"{hits.data[bad]} methylated of {totals.data[place[bad]]} reads")
    out = np.zeros_like(totals.data)
    out[place] = hits.data
    return totals._replace(hits=out)


def _fractions(rows: StoredRows) -> StoredRows:
    """The rows, columns ascending. Raises `BadValue` for a value out of range, or stored twice."""
    located(rows, _from_0_to_1)
    return sort_columns(rows)


def _from_0_to_1(values: np.ndarray) -> None:
    good = (values >= 0) & (values <= 1)
    if not good.all():
        position = int(np.argmin(good))
        raise BadValue(position, f"{values[position]:.6g}, no fraction", _REMEDY)


def _places(totals: CountRows, indptr_N: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Where each of these entries is among those of `totals`. Raises `BadValue` for one that has no total."""
    if len(indices) == 0:
        return np.empty(0, np.int64)
    have = _keys(totals.indptr_N, totals.indices)
    wanted = _keys(indptr_N, indices)
    place = np.searchsorted(have, wanted)
    found = place < len(have)
    found[found] = have[place[found]] == wanted[found]
    if not found.all():
        _fail(indptr_N, indices, int(np.argmin(found)), "a value where no read was counted")
    return place


def _keys(indptr_N: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """A number for each entry that encodes its cell and column, ascending where the columns of each cell are."""
    return (np.repeat(np.arange(len(indptr_N) - 1), np.diff(indptr_N)) << 32) + indices


def _fail(indptr_N: np.ndarray, indices: np.ndarray, position: int, what: str) -> None:
    bad = BadValue(position, what, "methylated reads must be among the total reads: check which layer is which")
    bad.cell = int(np.searchsorted(indptr_N, position, side="right")) - 1
    bad.column = int(indices[position])
    raise bad
