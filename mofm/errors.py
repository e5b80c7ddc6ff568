"""The errors a person can mend, said in one line.

Anything wrong with what the user gave us (a file, a config, a mesh, a disk) is an `InputError`: the command line
prints its one line and exits with code 2, before any work is lost. Anything else is a bug and keeps its traceback.
"""

import difflib
from collections.abc import Iterable
from typing import Any


class InputError(Exception):
    """The input cannot be used. The message is one line: what is wrong, where, and what to do about it."""


def nearest_name(name: str, known: Iterable[str | None]) -> str:
    """' Did you mean X?' for a mistyped name, with a leading space; empty where nothing known is near."""
    named = [one for one in known if one is not None]  # from anndata 0.13 on, None is a layer: X
    close = difflib.get_close_matches(name, named, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def check_at_least(group: str, config: Any, names: Iterable[str], least: int) -> None:
    """Raises `InputError`, naming the key as `group.name`, where one of these fields of a config is less than `least`."""
    for name in names:
        if (value := getattr(config, name)) < least:
            needed = "must not be negative" if least == 0 else f"must be at least {least}"
            raise InputError(f"{group}.{name}={value}: {needed}")
