"""What there is: uploads and jobs, in SQLite.

Every change of a job's state is one statement that names the state it leaves, so of two processes that want the same
job one gets it, and who has lost a job (it was stopped, or taken for dead) changes nothing any more. Times are seconds
since 1970.
"""

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mofm.portal.settings import new_id

FileState = Literal["looking", "ready", "refused"]
JobState = Literal["queued", "running", "done", "failed", "stopped"]
ACTIVE = ("queued", "running")
MOST_ATTEMPTS = 3
"""A job that has ended so many of its workers is not tried again."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, size INTEGER NOT NULL, state TEXT NOT NULL, why TEXT NOT NULL DEFAULT '',
  report TEXT NOT NULL DEFAULT '{}', created REAL NOT NULL, used REAL NOT NULL);
CREATE TABLE IF NOT EXISTS jobs (
  id TEXT PRIMARY KEY, file_id TEXT NOT NULL, file_name TEXT NOT NULL, verb TEXT NOT NULL,
  options TEXT NOT NULL, state TEXT NOT NULL, stage TEXT NOT NULL DEFAULT '', done INTEGER NOT NULL DEFAULT 0,
  total INTEGER NOT NULL DEFAULT 0, error TEXT NOT NULL DEFAULT '', worker TEXT NOT NULL DEFAULT '',
  beat REAL NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0, wanted INTEGER NOT NULL DEFAULT 1,
  created REAL NOT NULL, started REAL, ended REAL, summary TEXT NOT NULL DEFAULT '{}');
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, created);
"""


@dataclass(frozen=True)
class File:
    """An upload.

    Attributes:
      name: what the user called it; text to show, never a path.
      state: "looking" until it is known what it holds.
      why: in a line, what it holds or why it is refused.
      report: what a look at it found (`look.py`).
    """

    id: str
    name: str
    size: int
    state: FileState
    why: str
    report: dict[str, Any]
    created: float
    used: float


@dataclass(frozen=True)
class Job:
    """One verb on one upload.

    Attributes:
      stage, done, total: what is being done, and how many cells of it.
      worker, beat: who runs it, and when it last said so.
      wanted: whether nobody has stopped it.
      summary: what the result's page shows (`results.py`).
    """

    id: str
    file_id: str
    file_name: str
    verb: str
    options: dict[str, Any]
    state: JobState
    stage: str
    done: int
    total: int
    error: str
    worker: str
    beat: float
    attempts: int
    wanted: bool
    created: float
    started: float | None
    ended: float | None
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def is_active(self) -> bool:
        """Whether it waits or runs."""
        return self.state in ACTIVE


class Store:
    """Files and jobs. Safe to use from any thread and from several processes of one machine."""

    def __init__(self, path: Path):
        self._path = path
        with self._open() as database:
            database.execute("PRAGMA journal_mode=WAL")
            database.executescript(_SCHEMA)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(self._path, timeout=30, isolation_level=None)
        database.row_factory = sqlite3.Row
        try:
            yield database
        finally:
            database.close()

    def _do(self, statement: str, *values: Any) -> int:
        with self._open() as database:
            return database.execute(statement, values).rowcount

    def _ask(self, statement: str, *values: Any) -> list[sqlite3.Row]:
        with self._open() as database:
            return database.execute(statement, values).fetchall()

    def add_file(self, file_id: str, name: str, size: int) -> File:
        """A new upload, to be looked at."""
        now = time.time()
        self._do(
            "INSERT INTO files (id, name, size, state, created, used) VALUES (?, ?, ?, 'looking', ?, ?)",
            file_id, name, size, now, now,
        )  # fmt: skip
        return self.file(file_id)

    def looked(self, file_id: str, state: FileState, why: str, report: dict[str, Any]) -> None:
        """What was found in an upload."""
        self._do("UPDATE files SET state=?, why=?, report=? WHERE id=?", state, why, json.dumps(report), file_id)

    def file(self, file_id: str) -> File | None:
        """An upload, or None where there is none of this id."""
        return next((_file(row) for row in self._ask("SELECT * FROM files WHERE id=?", file_id)), None)

    def files(self, limit: int = 1000) -> list[File]:
        """The newest uploads."""
        return [_file(row) for row in self._ask("SELECT * FROM files ORDER BY created DESC LIMIT ?", limit)]

    def delete_file(self, file_id: str) -> bool:
        """Forget an upload; False where a job still needs it, or it is not there."""
        return bool(self._do(
            "DELETE FROM files WHERE id=? AND NOT EXISTS "
            "(SELECT 1 FROM jobs WHERE file_id=files.id AND state IN ('queued', 'running'))", file_id,
        ))  # fmt: skip

    def add_job(self, file: File, verb: str, options: dict[str, Any], max_waiting: int) -> Job | None:
        """A new job, queued; None where so many wait already, or the upload has been deleted."""
        job_id, now = new_id(), time.time()
        added = self._do(
            "INSERT INTO jobs (id, file_id, file_name, verb, options, state, created) "
            "SELECT ?, ?, ?, ?, ?, 'queued', ? WHERE (SELECT count(*) FROM jobs WHERE state='queued') < ? "
            "AND EXISTS (SELECT 1 FROM files WHERE id=?)",
            job_id, file.id, file.name, verb, json.dumps(options), now, max_waiting, file.id,
        )  # fmt: skip
        if not added:
            return None
        self._do("UPDATE files SET used=? WHERE id=?", now, file.id)
        return self.job(job_id)

    def job(self, job_id: str) -> Job | None:
        """A job, or None where there is none of this id."""
        return next((_job(row) for row in self._ask("SELECT * FROM jobs WHERE id=?", job_id)), None)

    def jobs(self, *, file_id: str | None = None, states: tuple[str, ...] = (), limit: int = 1000) -> list[Job]:
        """The newest jobs: of one upload, or in some states."""
        clauses, values = ["1"], []
        if file_id is not None:
            clauses, values = [*clauses, "file_id=?"], [*values, file_id]
        if states:
            clauses, values = [*clauses, f"state IN ({', '.join('?' * len(states))})"], [*values, *states]
        statement = f"SELECT * FROM jobs WHERE {' AND '.join(clauses)} ORDER BY created DESC, id LIMIT ?"
        return [_job(row) for row in self._ask(statement, *values, limit)]

    def waiting_before(self, job: Job) -> int:
        """How many jobs run or wait that came before this one."""
        earlier = "SELECT count(*) FROM jobs WHERE state IN ('queued', 'running') AND created < ?"
        return self._ask(earlier, job.created)[0][0]

    def claim(self, job_id: str, worker: str) -> Job | None:
        """Take a queued job for a worker; None where somebody else has, or it was stopped."""
        now = time.time()
        taken = self._do(
            "UPDATE jobs SET state='running', worker=?, beat=?, started=?, attempts=attempts+1, stage='starting', done=0, "
            "total=0 WHERE id=? AND state='queued'", worker, now, now, job_id,
        )  # fmt: skip
        return self.job(job_id) if taken else None

    def progress(self, job: Job, stage: str, done: int, total: int) -> bool:
        """Say how far a running job is, and that its worker lives; False where it is not this worker's any more."""
        return bool(self._do(
            "UPDATE jobs SET stage=?, done=?, total=?, beat=? WHERE id=? AND worker=? AND attempts=? AND state='running' "
            "AND wanted=1", stage, done, total, time.time(), job.id, job.worker, job.attempts,
        ))  # fmt: skip

    def end(self, job: Job, state: JobState, *, error: str = "", summary: dict[str, Any] | None = None) -> bool:
        """End a job that this worker runs; False where it is not this worker's any more."""
        return bool(self._do(
            "UPDATE jobs SET state=?, error=?, summary=?, ended=? WHERE id=? AND worker=? AND attempts=? AND "
            "state='running'", state, error, json.dumps(summary or {}), time.time(), job.id, job.worker, job.attempts,
        ))  # fmt: skip

    def give_back(self, job: Job, *, counts: bool) -> None:
        """Queue a running job again whose worker ends; `counts`: as an attempt. After too many it has failed."""
        if counts and job.attempts >= MOST_ATTEMPTS:
            said = f"its worker ended {job.attempts} times while it ran; the server's log may say why"
            self.end(job, "failed", error=said)
            return
        self._do(
            "UPDATE jobs SET state=CASE wanted WHEN 1 THEN 'queued' ELSE 'stopped' END, stage='', done=0, total=0, "
            "ended=CASE wanted WHEN 1 THEN NULL ELSE ? END, attempts=attempts-? "
            "WHERE id=? AND worker=? AND attempts=? AND state='running'",
            time.time(), 0 if counts else 1, job.id, job.worker, job.attempts,
        )  # fmt: skip

    def stop(self, job_id: str) -> bool:
        """Stop a job: a queued one at once, a running one when its worker sees it. False where it has ended."""
        now = time.time()
        queued = self._do(
            "UPDATE jobs SET state='stopped', ended=?, wanted=0 WHERE id=? AND state='queued'", now, job_id
        )
        return bool(queued or self._do("UPDATE jobs SET wanted=0 WHERE id=? AND state='running'", job_id))

    def delete_job(self, job_id: str) -> bool:
        """Forget a job that has ended; False where it has not, or is not there."""
        return bool(self._do("DELETE FROM jobs WHERE id=? AND state NOT IN ('queued', 'running')", job_id))

    def expired(self, before: float) -> tuple[list[str], list[str]]:
        """Ids of the uploads that were last used, and of the jobs that ended, before a time."""
        files = self._ask("SELECT id FROM files WHERE used < ?", before)
        jobs = self._ask("SELECT id FROM jobs WHERE ended < ?", before)
        return [row["id"] for row in files], [row["id"] for row in jobs]


def _file(row: sqlite3.Row) -> File:
    return File(**dict(row) | {"report": json.loads(row["report"])})


def _job(row: sqlite3.Row) -> Job:
    read = {"options": json.loads(row["options"]), "summary": json.loads(row["summary"]), "wanted": bool(row["wanted"])}
    return Job(**dict(row) | read)
