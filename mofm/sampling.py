"""Some of many, without a lot: the same ones each time, and from all parts of what comes in an order."""

import numpy as np


def evenly(count: int, most: int) -> np.ndarray:
    """Ascending places below `count`, int64, spread from the first to the last: all of them, or `most` where that is fewer."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)
