"""What the bytes of files are known by: BLAKE3 digests of 32 bytes, in hexadecimal. hashlib has none as fast as a disk."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from blake3 import blake3

from mofm.errors import InputError


class FileState(NamedTuple):
    """A file, its size and the time of its last change: what shows cheaply that it was changed."""

    path: Path
    n_bytes: int
    modified_ns: int


def state_of(file: Path) -> FileState:
    """As it is now. Raises OSError where it is not there."""
    status = file.stat()
    return FileState(file, status.st_size, status.st_mtime_ns)


class DigestStoppedError(Exception):
    """No one waits for the digest any more."""


def digest_of_paths(files: Sequence[Path], stop: threading.Event | None = None, root: Path | None = None) -> str:
    """Of a file's bytes; of several files, of the names, sizes and bytes of each.

    Args:
      stop: ends it early where it is set.
      root: names of files are paths below it; the last part of their paths alone where None.

    Raises:
      InputError: a file cannot be read.
      DigestStoppedError: soon after `stop` was set.
    """
    try:
        if len(files) == 1:
            return _of_bytes(files[0], stop).hexdigest()
        together = blake3()
        for path in files:
            part = _of_bytes(path, stop).digest()
            name = path.name if root is None else path.relative_to(root).as_posix()
            together.update(f"{name}\0{path.stat().st_size}\0".encode() + part)
        return together.hexdigest()
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror or error}); check the path") from error


def digest_of_text(text: str) -> str:
    """Of a text in UTF-8."""
    return blake3(text.encode()).hexdigest()


def _of_bytes(path: Path, stop: threading.Event | None):
    digest, piece = blake3(), memoryview(bytearray(2**20))
    with path.open("rb", buffering=0) as file:
        while length := file.readinto(piece):
            digest.update(piece[:length])
            if stop is not None and stop.is_set():
                raise DigestStoppedError
    return digest
