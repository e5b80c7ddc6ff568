"""What names a file; and files that appear whole or not at all: written beside their place, then renamed into it."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mofm.errors import InputError

Location = Path | str
"""A file or folder is a path; a URL stays text."""


def location(given: str | Path) -> Location:
    """What was given, as a path unless it is a URL."""
    return given if isinstance(given, str) and re.match(r"[a-z][a-z0-9+.-]*://", given) else Path(given)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to; where the context ends well, that file becomes `path`.

    Where it ends in an error, `path` is as it was and nothing lies beside it; only a process that is killed can leave
    its `.NAME.PID.tmp`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def output_file(path: Path) -> Iterator[Path]:
    """`written_whole` for a file that the user named: its folder is made, and what the disk refuses is said in a line.

    Raises:
      InputError: the disk is full, or `path` cannot be written for another reason.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as temporary:
            yield temporary
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); free space or give another OUT"
        ) from error
