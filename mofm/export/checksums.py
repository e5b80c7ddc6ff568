"""What the files of a bundle are known by: checksums.json, the size and SHA-256 of each.

SHA-256, because the hub shows the same of every large file, and `sha256sum` is everywhere. It proves that a bundle is whole
and as it was exported; it does not prove who exported it. Files that are for people (README.md, LICENSE) may be edited and
are not in it; those of `compiled/` are, but are not looked at by mofm, which does not open them.
"""

import hashlib
import json
from pathlib import Path

from mofm.errors import InputError

CHECKSUMS = "checksums.json"
FOR_PEOPLE = ("README.md", "LICENSE")
COMPILED = "compiled"
AGAIN = "copy or download the bundle again, or export it anew"


def write_checksums(folder: Path) -> None:
    """Write checksums.json of all that lies in `folder`."""
    left_out = (CHECKSUMS, *FOR_PEOPLE)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in left_out]
    said = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": _digest(path)} for path in files
    }
    (folder / CHECKSUMS).write_text(json.dumps({"files": said}, indent=2) + "\n", encoding="utf-8")


def verify(folder: Path, needed: tuple[str, ...]) -> None:
    """Check every file that mofm opens.

    Args:
      needed: files that a bundle has whatever its checksums say.

    Raises:
      InputError: one is missing, cut short, or not as it was exported; it is named, with what to do.
    """
    path = folder / CHECKSUMS
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        known = {str(name): (int(said["bytes"]), str(said["sha256"])) for name, said in files.items()}
    except FileNotFoundError:
        raise InputError(f"{path} is missing: nothing shows whether the bundle is whole; {AGAIN}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: no table of checksums ({error}): the file is damaged; {AGAIN}") from error
    if unlisted := [name for name in needed if name not in known]:
        raise InputError(f"{path}: says nothing of {unlisted[0]}: the bundle is damaged; {AGAIN}")
    for name, (n_bytes, digest) in known.items():
        if name.split("/")[0] == COMPILED:
            continue
        if Path(name).name != name:
            raise InputError(f"{path}: names {name!r}, which is not beside it: not a bundle to be trusted")
        file = folder / name
        if not file.is_file():
            raise InputError(f"{file} is missing: the bundle is not whole; {AGAIN}")
        if (there := file.stat().st_size) != n_bytes:
            raise InputError(
                f"{file}: has {there:,} bytes where {n_bytes:,} were written: cut short or changed; {AGAIN}"
            )
        if (there := _digest(file)) != digest:
            raise InputError(
                f"{file}: is not as it was exported (SHA-256 {there[:12]}..., was {digest[:12]}...): damaged or edited; {AGAIN}"
            )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
