"""Errors and names of the command line, in the words of a page: no path of the server, no option that a page lacks."""

import re
from pathlib import Path
from typing import Any

OPTIONS = {
    "--modality": "“What it measures”",
    "--build": "“Genome build”",
    "--features-build": "“Genome build of the features”",
    "--features": "“Features”",
    "--recover-counts": "“Recover counts”",
    "--groupby": "“Groups”",
    "--min-cells": "“Smallest group”",
    "--network": "“Network”",
    "--species": "the model's species",
}
MOST_NAME = 120


def in_portal_words(said: Any, path: Path, name: str) -> Any:
    """A message, or whatever holds messages, with the user's name of the file for its path here."""
    if isinstance(said, dict):
        return {key: in_portal_words(value, path, name) for key, value in said.items()}
    if isinstance(said, list):
        return [in_portal_words(value, path, name) for value in said]
    if not isinstance(said, str):
        return said
    return re.sub(r"--[a-z]+(-[a-z]+)*", lambda found: OPTIONS.get(found[0], found[0]), said.replace(str(path), name))


def shown_name(given: str) -> str:
    """A file's name as a user gave it, fit to be shown: its last part, one line, not long. It never becomes a path."""
    last = re.split(r"[/\\]", given)[-1]
    # Control characters, and those that turn the direction of text and so can hide a name's end.
    plain = "".join(
        one for one in last if one.isprintable() and one not in "\u202a\u202b\u202d\u202e\u2066\u2067\u2068"
    ).strip()
    if len(plain) > MOST_NAME:
        plain = plain[: MOST_NAME - 20] + "…" + plain[-19:]
    return plain or "unnamed"


def download_stem(name: str) -> str:
    """What downloads made of a file begin with: letters, digits, and ._- alone."""
    stem = re.sub(r"(\.gz)?$", "", name, flags=re.IGNORECASE)
    stem = re.sub(r"\.(h5ad|h5mu|h5|hdf5)$", "", stem, flags=re.IGNORECASE)
    return re.sub(r"[^A-Za-z0-9._-]+", "_", stem).strip("._")[:60] or "cells"
