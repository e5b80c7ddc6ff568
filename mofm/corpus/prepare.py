"""One input made into stores that want only their place in the feature table, which commits give in order.

This is the work of an ingest, and needs nothing of the corpus, so that several inputs can be prepared at once wherever
(`engines.py`): the bytes do not depend on where, nor on which was done first. Within one input the digest, the reading,
the checks and the writing go side by side, in threads: each stage spends its time in code that frees Python's lock.
"""

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from mofm.corpus.inputs import Input, Options, digest_of, resolutions
from mofm.corpus.manifest import StoreEntry
from mofm.corpus.tables import make_table, text_column, writable_obs
from mofm.corpus.writer import write_store
from mofm.errors import InputError
from mofm.omics.ahead import read_ahead
from mofm.omics.features import merge_columns
from mofm.omics.genome import gene_table
from mofm.omics.identity import Resolution
from mofm.omics.merge import ColumnMerger, CountOverflowError
from mofm.omics.pairing import Part, pair, part_name
from mofm.omics.readers import Tables
from mofm.omics.rows import CountRows
from mofm.omics.table import CountTable

Report = Callable[[int, int], None]
"""Called with (cells done, cells in all). A cell counts once a modality."""


class Prepared(NamedTuple):
    """A store on disk without its var.

    Attributes:
      entry: what the manifest will say of it.
      folder: where it is.
      var: one row an identity, but for `feature_row`: its symbol, its names in the file and how the first was resolved.
      seconds: that reading and writing took.
    """

    entry: StoreEntry
    folder: Path
    var: pd.DataFrame
    seconds: float


def prepare(file: Input, species: str | Path, options: Options, folder: Path, report: Report) -> list[Prepared]:
    """The stores of one input, written below `folder`.

    Args:
      species: what `gene_table` knows the corpus's gene table by.

    Raises:
      InputError: the input cannot be used, or changed while it was read.
      OSError: the disk is full or fails.
    """
    with _digesting(file) as digest, file.open(options.reading) as tables:
        resolved = resolutions(tables, options, gene_table(species))
        parts = pair(tables, unpaired=options.unpaired)
        counter = _Counter(report, sum(part.n_cells * len(part.modalities) for part in parts))
        prepared = []
        for part in parts:
            for table in tables:
                if table.modality in part.modalities:
                    place = folder / f"{len(prepared)}.zarr"
                    prepared.append(
                        _write(file, tables, table, part, resolved[table.modality], options, place, counter)
                    )
        _check_unchanged(file)
        known = digest.result()
    _check_unchanged(file)
    return [each._replace(entry=dataclasses.replace(each.entry, digest=known)) for each in prepared]


def _check_unchanged(file: Input) -> None:
    if file.is_changed():
        raise InputError(f"{file.path}: was changed while it was read; run this again when it is complete")


@contextmanager
def _digesting(file: Input) -> Iterator[Future[str]]:
    """The digest of the file, taken in a thread where it is not known. Stops when the context ends."""
    stop = threading.Event()
    with ThreadPoolExecutor(1, "mofm-digest") as thread:
        try:
            yield thread.submit(lambda: file.digest or digest_of(file, stop))
        finally:
            stop.set()


class _Counter:
    """Adds up the cells of one store after another. A store that is begun again counts from its beginning."""

    def __init__(self, report: Report, total: int):
        self._report, self._total, self._before = report, total, 0

    def __call__(self, cells: int) -> None:
        self._report(self._before + cells, self._total)

    def finish(self, cells: int) -> None:
        self._before += cells


def _write(
    file: Input,
    tables: Tables,
    whole: CountTable,
    part: Part,
    resolution: Resolution,
    options: Options,
    folder: Path,
    counter: _Counter,
) -> Prepared:
    """The store of one modality of one part of the cells."""
    begin = time.perf_counter()
    rows_N = part.rows[whole.modality]
    is_whole = np.array_equal(rows_N, np.arange(whole.n_cells))
    table = whole if is_whole else whole.take(rows_N)
    ids, column_to_unique = merge_columns(resolution.ids)
    merge = ColumnMerger(column_to_unique)
    obs, converted = writable_obs(table.obs)
    with_hits = table.modality == "methylation"
    written = write_store(folder, obs, len(ids), with_hits, lambda: _merged(table, merge), counter)
    counter.finish(table.n_cells)
    if not is_whole:
        table.close()
    counts_from = options.reading.counts_from
    entry = StoreEntry(
        name=part_name(file.name, part, tables),
        modality=table.modality,
        input=file.name,
        kind=file.kind,
        source=file.source,
        source_bytes=file.n_bytes,
        digest=file.digest or "",
        given=options.given(),
        cells=table.n_cells,
        features=len(ids),
        entries=written.entries,
        total_counts=written.total,
        max_count=written.largest,
        total_hits=written.total_hits,
        counts_from=table.counts_from,
        hits_from=table.hits_from,
        counts_from_given=counts_from is not None and counts_from in (table.counts_from, table.hits_from),
        recovered=table.recovered,
        recovered_share=table.recovered_share,
        empty_cells=written.empty_cells,
        build=resolution.build,
        build_evidence=resolution.build_evidence,
        features_from=resolution.features_from,
        resolution=resolution.summary(),
        left_out=tables.left_out,
        obs_converted=converted,
        notes=[*table.notes, *resolution.notes],
    )
    return Prepared(
        entry, folder, _var(whole.var.index, resolution, ids, column_to_unique), time.perf_counter() - begin
    )


def _merged(table: CountTable, merge: ColumnMerger) -> Iterator[CountRows]:
    try:
        yield from map(merge, read_ahead(table.rows()))
    except CountOverflowError as error:
        raise InputError(
            f"{table.where}: {table.counts_from}: {error}, more than a count can be: name another "
            "matrix with --counts-from"
        ) from error


def _var(names: Sequence[str], resolution: Resolution, ids: list[str], column_to_unique: np.ndarray) -> pd.DataFrame:
    """One row an identity: its symbol, its names in the file (joined by ";") and how the first of them was resolved."""
    joined: list[str | None] = [None] * len(ids)
    for name, place in zip(names, column_to_unique.tolist(), strict=True):
        joined[place] = str(name) if joined[place] is None else f"{joined[place]};{name}"
    first = np.unique(column_to_unique, return_index=True)[1]
    columns = {
        "symbol": text_column(resolution.symbols[place] for place in first),
        "name_in_file": text_column(joined),
        "resolved": pd.Categorical(resolution.how[first].astype(object)),
    }
    return make_table(columns, ids)
