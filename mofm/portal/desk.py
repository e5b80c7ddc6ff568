"""What the pages and the API do, said once: take uploads, have them looked at, start, stop and delete."""

import errno
import logging
import os
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mofm.errors import InputError
from mofm.portal.limits import ChildError, Stopped
from mofm.portal.looker import Looker
from mofm.portal.model_card import ModelCard
from mofm.portal.settings import Settings, is_id
from mofm.portal.store import File, Job, Store
from mofm.portal.uploads import Upload
from mofm.portal.verbs import check_job, reading_asked

LOOKS_AT_ONCE = 2
log = logging.getLogger("mofm.portal")


class Refused(Exception):
    """Something that is not done: an HTTP status and a line for people."""

    def __init__(self, status: int, said: str):
        super().__init__(said)
        self.status = status


class Desk:
    """A portal's uploads and jobs.

    Args:
      card: the model.
      send: puts a job's id into the queue.
    """

    def __init__(self, settings: Settings, card: ModelCard, send: Callable[[str], Any]):
        self.settings, self.card, self.store = settings, card, Store(settings.store_path)
        self._send = send
        self._looks = ThreadPoolExecutor(LOOKS_AT_ONCE, thread_name_prefix="look")
        self.looker = Looker(settings)

    def begin(self) -> None:
        """Go on where a killed server ended: half uploads go, what was looked at is looked at again."""
        for folder in self.settings.data_dir.glob("look-*"):
            shutil.rmtree(folder, ignore_errors=True)
        self.looker.prepare()
        for path in self.settings.incoming.iterdir():
            path.unlink(missing_ok=True)
        for file in self.store.files():
            if file.state == "looking":
                self._look_soon(file, file.report.get("asked", {}))

    def end(self) -> None:
        """Stop looking; the next server looks again."""
        self.looker.end()
        self._looks.shutdown(wait=True, cancel_futures=True)

    def file(self, file_id: str) -> File:
        """An upload; Refused where there is none."""
        if not is_id(file_id) or (found := self.store.file(file_id)) is None:
            raise Refused(404, "There is no such file; it may have been deleted or have expired.")
        return found

    def job(self, job_id: str) -> Job:
        """A job; Refused where there is none."""
        if not is_id(job_id) or (found := self.store.job(job_id)) is None:
            raise Refused(404, "There is no such job; it may have been deleted or have expired.")
        return found

    def take(self, upload: Upload) -> File:
        """Keep an upload, and have it looked at."""
        path = self.settings.file_path(upload.id)
        path.parent.mkdir(parents=True)
        os.replace(upload.path, path)
        file = self.store.add_file(upload.id, upload.name, upload.size)
        self._look_soon(file, {})
        return file

    def look_again(self, file: File, given: Mapping[str, Any]) -> File:
        """Look at an upload that is to be read in another way; Refused while jobs need it as it was."""
        if any(job.is_active for job in self.store.jobs(file_id=file.id)):
            raise Refused(409, "A job works on this file: wait for it, or stop it.")
        try:
            asked = reading_asked(given, self.card)
        except InputError as error:
            raise Refused(422, str(error)) from error
        self.store.looked(file.id, "looking", "", {"asked": asked})
        self._look_soon(file, asked)
        return self.file(file.id)

    def delete_file(self, file: File) -> None:
        """Delete an upload; results that were made of it stay. Refused while jobs need it."""
        if not self.store.delete_file(file.id):
            raise Refused(409, "A job works on this file: wait for it, or stop it.")
        shutil.rmtree(self.settings.file_path(file.id).parent, ignore_errors=True)

    def start(self, file: File, verb: str, given: Mapping[str, Any]) -> Job:
        """Queue a job; Refused where it has no meaning or too many wait."""
        try:
            options = check_job(self.card, file, verb, given)
        except InputError as error:
            raise Refused(422, str(error)) from error
        job = self.store.add_job(file, verb, options, self.settings.max_waiting)
        if job is None:
            raise Refused(503, f"{self.settings.max_waiting:,} jobs wait already; try again later.")
        try:
            self._send(job.id)
        except Exception:  # the queue may be away; the worker's janitor sends it later
            log.exception("job %s: the queue does not answer", job.id)
        return job

    def stop(self, job: Job) -> None:
        """Stop a job; Refused where it has ended."""
        if not self.store.stop(job.id):
            raise Refused(409, "The job has ended already.")

    def delete_job(self, job: Job) -> None:
        """Delete a job and what it made; Refused where it has not ended."""
        if not self.store.delete_job(job.id):
            raise Refused(409, "The job has not ended: stop it first.")
        shutil.rmtree(self.settings.job_dir(job.id), ignore_errors=True)

    def result_file(self, job: Job, name: str) -> Path:
        """A file of a result; Refused where it has none of this name. Only names that the job listed are looked for."""
        listed = [file["name"] for key in ("files", "images") for file in job.summary.get(key, [])]
        if job.summary.get("map"):
            listed.append("points.json")
        path = self.settings.result_dir(job.id) / name
        if name not in listed or not path.is_file():
            raise Refused(404, "The result has no such file.")
        return path

    def _look_soon(self, file: File, asked: dict) -> None:
        self._looks.submit(self._look, file, asked)

    def _look(self, file: File, asked: dict) -> None:
        """Look at an upload, and write down what was found."""
        report: dict = {"asked": asked}
        try:
            report = self.looker.look(file, asked)
            state, why = ("ready" if report["usable"] else "refused"), report["why"]
        except Stopped:
            return
        except ChildError as error:
            state, why = "refused", f"{file.name}: it could not be understood: {error}"
        except Exception:
            log.exception("the look at %s failed", file.id)
            state, why = "refused", "something went wrong in the server; its log says what"
        self.store.looked(file.id, state, why, report)


def is_disk_full(error: BaseException) -> bool:
    """Whether the disk, or SQLite, says that there is no room."""
    if isinstance(error, sqlite3.OperationalError):
        return "full" in str(error)
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
