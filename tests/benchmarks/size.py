"""Does a larger corpus cost more a cell? The stream of corpora of several sizes, side by side.

    python tests/benchmarks/size.py [--cells 100000 1000000 10000000] [--folder DIR] [--batches 4000] [--rounds 3]

Corpora are made by `mofm simulate` (500 genes, 20 transcription factors, data sets of 100,000 cells) in DIR, where those
of an earlier run are taken as they are, or in a temporary folder. Of each, so many tokenised batches are served by a
process of its own (serve.py), corpora in turn; figures are medians of rounds.
"""

import tempfile
from pathlib import Path

from common import machine, parser, show
from serve import BATCH, TOKENS
from stream import median, served

from mofm.corpus.simulated import simulate_corpus
from mofm.omics.simulate import SimulationConfig


def main() -> None:
    """Make what is missing, and time all."""
    arguments = parser(__doc__)
    arguments.add_argument("--cells", type=int, nargs="+", default=[10**5, 10**6, 10**7])
    arguments.add_argument("--folder", type=Path)
    arguments.add_argument("--batches", type=int, default=4_000)
    arguments.add_argument("--rounds", type=int, default=3)
    args = arguments.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        corpora = {cells: folder / f"cells_{cells}" for cells in args.cells}
        for cells, corpus in corpora.items():
            simulate_corpus(SimulationConfig(cells=cells, genes=500, tfs=20, seed=1), corpus)
        rounds = {cells: [] for cells in corpora}
        for _ in range(args.rounds):
            for cells, corpus in corpora.items():
                epochs = -(-args.batches * BATCH // cells)
                rounds[cells].append(served("mofm:128x64", corpus, epochs, args.batches))
    print(machine())
    show(
        f"{args.batches:,} batches of {BATCH} cells from corpora of several sizes; {TOKENS} tokens a cell",
        [
            {
                "cells": f"{cells:,}",
                "cells/s": f"{median(measured, 'cells_per_s'):,.0f}",
                "us CPU a cell": median(measured, "cpu_us"),
                "first batch, s": median(measured, "first_s"),
                "peak MB": f"{median(measured, 'peak_mb'):,.0f}",
            }
            for cells, measured in rounds.items()
        ],
    )


if __name__ == "__main__":
    main()
