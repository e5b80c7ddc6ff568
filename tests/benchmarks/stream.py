"""Cells a second of the stream: tokenised batches from a corpus on disk; where annbatch is installed, beside it.

    python tests/benchmarks/stream.py [--cells 20000] [--genes 8000]

annbatch (Python 3.12) serves CSR rows of the same zarr store, shuffled in chunks, and no tokens: less work than ours.
Both are timed in turn, in one process, over the same files; figures are medians of rounds and their ratio.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
from common import machine, parser, show
from scipy import sparse

from mofm.batches.stream import DataConfig, Stream
from mofm.corpus.ingest import ingest
from mofm.corpus.store import open_corpus

BATCH, TOKENS = 256, 1024


def main() -> None:
    """Time both."""
    arguments = parser(__doc__)
    arguments.add_argument("--cells", type=int, default=20_000)
    arguments.add_argument("--genes", type=int, default=8_000)
    arguments.add_argument("--rounds", type=int, default=3)
    args = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source, path = Path(folder) / "cells.h5ad", Path(folder) / "corpus"
        write_cells(source, args.cells, args.genes)
        ingest([source], path)
        corpus = open_corpus(path)
        loaders = {"mofm (tokens)": lambda: ours(corpus, args.cells)}
        if (peer := annbatch_loader(path)) is not None:
            loaders["annbatch (CSR rows)"] = peer
        rates: dict[str, list[float]] = {name: [] for name in loaders}
        for _ in range(args.rounds):
            for name, batches in loaders.items():
                begin, cells = time.perf_counter(), 0
                for served in batches():
                    cells += served
                rates[name].append(cells / (time.perf_counter() - begin))
    ours_median = float(np.median(rates["mofm (tokens)"]))
    print(machine())
    rows = [
        {"loader": name, "cells/s": f"{np.median(r):,.0f}", "ratio to mofm": float(np.median(r)) / ours_median}
        for name, r in rates.items()
    ]
    show(f"stream of {args.cells:,} cells x {args.genes:,} genes, batches of {BATCH} cells x {TOKENS} tokens", rows)


def write_cells(path: Path, cells: int, genes: int) -> None:
    """Cells of about 1,500 expressed genes."""
    rng = np.random.default_rng(0)
    rates = rng.gamma(0.3, 1.0, genes)
    blocks = [sparse.csr_matrix(rng.poisson(rates, (1000, genes)).astype(np.float32)) for _ in range(-(-cells // 1000))]
    ad.AnnData(sparse.vstack(blocks).tocsr()[:cells]).write_h5ad(path)


def ours(corpus, cells: int) -> Iterator[int]:
    """One epoch of batches; yields their sizes."""
    config = DataConfig(str(corpus.path), batch_size=BATCH, tokens=TOKENS, holdout_fraction=0.0)
    for batch in Stream(corpus, config, seed=0).batches(0, cells // BATCH):
        yield len(batch.rna.cell_B)


def annbatch_loader(corpus: Path):
    """The same store through annbatch, or None where it is not installed."""
    try:
        import annbatch
        import zarr
    except ImportError:
        return None
    store = next((corpus / "stores").iterdir())

    def batches() -> Iterator[int]:
        loader = annbatch.Loader(
            batch_size=BATCH, chunk_size=64, preload_nchunks=64, to_torch=False, preload_to_gpu=False
        )
        group = zarr.open_group(store, mode="r")
        loader.add_dataset(ad.io.sparse_dataset(group["X"]))
        for served in loader:
            yield served["X"].shape[0]

    return batches


if __name__ == "__main__":
    main()
