"""Batches made before they are asked for, in threads."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

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
        left = iter(numbers)
        under_way = deque(threads.submit(make, number) for number in islice(left, prefetch))
        while under_way:
            batch = under_way.popleft().result()
            under_way.extend(threads.submit(make, number) for number in islice(left, 1))
            yield batch
    finally:
        threads.shutdown(cancel_futures=True)
