"""One input made into stores that want only their place in the feature table, which commits give in order.

This is the work of an ingest, and needs nothing of the corpus, so that several inputs can be prepared at once in
processes of their own: the bytes do not depend on how many there were, nor on which was done first. Choices and cost:

- Processes, not threads: HDF5 reads under one lock, and the parsing of Python holds another. One input keeps about one
  core busy. Processes are spawned (TensorStore's threads do not survive a fork) and import anew, three to five seconds of
  a core each: worth it for inputs that take longer than that, and where cores are idle.
- At most one finished input a process waits for its turn to be committed; it waits on disk, in the staging folder.
- A process that is killed takes its work with it, and is told as an `InputError`; the others end with their parent.
"""

import dataclasses
import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
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
from mofm.omics.readers import Tables, open_tables
from mofm.omics.rows import CountRows
from mofm.omics.table import CountTable

Report = Callable[[int, int], None]
"""Told (cells done, cells in all). A cell counts once a modality."""


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
    with _digesting(file) as digest, open_tables(file.path, options.reading) as tables:
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
        source=file.path.absolute().name,
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
    joined: list[list[str]] = [[] for _ in ids]
    for name, place in zip(names, column_to_unique, strict=True):
        joined[place].append(str(name))
    first = np.unique(column_to_unique, return_index=True)[1]
    columns = {
        "symbol": text_column(resolution.symbols[place] for place in first),
        "name_in_file": text_column(";".join(several) for several in joined),
        "resolved": pd.Categorical(resolution.how[first].astype(object)),
    }
    return make_table(columns, ids)


def prepare_all(
    files: Sequence[Input],
    species: str | Path,
    options: Options,
    staging: Path,
    jobs: int,
    report: Callable[[int, int, int], None],
) -> Iterator[list[Prepared]]:
    """`prepare` of each file, in their order; `jobs` at a time.

    Args:
      staging: an empty folder; the stores of file i are below `staging/i`.
      report: told (number of the file, cells done, cells in all), never by two threads at once.
    """
    folders = [staging / f"input-{number}" for number in range(len(files))]
    if jobs <= 1 or len(files) <= 1:
        for number, (file, folder) in enumerate(zip(files, folders, strict=True)):
            yield prepare(file, species, options, folder, lambda done, total, n=number: report(n, done, total))
        return
    spawn = multiprocessing.get_context("spawn")
    told, stop = spawn.SimpleQueue(), spawn.Event()
    listener = threading.Thread(target=_listen, args=(told, report), daemon=True)
    listener.start()
    workers = ProcessPoolExecutor(min(jobs, len(files)), spawn, _begin, (told, stop))
    try:
        left = iter(
            [(n, file, species, options, folder) for n, (file, folder) in enumerate(zip(files, folders, strict=True))]
        )
        under_way = deque(workers.submit(_work, *task) for task in islice(left, 2 * jobs))
        for file in files:
            yield _result(file, under_way.popleft())
            under_way.extend(workers.submit(_work, *task) for task in islice(left, 1))
    finally:
        stop.set()
        workers.shutdown(cancel_futures=True)
        told.put(None)
        listener.join()


def _result(file: Input, future: Future) -> list[Prepared]:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise InputError(
            f"{file.path}: a process that read inputs was killed (out of memory?); run this again, with --jobs 1"
        ) from error


class _StoppedError(Exception):
    """The ingest has ended, this process has nothing more to do."""


_told = _stop = None  # of a worker process


def _begin(told, stop) -> None:
    global _told, _stop
    _told, _stop = told, stop
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(number: int, file: Input, species: str | Path, options: Options, folder: Path) -> list[Prepared]:
    def report(done: int, total: int) -> None:
        if _stop.is_set():
            raise _StoppedError
        _told.put((number, done, total))

    return prepare(file, species, options, folder, report)


def _listen(told, report: Callable[[int, int, int], None]) -> None:
    while (message := told.get()) is not None:
        report(*message)
