"""h5ad files of random counts whose truth is known, what a corpus on disk consists of, and an S3 server."""

import io
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from mofm.omics.genome import gene_table


@pytest.fixture(scope="session")
def gene_ids():
    """The first 500 Ensembl ids of the human gene table."""
    return gene_table("human").gene_ids[:500]


@pytest.fixture(scope="session")
def draw_counts():
    """A function (cells, genes, seed, largest) -> dense counts with an empty cell, an empty gene and a full cell."""

    def draw(cells: int, genes: int, seed: int = 0, largest: int = 300) -> np.ndarray:
        rng = np.random.default_rng(seed)
        counts = rng.poisson(2.0, (cells, genes)) * (rng.random((cells, genes)) < 0.3)
        counts[cells // 2], counts[:, 1] = 0, 0
        counts[cells // 3] += 1
        counts[-1, 0] = largest
        return counts

    return draw


@pytest.fixture(scope="session")
def write_h5ad():
    """A function (path, dense counts, gene names, prefix of the cell names) -> path."""

    def write(path, counts, names, prefix: str = "cell"):
        n_cells = len(counts)
        obs = pd.DataFrame(
            {"label": pd.Categorical(["T cell", "B cell"] * n_cells)[:n_cells], "score": np.linspace(0, 1, n_cells)},
            index=[f"{prefix}-{i}" for i in range(n_cells)],
        )
        var = pd.DataFrame(index=list(names))
        anndata.AnnData(scipy.sparse.csr_matrix(counts.astype(np.float32)), obs, var).write_h5ad(path)
        return path

    return write


@pytest.fixture(scope="session")
def content():
    """A function (folder) -> path in the folder of every file and folder below it, and the files' bytes."""

    def read(folder) -> dict[str, bytes | None]:
        paths = sorted(folder.rglob("*"))
        return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}

    return read


@pytest.fixture(scope="session")
def sharded(tmp_path_factory, draw_counts, write_h5ad, gene_ids):
    """A corpus of two datasets, the first of several shards of several chunks; tests must leave it as it is."""
    folder = tmp_path_factory.mktemp("sharded")
    paths = [
        write_h5ad(folder / f"{name}.h5ad", draw_counts(cells, 60, seed), gene_ids[:60], prefix=name)
        for name, cells, seed in (("one", 230, 1), ("two", 57, 2))
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mofm.corpus.writer.SHARD_CHUNKS", 2)
        patch.setattr("mofm.corpus.writer._CHUNK_ENTRIES", (16, 512))
        from mofm.corpus.ingest import ingest

        ingest(paths, folder / "corpus")
    return folder / "corpus"


class Bucket:
    """A bucket "corpora" on a local S3 server, which counts what it is asked and fails when it is told to.

    Attributes:
      url: of the bucket, "s3://corpora".
      requests: (method, path) of every request since it was last cleared.
      refuse: (method, path) -> the HTTP status to answer with, in place of the server's own answer; None for that.
    """

    url = "s3://corpora"

    def __init__(self):
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        self._app = DomainDispatcherApplication(create_backend_app)
        self.requests: list[tuple[str, str]] = []
        self.refuse: Callable[[str, str], int | None] = lambda method, path: None
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self.ask("PUT", "")

    def _answer(self, environ, start_response):
        asked = (environ["REQUEST_METHOD"], environ["PATH_INFO"])
        self.requests.append(asked)
        if (status := self.refuse(*asked)) is not None:
            start_response(f"{status} Refused", [("Content-Length", "0")])
            return [b""]
        return self._app(environ, start_response)

    def ask(self, method: str, key: str, content: bytes = b"") -> bytes:
        """A request from beside, neither counted nor refused. Whoever signs it, the server takes it."""
        signed = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
        environ = {
            "REQUEST_METHOD": method, "PATH_INFO": f"/corpora/{key}", "QUERY_STRING": "", "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": str(self._server.server_port), "HTTP_HOST": self.endpoint.removeprefix("http://"),
            "wsgi.input": io.BytesIO(content), "CONTENT_LENGTH": str(len(content)), "wsgi.url_scheme": "http",
            "HTTP_AUTHORIZATION": signed, "wsgi.errors": io.StringIO(), "wsgi.version": (1, 0),
        }  # fmt: skip
        status: list[str] = []
        answer = b"".join(self._app(environ, lambda line, headers, *_: status.append(line)))
        assert status[0].startswith("2"), (status, answer)
        return answer

    def upload(self, folder: Path, prefix: str) -> str:
        """Puts every file of a folder below a prefix; the URL of that."""
        for path in folder.rglob("*"):
            if path.is_file() and path.name != ".lock":
                self.ask("PUT", f"{prefix}/{path.relative_to(folder)}", path.read_bytes())
        return f"{self.url}/{prefix}"

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def bucket(monkeypatch):
    """An empty `Bucket`, and an environment that leads to it, with few and quick retries."""
    pytest.importorskip("moto", reason="no S3 server (pip install 'mofm[dev]'): corpora in buckets were NOT tested")
    from moto.s3.models import s3_backends

    from mofm.corpus import places

    s3_backends.reset()
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    there = Bucket()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", there.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setattr(places, "RETRIES", {"max_retries": 2, "initial_delay": "10ms", "max_delay": "20ms"})
    places._shared.cache_clear()
    yield there
    places._shared.cache_clear()
    there.close()
