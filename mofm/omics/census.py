"""Which build of CELLxGENE Census a version is, and where it lies.

Its owners' library answers (`cellxgene-census`): it knows the directory of releases, their aliases ("stable", "latest"),
retracted builds and mirrors, all of which move. It is asked for nothing else: what is there is read with TileDB-SOMA
alone (`soma.py`), so that an experiment on disk or in a bucket of one's own needs neither it nor the network.
"""

import re
from typing import NamedTuple

from mofm.errors import InputError, nearest_name

INSTALL = 'pip install "mofm[census]"'
SCHEME = "census://"
_EXAMPLE = f"{SCHEME}2025-01-30/homo_sapiens"


class Release(NamedTuple):
    """A build of the Census: its date, the URI of its SOMA collection, and the region of its bucket."""

    build: str
    uri: str
    region: str | None


def parse_url(url: str) -> tuple[str, str]:
    """Version and organism of census://VERSION/ORGANISM. Raises `InputError` where one of them is not there."""
    found = re.fullmatch(rf"{SCHEME}([^/]+)/([^/]+)/?", url)
    if found is None:
        raise InputError(
            f"{url}: a version of the Census and an organism are needed, as in {_EXAMPLE}; a copy on disk is given by its path"
        )
    return found[1], found[2]


def find_release(version: str) -> Release:
    """The build that `version` is today: a date, "stable" or "latest".

    Raises:
      InputError: cellxgene-census is not installed, there is no such version, it was retracted, or the directory of
        releases cannot be reached.
    """
    where = f"{SCHEME}{version}"
    try:
        import cellxgene_census as library
    except ImportError as error:
        raise InputError(f"{where}: the Census is found by cellxgene-census, which is not here: {INSTALL}") from error
    try:
        versions = library.get_census_version_directory(retracted=None)
        if version not in versions:
            raise InputError(
                f"{where}: the Census has no version {version!r}; use stable, latest or a date of "
                f"{', '.join(sorted(name for name in versions if name[:1].isdigit())[-3:])}.{nearest_name(version, versions)}"
            )
        _check_not_retracted(where, versions[version])
        with library.open_soma(census_version=version) as census:
            region = census.context.tiledb_config.get("vfs.s3.region")
            return Release(versions[version]["release_build"], census.uri, region)
    except InputError:
        raise
    except Exception as error:  # requests, TileDB and the library itself each raise their own
        cause = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{where}: the Census cannot be reached ({cause[0][:100]}); check the network") from error


def _check_not_retracted(where: str, description: dict) -> None:
    if description.get("flags", {}).get("retracted"):
        retraction = description.get("retraction") or {}
        instead = retraction.get("replaced_by") or "stable"
        raise InputError(
            f"{where}: was retracted ({retraction.get('reason') or 'no reason given'}); use {instead} instead"
        )
