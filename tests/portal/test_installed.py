"""The portal's packages are there, as new as setup.py asks: where they are not, this is the only test of the portal."""

from importlib import metadata

import pytest
from packaging.requirements import Requirement


def requirements() -> list[Requirement]:
    """Of the extra `portal`, as the installed mofm declares them."""
    declared = map(Requirement, metadata.requires("mofm") or [])
    return [one for one in declared if one.marker and one.marker.evaluate({"extra": "portal"})]


def test_the_extra_names_what_the_portal_imports():
    assert {"fastapi", "huey", "uvicorn", "python-multipart"} <= {one.name for one in requirements()}


@pytest.mark.parametrize("name", ["fastapi", "huey", "psutil", "python-multipart", "uvicorn"])
def test_it_is_installed_in_a_version_that_serves(name):
    wanted = {one.name: one.specifier for one in requirements()}[name]
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed (mofm[dev]): the portal was NOT tested")
    assert found in wanted, f"{name} {found} is installed, setup.py asks for {name}{wanted}"
