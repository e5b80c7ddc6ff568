"""Files into a corpus: every input is opened and checked before anything is written, then each is committed by itself.

A file that is in the corpus already, known by the digest of its bytes, is passed over; so a killed ingest is repeated by
the same command, goes on where it was, and ends in the same bytes as one that ran through. The stores of one input are
committed together. Choices and their cost:

- Inputs are opened twice, to be checked and to be read, so that memory holds one at a time however many there are.
  Their names are resolved twice (some seconds for 200,000 peaks), so that a file of another species is refused at once.
  Where counts are recovered from log1p-normalised values, the check is a pass over the matrix, and made twice.
- Every byte of an input is read once more for the digest, about a second a gigabyte, in a thread beside the reading.
- Columns of one gene are summed on the way in, rather than in every epoch.
- Several inputs are prepared at once, in processes or on other machines (`engines.py`), and committed in the order
  given: the bytes of the corpus do not depend on how many.
"""

import dataclasses
import importlib.metadata
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from mofm.axes import Modality
from mofm.corpus.bucket import Bucket
from mofm.corpus.contents import read_features, read_gene_table_of, read_manifest
from mofm.corpus.engines import Task, engine_for
from mofm.corpus.features import add_features, empty_features
from mofm.corpus.inputs import Input, Options, already_there, check_inputs, check_names_free, store_names_of
from mofm.corpus.manifest import GENE_TABLE, Manifest, StoreEntry
from mofm.corpus.places import is_url, read_file
from mofm.corpus.prepare import Prepared
from mofm.corpus.staging import commit, replace_file, staging_folder
from mofm.corpus.writer import finish_store
from mofm.errors import InputError
from mofm.files import Location, location
from mofm.omics.genome import GeneTable, gene_table, is_bundled, same_genes
from mofm.omics.readers import Reading

Progress = Callable[[int, str, int, int], None]
"""Called with (number of the input, its name, cells read, cells in all). A cell counts once a modality. Cells begin anew where
counts turned out wider than thought (see `writer.py`)."""


WORTH_A_PROCESS = 128 * 2**20
"""Bytes of an input that take longer to read than a process takes to start."""


@dataclasses.dataclass(frozen=True)
class IngestResult:
    """What became of one input.

    Attributes:
      name: of its dataset. Where the same bytes are in the corpus under another name, that name.
      path: the input.
      status: "ingested", or "already there" from before.
      entries: all that the manifest says of its stores, in order.
      cells_per_second: of reading and writing each store; None where it was already there.
    """

    name: str
    path: Location
    status: Literal["ingested", "already there"]
    entries: tuple[StoreEntry, ...]
    cells_per_second: tuple[float | None, ...]

    @property
    def entry(self) -> StoreEntry:
        """Its first store: the RNA of cells that have everything, where there is any."""
        return self.entries[0]


def ingest(
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    counts_from: str | None = None,
    recover_counts: bool = False,
    species: str | None = None,
    orthologs: Path | None = None,
    names: Sequence[str] | None = None,
    modality: Modality | None = None,
    build: str | None = None,
    unpaired: bool = False,
    peaks: Path | None = None,
    tile_width: int | None = None,
    barcodes: Path | None = None,
    min_fragments: int | None = None,
    obs_filter: str | None = None,
    duplicates: bool = False,
    jobs: int = 1,
    scheduler: str | None = None,
    on_progress: Progress | None = None,
) -> list[IngestResult]:
    """Adds every modality of some files to the corpus at `out`, which is made where there is none.

    Args:
      inputs: files, folders or URLs of any layout in `mofm.omics.layouts`.
      out: folder of the corpus, or its URL at s3:// or gs:// (see `bucket.py`).
      counts_from, recover_counts, modality, peaks, tile_width, barcodes, min_fragments, obs_filter,
        duplicates: see `Reading`; for all inputs.
      species: whose gene table resolves the names: of a bundled species, or a file of one (see `gene_table`). One a
        corpus, which keeps a copy of a file; None for that of the corpus, and human for a new one.
      orthologs: table through which genes of another species become its genes, for all inputs.
      names: of the datasets, one for each input; the files' names without suffix where None.
      build: genome build of regions; None finds it by evidence.
      unpaired: modalities of a file that share no cell names are of different cells.
      jobs: inputs to prepare at once, in processes where there are more than one. A script that asks for several needs
        the usual `if __name__ == "__main__"`.
      scheduler: address of a Dask scheduler, whose workers prepare the inputs; `jobs` is then not asked.
      on_progress: called after each block of cells.

    Returns:
      A result for each input, in order; for each dataset of a SOMA experiment.

    Raises:
      InputError: `out` is a web server, or a bucket that cannot be written; an input cannot be used, a name is taken by
        another file or by the same with other options, another ingest is running or came first, the disk is full. What
        was committed before stays and is passed over the next time; of the rest nothing is left that a reader sees.
    """
    paths = [location(path) for path in inputs]
    if scheduler is not None:  # workers run in folders of their own
        paths = [path if isinstance(path, str) else path.absolute() for path in paths]
    reading = Reading(
        modality, counts_from, recover_counts, peaks, tile_width, barcodes, min_fragments, obs_filter, duplicates
    )
    options = Options(reading, build, unpaired, orthologs)
    if not paths:
        raise InputError("nothing to ingest; name one or more files")
    if jobs < 1:
        raise InputError(f"--jobs {jobs}: must be at least 1")
    if not is_url(out) and re.match(r"[a-z0-9]+:/", str(out)):
        raise InputError(f"{out}: neither a local folder nor a URL such as s3://bucket/corpus")
    store_names = store_names_of(paths, names)
    bucket = Bucket(out) if is_url(out) else None
    root = bucket.url if bucket else Path(out)
    with bucket.staging_folder() if bucket else staging_folder(root) as staging:
        manifest = bucket.manifest if bucket else read_manifest(root)
        table, named_by = _gene_table(root, manifest, species, staging)
        manifest = manifest or Manifest(_mofm_version(), table.species, table.version)
        checked = check_inputs(paths, store_names, manifest, options, table, is_named=names is not None)
        new = _new_among(checked, manifest, options)
        report = _reporter(on_progress, new, checked)
        if not manifest.stores and not is_bundled(table):
            named_by, own = (staging if bucket else root) / GENE_TABLE, Path(species).read_bytes()
            replace_file(named_by, own, staging)
            if bucket:
                bucket.put(GENE_TABLE, own)
        tasks = [Task(n, file, named_by, options, staging / f"input-{n}") for n, file in enumerate(new)]
        ready = engine_for(jobs, len(tasks), scheduler)(tasks, report)
        digests = {file.name: file.digest for file in checked}
        rates: dict[str, tuple[float | None, ...]] = {}
        for file, prepared in zip(new, ready, strict=True):
            check_names_free(file, [each.entry.name for each in prepared], manifest)
            manifest = _upload(bucket, manifest, prepared) if bucket else _commit(root, staging, manifest, prepared)
            digests[file.name] = prepared[0].entry.digest
            rates[digests[file.name]] = tuple(each.entry.cells / each.seconds for each in prepared)
        known = [dataclasses.replace(file, digest=digests[file.name]) for file in checked]
        return [_result(file, already_there(file, manifest, options), rates) for file in known]


def jobs_for(inputs: Sequence[Location]) -> int:
    """How many processes are worth starting for these inputs: one where they are few or small."""
    large = sum(_bytes_of(path) >= WORTH_A_PROCESS for path in inputs)
    return max(1, min(large, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))


def _bytes_of(path: Location) -> int:
    """Of a file, or of the files in a folder; 0 for a URL, and for what is not there, which is reported later."""
    if isinstance(path, str):
        return 0
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _gene_table(
    root: str | Path, manifest: Manifest | None, species: str | None, staging: Path
) -> tuple[GeneTable, str | Path]:
    """The gene table of a corpus, and what `gene_table` knows it by: that of a bucket's own is copied to `staging`.

    Raises:
      InputError: there is none of `species`, or the corpus has another.
    """
    if manifest is None:
        return gene_table(species or "human"), species or "human"
    own = manifest.species
    if isinstance(root, Path) and (root / GENE_TABLE).exists():
        own = root / GENE_TABLE
    elif not isinstance(root, Path) and (content := read_file(root, GENE_TABLE, optional=True)) is not None:
        own = staging / GENE_TABLE
        own.write_bytes(content)
    table = read_gene_table_of(root, manifest)
    given = table if species is None else gene_table(species)
    there = (manifest.species, manifest.gene_table)
    if there != (given.species, given.version) or not same_genes(given, table):
        raise InputError(
            f"{root}: its genes are named by the {there[0]} table {there[1]!r}, not the {given.species} table "
            f"{given.version!r}; a corpus has one table: leave --species out, use its version of mofm, or make a new "
            "corpus"
        )
    return table, own


def _new_among(checked: list[Input], manifest: Manifest, options: Options) -> list[Input]:
    """Those that the corpus does not have, each of the same bytes once. Raises `InputError` where two make one dataset."""
    new: dict[str, Input] = {}
    for file in checked:
        if not already_there(file, manifest, options):
            new.setdefault(file.digest or file.name, file)
    made_by: dict[str, Input] = {}
    for file in new.values():
        for name in file.datasets:
            if name in made_by:
                raise InputError(
                    f"{file.path}: would make a dataset {name!r} as {made_by[name].path} does; give them names with --names"
                )
            made_by[name] = file
    return list(new.values())


def _commit(root: Path, staging: Path, manifest: Manifest, prepared: list[Prepared]) -> Manifest:
    """Gives the features of an input their rows, and commits its stores at once; the new manifest."""
    features = read_features(root, manifest) if manifest.stores else empty_features()
    for entry, folder, var, _ in prepared:
        features, rows = add_features(features, var.index.tolist(), var["symbol"].tolist(), entry.modality)
        finish_store(folder, var.assign(feature_row=rows))
    manifest = manifest.with_stores([each.entry for each in prepared], len(features))
    commit(root, staging, [each.folder for each in prepared], manifest, features)
    return manifest


def _upload(bucket: Bucket, manifest: Manifest, prepared: list[Prepared]) -> Manifest:
    """As `_commit`, to a bucket."""
    rows_S, n_features = bucket.give_rows([(each.var, each.entry.modality) for each in prepared])
    for (_, folder, var, _), rows in zip(prepared, rows_S, strict=True):
        finish_store(folder, var.assign(feature_row=rows))
    manifest = manifest.with_stores([each.entry for each in prepared], n_features)
    bucket.commit([each.folder for each in prepared], manifest)
    for each in prepared:
        shutil.rmtree(each.folder)
    return manifest


def _reporter(on_progress: Progress | None, new: list[Input], checked: list[Input]) -> Callable[[int, int, int], None]:
    """From the number among the new inputs to that among all."""
    places = [checked.index(file) for file in new]

    def report(number: int, done: int, total: int) -> None:
        if on_progress is not None:
            on_progress(places[number], new[number].name, done, total)

    return report


def _result(file: Input, entries: tuple[StoreEntry, ...], rates: dict[str, tuple[float | None, ...]]) -> IngestResult:
    # Of two inputs with the same bytes, the second finds the first one there.
    rate = rates.pop(file.digest, None)
    status = "already there" if rate is None else "ingested"
    return IngestResult(entries[0].input, file.path, status, entries, rate or (None,) * len(entries))


def _mofm_version() -> str:
    try:
        return importlib.metadata.version("mofm")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
