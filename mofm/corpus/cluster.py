"""Inputs prepared by the workers of a Dask cluster: many machines, one corpus.

A file system that all machines share is taken for granted: workers read the inputs and write finished stores to the
staging folder of the corpus, by the same absolute paths; this process gives features their rows and commits, as ever.
Over the wire go tasks (names, options, paths) and what the manifest says of the stores, never counts. Choices and cost:

- Each attempt at an input writes a folder of its own. A worker that is lost, or only cut off, is in nobody's way; Dask
  gives its input to another, and gives up with an `InputError` after several were lost over the same input.
- One input at a time a worker process, whatever its threads: some settings of anndata and zarr are the process's. Start
  one process for two or three cores: `dask worker ADDRESS --nworkers N --nthreads 1`.
- Where the ingest ends early its staging folder is gone, by which workers know that nobody waits for them.
"""

import dataclasses
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import mofm
from mofm.corpus.engines import Report, StoppedError, Task
from mofm.corpus.inputs import Input
from mofm.corpus.prepare import Prepared, prepare
from mofm.errors import InputError

CONNECT_SECONDS = 20
"""A scheduler that has not answered by then is not there."""

WORKER_SECONDS = 60
"""A cluster without any worker for so long has none coming."""

_one_at_a_time = threading.Lock()


def on_cluster(address: str, tasks: Sequence[Task], report: Report) -> Iterator[list[Prepared]]:
    """The tasks, each by whichever worker is free.

    Raises:
      InputError: Dask is not installed, nobody answers at `address`, no worker is there or left, or several were killed
        over one input.
    """
    try:
        import distributed
    except ImportError as error:
        raise InputError(
            "--scheduler needs Dask, which is not installed: pip install 'mofm[dask]', here and on the workers"
        ) from error
    if not tasks:
        return
    try:
        client = distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    # Dask reports a bad address as ValueError or TypeError, one that nobody answers at as OSError.
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"--scheduler {address}: no Dask scheduler answers there; give its address, such as tcp://HOST:8786, or "
            "start one with `dask scheduler`"
        ) from error
    topic = f"mofm-{uuid.uuid4().hex}"
    with client:
        client.subscribe_topic(topic, lambda event: report(*event[1]))
        futures = [
            client.submit(work, absolute(task), topic, mofm.__version__, key=f"{topic}-{task.number}", pure=False)
            for task in tasks
        ]
        try:
            for task, future in zip(tasks, futures, strict=True):
                yield _result(client, future, task.file, address)
        finally:
            client.unsubscribe_topic(topic)
            client.cancel(futures, force=True)


def absolute(task: Task) -> Task:
    """The task as it reads from any folder."""
    file, options = task.file, task.options
    files = tuple(state._replace(path=state.path.absolute()) for state in file.files)
    file = dataclasses.replace(
        file, path=file.path if isinstance(file.path, str) else file.path.absolute(), files=files
    )
    paths = {key: getattr(options.reading, key) for key in ("peaks", "barcodes")}
    reading = dataclasses.replace(options.reading, **{key: path and path.absolute() for key, path in paths.items()})
    options = dataclasses.replace(
        options, reading=reading, orthologs=options.orthologs and options.orthologs.absolute()
    )
    species = task.species.absolute() if isinstance(task.species, Path) else task.species
    return Task(task.number, file, species, options, task.folder.absolute())


def work(task: Task, topic: str, version: str) -> list[Prepared]:
    """What a worker does. Raises `InputError` where it does not see the input or the corpus, or is of another version."""
    from distributed import get_worker

    if mofm.__version__ != version:
        raise InputError(
            f"the Dask worker on {platform.node()} has mofm {mofm.__version__}, here it is {version}; install one on both"
        )
    worker, staging = get_worker(), task.folder.parent
    _check_seen(task.file, staging)

    def report(done: int, total: int) -> None:
        if not staging.exists():
            raise StoppedError
        worker.log_event(topic, (task.number, done, total))

    task.folder.mkdir(exist_ok=True)
    with _one_at_a_time:
        return prepare(task.file, task.species, task.options, task.folder / uuid.uuid4().hex, report)


def _check_seen(file: Input, staging: Path) -> None:
    for path in (file.path, staging):
        if isinstance(path, Path) and not os.path.exists(path):
            raise InputError(
                f"{path}: the Dask worker on {platform.node()} does not see it; inputs and corpus (of one in a bucket, "
                "TMPDIR) must lie on a file system that all machines share, under the same path"
            )


def _result(client, future, file: Input, address: str) -> list[Prepared]:
    """The result of a task, waited for as long as there are workers."""
    from concurrent.futures import CancelledError

    from distributed import KilledWorker
    from distributed import TimeoutError as NotYet

    last_seen = time.monotonic()
    while True:
        try:
            return future.result(timeout=5)
        except KilledWorker as error:
            raise InputError(
                f"{file.path}: several Dask workers were killed over it (out of memory?); give them more memory and run "
                "this again"
            ) from error
        except CancelledError as error:
            raise InputError(f"--scheduler {address}: the Dask scheduler went away; run this again") from error
        except NotYet as error:
            if future.done():
                raise
            if client.scheduler_info(n_workers=-1)["workers"]:
                last_seen = time.monotonic()
            if time.monotonic() - last_seen > WORKER_SECONDS:
                raise InputError(
                    f"--scheduler {address}: has no workers (for {WORKER_SECONDS} s); start some with `dask worker "
                    f"{address} --nthreads 1`, then run this again"
                ) from error
