"""`python -m mofm.portal.worker DATA`: takes jobs one at a time and runs each in a process of its own.

`mofm serve` starts it, starts it again if it ends, and holds its stdin: with the server gone, it gives back what it runs and
ends. Beside the work a janitor looks, every few seconds, for jobs whose worker is gone (their beat has stopped), for queued
ones whose message got lost, and now and then for what has expired.
"""

import json
import logging
import os
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
from huey.consumer import Consumer

from mofm.errors import InputError
from mofm.portal.limits import ChildError, Stopped, log_tail, run_child
from mofm.portal.settings import Settings, read_settings
from mofm.portal.store import Job, Store
from mofm.portal.tasks import make_queue

BEAT_SECONDS, DEAD_SECONDS, SWEEP_SECONDS, EXPIRY_SECONDS = 2.0, 60.0, 5.0, 300.0
RESULT = "result.json"
"""What a job leaves last beside its files: what its page shows."""

log = logging.getLogger("mofm.portal.worker")


def job_command(settings: Settings, job: Job, folder: Path) -> Sequence[str]:
    """The process that does a job."""
    what = folder.parent / "what.json"  # too long for a command line, it may be
    asked = {"verb": job.verb, "options": job.options, "name": job.file_name, "ontology": settings.ontology}
    what.write_text(json.dumps(asked), encoding="utf-8")
    paths = (settings.file_path(job.file_id), folder, what)
    return (sys.executable, "-m", "mofm.portal.job", settings.model, *map(str, paths))


class Worker:
    """Runs jobs of a portal.

    Args:
      command: makes the command line of a job, as `job_command`.
    """

    def __init__(self, settings: Settings, command: Callable[..., Sequence[str]] = job_command):
        self.settings, self.store, self._command = settings, Store(settings.store_path), command
        self.name = f"{socket.gethostname()}:{os.getpid()}:{time.time():.0f}"
        self.ending = threading.Event()
        self.huey, self.send = make_queue(settings, self.run)

    def run(self, job_id: str) -> None:
        """Do a job, if it still waits to be done."""
        if self.ending.is_set() or (job := self.store.claim(job_id, self.name)) is None:
            return
        folder = self.settings.job_dir(job.id)
        try:
            self._run(job, folder)
        except Stopped:
            self.store.give_back(job, counts=False)
        except ChildError as error:
            if error.is_bug:
                log.error("job %s failed:\n%s", job.id, log_tail(folder / "log.txt"))
            self.store.end(job, "failed", error=str(error))
        except OSError as error:
            self.store.end(job, "failed", error=f"the server's disk failed: {error.strerror or error}")
        except Exception:
            log.error("job %s failed:\n%s", job.id, traceback.format_exc())
            self.store.end(job, "failed", error="something went wrong in the server; its log says what")
        finally:
            for attempt in folder.glob("attempt-*"):
                shutil.rmtree(attempt, ignore_errors=True)

    def _run(self, job: Job, folder: Path) -> None:
        result = self.settings.result_dir(job.id)
        if (result / RESULT).exists():  # a worker was killed between the last two steps
            self._ends_well(job, result)
            return
        shutil.rmtree(folder, ignore_errors=True)
        attempt = folder / f"attempt-{job.attempts}"
        attempt.mkdir(parents=True)
        said = {"stage": "starting", "done": 0, "total": 0}
        reported_at = time.monotonic()

        def report(line: dict | None = None) -> bool:
            nonlocal reported_at
            changes = line is not None and line.get("stage") != said["stage"]
            said.update(line or {})
            if not changes and time.monotonic() - reported_at < (BEAT_SECONDS if line is None else 0.25):
                return True
            reported_at = time.monotonic()
            return self.store.progress(job, str(said["stage"])[:200], int(said["done"]), int(said["total"]))

        run_child(
            self._command(self.settings, job, attempt),
            folder / "log.txt",
            seconds=self.settings.job_hours * 3600,
            gigabytes=self.settings.job_gb,
            on_line=lambda line: report({key: line[key] for key in said if key in line}),
            is_wanted=lambda: not self.ending.is_set() and report(),
            # What UMAP compiles is kept: the first map takes half a minute longer than the others.
            environment={"NUMBA_CACHE_DIR": os.environ.get("NUMBA_CACHE_DIR", str(self.settings.data_dir / "numba"))},
        )
        os.replace(attempt, result)
        self._ends_well(job, result)

    def _ends_well(self, job: Job, result: Path) -> None:
        summary = json.loads((result / RESULT).read_text(encoding="utf-8"))
        self.store.end(job, "done", summary=summary)

    def sweep(self, *, all_queued: bool = False) -> None:
        """Queue again what dead workers ran; and what waits and may have no message any more."""
        now = time.time()
        for job in self.store.jobs(states=("running",)):
            if job.worker != self.name and (now - job.beat > DEAD_SECONDS or self._is_gone(job.worker)):
                log.warning("job %s: its worker %s is gone", job.id, job.worker)
                self.store.give_back(job, counts=True)
                self.send(job.id)
        for job in reversed(self.store.jobs(states=("queued",))):
            if all_queued or (now - job.created > DEAD_SECONDS and self.huey.pending_count() == 0):
                self.send(job.id)

    def _is_gone(self, name: str) -> bool:
        host, pid, _ = name.rsplit(":", 2)
        return host == socket.gethostname() and (int(pid) == os.getpid() or not psutil.pid_exists(int(pid)))

    def expire(self) -> None:
        """Delete what was kept long enough, and what no row names any more."""
        files, jobs = self.store.expired(time.time() - self.settings.keep_days * 86400)
        for job_id in jobs:
            self.store.delete_job(job_id)
        for file_id in files:
            self.store.delete_file(file_id)
        remove_forgotten(self.settings, self.store)

    def serve(self) -> None:
        """Work until `ending` is set."""
        self.sweep(all_queued=True)
        consumer = Consumer(self.huey, workers=1, periodic=False, max_delay=1.0)
        consumer.start()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.ending.set())
        expired_at = 0.0
        while not self.ending.wait(SWEEP_SECONDS):
            try:
                self.sweep()
                if time.monotonic() - expired_at > EXPIRY_SECONDS:
                    self.expire()
                    expired_at = time.monotonic()
            except Exception:  # a full disk, a store that is busy: it may be well at the next turn
                log.error("the janitor failed:\n%s", traceback.format_exc())
        consumer.stop(graceful=True)


def remove_forgotten(settings: Settings, store: Store, older_than: float = 60.0) -> None:
    """Remove folders of uploads and jobs that the store does not know. Those of the last minute may still become known."""
    for kind, known in (("files", store.file), ("jobs", store.job)):
        for folder in (settings.data_dir / kind).iterdir():
            if known(folder.name) is None and time.time() - folder.stat().st_mtime >= older_than:
                shutil.rmtree(folder, ignore_errors=True)


def main(data_dir: str) -> int:
    """Run a worker until its parent ends or a signal comes."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        worker = Worker(read_settings(Path(data_dir)))
    except InputError as error:
        print(f"mofm serve: {error}", file=sys.stderr)
        return 2

    def wait_for_parent() -> None:
        while os.read(0, 4096):
            pass
        worker.ending.set()

    threading.Thread(target=wait_for_parent, daemon=True).start()
    worker.serve()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
