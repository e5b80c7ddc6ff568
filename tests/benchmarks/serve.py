"""One loader in a process of its own, timed by stream.py: reads a store for some epochs, prints a line of JSON.

    python tests/benchmarks/serve.py mofm:64 CORPUS EPOCHS
    python tests/benchmarks/serve.py annbatch:512x32 STORE EPOCHS

Nothing else is imported, so that the peak of memory is the loader's. Time runs from before the loader is made to after
the last batch. "neighbours" is the share of cells that come in one batch with the cell stored next to them: batch size
over number of cells where batches are drawn at random, 1 where the store is read in order.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

BATCH, TOKENS = 256, 1024


def main() -> None:
    """Serve all batches; their content is looked at only as far as to know which cells came."""
    setting, path, epochs = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    name, shuffle = setting.split(":")
    batches = {"mofm": mofm_batches, "annbatch": annbatch_batches}[name]
    list(batches(path, shuffle, 1, warm=True))
    begin, cpu, served, first = time.perf_counter(), time.process_time(), [], None
    for cells in batches(path, shuffle, epochs):
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
            }
        )
    )


def peak_mb() -> float:
    """The most memory that was resident. (`ru_maxrss` survives the exec: it would be the parent's.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def mofm_batches(corpus: Path, window_blocks: str, epochs: int, warm: bool = False) -> Iterator[np.ndarray]:
    """Tokenised batches; yields the cells' indices. `warm` makes one, so that numba's kernel is loaded."""
    from mofm.batches.config import DataConfig
    from mofm.batches.stream import Stream
    from mofm.corpus.store import open_corpus

    window = int(window_blocks)
    config = DataConfig(str(corpus), BATCH, TOKENS, window_blocks=window, holdout_fraction=0.0)
    stream = Stream(open_corpus(corpus), config, seed=0)
    for batch in stream.batches(0, 1 if warm else epochs * stream.n_train_cells // BATCH):
        yield batch.rna.cell_B


def annbatch_batches(store: Path, shuffle: str, epochs: int, warm: bool = False) -> Iterator[np.ndarray]:
    """CSR rows; yields the cells' indices. `shuffle` is rows a chunk x chunks a window. `warm` serves none."""
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
        group = zarr.open_group(store, mode="r")
        for dataset in [group] if "X" in group else [group[key] for key in sorted(group)]:
            loader.add_dataset(ad.io.sparse_dataset(dataset["X"]))
        for served in loader:
            yield served["index"]


if __name__ == "__main__":
    main()
