"""Cells a second of the stream: tokenised batches from a corpus on disk; where annbatch is installed, beside it.

    python tests/benchmarks/stream.py [--cells 60000] [--genes 20000] [--files 3] [--epochs 3] [--rounds 3]

annbatch (`pip install -e ".[bench]"`, Python 3.12) serves CSR rows and no tokens: less work than ours. It reads the
corpus's own zarr stores, and a shuffled one that it made itself, each at its default (512x32: rows read together x
blocks shuffled together) and at 64x256, with the zarrs codecs. mofm does so at its default, 128x64, at annbatch's, and at
128x128, which shuffles as far. "counts" are mofm's cells as CSR rows without tokens, what annbatch serves. "decode" is
the ceiling: random blocks read into memory and thrown away, no shuffling within and no tokens; a share is of that for
blocks of the same size.

Every measurement is a fresh process (serve.py: what is timed, and what "neighbours" and "entropy" are), loaders in
turn; figures are medians of rounds. Rates count the start of the loader. CPU time a cell says most on a machine that
is shared. The last line is one JSON object.
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

MOFM = ("mofm:128x64", "mofm:128x128", "mofm:512x32", "counts:128x64", "counts:512x32", "decode:128", "decode:512")
ANNBATCH = ("annbatch:512x32", "annbatch:64x256")


def main() -> None:
    """Time all loaders that are installed."""
    arguments = parser(__doc__)
    arguments.add_argument("--cells", type=int, default=60_000)
    arguments.add_argument("--genes", type=int, default=20_000)
    arguments.add_argument("--files", type=int, default=3)
    arguments.add_argument("--epochs", type=int, default=3)
    arguments.add_argument("--rounds", type=int, default=3)
    args = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sources, path = [Path(folder) / f"cells{i}.h5ad" for i in range(args.files)], Path(folder) / "corpus"
        for seed, source in enumerate(sources):
            write_cells(source, args.cells // args.files, args.genes, expressed=0.1, seed=seed)
        ingest(sources, path)
        loaders = {name: (name, path) for name in MOFM}
        loaders |= annbatch_loaders(sources, path)
        rounds: dict[str, list[dict]] = defaultdict(list)
        for _ in range(args.rounds):
            for name, (setting, store) in loaders.items():
                rounds[name].append(served(setting, store, args.epochs))
    print(machine())
    show(
        f"stream of {args.cells:,} cells x {args.genes:,} genes in {args.files} files for {args.epochs} epochs, batches of "
        f"{BATCH}; mofm: {TOKENS} tokens a cell; neighbours at random {BATCH / args.cells:.3f}",
        rows_of(rounds),
    )
    print(json.dumps(summary(rounds)))


def annbatch_loaders(sources: list[Path], corpus: Path) -> dict[str, tuple[str, Path]]:
    """name -> (setting, store) for annbatch over the corpus's store and over its own; none where it is not installed."""
    missing = [name for name in ("annbatch", "zarrs") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"not measured: annbatch ({' and '.join(missing)} not installed; pip install -e '.[bench]', Python 3.12)")
        return {}
    import annbatch

    own = corpus.with_name("annbatch.zarr")
    annbatch.DatasetCollection(own).add_adatas(sources)
    stores = {"": corpus / "stores", ", its own store": own}
    return {f"{setting}{where}": (setting, store) for where, store in stores.items() for setting in ANNBATCH}


def served(setting: str, store: Path, epochs: int, most: int | None = None) -> dict[str, float]:
    """What one fresh process measured, of `most` batches if there are more."""
    command = [sys.executable, str(Path(__file__).with_name("serve.py")), setting, str(store), str(epochs)]
    command += [] if most is None else [str(most)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{setting} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def rows_of(rounds: dict[str, list[dict]]) -> list[dict[str, object]]:
    """The table. Ratios are taken within a round, to the annbatch setting with the highest median rate."""
    rates = {name: np.array([round_["cells_per_s"] for round_ in measured]) for name, measured in rounds.items()}
    best, rows = best_of(rounds, "annbatch"), []
    for name, measured in rounds.items():
        row = {
            "loader": name,
            "cells/s": f"{median(measured, 'cells_per_s'):,.0f}",
            "(lowest-highest)": f"{rates[name].min():,.0f}-{rates[name].max():,.0f}",
            "us CPU a cell": median(measured, "cpu_us"),
            "first batch, s": median(measured, "first_s"),
            "peak MB": f"{median(measured, 'peak_mb'):,.0f}",
            "neighbours": median(measured, "neighbours"),
            "entropy": median(measured, "entropy"),
        }
        rows.append(row | ({"to annbatch's best": float(np.median(rates[name] / rates[best]))} if best else {}))
    return rows


def summary(rounds: dict[str, list[dict]]) -> dict[str, float | str | None]:
    """The figures that matter, for a program. None for annbatch where it was not measured."""
    ours, theirs, rows = best_of(rounds, "mofm"), best_of(rounds, "annbatch"), best_of(rounds, "counts")
    mine, peer, ceiling = rounds[ours], rounds.get(theirs, []), median(rounds[ceiling_of(ours)], "cells_per_s")
    rate, csr_rate = median(mine, "cells_per_s"), median(rounds[rows], "cells_per_s")
    return {
        "ours": ours,
        "annbatch": theirs,
        "ours_cells_per_s": rate,
        "annbatch_cells_per_s": median(peer, "cells_per_s"),
        "ratio": rate / median(peer, "cells_per_s") if peer else None,
        "decode_ceiling_cells_per_s": ceiling,
        "share_of_ceiling": rate / ceiling,
        "csr": rows,
        "csr_cells_per_s": csr_rate,
        "csr_share_of_ceiling": csr_rate / median(rounds[ceiling_of(rows)], "cells_per_s"),
        "rss_gb": median(mine, "peak_mb") / 1024,
        "annbatch_rss_gb": median(peer, "peak_mb") / 1024 if peer else None,
        "first_batch_s": median(mine, "first_s"),
        "entropy": median(mine, "entropy"),
    }


def ceiling_of(name: str) -> str:
    """The setting that decodes blocks of the size of a loader's."""
    return f"decode:{name.split(':')[1].split('x')[0]}"


def best_of(rounds: dict[str, list[dict]], kind: str) -> str | None:
    """The setting of a loader with the highest median rate."""
    names = [name for name in rounds if name.startswith(kind)]
    return max(names, key=lambda name: median(rounds[name], "cells_per_s"), default=None)


def median(measured: list[dict], key: str) -> float | None:
    """Over rounds; None where there are none."""
    return float(np.median([round_[key] for round_ in measured])) if measured else None


if __name__ == "__main__":
    main()
