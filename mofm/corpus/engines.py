"""Where inputs are prepared: here, in processes of this machine, or on a Dask cluster. The bytes are the same.

An engine takes tasks and gives their results in the same order, each when it is ready; what an engine hears of progress
it passes on. Choices and their cost:

- Processes beside threads: one input keeps two or three cores busy (`prepare.py`), the rest waits on Python's lock.
  Processes are spawned (TensorStore's threads do not survive a fork) and import anew, three to five seconds of a core
  each: worth it for inputs that take longer than that, and where cores are idle.
- At most one finished input a process waits for its turn to be committed; it waits on disk, in the staging folder. On a
  cluster all may.
- A process that is killed takes its work with it, and is reported as an `InputError`; the others end with their parent. Of a
  cluster see `cluster.py`.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mofm.ahead import WHY_KILLED, in_turn
from mofm.corpus.inputs import Input, Options
from mofm.corpus.prepare import Prepared, prepare
from mofm.errors import InputError

Report = Callable[[int, int, int], None]
"""Called with (number of the task, cells done, cells in all), never by two threads at once."""


class Task(NamedTuple):
    """What `prepare` is given; all of it can be pickled.

    Attributes:
      number: of the input among those of the ingest.
      folder: where its stores go; does not exist yet.
    """

    number: int
    file: Input
    species: str | Path
    options: Options
    folder: Path


Engine = Callable[[Sequence[Task], Report], Iterator[list[Prepared]]]


def engine_for(jobs: int, n_tasks: int, scheduler: str | None) -> Engine:
    """The engine that these options ask for."""
    if scheduler is not None:
        from mofm.corpus.cluster import on_cluster  # Dask is an extra

        return lambda tasks, report: on_cluster(scheduler, tasks, report)
    if min(jobs, n_tasks) > 1:
        return lambda tasks, report: in_processes(min(jobs, n_tasks), tasks, report)
    return in_this_process


def in_this_process(tasks: Sequence[Task], report: Report) -> Iterator[list[Prepared]]:
    """One after another."""
    for number, *task in tasks:
        yield prepare(*task, lambda done, total, n=number: report(n, done, total))


def in_processes(jobs: int, tasks: Sequence[Task], report: Report) -> Iterator[list[Prepared]]:
    """So many at a time, each in a process. Raises `InputError` where one of these is killed."""
    spawn = multiprocessing.get_context("spawn")
    messages, stop = spawn.SimpleQueue(), spawn.Event()
    listener = threading.Thread(target=_listen, args=(messages, report), daemon=True)
    listener.start()
    workers = ProcessPoolExecutor(jobs, spawn, _begin, (messages, stop))
    try:
        results = in_turn(partial(workers.submit, _work), tasks, 2 * jobs - 1)
        for task in tasks:
            yield _next(task.file, results)
    finally:
        stop.set()
        workers.shutdown(cancel_futures=True)
        messages.put(None)
        listener.join()


def _next(file: Input, results: Iterator[list[Prepared]]) -> list[Prepared]:
    try:
        return next(results)
    except BrokenProcessPool as error:
        raise InputError(
            f"{file.path}: a process that read inputs was killed ({WHY_KILLED}); run this again, with --jobs 1"
        ) from error


class StoppedError(Exception):
    """The ingest has ended, this process has nothing more to do."""


_messages = _stop = None  # of a worker process


def _begin(messages, stop) -> None:
    global _messages, _stop
    _messages, _stop = messages, stop
    end_with_parent()


def end_with_parent() -> None:
    """Begins a worker process that ends when its parent does, however that ends."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(task: Task) -> list[Prepared]:
    def report(done: int, total: int) -> None:
        if _stop.is_set():
            raise StoppedError
        _messages.put((task.number, done, total))

    return prepare(*task[1:], report)


def _listen(messages, report: Report) -> None:
    while (message := messages.get()) is not None:
        report(*message)
