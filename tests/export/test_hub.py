"""A bundle goes to a hub and comes back the same, through huggingface_hub itself, over HTTP, against a hub of our own on this
machine that keeps files and nothing else; what the hub refuses is told in a line."""

import base64
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mofm.errors import InputError
from mofm.export.bundle import write_bundle
from mofm.export.parts import read_parts

COMMIT = "a" * 40
SCRIPT = """
import sys
from mofm.cli import main
from mofm.errors import InputError
from mofm.export.parts import read_parts

run, out = sys.argv[1:]
assert main(["export", run, out, "--push-to", "me/blood"]) == 0
print(read_parts("hf://me/blood").workdir)
try:
    read_parts("hf://me/nothing")
except InputError as error:
    print(error)
"""


class Hub(BaseHTTPRequestHandler):
    """As much of a hub as one repository, me/blood, takes. Files are in `server.files`."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Says nothing."""

    def do_POST(self):
        """Makes the repository, tells how to upload, and takes a commit."""
        sent, files = self.rfile.read(int(self.headers["Content-Length"])), self.server.files
        if self.path.endswith("/commit/main"):
            for line in map(json.loads, sent.splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer(
                {"commitUrl": f"{self.server.place}/me/blood/commit/{COMMIT}", "commitOid": COMMIT, "success": True}
            )
        elif "/preupload/" in self.path:
            asked = json.loads(sent)["files"]
            self.answer(
                {"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in asked]}
            )
        else:
            self.answer({"url": f"{self.server.place}/me/blood", "name": "me/blood"})

    def do_HEAD(self):
        """As GET."""
        self.do_GET()

    def do_GET(self):
        """Tells which files there are, and gives one."""
        files, path = self.server.files, self.path.split("?")[0]
        if path.startswith("/me/blood/resolve/"):
            content = files[path.split("/", 5)[5]]
            self.answer(content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT})
        elif path.startswith("/api/models/me/blood/tree/"):
            self.answer([{"type": "file", "path": name, "size": len(files[name]), "oid": "0"} for name in files])
        elif path.startswith("/api/models/me/blood"):
            self.answer({"id": "me/blood", "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]})
        else:
            self.answer({"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}, 404)

    def answer(self, content, headers=(), code=200):
        """Sends JSON or bytes."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in {
            "Content-Length": str(len(body)),
            "Content-Type": "application/json",
            **dict(headers),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.place = {}, f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def test_a_bundle_goes_there_and_comes_back(hub, trained, tmp_path):
    if importlib.util.find_spec("huggingface_hub") is None:
        pytest.skip("huggingface_hub is not installed: the hub was NOT tested")
    settings = {
        "HF_ENDPOINT": hub.place,
        "HF_HOME": str(tmp_path / "cache"),
        "HF_TOKEN": "hf_of_nobody",
        "HF_HUB_DISABLE_XET": "1",
    }
    words = [sys.executable, "-c", SCRIPT, str(trained.workdir), str(tmp_path / "bundle")]
    done = subprocess.run(words, env=os.environ | settings, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(hub.files) == {path.name for path in (tmp_path / "bundle").iterdir()}
    *_, folder, refused = done.stdout.splitlines()
    assert folder.startswith(str(tmp_path / "cache"))
    assert read_parts(folder).step == read_parts(trained.workdir).step
    assert refused.startswith("hf://me/nothing: cannot be fetched")


def test_without_the_library_it_is_told_how_to_get_it(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install \"mofm\[hub\]\""):
        read_parts("hf://me/blood")
    write_bundle(read_parts(trained.workdir), tmp_path / "bundle")  # which needs none of it
