"""Batches of a corpus, and that two lots of them are equal: for tests of corpora that lie elsewhere."""

from pathlib import Path

import jax
import numpy as np

from mofm.batches.config import DataConfig
from mofm.batches.stream import Stream
from mofm.corpus.cache import ShardCache
from mofm.corpus.store import open_corpus

DATA = {"batch_size": 16, "tokens": 32, "block_cells": 16, "window_blocks": 4, "holdout_fraction": 0.2}


def batches(corpus, n: int = 30, **config) -> list:
    """Some training batches and all held-out ones."""
    stream = Stream(corpus, DataConfig("", **(DATA | config)), seed=5)
    return [*stream.batches(0, n), *stream.heldout_batches()]


def batches_through_cache(url: str, folder: Path, together) -> list:
    """Batches of a corpus in a bucket, in a process that begins when others do (a barrier)."""
    corpus = open_corpus(url, cache=ShardCache(folder, 10**9))
    together.wait()
    return batches(corpus)


def assert_equal_batches(these, those) -> None:
    """Bit for bit, and that there are any."""
    these, those = (jax.tree.leaves(some) for some in (these, those))
    assert len(these) == len(those) > 0
    for a, b in zip(these, those, strict=True):
        np.testing.assert_array_equal(a, b)
