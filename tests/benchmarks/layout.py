"""What a store's layout costs to read: CPU time of a cell in random blocks, by codec, chunk, integer type and block.

    python tests/benchmarks/layout.py [--cells 20000] [--genes 20000] [--rounds 3]

Each layout holds the same cells. Blocks of consecutive cells are read in random order, 32 under way, into memory that is
used again, as the stream does; nothing is made of them. Times are the least of the rounds, pages cached. "kept" is the
layout of `mofm/corpus/writer.py`.
"""

import tempfile
import time
from collections import deque
from pathlib import Path

import numpy as np
import tensorstore as ts
from common import machine, parser, show, write_cells

from mofm.corpus.ingest import ingest
from mofm.corpus.matrix import create_array
from mofm.corpus.store import CACHE_BYTES, open_corpus
from mofm.omics.rows import CountRows

BLOCKS = (64, 128, 256)
SHARD_CHUNKS, UNDER_WAY = 256, 32
KEPT = ("lz4", 64, "narrow")
LAYOUTS = (
    KEPT,
    *(("lz4", cells, "narrow") for cells in (8, 16, 32, 128)),
    *((codec, 64, "narrow") for codec in ("none", "bitshuffle-lz4", "zstd", "blosc-zstd")),
    ("lz4", 64, "float32, int32"),
)


def main() -> None:
    """Write and read every layout."""
    arguments = parser(__doc__)
    arguments.add_argument("--cells", type=int, default=20_000)
    arguments.add_argument("--genes", type=int, default=20_000)
    arguments.add_argument("--rounds", type=int, default=3)
    args = arguments.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        cells = counts_of(Path(folder), args.cells, args.genes)
        for number, (codec, chunk_cells, width) in enumerate(LAYOUTS):
            indices, data = (cells.indices, cells.data)
            if width != "narrow":
                indices, data = indices.astype(np.int32), data.astype(np.float32)
            chunk = round(chunk_cells * len(data) / cells.n_cells)
            paths = [Path(folder) / f"{number}_{name}" for name in ("indices", "data")]
            for path, values in zip(paths, (indices, data), strict=True):
                create_array(path, metadata_of(values, chunk, codec)).write(values).result()
            row = {"codec": codec, "cells a chunk": chunk_cells, "types": width}
            row["kB a cell"] = bytes_in(paths) / 1e3 / args.cells
            for block in BLOCKS:
                row[f"us, blocks of {block}"] = cpu_us(paths, cells.indptr_N, block, args.rounds)
            rows.append(row | {"": "kept" if (codec, chunk_cells, width) == KEPT else ""})
    print(machine())
    show(f"Layouts of {args.cells:,} cells of {len(cells.data) / args.cells:,.0f} counts", rows)


def counts_of(folder: Path, cells: int, genes: int) -> CountRows:
    """All rows of a corpus of one file, in its narrow types."""
    write_cells(folder / "cells.h5ad", cells, genes, expressed=0.1)
    ingest([folder / "cells.h5ad"], folder / "corpus")
    return open_corpus(folder / "corpus").stores[0].read_rows(0, cells).result()


def bytes_in(folders: list[Path]) -> int:
    """Of all files."""
    return sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())


def metadata_of(values: np.ndarray, chunk: int, codec: str) -> dict:
    """zarr v3 metadata of a sharded array."""
    integers, checksum = {"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}
    blosc = {"cname": "lz4", "clevel": 5, "shuffle": "shuffle", "typesize": values.dtype.itemsize, "blocksize": 0}
    compressors = {
        "none": [],
        "lz4": [{"name": "blosc", "configuration": blosc}],
        "bitshuffle-lz4": [{"name": "blosc", "configuration": blosc | {"shuffle": "bitshuffle"}}],
        "blosc-zstd": [{"name": "blosc", "configuration": blosc | {"cname": "zstd"}}],
        "zstd": [{"name": "zstd", "configuration": {"level": 1, "checksum": False}}],
    }
    shards = {
        "chunk_shape": [chunk],
        "codecs": [integers, *compressors[codec], checksum],
        "index_codecs": [integers, checksum],
    }
    return {
        "shape": [len(values)],
        "data_type": values.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [chunk * SHARD_CHUNKS]}},
        "codecs": [{"name": "sharding_indexed", "configuration": shards}],
        "fill_value": 0,
    }


def cpu_us(paths: list[Path], indptr_N: np.ndarray, block: int, rounds: int) -> float:
    """CPU time of a cell, microseconds."""
    context = ts.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}})
    spec = {"driver": "zarr3", "recheck_cached_data": False, "recheck_cached_metadata": False}
    arrays = [
        ts.open(spec | {"kvstore": f"file://{path}/"}, open=True, read=True, context=context).result() for path in paths
    ]
    starts = np.arange(0, len(indptr_N) - 1, block)
    stops = np.minimum(starts + block, len(indptr_N) - 1)
    most = int((indptr_N[stops] - indptr_N[starts]).max())
    memory = [[np.empty(most, array.dtype.numpy_dtype) for array in arrays] for _ in range(UNDER_WAY + 1)]
    times, rng = [], np.random.default_rng(0)
    for _ in range(rounds + 1):  # the first fills the system's cache
        begin, pending = time.process_time(), deque()
        for turn, i in enumerate(rng.permutation(len(starts))):
            first, last = int(indptr_N[starts[i]]), int(indptr_N[stops[i]])
            into = memory[turn % (UNDER_WAY + 1)]
            targets = [ts.array(values[: last - first], context=context, copy=False) for values in into]
            pending.append([t.write(a[first:last]) for t, a in zip(targets, arrays, strict=True)])
            if len(pending) == UNDER_WAY:
                _ = [write.result() for write in pending.popleft()]
        _ = [write.result() for writes in pending for write in writes]
        times.append(time.process_time() - begin)
    return min(times[1:]) / (len(indptr_N) - 1) * 1e6


if __name__ == "__main__":
    main()
