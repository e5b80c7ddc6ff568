"""SIGTERM and Ctrl-C as a wish that the loop looks at, once a step."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import jax


@contextmanager
def stop_asked() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT instead of dying of them; a second Ctrl-C is obeyed at once."""
    asked: list[int] = []
    several = jax.process_count() > 1  # then JAX's coordination service hears SIGTERM, as all must stop at one step

    def ask(number: int, frame) -> None:
        if several:
            signal.raise_signal(signal.SIGTERM)  # which reaches all
        elif asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    handled = (signal.SIGINT,) if several else (signal.SIGTERM, signal.SIGINT)
    try:
        before = {number: signal.signal(number, ask) for number in handled}
    except ValueError:  # not the main thread (a notebook's worker): signals are not ours to take
        yield asked
        return
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
