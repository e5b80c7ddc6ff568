"""What is to be ingested: inputs checked before anything is written, and compared with what the corpus has already.

An input is known by the digest of the bytes of its files, not by name or date. What was read from it is known by the
options. The same bytes are never ingested twice, under whatever name: cells that are there twice would be learned
twice, and would stand on both sides of a held-out split. Taking a digest is reading every byte; but files of other sizes
are other files, so it is taken beforehand only of an input that has as many bytes as one that is there or another given.

A SOMA experiment is as many inputs as it has datasets. Each is known by what the experiment is (`omics/soma.py`) and its
dataset_id, not by which of its cells were wanted: a dataset enters a corpus once, by one filter.
"""

import dataclasses
import re
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mofm.axes import Modality
from mofm.corpus.digests import FileState, digest_of_paths, digest_of_text, state_of
from mofm.corpus.manifest import Manifest, StoreEntry, store_name
from mofm.errors import InputError
from mofm.files import Location
from mofm.omics import fragments
from mofm.omics.builds import build_name
from mofm.omics.genome import GeneTable
from mofm.omics.identity import Resolution, resolve
from mofm.omics.layouts import Kind, Layout
from mofm.omics.orthologs import read_orthologs
from mofm.omics.pairing import pair, part_name
from mofm.omics.readers import Reading, Tables, find_layout, open_cells, open_tables
from mofm.omics.soma_cells import SomaCells, select_cells
from mofm.omics.survey import survey

_FILES = ("peaks", "barcodes", "orthologs")  # options whose value is the digest of a file


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
            "peaks": reading.peaks and digest_of_paths([reading.peaks]),
            "tile-width": reading.tile_width,
            "barcodes": reading.barcodes and digest_of_paths([reading.barcodes]),
            "min-fragments": reading.min_fragments,
            "obs-filter": reading.obs_filter,
            "duplicates": "yes" if reading.duplicates else None,
            "build": self.build and build_name(self.build),
            "unpaired": "yes" if self.unpaired else None,
            "orthologs": self.orthologs and digest_of_paths([self.orthologs]),
        }
        return {name: str(value) for name, value in said.items() if value is not None}


@dataclasses.dataclass(frozen=True)
class Input:
    """A file or folder, or a dataset of a SOMA experiment, and the name of its dataset.

    Attributes:
      path, name: as given.
      kind: what it is.
      digest: BLAKE3 (32 bytes, hexadecimal) of the file; of several files, of the names, sizes and bytes of each; of a
        SOMA experiment, of its identity and the dataset_id. None where its size alone shows that it is new: it is taken
        while the input is read.
      files: size and time of the last change of each, before anything was read.
      datasets: the names that its datasets will have. Those that come of counting fragments are not known before.
      cells: the selected cells of a SOMA experiment; None of anything else.
    """

    path: Location
    name: str
    kind: Kind
    digest: str | None
    files: tuple[FileState, ...]
    datasets: tuple[str, ...] = ()
    cells: SomaCells | None = None

    @property
    def source(self) -> str:
        """Its name without folders, or its URL."""
        return self.path.absolute().name if self.cells is None else self.cells.place.source

    def open(self, reading: Reading) -> Tables:
        """Opens it for streaming. Raises `InputError` as `open_tables`."""
        return open_tables(self.path, reading) if self.cells is None else open_cells(self.cells, reading)

    @property
    def n_bytes(self) -> int:
        """Of all files together; 0 of a SOMA experiment, of which only some is read."""
        return sum(file.n_bytes for file in self.files)

    def is_changed(self) -> bool:
        """Whether a file was changed, or taken away, since."""
        if self.cells is not None:
            return self.cells.place.is_changed()
        try:
            return any(state_of(file.path) != file for file in self.files)
        except OSError:
            return True


def check_inputs(
    paths: Sequence[Location],
    names: Sequence[str],
    manifest: Manifest,
    options: Options,
    genes: GeneTable,
    *,
    is_named: bool = False,
) -> list[Input]:
    """What `paths` give, after a look at their sizes and, of what the corpus does not have yet, at counts and names.

    Args:
      names: of their datasets; put before the names of those of a SOMA experiment where `is_named`: the user gave them.

    Raises:
      InputError: as `open_tables`, `resolutions` and `already_there`.
    """
    layouts = [find_layout(path, options.reading) for path in paths]
    named = list(zip(paths, names, layouts, strict=True))
    given = {name: _input(path, name, layout) for path, name, layout in named if layout.soma is None}
    sizes = Counter(file.n_bytes for file in given.values()) + Counter(
        {entry.source_bytes for entry in manifest.stores}
    )
    inputs = []
    for _, name, layout in named:
        if layout.soma is not None:
            inputs += _check_soma(layout, name, is_named, manifest, options, genes)
        else:
            file = given[name]
            inputs.append(_check(file, layout, sizes[file.n_bytes] > 1, manifest, options, genes))
    return inputs


def _input(path: Path, name: str, layout: Layout) -> Input:
    try:
        return Input(path, name, layout.kind, None, tuple(state_of(file) for file in layout.all_files))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error


def _check_soma(
    layout: Layout, name: str, is_named: bool, manifest: Manifest, options: Options, genes: GeneTable
) -> list[Input]:
    """An input for each dataset with selected cells. One that is new is opened: they share layers and gene names."""
    inputs = []
    for cells in select_cells(layout.soma, options.reading.obs_filter, options.reading.duplicates):
        own = cells.dataset and store_name(cells.dataset)
        dataset = name if not own else f"{name}-{own}" if is_named else own
        digest = digest_of_text(f"{layout.soma.identity}\0{cells.dataset or ''}")
        inputs.append(Input(layout.path, dataset, "soma", digest, (), (dataset,), cells))
    new = [one for one in inputs if not already_there(one, manifest, options)]
    for one in new:
        check_names_free(one, one.datasets, manifest)
    for one in new[:1]:
        with one.open(options.reading) as tables:
            resolutions(tables, options, genes)
    return inputs


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
        how += "".join(
            f", --{name} {value[:12] if name in _FILES else _quoted(value)}" for name, value in before.items()
        )
        raise InputError(
            f"{file.path}: in the corpus already as {entries[0].input!r}, read from {how}; "
            "use the same options, or ingest it into another corpus"
        )


def _quoted(value: str) -> str:
    """As a person would type it."""
    return value if re.fullmatch(r"[\w.+-]+", value) else f'"{value}"'


def store_names_of(paths: Sequence[Location], names: Sequence[str] | None) -> list[str]:
    """A dataset name for each input: those given, or the files' names without suffix, made fit for paths and URLs.

    The output folder of Cell Ranger is always called outs; its parent has the sample's name. Datasets of a SOMA experiment
    have names of their own, before which a name that is given is put: that of a folder is not.

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
            raise InputError(f"{path}: would be named {name!r} as {other} is; give them names with --names")
    return chosen


def _stem(path: Location) -> str:
    if isinstance(path, str):
        return path.rstrip("/").rsplit("/", 1)[-1]
    name = path.absolute().name
    if name == "outs":
        return path.absolute().parent.name
    if path.suffix == ".gz":
        name = name.removesuffix(".gz")
    return Path(name).stem if not path.is_dir() else name.removesuffix(".zarr")


def digest_of(file: Input, stop: threading.Event | None = None) -> str:
    """Its digest. Raises `InputError` where it cannot be read; `DigestStoppedError` soon after `stop` is set."""
    root = file.path if file.kind.startswith("zarr") else None
    return digest_of_paths([state.path for state in file.files], stop, root)
