"""An ingest by the workers of a Dask cluster ends in the bytes of one without, whatever happens to the workers."""

import os
import signal
import time

import pytest

import mofm
from mofm.corpus import cluster
from mofm.corpus.ingest import ingest
from mofm.corpus.manifest import MANIFEST
from mofm.errors import InputError

distributed = pytest.importorskip("distributed")
VERSION = mofm.__version__


@pytest.fixture(scope="module")
def local():
    """Two workers, each a process, started again by Dask when it is killed."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=2, dashboard_address=None, host="127.0.0.1"
    ) as started:
        yield started


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, draw_counts, write_h5ad, gene_ids, content):
    """Three files, and what a corpus of them holds that was made here."""
    folder = tmp_path_factory.mktemp("inputs")
    paths = [
        write_h5ad(folder / f"{name}.h5ad", draw_counts(60, 50, seed=seed), gene_ids[25 * seed :][:50], prefix=name)
        for seed, name in enumerate(("one", "two", "three"))
    ]
    ingest(paths, folder / "corpus")
    return paths, content(folder / "corpus")


def refusal(*args, **kwargs) -> str:
    with pytest.raises(InputError) as caught:
        ingest(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_same_bytes(tmp_path, local, inputs, content, monkeypatch):
    paths, made_here = inputs
    seen = []
    monkeypatch.chdir(paths[0].parent)
    ingest(
        [path.name for path in paths],
        os.path.relpath(tmp_path / "corpus"),
        scheduler=local.scheduler_address,
        on_progress=lambda *told: seen.append(told),
    )
    assert content(tmp_path / "corpus") == made_here
    assert {(name, done, total) for _, name, done, total in seen} == {
        (name, 60, 60) for name in ("one", "two", "three")
    }


def test_killed_workers_are_retried(tmp_path, local, inputs, content):
    paths, made_here = inputs
    with distributed.Client(local) as client:
        pids = set(client.run(os.getpid).values())
        killed = []

        def kill(*_):
            while pids:
                killed.append(pids.pop())
                os.kill(killed[-1], signal.SIGKILL)

        ingest(paths, tmp_path / "corpus", scheduler=local.scheduler_address, on_progress=kill)
        assert len(killed) == 2
        assert not set(client.run(os.getpid).values()) & set(killed)
    assert content(tmp_path / "corpus") == made_here


def test_a_bad_input_is_told_as_ever(tmp_path, local, inputs, write_h5ad, gene_ids, draw_counts, monkeypatch):
    bad = write_h5ad(tmp_path / "bad.h5ad", draw_counts(60, 50) + 0.0, gene_ids[:50])
    change = cluster.absolute

    def late(task):
        bad.write_bytes(bad.read_bytes() + b"more")
        return change(task)

    monkeypatch.setattr(cluster, "absolute", late)
    line = refusal([bad], tmp_path / "corpus", scheduler=local.scheduler_address)
    assert "was changed while it was read" in line
    assert not (tmp_path / "corpus").exists()


def test_a_worker_that_does_not_see_the_files_says_so(tmp_path, local, inputs, monkeypatch):
    def elsewhere(task):
        return task._replace(folder=tmp_path / "not" / "mounted" / "input-0")

    monkeypatch.setattr(cluster, "absolute", elsewhere)
    line = refusal([inputs[0][0]], tmp_path / "corpus", scheduler=local.scheduler_address)
    assert "does not see it" in line
    assert not (tmp_path / "corpus" / MANIFEST).exists()


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense://x"])
def test_nobody_at_the_address(tmp_path, inputs, monkeypatch, address):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 2)
    assert f"--scheduler {address}: no Dask scheduler answers" in refusal(inputs[0], tmp_path / "c", scheduler=address)
    assert not (tmp_path / "c").exists()


def test_a_cluster_without_workers(tmp_path, inputs, monkeypatch):
    monkeypatch.setattr(cluster, "WORKER_SECONDS", 1)
    with distributed.LocalCluster(n_workers=0, dashboard_address=None, host="127.0.0.1") as empty:
        begin = time.monotonic()
        line = refusal([inputs[0][0]], tmp_path / "corpus", scheduler=empty.scheduler_address)
        assert "has no workers" in line
        assert time.monotonic() - begin < 60
    assert not (tmp_path / "corpus").exists()


def test_a_worker_of_another_version_is_told(tmp_path, local, inputs, monkeypatch):
    monkeypatch.setattr(mofm, "__version__", "99.0")
    line = refusal(inputs[0][:1], tmp_path / "corpus", scheduler=local.scheduler_address)
    assert f"has mofm {VERSION}, here it is 99.0" in line
    assert not (tmp_path / "corpus").exists()
