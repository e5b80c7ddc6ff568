"""What is to be ingested: inputs checked before anything is written, and told apart from what the corpus has already.

A file is known by the digest of its bytes, not by its name or date. What was read from it is known by the options. The
same bytes are never ingested twice, under whatever name: cells that are there twice would be learned twice, and would
stand on both sides of a held-out split.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

from mofm.corpus.manifest import Manifest, StoreEntry, store_name
from mofm.errors import InputError
from mofm.omics.readers import open_h5ad


@dataclasses.dataclass(frozen=True)
class Options:
    """How the counts of a file are found; see `open_h5ad`."""

    counts_from: str | None
    recover_counts: bool


@dataclasses.dataclass(frozen=True)
class Input:
    """A file and the name of its store.

    Attributes:
      digest: BLAKE2b (32 bytes, hexadecimal) of the file.
      n_bytes, modified_ns: size and time of the last change when the digest was taken.
    """

    path: Path
    name: str
    digest: str
    n_bytes: int
    modified_ns: int

    def is_changed(self) -> bool:
        """Whether the file was changed, or taken away, since."""
        try:
            status = self.path.stat()
        except OSError:
            return True
        return (status.st_size, status.st_mtime_ns) != (self.n_bytes, self.modified_ns)


def check_input(path: Path, name: str, manifest: Manifest, options: Options) -> Input:
    """The input, after a look at its bytes and, where the corpus does not have it yet, at its counts.

    Raises:
      InputError: as `open_h5ad` and `already_there`.
    """
    try:
        status = path.stat()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    checked = Input(path, name, digest, status.st_size, status.st_mtime_ns)
    if already_there(checked, manifest, options) is None:
        with open_h5ad(path, counts_from=options.counts_from, recover_counts=options.recover_counts):
            pass
    return checked


def already_there(file: Input, manifest: Manifest, options: Options) -> StoreEntry | None:
    """The store that holds this file, under whatever name; None for a new one.

    Raises:
      InputError: the file was read with other options, or another file has its name.
    """
    for entry in manifest.stores:
        if entry.digest == file.digest:
            _check_same_reading(file, entry, options)
            return entry
    for entry in manifest.stores:
        if entry.name == file.name:
            raise InputError(
                f"{file.path}: the corpus has a store {file.name!r} already, made from a different {entry.source}; "
                "give this one another name with --names"
            )
    return None


def _check_same_reading(file: Input, entry: StoreEntry, options: Options) -> None:
    """Options that end in the same counts are the same: naming the matrix that mofm found, or allowing a recovery
    that was not needed, asks for nothing new."""
    same_matrix = entry.counts_from == options.counts_from if options.counts_from else not entry.counts_from_given
    if not same_matrix or (entry.recovered and not options.recover_counts):
        how = (
            f"--counts-from {entry.counts_from}" if entry.counts_from_given else f"{entry.counts_from} (found by mofm)"
        )
        how += " and --recover-counts" if entry.recovered else ""
        raise InputError(
            f"{file.path}: in the corpus already as {entry.name!r}, read from {how}; "
            "use the same options, or ingest it into another corpus"
        )


def store_names_of(paths: Sequence[Path], names: Sequence[str] | None) -> list[str]:
    """A store name for each input: those given, or the files' names without suffix, made fit for paths and URLs.

    Raises:
      InputError: a name is unusable, or two inputs share one.
    """
    if names is not None and len(names) != len(paths):
        raise InputError(f"--names gives {len(names)} names for {len(paths)} files; give one for each, in their order")
    chosen = [store_name(path.stem) for path in paths] if names is None else list(names)
    for position, (path, name) in enumerate(zip(paths, chosen, strict=True)):
        if not name or name != store_name(name):
            raise InputError(f"{path}: cannot name its store {name!r}; give letters, digits, '.', '_', '-' in --names")
        if name in chosen[:position]:
            other = paths[chosen.index(name)]
            raise InputError(f"{path}: would be named {name!r} as {other} is; tell them apart with --names")
    return chosen
