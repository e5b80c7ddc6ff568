"""Workers: a job's process has limits and dies with its worker; a killed worker loses no result and its job is done again."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest

from mofm.errors import InputError
from mofm.portal import tasks
from mofm.portal.limits import ChildError, Stopped, run_child
from mofm.portal.settings import Settings, new_id, read_settings
from mofm.portal.store import Store
from mofm.portal.tasks import make_queue
from mofm.portal.worker import RESULT, Worker, remove_forgotten

WRITES = """
import json, pathlib, sys
print(json.dumps({"stage": "embedding", "done": 3, "total": 4}), flush=True)
folder = pathlib.Path(sys.argv[1])
(folder / "cells.h5ad").write_text("result")
(folder / "result.json").write_text(json.dumps({"title": "Embedded", "files": [{"name": "cells.h5ad"}]}))
"""
WAITS = """
import os, sys, threading, time
threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(75)), daemon=True).start()
print('{"stage": "waiting"}', flush=True)
time.sleep(60)
"""


def child(program: str, *words: str) -> list[str]:
    return [sys.executable, "-S", "-c", textwrap.dedent(program), *words]


@pytest.fixture
def settings(tmp_path):
    made = Settings("a-model", tmp_path / "data", job_gb=1.0, job_hours=120 / 3600)
    made.write()
    return made


def worker_of(settings, program: str) -> Worker:
    return Worker(settings, lambda settings, job, folder: child(program, str(folder)))


def add_job(store: Store):
    file = store.add_file(new_id(), "cells.h5ad", 10)
    return store.add_job(file, "embed", {}, 100)


def wait_for(what, seconds: float = 120.0):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)
    return found


def test_a_job_is_done_and_its_result_is_whole(settings):
    worker = worker_of(settings, WRITES)
    job = add_job(worker.store)
    worker.run(job.id)
    done = worker.store.job(job.id)
    assert (done.state, done.stage, done.done, done.total) == ("done", "embedding", 3, 4)
    assert done.summary["title"] == "Embedded"
    assert (settings.result_dir(job.id) / "cells.h5ad").read_text() == "result"
    assert {path.name for path in settings.job_dir(job.id).iterdir()} == {"result", "log.txt"}


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import sys; sys.exit('cells.h5ad: X holds no counts')", "went wrong that is not the file's fault"),
        (
            "import sys; print('cells.h5ad: X holds no counts', file=sys.stderr); sys.exit(2)",
            "cells.h5ad: X holds no counts",
        ),
        ("raise ValueError('a bug at /secret/place')", "went wrong that is not the file's fault"),
        ("import os; os.kill(os.getpid(), 9)", "ended from outside (signal 9)"),
        (
            "x = bytearray(3 * 2**29); x[::4096] = b'1' * len(x[::4096]); import time; time.sleep(20)",
            "more memory than the 1 GB",
        ),
        ("pass", "the server's disk failed"),  # it ended well and left nothing
    ],
)
def test_a_job_that_fails_says_why_in_a_line(settings, program, said):
    worker = worker_of(settings, program)
    job = add_job(worker.store)
    worker.run(job.id)
    failed = worker.store.job(job.id)
    assert failed.state == "failed"
    assert said in failed.error
    assert "\n" not in failed.error
    assert "/secret" not in failed.error
    assert not settings.result_dir(job.id).exists() or not any(settings.result_dir(job.id).iterdir())


def test_a_child_that_takes_too_long_or_is_not_wanted_is_ended(tmp_path):
    with pytest.raises(ChildError, match=r"longer than the 0\.5 seconds"):
        run_child(child("import time; time.sleep(60)"), tmp_path / "log", seconds=0.5, gigabytes=1)
    with pytest.raises(Stopped):
        run_child(
            child("import time; time.sleep(60)"), tmp_path / "log", seconds=120, gigabytes=1, is_wanted=lambda: False
        )
    assert not [one for one in psutil.Process().children() if "sleep(60)" in " ".join(one.cmdline())]


def test_a_child_is_told_no_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("MOFM_AUTH_TOKEN", "hunter2")
    monkeypatch.setenv("MOFM_REDIS_URL", "redis://:hunter2@host")
    program = "import json, os; print(json.dumps({'result': dict(os.environ)}))"
    told = run_child(child(program), tmp_path / "log", seconds=120, gigabytes=1)
    assert told
    assert "hunter2" not in str(told)


def test_a_stopped_job_is_ended_while_it_runs(settings):
    worker = worker_of(settings, WAITS)
    job = add_job(worker.store)
    running = threading.Thread(target=worker.run, args=(job.id,))
    running.start()
    wait_for(lambda: worker.store.job(job.id).stage == "waiting")
    worker.store.stop(job.id)
    running.join(timeout=120)
    assert worker.store.job(job.id).state == "stopped"


def test_a_worker_that_ends_gives_its_job_back(settings):
    worker = worker_of(settings, WAITS)
    job = add_job(worker.store)
    running = threading.Thread(target=worker.run, args=(job.id,))
    running.start()
    wait_for(lambda: worker.store.job(job.id).stage == "waiting")
    worker.ending.set()
    running.join(timeout=120)
    assert (worker.store.job(job.id).state, worker.store.job(job.id).attempts) == ("queued", 0)


KILLED = """
import sys
from pathlib import Path
from mofm.portal.settings import read_settings
from mofm.portal.worker import Worker
program = Path(sys.argv[2]).read_text()
Worker(read_settings(Path(sys.argv[1])), lambda settings, job, folder: [sys.executable, "-S", "-c", program]).serve()
"""


def test_a_killed_worker_takes_its_child_with_it_and_its_job_is_done_by_the_next(settings, tmp_path):
    (tmp_path / "program.py").write_text(WAITS)
    command = [sys.executable, "-c", KILLED, str(settings.data_dir), str(tmp_path / "program.py")]
    # What it is started from must not hold the pipes of this process open.
    killed = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    worker = worker_of(settings, WRITES)
    job = add_job(worker.store)
    worker.send(job.id)  # through the queue, in SQLite
    wait_for(lambda: worker.store.job(job.id).stage == "waiting")
    (grandchild,) = psutil.Process(killed.pid).children()
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    killed.stdin.close()
    assert worker.store.job(job.id).state == "running"
    grandchild.wait(120)
    worker.sweep()
    assert worker.store.job(job.id).state == "queued"
    worker.huey.execute(worker.huey.dequeue())
    assert (worker.store.job(job.id).state, worker.store.job(job.id).attempts) == ("done", 2)


def test_a_result_that_was_whole_when_its_worker_was_killed_is_kept(settings):
    worker = worker_of(settings, "raise SystemExit('it must not be done again')")
    job = add_job(worker.store)
    worker.store.claim(job.id, "host:1:0")
    result = settings.result_dir(job.id)
    result.mkdir(parents=True)
    (result / RESULT).write_text('{"title": "there already"}')
    worker.store.give_back(worker.store.job(job.id), counts=True)
    worker.run(job.id)
    assert worker.store.job(job.id).summary == {"title": "there already"}


def test_a_message_that_was_lost_is_sent_again_and_one_too_many_does_nothing(settings):
    worker = worker_of(settings, WRITES)
    job = add_job(worker.store)
    assert worker.huey.pending_count() == 0
    worker.sweep(all_queued=True)
    worker.sweep(all_queued=True)
    assert worker.huey.pending_count() == 2
    for _ in range(2):
        worker.huey.execute(worker.huey.dequeue())
    assert (worker.store.job(job.id).state, worker.store.job(job.id).attempts) == ("done", 1)


def test_messages_are_json_and_hold_an_id_alone(settings):
    huey, send = make_queue(settings)
    send("0123")
    raw = huey.storage.dequeue()
    assert raw.startswith(b"[")
    assert b"0123" in raw
    assert not raw.startswith(b"\x80")  # pickle


def test_a_redis_that_is_not_there_is_told_without_its_password(settings):
    pytest.importorskip("redis", reason="redis is not installed: the queue on Redis was NOT tested")
    import dataclasses

    with pytest.raises(InputError, match="no Redis answers") as told:
        make_queue(dataclasses.replace(settings, redis="redis://:hunter2@127.0.0.1:1/0"))
    assert "hunter2" not in str(told.value)


def test_jobs_go_through_a_real_redis(settings, tmp_path):
    pytest.importorskip("redis", reason="redis is not installed: the queue on Redis was NOT tested")
    import dataclasses
    import shutil

    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed: the queue on Redis was NOT tested")
    where = tmp_path / "redis.sock"
    server = subprocess.Popen(
        ["redis-server", "--port", "0", "--unixsocket", str(where), "--save", "", "--dir", str(tmp_path)],
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for(where.exists)
        worker = worker_of(dataclasses.replace(settings, redis=f"unix://{where}"), WRITES)
        assert isinstance(worker.huey, tasks.Huey)
        job = add_job(worker.store)
        worker.send(job.id)
        worker.huey.execute(worker.huey.dequeue())
        assert worker.store.job(job.id).state == "done"
    finally:
        server.terminate()
        server.wait()


def test_what_expired_is_deleted_and_what_no_row_tells_of(settings):
    worker = worker_of(settings, WRITES)
    job, kept = add_job(worker.store), add_job(worker.store)
    worker.run(job.id)
    source = settings.file_path(job.file_id)
    source.parent.mkdir(parents=True)
    source.write_text("cells")
    (settings.data_dir / "jobs" / new_id()).mkdir()
    remove_forgotten(settings, worker.store)  # young ones stay: a row may come
    assert len(list((settings.data_dir / "jobs").iterdir())) == 2
    with worker.store._open() as database:
        database.execute("UPDATE files SET used=0 WHERE id=?", (job.file_id,))
        database.execute("UPDATE jobs SET ended=0 WHERE id=?", (job.id,))
    worker.expire()
    remove_forgotten(settings, worker.store, older_than=0)
    assert worker.store.job(job.id) is None
    assert worker.store.file(job.file_id) is None
    assert worker.store.job(kept.id).state == "queued"
    assert not list((settings.data_dir / "jobs").iterdir())
    assert not source.exists()


def test_settings_are_read_as_they_were_written_without_secrets(settings, monkeypatch):
    import dataclasses

    secret = dataclasses.replace(settings, token="hunter2hunter2", redis="redis://:hunter2@host")
    secret.write()
    assert "hunter2" not in Path(settings.data_dir / "settings.json").read_text()
    assert "hunter2" not in repr(secret)
    assert read_settings(settings.data_dir) == settings
    assert settings.secret() == settings.secret()
    assert (settings.data_dir / "secret").stat().st_mode & 0o077 == 0
    for wrong in ({"workers": 0}, {"upload_gb": -1.0}, {"token": "short"}):
        with pytest.raises(InputError):
            dataclasses.replace(settings, **wrong)
