"""Work done ahead of its use by threads or processes, its results in the order of the tasks."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from itertools import islice
from typing import TypeVar

WHY_KILLED = 'out of memory? or a script that lacks `if __name__ == "__main__":`?'
"""What ends a process of a pool, for people."""

Task = TypeVar("Task")
Result = TypeVar("Result")


def in_turn(submit: Callable[[Task], "Future[Result]"], tasks: Iterable[Task], ahead: int) -> Iterator[Result]:
    """The result of each task in turn; `ahead` others are under way or wait. Exceptions of a task come here."""
    left = iter(tasks)
    under_way = deque(submit(task) for task in islice(left, ahead))
    while under_way:
        result = under_way.popleft().result()
        under_way.extend(submit(task) for task in islice(left, 1))
        yield result
