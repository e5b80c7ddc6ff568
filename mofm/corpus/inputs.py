"""What is to be ingested: inputs checked before anything is written, and told apart from what the corpus has already.

An input is known by the digest of the bytes of its files, not by name or date. What was read from it is known by the
options. The same bytes are never ingested twice, under whatever name: cells that are there twice would be learned
twice, and would stand on both sides of a held-out split. Taking a digest is reading every byte; but files of other sizes
are other files, so it is taken beforehand only of an input that has as many bytes as one that is there or another given.
"""

import dataclasses
import hashlib
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mofm.axes import Modality
from mofm.corpus.manifest import Manifest, StoreEntry, store_name
from mofm.errors import InputError
from mofm.omics import fragments
from mofm.omics.builds import build_name
from mofm.omics.genome import GeneTable
from mofm.omics.identity import Resolution, resolve
from mofm.omics.layouts import Kind, Layout
from mofm.omics.orthologs import read_orthologs
from mofm.omics.pairing import pair, part_name
from mofm.omics.readers import Reading, Tables, find_layout, open_tables
from mofm.omics.survey import survey


@dataclasses.dataclass(frozen=True)
class Options:
    """How inputs are read.

    Attributes:
      reading: see `Reading`.
      build: genome build of regions, by any of its names; None finds it.
      unpaired: modalities of a file that share no cell names are of different cells.
      orthologs: table through which genes of another species become genes of the corpus's (see `omics/orthologs.py`).
    """

    reading: Reading = dataclasses.field(default_factory=Reading)
    build: str | None = None
    unpaired: bool = False
    orthologs: Path | None = None

    def given(self) -> dict[str, str]:
        """The options that decide what is read, but for those of the counts: name -> value, files by their digest."""
        reading = self.reading
        said = {
            "modality": reading.modality,
            "peaks": reading.peaks and _digest([reading.peaks]),
            "tile-width": reading.tile_width,
            "barcodes": reading.barcodes and _digest([reading.barcodes]),
            "min-fragments": reading.min_fragments,
            "build": self.build and build_name(self.build),
            "unpaired": "yes" if self.unpaired else None,
            "orthologs": self.orthologs and _digest([self.orthologs]),
        }
        return {name: str(value) for name, value in said.items() if value is not None}


class _FileState(NamedTuple):
    path: Path
    n_bytes: int
    modified_ns: int


@dataclasses.dataclass(frozen=True)
class Input:
    """A file or folder and the name of its dataset.

    Attributes:
      path, name: as given.
      kind: what it is.
      digest: BLAKE2b (32 bytes, hexadecimal) of the file; of several files, of the names, sizes and bytes of each. None
        where its size alone tells that it is new: it is taken while the input is read.
      files: size and time of the last change of each, before anything was read.
      datasets: the names that its datasets will have. Those that come of counting fragments are not known before.
    """

    path: Path
    name: str
    kind: Kind
    digest: str | None
    files: tuple[_FileState, ...]
    datasets: tuple[str, ...] = ()

    @property
    def n_bytes(self) -> int:
        """Of all files together."""
        return sum(file.n_bytes for file in self.files)

    def is_changed(self) -> bool:
        """Whether a file was changed, or taken away, since."""
        try:
            return any(_state(file.path) != file for file in self.files)
        except OSError:
            return True


def check_inputs(
    paths: Sequence[Path], names: Sequence[str], manifest: Manifest, options: Options, genes: GeneTable
) -> list[Input]:
    """The inputs, after a look at their sizes and, of those that the corpus does not have yet, at counts and names.

    Raises:
      InputError: as `open_tables`, `resolutions` and `already_there`.
    """
    layouts = [find_layout(path, options.reading) for path in paths]
    given = [_input(path, name, layout) for path, name, layout in zip(paths, names, layouts, strict=True)]
    sizes = Counter([file.n_bytes for file in given]) + Counter({entry.source_bytes for entry in manifest.stores})
    return [
        _check(file, layout, sizes[file.n_bytes] > 1, manifest, options, genes)
        for file, layout in zip(given, layouts, strict=True)
    ]


def _input(path: Path, name: str, layout: Layout) -> Input:
    try:
        return Input(path, name, layout.kind, None, tuple(_state(file) for file in layout.all_files))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error


def _check(
    file: Input, layout: Layout, may_be_known: bool, manifest: Manifest, options: Options, genes: GeneTable
) -> Input:
    if may_be_known:
        file = dataclasses.replace(file, digest=digest_of(file))
        if already_there(file, manifest, options):
            return file
    file = dataclasses.replace(file, datasets=_datasets(layout, file.name, options, genes))
    check_names_free(file, file.datasets, manifest)
    return file


def already_there(file: Input, manifest: Manifest, options: Options) -> tuple[StoreEntry, ...]:
    """The stores made of this input, under whatever name; none for a new one, whose digest may be unknown.

    Raises:
      InputError: it was read with other options.
    """
    entries = tuple(entry for entry in manifest.stores if entry.digest == file.digest)
    if entries:
        _check_same_reading(file, entries, options)
    return entries


def check_names_free(file: Input, datasets: Sequence[str], manifest: Manifest) -> None:
    """Raises `InputError` where another input gave a dataset of one of these names."""
    for entry in manifest.stores:
        if entry.name in datasets:
            raise InputError(
                f"{file.path}: the corpus has a store {entry.name!r} already, made from a different {entry.source}; "
                "give this one another name with --names"
            )


def resolutions(tables: Tables, options: Options, genes: GeneTable) -> dict[Modality, Resolution]:
    """What the features of each table are.

    Raises:
      InputError: as `read_orthologs` and `resolve`.
    """
    orthologs = None if options.orthologs is None else read_orthologs(options.orthologs, genes)
    return {table.modality: resolve(table, genes, options.build, orthologs) for table in tables}


def _datasets(layout: Layout, name: str, options: Options, genes: GeneTable) -> tuple[str, ...]:
    """Opens the input and closes it again. Fragments are only surveyed: counting them twice would take as long again."""
    if layout.fragments is not None:
        fragments.check_installed()
        survey(layout.fragments)
        return (name,)
    with open_tables(layout.path, options.reading) as tables:
        resolutions(tables, options, genes)
        return tuple(part_name(name, part, tables) for part in pair(tables, unpaired=options.unpaired))


def _check_same_reading(file: Input, entries: tuple[StoreEntry, ...], options: Options) -> None:
    """Options that end in the same counts are the same: naming what mofm found, or allowing a recovery that was not
    needed, asks for nothing new."""
    wanted, given = options.reading.counts_from, options.given()
    found = {"modality": {entry.modality for entry in entries}, "build": {entry.build for entry in entries} - {None}}
    before = entries[0].given
    differ = [name for name in {**before, **given} if before.get(name) != given.get(name)]
    differ = [name for name in differ if name not in given or found.get(name) != {given[name]}]
    if wanted:
        same_matrix = any(entry.counts_from == wanted for entry in entries)
    else:
        same_matrix = not any(entry.counts_from_given for entry in entries)
    recovered = any(entry.recovered for entry in entries)
    if differ or not same_matrix or (recovered and not options.reading.recover_counts):
        entry = next((entry for entry in entries if entry.counts_from_given or entry.recovered), entries[0])
        how = (
            f"--counts-from {entry.counts_from}" if entry.counts_from_given else f"{entry.counts_from} (found by mofm)"
        )
        how += " and --recover-counts" if recovered else ""
        how += "".join(f", --{name} {value[:12]}" for name, value in before.items())
        raise InputError(
            f"{file.path}: in the corpus already as {entries[0].input!r}, read from {how}; "
            "use the same options, or ingest it into another corpus"
        )


def store_names_of(paths: Sequence[Path], names: Sequence[str] | None) -> list[str]:
    """A dataset name for each input: those given, or the files' names without suffix, made fit for paths and URLs.

    The output folder of Cell Ranger is always called outs; its parent has the sample's name.

    Raises:
      InputError: a name is unusable, or two inputs share one.
    """
    if names is not None and len(names) != len(paths):
        raise InputError(f"--names gives {len(names)} names for {len(paths)} files; give one for each, in their order")
    chosen = [store_name(_stem(path)) for path in paths] if names is None else list(names)
    for position, (path, name) in enumerate(zip(paths, chosen, strict=True)):
        if not name or name != store_name(name):
            raise InputError(f"{path}: cannot name its store {name!r}; give letters, digits, '.', '_', '-' in --names")
        if name in chosen[:position]:
            other = paths[chosen.index(name)]
            raise InputError(f"{path}: would be named {name!r} as {other} is; tell them apart with --names")
    return chosen


def _stem(path: Path) -> str:
    name = path.absolute().name
    if name == "outs":
        return path.absolute().parent.name
    if path.suffix == ".gz":
        name = name.removesuffix(".gz")
    return Path(name).stem if not path.is_dir() else name.removesuffix(".zarr")


def _state(file: Path) -> _FileState:
    status = file.stat()
    return _FileState(file, status.st_size, status.st_mtime_ns)


def digest_of(file: Input, stop: threading.Event | None = None) -> str:
    """Its digest. Raises `InputError` where it cannot be read; `DigestStoppedError` soon after `stop` is set."""
    root = file.path if file.kind.startswith("zarr") else None
    return _digest([state.path for state in file.files], stop, root)


class DigestStoppedError(Exception):
    """No one waits for the digest any more."""


def _digest(files: Sequence[Path], stop: threading.Event | None = None, root: Path | None = None) -> str:
    try:
        if len(files) == 1:
            return _of_bytes(files[0], stop).hexdigest()
        together = _blake()
        for path in files:
            part = _of_bytes(path, stop).digest()
            name = path.name if root is None else path.relative_to(root).as_posix()
            together.update(f"{name}\0{path.stat().st_size}\0".encode() + part)
        return together.hexdigest()
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror or error}); check the path") from error


def _of_bytes(path: Path, stop: threading.Event | None):
    digest, piece = _blake(), memoryview(bytearray(2**20))
    with path.open("rb", buffering=0) as file:
        while length := file.readinto(piece):
            digest.update(piece[:length])
            if stop is not None and stop.is_set():
                raise DigestStoppedError
    return digest


def _blake():
    return hashlib.blake2b(digest_size=32)
