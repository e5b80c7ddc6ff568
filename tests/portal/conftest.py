"""Portals for tests: one whose looks are function calls and whose queue is a list, so that no process is started."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

if not all(map(find_spec, ("fastapi", "huey", "httpx", "python_multipart", "uvicorn"))):
    collect_ignore_glob = ["test_[!i]*.py"]  # test_installed.py says so

TOKEN = "a-secret-of-the-lab"


class Portal(NamedTuple):
    """A portal in this process: its client, what is behind it, and the ids that were put into its queue."""

    client: "TestClient"  # noqa: F821
    desk: "Desk"  # noqa: F821
    sent: list[str]

    def upload(self, path: Path | bytes, name: str = "cells.h5ad"):
        """POST a file to the API."""
        content = path if isinstance(path, bytes) else path.read_bytes()
        return self.client.post("/api/files", files={"file": (name, content)})

    def looked(self, path: Path | bytes, name: str = "cells.h5ad") -> dict:
        """What a look at an upload found."""
        answer = self.upload(path, name)
        assert answer.status_code == 201, answer.text
        self.desk._looks.submit(int).result()  # looks are done one after the other
        return self.client.get(f"/api/files/{answer.json()['id']}").json()

    def csrf(self, page: str = "/") -> str:
        """The token of this session's forms."""
        return self.client.get(page).text.split('name="csrf" value="')[1].split('"')[0]


@pytest.fixture(scope="session")
def model_dir(trained, tmp_path_factory) -> Path:
    """What a portal knows of the tiny trained model."""
    from mofm.portal.model_card import main

    folder = tmp_path_factory.mktemp("model")
    assert main(str(trained.workdir), str(folder)) == 0
    return folder


@pytest.fixture
def make_portal(model_dir, trained, tmp_path, monkeypatch) -> Callable[..., Portal]:
    """A function (fields of Settings; real_looks, for looks by processes) -> Portal."""
    import shutil
    from concurrent.futures import ThreadPoolExecutor

    from starlette.testclient import TestClient

    from mofm.portal import desk
    from mofm.portal.app import create_app
    from mofm.portal.look import look
    from mofm.portal.settings import Settings

    class LookHere:
        """Looks that are function calls."""

        def __init__(self, settings):
            self._settings = settings

        def prepare(self):
            """There is nothing to have ready."""

        def look(self, file, asked):
            """What a look tells."""
            told = self._settings
            return look(told.file_path(file.id), file.name, told.model_dir, asked, told.max_cells)

        def end(self):
            """There is nothing to end."""

    monkeypatch.setattr(desk, "ThreadPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))
    clients = []

    def make(*, real_looks: bool = False, **told) -> Portal:
        settings = Settings(str(trained.workdir), tmp_path / "data", **{"requests_per_second": 1000.0} | told)
        settings.write()
        shutil.copytree(model_dir, settings.model_dir, dirs_exist_ok=True)
        sent = []
        app = create_app(settings, sent.append)
        if not real_looks:
            app.state.desk.looker = LookHere(settings)
        client = TestClient(app, base_url="http://localhost", raise_server_exceptions=False)
        clients.append(client.__enter__())
        return Portal(client, app.state.desk, sent)

    yield make
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def portal(make_portal) -> Portal:
    """A portal without a token."""
    return make_portal()


@pytest.fixture
def locked(make_portal) -> Portal:
    """A portal with a token that nobody has shown."""
    return make_portal(token=TOKEN)
