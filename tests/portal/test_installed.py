"""That the portal's packages are there: where they are not, this is the only test of the portal, and it is skipped by name."""

import pytest


@pytest.mark.parametrize("package", ["fastapi", "huey", "httpx", "python_multipart", "uvicorn"])
def test_the_extra_is_installed(package):
    pytest.importorskip(package, reason=f"{package} is not installed (mofm[dev]): the portal was NOT tested")
