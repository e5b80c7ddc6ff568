"""Batches made before they are asked for, in threads."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from mofm.ahead import in_turn

Batch = TypeVar("Batch")


def made_ahead(make: Callable[[int], Batch], numbers: Iterable[int], prefetch: int) -> Iterator[Batch]:
    """make(number) for each number in turn, `prefetch` of them under way in threads; their exceptions come here.

    The threads end when the generator is closed. prefetch=0: no threads.
    """
    if not prefetch:
        yield from map(make, numbers)
        return
    threads = ThreadPoolExecutor(min(prefetch, os.cpu_count() or 1), "mofm-batches")
    try:
        yield from in_turn(partial(threads.submit, make), numbers, prefetch)
    finally:
        threads.shutdown(cancel_futures=True)
