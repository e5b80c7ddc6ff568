"""Uploads: what is hostile, broken, too large or of the wrong kind is refused in a line, and leaves nothing on the disk."""

import errno
import gzip
import json
import os
import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest

from mofm.portal import uploads
from mofm.portal.settings import GB, new_id
from mofm.portal.wording import download_stem, shown_name

MEGABYTE = 2**20


@pytest.fixture
def cells(trained) -> bytes:
    return trained.source.read_bytes()


def left(portal) -> list[Path]:
    """Files of uploads on the disk."""
    data = portal.desk.settings.data_dir
    return [path for kind in ("incoming", "files") for path in (data / kind).rglob("*") if path.is_file()]


def body_of(blocks: Iterator[bytes], csrf: str = "", name: str = "cells.h5ad") -> Iterator[bytes]:
    """A multipart form in pieces, so that no test holds a large one."""
    yield b'--edge\r\nContent-Disposition: form-data; name="csrf"\r\n\r\n' + csrf.encode() + b"\r\n"
    yield f'--edge\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'.encode()
    yield b"Content-Type: application/octet-stream\r\n\r\n"
    yield from blocks
    yield b"\r\n--edge--\r\n"


EDGE = "multipart/form-data; boundary=edge"
FORM = {"content-type": EDGE}
FILE = b'--edge\r\nContent-Disposition: form-data; name="file"'


def test_what_arrives_is_what_was_sent_whatever_its_pieces(portal, cells):
    for size in (1, 7, 100_000):
        few = cells if size > 7 else cells[:3000]
        pieces = [few[start : start + size] for start in range(0, len(few), size)]
        answer = portal.client.post("/api/files", content=body_of(iter(pieces)), headers=FORM)
        assert answer.status_code == 201
        told = answer.json()
        assert (told["size"], told["name"], told["state"]) == (len(few), "cells.h5ad", "looking")
        assert portal.desk.settings.file_path(told["id"]).read_bytes() == few
    portal.desk._looks.submit(int).result()


def test_a_file_is_streamed_in_little_memory_and_stopped_at_the_limit(make_portal):
    portal = make_portal(upload_gb=48 * MEGABYTE / GB)
    asked = []

    def blocks():
        for number in range(4096):
            asked.append(number)
            yield bytes(MEGABYTE // 16)

    tracemalloc.start()
    answer = portal.client.post("/api/files", content=body_of(blocks()), headers=FORM)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert answer.status_code == 413
    assert "larger than the 0.046875 GB" in answer.json()["detail"]
    assert left(portal) == []
    # The client of the tests gathers a request before it sends it: what is measured is all but that.
    assert peak < 2 * len(asked) * MEGABYTE // 16 + 16 * MEGABYTE


def test_what_is_said_to_be_too_large_is_refused_before_it_comes(make_portal):
    portal = make_portal(upload_gb=MEGABYTE / GB)
    answer = portal.client.post("/api/files", content=b"x", headers=FORM | {"content-length": str(10 * GB)})
    assert answer.status_code == 413


def looks_of(portal, name: str, content: bytes) -> dict:
    told = portal.looked(content, name)
    assert told["state"] == "refused"
    assert told["why"]
    assert "\n" not in told["why"]
    assert str(portal.desk.settings.data_dir) not in json.dumps(told)  # no path of the server
    return told


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"hello, this is no file of cells\n", "not an HDF5 file"),
        (b"PK\x03\x04" + bytes(100), "not an HDF5 file"),
        (b"\x89HDF\r\n\x1a\n", "cannot open it"),
        (b"\x89HDF\r\n\x1a\n" + bytes(4096), "cannot open it"),
        (b"chr1\t10\t20\tAAAC-1\t1\n" * 10, "not an HDF5 file"),
    ],
)
def test_what_is_no_file_of_cells_is_refused(portal, content, said):
    assert said in looks_of(portal, "cells.h5ad", content)["why"]


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.9, 0.999])
def test_a_file_that_is_cut_short_is_refused(portal, cells, share):
    why = looks_of(portal, "half.h5ad", cells[: int(len(cells) * share)])["why"]
    assert re.search("cut short|not an HDF5 file|cannot open", why), why


@pytest.mark.parametrize("seed", range(12))
def test_damaged_files_are_told_in_a_line_or_read(portal, cells, seed):
    rng = np.random.default_rng(seed)
    damaged = np.frombuffer(cells, np.uint8).copy()
    places = rng.integers(0, min(len(damaged), 20_000), 200)
    damaged[places] = rng.integers(0, 256, 200)
    told = portal.looked(damaged.tobytes())
    assert told["state"] in ("refused", "ready")
    assert "\n" not in told["why"]
    assert "went wrong" not in told["why"]


def test_a_gigabyte_of_zeros_as_gzip_is_refused_in_little_memory(portal):
    once = gzip.compress(bytes(16 * MEGABYTE), 1)  # a gzip file may hold many members: a gigabyte of them
    tracemalloc.start()
    why = looks_of(portal, "bomb.h5ad.gz", once * 64)["why"]
    assert "not an HDF5 file" in why
    assert tracemalloc.get_traced_memory()[1] < 64 * MEGABYTE
    tracemalloc.stop()


def test_a_bomb_in_hdf5_meets_the_limits_of_a_look(make_portal, tmp_path):
    """Names of half a billion cells that take a few kB on the disk: the real process, with its real limits."""
    with h5py.File(tmp_path / "bomb.h5ad", "w") as file:
        ad.io.write_elem(file, "/", ad.AnnData(np.ones((3, 4), np.float32)))
        del file["obs/_index"]
        file["obs"].create_dataset("_index", (5 * 10**8,), "S20", chunks=(10**6,), compression="gzip")
    portal = make_portal(real_looks=True, look_gb=1.0)
    why = portal.looked(tmp_path / "bomb.h5ad", "bomb.h5ad")["why"]
    assert "memory" in why or "cannot be read" in why, why
    assert (tmp_path / "bomb.h5ad").stat().st_size < MEGABYTE


def test_every_look_has_a_process_of_its_own_and_one_waits_for_the_next(make_portal, cells):
    portal = make_portal(real_looks=True)
    waiting = []
    for _ in range(2):
        waiting.append(portal.desk.looker._spare.process)
        told = portal.looked(cells)
        assert (told["state"], told["report"]["cells"]) == ("ready", 96)
    assert waiting[0].pid != waiting[1].pid
    assert [process.poll() for process in waiting] == [0, 0]
    last = portal.desk.looker._spare.process
    portal.desk.end()
    assert last.poll() is not None
    assert not list(portal.desk.settings.data_dir.glob("look-*"))


@pytest.mark.parametrize("how", ["external link", "external storage", "virtual", "huge chunk"])
def test_a_file_that_reads_other_files_is_refused(portal, tmp_path, trained, how):
    """An upload must not show what else lies on the server: here the secret that sessions are signed with."""
    secret = portal.desk.settings.data_dir / "secret"
    path = tmp_path / "spy.h5ad"
    ad.read_h5ad(trained.source).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        if how == "external link":
            file["obs/spy"] = h5py.ExternalLink(str(trained.source), "/X/data")
        elif how == "external storage":
            file["obs"].create_dataset("spy", (32,), "u1", external=[(str(secret), 0, 32)])
        elif how == "virtual":
            layout = h5py.VirtualLayout((4,), "f4")
            layout[:] = h5py.VirtualSource(str(trained.source), "X/data", (4,))
            file.create_virtual_dataset("obs/spy", layout)
        else:
            file["obs"].create_dataset("spy", (2**31,), "f8", chunks=(2**28,), compression="gzip")
    said = {"external link": "link to another file", "huge chunk": "too large to read"}.get(how, "lie in another file")
    why = looks_of(portal, "spy.h5ad", path.read_bytes())["why"]
    assert said in why
    assert "obs/spy" in why


HOSTILE = [
    "../../../etc/passwd", "..\\..\\windows\\system.ini", "/etc/passwd", "cells\x00.h5ad", "<script>alert(1)</script>.h5ad",
    "a" * 4000 + ".h5ad", "‮da5h.slleC", "con.h5ad", "", ".", "..", "a\r\nSet-Cookie: b=c", "cells;rm -rf.h5ad", "細胞.h5ad",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_text_and_never_a_path(name):
    shown, stem = shown_name(name), download_stem(name)
    assert shown
    assert len(shown) <= 120
    assert shown.isprintable()
    assert not set(shown) & set("/\\\u202e")
    assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,59}", stem), stem


def test_hostile_names_are_shown_as_they_are_and_write_nowhere_else(portal, cells, snapshot):
    data = portal.desk.settings.data_dir
    beside = snapshot(data.parent)
    for name in ('<img src=x onerror="alert(1)">.h5ad', "../../../spy.h5ad"):
        quoted = name.replace('"', "%22")
        answer = portal.client.post("/api/files", content=body_of(iter([cells]), name=quoted), headers=FORM)
        assert answer.status_code == 201
        page = portal.client.get(f"/files/{answer.json()['id']}").text
        assert "<img src=x" not in page
    portal.desk._looks.submit(int).result()
    outside = {path for path in snapshot(data.parent) if data not in path.parents}
    assert outside == {path for path in beside if data not in path.parents}
    assert all(path.name == "cells" for path in left(portal))


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"", EDGE, 400),
        (b"--edge--\r\n", EDGE, 400),
        (b"nonsense", EDGE, 400),
        (FILE + b'; filename="a"\r\n\r\nabc', EDGE, 400),
        (FILE + b"\r\n\r\nabc\r\n--edge--\r\n", EDGE, 400),
        (FILE + b'; filename="a"\r\n\r\n\r\n--edge--\r\n', EDGE, 400),
        (b"--edge\r\n" + b"A: b\r\n" * 5000, EDGE, 400),
        (b"{}", "application/json", 415),
        (b"abc", "multipart/form-data", 415),
    ],
)
def test_broken_forms_are_refused(portal, content, kind, status):
    answer = portal.client.post("/api/files", content=content, headers={"content-type": kind})
    assert answer.status_code == status, answer.text
    assert answer.json()["detail"]
    assert left(portal) == []


def test_two_files_in_one_form_are_refused(portal, cells):
    answer = portal.client.post("/api/files", files=[("file", ("a", cells)), ("file", ("b", cells))])
    assert answer.status_code == 400
    assert left(portal) == []


def test_a_full_disk_says_so_and_keeps_nothing(portal, cells, monkeypatch):
    class Full:
        free = 1000

    monkeypatch.setattr(uploads.shutil, "disk_usage", lambda path: Full)
    answer = portal.upload(cells)
    assert answer.status_code == 507
    assert "disk is full" in answer.json()["detail"]
    monkeypatch.undo()


def test_a_disk_that_becomes_full_says_so_and_keeps_nothing(portal, cells, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(uploads.os, "fsync", fail)
    answer = portal.upload(cells)
    assert answer.status_code == 507
    assert "disk is full" in answer.json()["detail"]
    assert left(portal) == []
    page = portal.client.post("/files", data={"csrf": portal.csrf()}, files={"file": ("cells.h5ad", cells)})
    assert page.status_code == 507
    assert "disk is full" in page.text


def test_a_full_store_says_so(portal, monkeypatch):
    import sqlite3

    def fail(*_, **__):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(portal.desk.store, "jobs", fail)
    for page in ("/", "/api/jobs"):
        answer = portal.client.get(page)
        assert answer.status_code in (500, 507)
        if page != "/":
            assert "disk is full" in answer.json()["detail"]
        assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_what_a_killed_server_had_half_is_removed_and_what_it_looked_at_is_looked_at(make_portal, cells):
    portal = make_portal()
    file_id = new_id()
    half = portal.desk.settings.incoming / new_id()
    half.write_bytes(b"half")
    path = portal.desk.settings.file_path(file_id)
    path.parent.mkdir()
    path.write_bytes(cells)
    portal.desk.store.add_file(file_id, "cells.h5ad", len(cells))
    again = make_portal()
    again.desk._looks.submit(int).result()
    assert not half.exists()
    assert again.desk.store.file(file_id).state == "ready"
