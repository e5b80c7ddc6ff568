"""Files into a corpus: every input is opened and checked before anything is written, then each is committed by itself.

A file that is in the corpus already, told by the digest of its bytes, is passed over; so a killed ingest is repeated by
the same command, goes on where it was, and ends in the same bytes as one that ran through. Choices and their cost:

- Inputs are opened twice, to be checked and to be read, so that memory holds one at a time however many there are.
  Where counts are recovered from log1p-normalised values, the check is a pass over the matrix, and made twice.
- Every byte of an input is read once more for the digest, about a second a gigabyte.
- Names are resolved and columns of one gene summed on the way in, once, rather than in every epoch.
"""

import dataclasses
import importlib.metadata
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from mofm.corpus.features import add_features, empty_features
from mofm.corpus.inputs import Input, Options, already_there, check_input, store_names_of
from mofm.corpus.manifest import Manifest, StoreEntry
from mofm.corpus.staging import commit, staging_folder
from mofm.corpus.store import read_features, read_manifest
from mofm.corpus.tables import make_table, text_column, writable_obs
from mofm.corpus.writer import write_store
from mofm.errors import InputError
from mofm.omics.features import GeneResolution, merge_columns, resolve_var
from mofm.omics.genome import GeneTable, gene_table
from mofm.omics.merge import ColumnMerger, CountOverflowError
from mofm.omics.readers import CountTable, open_h5ad
from mofm.omics.rows import CountRows

Progress = Callable[[int, str, int, int], None]
"""Told (number of the input, name of its store, cells read, cells in all). Cells begin at 0 again where counts turned
out wider than thought (see `writer.py`)."""


@dataclasses.dataclass(frozen=True)
class IngestResult:
    """What became of one input.

    Attributes:
      name: of its store. Where the same bytes are in the corpus under another name, that name.
      path: the input.
      status: "ingested", or "already there" from before.
      cells, genes: rows and columns of the store.
      counts_from, recovered: the matrix read, and whether counts were recovered from log1p-normalised values.
      resolution: how many gene names were resolved in which way.
      cells_per_second: of reading and writing; None where it was already there.
      entry: all that the manifest says of the store.
    """

    name: str
    path: Path
    status: Literal["ingested", "already there"]
    cells: int
    genes: int
    counts_from: str
    recovered: bool
    resolution: dict
    cells_per_second: float | None
    entry: StoreEntry


def ingest(
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    counts_from: str | None = None,
    recover_counts: bool = False,
    species: str = "human",
    names: Sequence[str] | None = None,
    on_progress: Progress | None = None,
) -> list[IngestResult]:
    """Adds the RNA counts of h5ad files to the corpus at `out`, which is made where there is none.

    Args:
      inputs: .h5ad files.
      out: folder of the corpus.
      counts_from, recover_counts: as in `open_h5ad`, for all inputs.
      species: whose gene table resolves the names; one a corpus.
      names: of the stores, one for each input; the files' names without suffix where None.
      on_progress: called after each block of cells.

    Returns:
      A result for each input, in order.

    Raises:
      InputError: `out` is a URL, an input cannot be used, a name is taken by another file or by the same with other
        options, another ingest is running, the disk is full. What was committed before stays and is passed over the
        next time; of the rest nothing is left.
    """
    root, paths, table = Path(out), [Path(path) for path in inputs], gene_table(species)
    options = Options(counts_from, recover_counts)
    if not paths:
        raise InputError("nothing to ingest; name one or more .h5ad files")
    if re.match(r"[a-z0-9]+:/", str(out)):
        raise InputError(f"{out}: a corpus is made in a local folder; name one, and copy it to the bucket when done")
    store_names = store_names_of(paths, names)
    with staging_folder(root) as staging:
        manifest = read_manifest(root) or Manifest(_mofm_version(), species, table.version)
        _check_same_table(root, manifest, table)
        checked = [check_input(path, name, manifest, options) for path, name in zip(paths, store_names, strict=True)]
        results = []
        for number, file in enumerate(checked):
            entry = already_there(file, manifest, options)
            rate = None
            if entry is None:
                begin = time.perf_counter()
                report = _reporter(on_progress, number, file.name)
                manifest, entry = _add(root, staging, manifest, file, table, options, report)
                rate = entry.cells / (time.perf_counter() - begin)
            results.append(_result(file.path, entry, rate))
    return results


def _check_same_table(root: Path, manifest: Manifest, table: GeneTable) -> None:
    there, here = (manifest.species, manifest.gene_table), (table.species, table.version)
    if there != here:
        raise InputError(
            f"{root}: its genes are named by the {there[0]} table {there[1]!r}, not the {here[0]} table {here[1]!r}; "
            "a corpus has one table: use its species and version of mofm, or make a new corpus"
        )


def _add(
    root: Path,
    staging: Path,
    manifest: Manifest,
    file: Input,
    table: GeneTable,
    options: Options,
    report: Callable[[int, int], None],
) -> tuple[Manifest, StoreEntry]:
    """Writes and commits one store; the new manifest and its entry."""
    features = read_features(root, manifest) if manifest.stores else empty_features()
    folder = staging / "store"
    with open_h5ad(file.path, counts_from=options.counts_from, recover_counts=options.recover_counts) as counts:
        features_from, resolution = resolve_var(counts.var, table)
        ids, column_to_unique = merge_columns(resolution.ids)
        var = _store_var(counts.var.index, resolution, ids, column_to_unique)
        features, var["feature_row"] = add_features(features, ids, var["symbol"].tolist(), counts.modality)
        obs, converted = writable_obs(counts.obs)
        merge = ColumnMerger(column_to_unique)
        written = write_store(
            folder, obs, var, lambda: _merged(counts, merge), lambda cells: report(cells, counts.n_cells)
        )
        if file.is_changed():
            raise InputError(f"{file.path}: was changed while it was read; run this again when it is complete")
        entry = StoreEntry(
            name=file.name,
            modality=counts.modality,
            input=file.name,
            kind="h5ad",
            source=file.path.name,
            source_bytes=file.n_bytes,
            digest=file.digest,
            given={},
            cells=counts.n_cells,
            features=len(ids),
            entries=written.entries,
            total_counts=written.total,
            max_count=written.largest,
            total_hits=None,
            counts_from=counts.counts_from,
            hits_from=None,
            counts_from_given=options.counts_from is not None,
            recovered=counts.recovered,
            recovered_share=counts.recovered_share,
            empty_cells=written.empty_cells,
            build=None,
            build_evidence="",
            features_from=features_from,
            resolution=resolution.summary(),
            left_out=counts.left_out,
            obs_converted=converted,
            notes=[],
        )
    manifest = manifest.with_stores([entry], len(features))
    commit(root, staging, folder, manifest, features)
    return manifest, entry


def _merged(counts: CountTable, merge: ColumnMerger) -> Iterator[CountRows]:
    try:
        yield from map(merge, counts.rows())
    except CountOverflowError as error:
        raise InputError(
            f"{counts.path}: {counts.counts_from}: {error}, more than a count can be: name another "
            "matrix with --counts-from"
        ) from error


def _store_var(
    names: Sequence[str], resolution: GeneResolution, ids: list[str], column_to_unique: np.ndarray
) -> pd.DataFrame:
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


def _reporter(on_progress: Progress | None, number: int, name: str) -> Callable[[int, int], None]:
    return lambda done, total: on_progress(number, name, done, total) if on_progress else None


def _result(path: Path, entry: StoreEntry, rate: float | None) -> IngestResult:
    return IngestResult(
        name=entry.name,
        path=path,
        status="already there" if rate is None else "ingested",
        cells=entry.cells,
        genes=entry.features,
        counts_from=entry.counts_from,
        recovered=entry.recovered,
        resolution=entry.resolution,
        cells_per_second=rate,
        entry=entry,
    )


def _mofm_version() -> str:
    try:
        return importlib.metadata.version("mofm")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
