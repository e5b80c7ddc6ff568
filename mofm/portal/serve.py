"""A portal from its start to its end: the model's card, the workers, the web server.

The server and its workers are processes of their own: one that is killed takes no other with it for long. The server starts
a worker again that ended; workers see by their stdin that the server is gone.
"""

import contextlib
import fcntl
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mofm.errors import InputError
from mofm.portal.limits import ChildError, log_tail, run_child
from mofm.portal.settings import REDIS_VARIABLE, TOKEN_VARIABLE, Settings
from mofm.portal.tasks import make_queue

LOAD_SECONDS = 600.0
WORKER = ("-m", "mofm.portal.worker")
"""What Python runs as a worker; the data directory follows."""
RESTART_SECONDS, END_SECONDS = 2.0, 15.0
log = logging.getLogger("mofm.portal")


def serve(settings: Settings) -> None:
    """Run a portal until a signal comes.

    Raises:
      InputError: the model cannot be loaded, the data directory is in use or cannot be written, or the port is taken.
    """
    import uvicorn

    from mofm.portal.app import create_app

    with ExitStack() as resources:
        settings.write()
        resources.enter_context(alone_in(settings))
        listening = resources.enter_context(_listen(settings))
        describe_model(settings)
        _, send = make_queue(settings)
        app = create_app(settings, send)
        resources.enter_context(working(settings))
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=5,
            timeout_keep_alive=30, limit_concurrency=1000,
        )  # fmt: skip
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        print(f"the portal of {app.state.desk.card.name}: http://{host}:{listening.getsockname()[1]}/", flush=True)
        uvicorn.Server(config).run(sockets=[listening])


@contextmanager
def alone_in(settings: Settings) -> Iterator[None]:
    """Keeps other servers out of the data directory. Raises `InputError` where one is in it."""
    with (settings.data_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"--data-dir {settings.data_dir}: another `mofm serve` uses it; give another") from error
        yield


def _listen(settings: Settings) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        return socket.create_server((settings.host, settings.port), family=family, backlog=256)
    except OSError as error:
        where = f"--host {settings.host} --port {settings.port}"
        raise InputError(f"{where}: cannot listen there ({error.strerror or error}); give another") from error


def describe_model(settings: Settings) -> None:
    """Load the model once and write down what it is (`model_card.py`). Raises `InputError` where it cannot be loaded, or
    the ontology is none of its labels."""
    errors = settings.model_dir / "log.txt"
    errors.unlink(missing_ok=True)
    command = (
        sys.executable,
        "-m",
        "mofm.portal.model_card",
        settings.model,
        str(settings.model_dir),
        settings.ontology or "",
    )
    try:
        run_child(command, errors, seconds=LOAD_SECONDS, gigabytes=settings.job_gb)
    except ChildError as error:
        raise InputError(log_tail(errors) if error.is_bug else str(error)) from error


@contextmanager
def working(settings: Settings) -> Iterator[None]:
    """Keeps the workers running within it."""
    ending = threading.Event()
    keepers = [threading.Thread(target=_keep_worker, args=(settings, ending)) for _ in range(settings.workers)]
    for keeper in keepers:
        keeper.start()
    try:
        yield
    finally:
        ending.set()
        for keeper in keepers:
            keeper.join()


def _keep_worker(settings: Settings, ending: threading.Event) -> None:
    environment = {key: value for key, value in os.environ.items() if key != TOKEN_VARIABLE}
    environment |= {REDIS_VARIABLE: settings.redis} if settings.redis else {}
    command = (sys.executable, *WORKER, str(settings.data_dir))
    while not ending.is_set():
        # A session of its own: Ctrl-C in the terminal is the server's, which ends the workers itself.
        worker = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, start_new_session=True)
        Path(settings.data_dir / "worker.pid").write_text(str(worker.pid))
        while worker.poll() is None and not ending.wait(0.2):
            pass
        if not ending.is_set():
            log.error("a worker ended (%s); another is started", worker.returncode)
            ending.wait(RESTART_SECONDS)
    with contextlib.suppress(OSError):
        worker.stdin.close()
    try:
        worker.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
