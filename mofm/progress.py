"""Bars for work that a person waits for, on stderr; silent where stderr is no terminal. Programs can listen instead."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

BARS_KEPT = 12

Listener = Callable[[str, int, int], None]
"""Called with (what is done, cells done, cells in all)."""
_listeners: list[Listener] = []


@contextmanager
def progress_sent_to(listener: Listener) -> Iterator[None]:
    """Within it, whatever shows a bar of cells calls `listener` too, in the thread that does the work."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


@contextmanager
def cells_progress(what: str, total: int, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """Gives a function that is called with how many more cells are done."""
    with _bar(quiet) as bar:
        task, done = bar.add_task(what, total=total, rate="-"), 0

        def advance(cells: int) -> None:
            nonlocal done
            done += cells
            bar.advance(task, cells)
            _show_rate(bar, task)
            for listener in _listeners:
                listener(what, done, total)

        advance(0)
        yield advance


@contextmanager
def files_progress(what: str, quiet: bool = False) -> Iterator[Callable[[int, str, int, int], None]]:
    """Gives a function (file's place, its name, its cells done, its cells in all) that keeps a bar a file."""
    with _bar(quiet) as bar:
        tasks = {}

        def on_progress(place: int, name: str, done: int, total: int) -> None:
            if place not in tasks:
                tasks[place] = bar.add_task(f"{what} {name}", total=total, rate="-")
            # Of many files, those that are done make room for those that are not.
            is_shown = done < total or len(tasks) <= BARS_KEPT
            bar.update(tasks[place], completed=done, visible=is_shown)
            _show_rate(bar, tasks[place])

        yield on_progress


def _bar(quiet: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} cells/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=quiet or not sys.stderr.isatty(),
    )


def _show_rate(bar: Progress, task: int) -> None:
    speed = next(t.speed for t in bar.tasks if t.id == task)
    bar.update(task, rate=f"{speed:,.0f}" if speed else "-")
