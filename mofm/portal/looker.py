"""Looks at uploads, each in a process of its own (`look.py`).

What such a process needs takes seconds to import, so one waits with it done, for the next upload; it looks at one file and
ends, and another takes its place. So a person sees within a second what a file holds, and no file meets a process that
another file was in.
"""

import json
import logging
import shutil
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from mofm.portal.limits import ChildError, end_child, log_tail, start_child, watch_child
from mofm.portal.settings import Settings
from mofm.portal.store import File

logger = logging.getLogger("mofm.portal")


class _Spare(NamedTuple):
    """A process that waits for a file, and the folder of its log."""

    process: subprocess.Popen
    folder: Path


class Looker:
    """Looks at uploads of one portal."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._spare: _Spare | None = None
        self._lock = threading.Lock()
        self._ending = threading.Event()

    def prepare(self) -> None:
        """Have a process wait for the next file."""
        with self._lock:
            if self._spare is None and not self._ending.is_set():
                self._spare = self._start()

    def look(self, file: File, asked: dict) -> dict:
        """What `look.look` reports of an upload.

        Raises:
          ChildError: the look took too much time or memory, or broke.
          Stopped: the portal ends.
        """
        with self._lock:
            spare, self._spare = self._spare, None
        if spare is None or spare.process.poll() is not None:
            spare = self._start()
        settings = self._settings
        given = {
            "path": str(settings.file_path(file.id)), "name": file.name, "asked": asked,
            "model_dir": str(settings.model_dir), "max_cells": settings.max_cells, "gigabytes": settings.look_gb,
            "seconds": settings.look_seconds,
        }  # fmt: skip
        log = spare.folder / "log.txt"
        try:
            with suppress(BrokenPipeError):
                spare.process.stdin.write(json.dumps(given).encode() + b"\n")
                spare.process.stdin.flush()
            return watch_child(
                spare.process, log, seconds=settings.look_seconds, gigabytes=1 + settings.look_gb,
                is_wanted=lambda: not self._ending.is_set(),
            )  # fmt: skip
        except ChildError as error:
            if error.is_bug:
                logger.error("the look at %s failed:\n%s", file.id, log_tail(log))
            raise
        finally:
            shutil.rmtree(spare.folder, ignore_errors=True)
            self.prepare()

    def end(self) -> None:
        """End what waits and what looks."""
        self._ending.set()
        with self._lock:
            if self._spare is not None:
                end_child(self._spare.process)
                shutil.rmtree(self._spare.folder, ignore_errors=True)
            self._spare = None

    def _start(self) -> _Spare:
        folder = Path(tempfile.mkdtemp(prefix="look-", dir=self._settings.data_dir))
        return _Spare(start_child((sys.executable, "-m", "mofm.portal.look"), folder / "log.txt"), folder)
