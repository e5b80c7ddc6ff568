"""Reading ahead: the next block is made in a thread while one is used. It costs the memory of one block more."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_END = object()


def read_ahead(blocks: Iterator[T]) -> Iterator[T]:
    """The same blocks in the same order, what making them raises included. Closing waits for the one in the making."""
    with ThreadPoolExecutor(1, "mofm-read-ahead") as thread:
        coming = thread.submit(next, blocks, _END)
        while (block := coming.result()) is not _END:
            coming = thread.submit(next, blocks, _END)
            yield block
