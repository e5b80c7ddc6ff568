"""Cells a second of the stream: tokenised batches from a corpus on disk; where annbatch is installed, beside it.

    python tests/benchmarks/stream.py [--cells 20000] [--genes 8000] [--epochs 5] [--rounds 3]

annbatch (`pip install -e ".[bench]"`, Python 3.12) serves CSR rows and no tokens: less work than ours. It reads the
corpus's own zarr store, and a shuffled one that it made itself, each at its default (512 x 32: rows read together x
chunks shuffled together) and at 64 x 256, with the zarrs codecs. mofm reads 64 cells together; the figure in its name
is how many such blocks are shuffled together (64 is the default; 256 shuffles as far as annbatch does).

Every measurement is a fresh process (serve.py: what is timed, and what "neighbours" are), loaders in turn; figures
are medians of rounds. Rates count the start of the loader. CPU time a cell says most on a machine that is shared.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
from common import machine, parser, show, write_cells
from serve import BATCH, TOKENS

from mofm.corpus.ingest import ingest
from mofm.corpus.store import open_corpus

MOFM = ("mofm:64", "mofm:256")
ANNBATCH = ("annbatch:512x32", "annbatch:64x256")


def main() -> None:
    """Time all loaders that are installed."""
    arguments = parser(__doc__)
    arguments.add_argument("--cells", type=int, default=20_000)
    arguments.add_argument("--genes", type=int, default=8_000)
    arguments.add_argument("--epochs", type=int, default=5)
    arguments.add_argument("--rounds", type=int, default=3)
    args = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source, path = Path(folder) / "cells.h5ad", Path(folder) / "corpus"
        write_cells(source, args.cells, args.genes)
        ingest([source], path)
        loaders = {name: (name, path) for name in MOFM}
        loaders |= annbatch_loaders(source, path)
        rounds: dict[str, list[dict]] = defaultdict(list)
        for _ in range(args.rounds):
            for name, (setting, store) in loaders.items():
                rounds[name].append(served(setting, store, args.epochs))
    print(machine())
    show(
        f"stream of {args.cells:,} cells x {args.genes:,} genes for {args.epochs} epochs, batches of {BATCH}; "
        f"mofm: {TOKENS} tokens a cell; neighbours at random {BATCH / args.cells:.3f}",
        rows_of(rounds),
    )


def annbatch_loaders(source: Path, corpus: Path) -> dict[str, tuple[str, Path]]:
    """name -> (setting, store) for annbatch over the corpus's store and over its own; none where it is not installed."""
    missing = [name for name in ("annbatch", "zarrs") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"not measured: annbatch ({' and '.join(missing)} not installed; pip install -e '.[bench]', Python 3.12)")
        return {}
    import annbatch

    own = source.with_name("annbatch.zarr")
    annbatch.DatasetCollection(own).add_adatas([source])
    stores = {"": corpus / open_corpus(corpus).manifest.stores[0].path, ", its own store": own}
    return {f"{setting}{where}": (setting, store) for where, store in stores.items() for setting in ANNBATCH}


def served(setting: str, store: Path, epochs: int) -> dict[str, float]:
    """What one fresh process measured."""
    command = [sys.executable, str(Path(__file__).with_name("serve.py")), setting, str(store), str(epochs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{setting} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def rows_of(rounds: dict[str, list[dict]]) -> list[dict[str, object]]:
    """The table. Ratios are taken within a round, to the annbatch setting with the highest median rate."""
    rates = {name: np.array([round_["cells_per_s"] for round_ in measured]) for name, measured in rounds.items()}
    peers = [name for name in rates if name.startswith("annbatch")]
    best = max(peers, key=lambda name: np.median(rates[name]), default=None)
    rows = []
    for name, measured in rounds.items():
        median = {key: float(np.median([round_[key] for round_ in measured])) for key in measured[0]}
        row = {
            "loader": name,
            "cells/s": f"{median['cells_per_s']:,.0f}",
            "(lowest-highest)": f"{rates[name].min():,.0f}-{rates[name].max():,.0f}",
            "us CPU a cell": median["cpu_us"],
            "first batch, s": median["first_s"],
            "peak MB": f"{median['peak_mb']:,.0f}",
            "neighbours": median["neighbours"],
        }
        rows.append(row | ({"to annbatch's best": float(np.median(rates[name] / rates[best]))} if best else {}))
    return rows


if __name__ == "__main__":
    main()
