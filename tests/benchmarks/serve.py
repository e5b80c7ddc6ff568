"""One loader in a process of its own, timed by stream.py: reads a store for some epochs, prints a line of JSON.

    python tests/benchmarks/serve.py mofm:128x64 CORPUS EPOCHS [BATCHES]
    python tests/benchmarks/serve.py counts:128x64 CORPUS EPOCHS [BATCHES]
    python tests/benchmarks/serve.py decode:128 CORPUS EPOCHS
    python tests/benchmarks/serve.py annbatch:512x32 STORES EPOCHS

A setting says how many rows are read together x how many such blocks are shuffled together. "counts" are whole cells,
CSR, in mofm's order. With BATCHES no more than so many are served.

Nothing else is imported, so that the peak of memory is the loader's. Time runs from before the loader is made to after
the last batch. "neighbours" is the share of cells that come in one batch with the cell stored next to them: batch size
over number of cells where batches are drawn at random, 1 where the store is read in order. "entropy" is that of which
sixteenth of the stored cells those of a batch are from, over that of a batch drawn at random.
"""

import json
import sys
import time
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

BATCH, TOKENS = 256, 1024
PARTS = 16


def main() -> None:
    """Serve all batches; their content is looked at only as far as to know which cells came."""
    setting, path, epochs = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    most = int(sys.argv[4]) if len(sys.argv) > 4 else None
    name, shuffle = setting.split(":")
    batches = {"mofm": mofm_batches, "counts": count_batches, "decode": decoded_blocks, "annbatch": annbatch_batches}[
        name
    ]
    list(batches(path, shuffle, 1, warm=True))
    begin, cpu, served, first = time.perf_counter(), time.process_time(), [], None
    for cells in islice(batches(path, shuffle, epochs), most):
        first = first or time.perf_counter() - begin
        served.append(np.array(cells))
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    n_cells = sum(map(len, served))
    print(
        json.dumps(
            {
                "cells": n_cells,
                "cells_per_s": n_cells / seconds,
                "cpu_us": cpu / n_cells * 1e6,
                "first_s": first,
                "peak_mb": peak_mb(),
                "neighbours": float(np.mean(np.concatenate([np.isin(cells + 1, cells) for cells in served]))),
                "entropy": entropy(served),
            }
        )
    )


def entropy(served: list[np.ndarray]) -> float:
    """See the module's docstring."""
    cells, rng = np.concatenate(served), np.random.default_rng(0)
    part_N = cells * PARTS // (cells.max() + 1)

    def mean_bits(part_N: np.ndarray) -> float:
        ends = np.cumsum([len(one) for one in served])[:-1]
        shares = [np.bincount(one, minlength=PARTS) / max(len(one), 1) for one in np.split(part_N, ends)]
        return float(np.mean([-np.sum(share[share > 0] * np.log2(share[share > 0])) for share in shares]))

    return mean_bits(part_N) / mean_bits(rng.permutation(part_N))


def peak_mb() -> float:
    """The most memory that was resident. (`ru_maxrss` survives the exec: it would be the parent's.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def mofm_batches(corpus: Path, shuffle: str, epochs: int, warm: bool = False) -> Iterator[np.ndarray]:
    """Tokenised batches; yields the cells' indices. `warm` makes one, so that numba's kernel is loaded."""
    stream = mofm_stream(corpus, shuffle)
    for batch in stream.batches(0, 1 if warm else epochs * stream.n_train_cells // BATCH):
        yield batch.rna.cell_B


def count_batches(corpus: Path, shuffle: str, epochs: int, warm: bool = False) -> Iterator[np.ndarray]:
    """The same cells as CSR rows, as annbatch serves them."""
    stream = mofm_stream(corpus, shuffle)
    for batch in stream.count_batches(0, 1 if warm else epochs * stream.n_train_cells // BATCH):
        yield batch["rna"].cell_B


def mofm_stream(corpus: Path, shuffle: str):
    """The stream of a corpus of which no cell is held out."""
    from mofm.batches.config import DataConfig
    from mofm.batches.stream import Stream
    from mofm.corpus.store import open_corpus

    block, blocks = map(int, shuffle.split("x"))
    config = DataConfig(str(corpus), BATCH, TOKENS, block_cells=block, window_blocks=blocks, holdout_fraction=0.0)
    return Stream(open_corpus(corpus), config, seed=0)


def decoded_blocks(corpus: Path, block_cells: str, epochs: int, warm: bool = False) -> Iterator[np.ndarray]:
    """Blocks of consecutive cells in random order, in memory that is used again; yields the cells' indices."""
    from mofm.corpus.buffers import RowBuffers
    from mofm.corpus.store import open_corpus

    size, stores = int(block_cells), open_corpus(corpus).stores
    offsets = np.cumsum([0, *(store.n_cells for store in stores)])
    blocks = [(i, start) for i, store in enumerate(stores) for start in range(0, store.n_cells, size)]
    buffers, under_way = [RowBuffers() for _ in range(33)], deque()
    order = [blocks[i] for _ in range(epochs) for i in np.random.default_rng(0).permutation(len(blocks))]
    for number, (i, start) in enumerate(order[:1] if warm else order):
        stop = min(start + size, stores[i].n_cells)
        under_way.append((offsets[i] + np.arange(start, stop), stores[i].read_rows(start, stop, buffers[number % 33])))
        if len(under_way) == 32:
            cells, read = under_way.popleft()
            read.result()
            yield cells
    for cells, read in under_way:
        read.result()
        yield cells


def annbatch_batches(store: Path, shuffle: str, epochs: int, warm: bool = False) -> Iterator[np.ndarray]:
    """CSR rows; yields the cells' indices. `warm` serves none."""
    import annbatch
    import anndata as ad
    import zarr

    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    if warm:
        return
    chunk, chunks = map(int, shuffle.split("x"))
    for _ in range(epochs):
        loader = annbatch.Loader(
            batch_size=BATCH, chunk_size=chunk, preload_nchunks=chunks, shuffle=True, drop_last=True, return_index=True
        )
        for path in sorted(path.parent for path in store.glob("*/X")):
            loader.add_dataset(ad.io.sparse_dataset(zarr.open_group(path, mode="r")["X"]))
        for served in loader:
            yield served["index"]


if __name__ == "__main__":
    main()
