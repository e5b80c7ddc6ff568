"""Work on users' files in processes of their own, with limits of memory and time.

A child says how far it is as lines of JSON on stdout and ends with 0, or with 2 after a line on stderr: the command
line's own convention. It dies with its parent: its stdin is a pipe that the parent holds, and the end of it ends the child
(`die_with_parent`), so that a killed worker leaves nobody that writes.

Memory is watched from outside, as what the processes really hold: an address-space limit would stop XLA and CUDA, which
reserve far more than they use. Looks at uploads, which load neither, set one themselves as well (`limit_memory`). Between two
watches a child can pass its limit; the kernel is asked to end children before anything else.
"""

import json
import os
import queue
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from mofm.portal.settings import GB, REDIS_VARIABLE, TOKEN_VARIABLE

WATCH_SECONDS = 0.2
MOST_LINE = 4 * 2**20
LOG_TAIL = 4000


class ChildError(Exception):
    """A child ended without a result. The message is one line for its user; `is_bug` where its log is for us."""

    def __init__(self, said: str, *, is_bug: bool = False):
        super().__init__(said)
        self.is_bug = is_bug


class Stopped(Exception):
    """A child was ended because its work is not wanted any more."""


def run_child(
    command: Sequence[str],
    log: Path,
    *,
    seconds: float,
    gigabytes: float,
    on_line: Callable[[dict], None] = lambda line: None,
    is_wanted: Callable[[], bool] = lambda: True,
    environment: Mapping[str, str] | None = None,
) -> dict:
    """`start_child` and `watch_child`."""
    process = start_child(command, log, environment)
    return watch_child(process, log, seconds=seconds, gigabytes=gigabytes, on_line=on_line, is_wanted=is_wanted)


def watch_child(
    process: subprocess.Popen,
    log: Path,
    *,
    seconds: float,
    gigabytes: float,
    on_line: Callable[[dict], None] = lambda line: None,
    is_wanted: Callable[[], bool] = lambda: True,
) -> dict:
    """Wait for a child's end; gives what it said as "result" ({} where it said none).

    Args:
      log: file that gets its stderr.
      on_line: called with every other line.
      is_wanted: asked several times a second.

    Raises:
      ChildError: it failed, took too long or too much memory; the text says which.
      Stopped: `is_wanted` said no.
    """
    lines: queue.Queue[dict] = queue.Queue()
    reader = threading.Thread(target=_read_lines, args=(process.stdout, lines), daemon=True)
    reader.start()
    began, last = time.monotonic(), {}
    try:
        while process.poll() is None:
            with suppress(queue.Empty):
                last = _heard(lines.get(timeout=WATCH_SECONDS), last, on_line)
            if process.poll() is None and not is_wanted():
                raise Stopped
            if time.monotonic() - began > seconds:
                raise ChildError(f"it took longer than the {_time(seconds)} that this server allows")
            if _memory(process) > gigabytes * GB:
                raise ChildError(f"it needs more memory than the {gigabytes:g} GB that this server allows")
    finally:
        end_child(process)
        reader.join(timeout=5)
    while not lines.empty():
        last = _heard(lines.get(), last, on_line)
    if process.returncode:
        raise _failure(process.returncode, log)
    return last


def start_child(command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> subprocess.Popen:
    """A child, which is given no secrets; `environment` is given besides."""
    inherited = {key: value for key, value in os.environ.items() if key not in (TOKEN_VARIABLE, REDIS_VARIABLE)}
    with log.open("ab") as stderr:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=inherited | dict(environment or {}),
            start_new_session=True,
        )  # fmt: skip
    with suppress(OSError):  # where there is no such file, the kernel chooses by itself
        Path(f"/proc/{process.pid}/oom_score_adj").write_text("800")
    return process


def _read_lines(stream, lines: queue.Queue) -> None:
    for line in iter(lambda: stream.readline(MOST_LINE), b""):
        with suppress(ValueError):
            message = json.loads(line)
            if isinstance(message, dict):
                lines.put(message)


def _heard(line: dict, last: dict, on_line: Callable[[dict], None]) -> dict:
    if "result" in line:
        return line["result"]
    on_line(line)
    return last


def _memory(process: subprocess.Popen) -> int:
    """Bytes that a child and its own children hold."""
    held = 0
    with suppress(psutil.Error):
        parent = psutil.Process(process.pid)
        for one in [parent, *parent.children(recursive=True)]:
            with suppress(psutil.Error):
                held += one.memory_info().rss
    return held


def end_child(process: subprocess.Popen) -> None:
    """Its end, whatever it does: it has a session, so a process group, of its own."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, 9)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):
            pipe.close()


def _failure(code: int, log: Path) -> ChildError:
    if code == 2 and (said := log_tail(log).strip().splitlines()):
        return ChildError(said[-1])
    if code < 0:
        return ChildError(f"its process was ended from outside (signal {-code}): is the machine short of memory?")
    return ChildError("something went wrong that is not the file's fault; the server's log says what", is_bug=True)


def log_tail(log: Path) -> str:
    """The end of a child's stderr."""
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_TAIL))
        return file.read().decode("utf-8", "replace")
    return ""


def _time(seconds: float) -> str:
    return f"{seconds / 3600:g} hours" if seconds >= 3600 else f"{seconds:g} seconds"


def say(**line: object) -> None:
    """In a child: a line for the parent."""
    sys.stdout.write(json.dumps(line, default=str) + "\n")
    sys.stdout.flush()


def die_with_parent() -> None:
    """In a child: from now on it ends when its parent does, whatever ends that."""

    def wait() -> None:
        with suppress(OSError):
            while os.read(0, 4096):
                pass
        os._exit(75)

    threading.Thread(target=wait, daemon=True).start()


def limit_memory(gigabytes: float) -> None:
    """In a child that has its imports: from now on it takes so much address space more, and gets a MemoryError beyond."""
    try:
        now = psutil.Process().memory_info().vms
        resource.setrlimit(resource.RLIMIT_AS, (now + int(gigabytes * GB),) * 2)
    except (ValueError, OSError):
        return  # macOS knows no such limit: there the parent's watch is the only one


def limit_cpu(seconds: float) -> None:
    """In a child: an end to what it may compute, in case its parent cannot end it."""
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 5))
