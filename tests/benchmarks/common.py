"""What the benchmarks share: where real data lies, a trained model for a corpus, and a line that says on what it ran."""

import argparse
import json
import logging
import os
import platform
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import anndata as ad
import jax
import numpy as np
import pandas as pd
from scipy import sparse

import mofm
from mofm.configs import small
from mofm.corpus.ingest import ingest
from mofm.inference.model import PretrainedModel, load
from mofm.training.config import Config, build_config
from mofm.training.loop import train

logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells of every save


def parser(doc: str) -> argparse.ArgumentParser:
    """A parser that shows the benchmark's docstring."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def real_data(name: str) -> Path:
    """A file of the folder MOFM_DATA; leaves with a line where it is not there."""
    path = Path(os.environ.get("MOFM_DATA", ".")) / name
    if not path.exists():
        sys.exit(f"{path}: not there; set MOFM_DATA to the folder that holds {name}")
    return path


def machine() -> str:
    """Versions and device, one line."""
    device = jax.devices()[0]
    kind = f"{os.cpu_count()} cores" if device.platform == "cpu" else device.device_kind
    versions = (
        f"mofm {mofm.__version__}, jax {jax.__version__}, numpy {np.__version__}, python {platform.python_version()}"
    )
    return f"{versions}; {device.platform} ({kind})"


def pretrain(
    inputs: list[Path],
    overrides: list[str],
    folder: Path,
    *,
    recover_counts: bool = False,
    parent: ModuleType = small,
) -> PretrainedModel:
    """The best checkpoint of `run_of`."""
    return load(run_of(inputs, overrides, folder, recover_counts=recover_counts, parent=parent))


def run_of(
    inputs: list[Path],
    overrides: list[str],
    folder: Path,
    *,
    recover_counts: bool = False,
    parent: ModuleType = small,
) -> Path:
    """Ingest and train a config with overrides, in a new directory of `folder`: the run, beside its `corpus`."""
    own = Path(tempfile.mkdtemp(dir=folder))
    corpus, workdir = own / "corpus", own / "run"
    ingest(inputs, corpus, recover_counts=recover_counts)
    train(config_of(corpus, overrides, parent), workdir, quiet=True)
    return workdir


def config_of(corpus: Path, overrides: list[str], parent: ModuleType = small) -> Config:
    """A config of `configs/` over a corpus."""
    values = parent.get_config()
    values.data.corpus = str(corpus)
    return build_config(values, overrides)


def schedule(steps: int) -> list[str]:
    """Overrides: so many steps, judged four times. Of none, one too small to change anything: the linear start."""
    if steps:
        return [f"run.steps={steps}", f"run.eval_every={max(1, steps // 4)}"]
    return ["run.steps=1", "run.eval_every=1", "optimizer.learning_rate=1e-9"]


def write_cells(path: Path, cells: int, genes: int, expressed: float = 0.2, seed: int = 0) -> None:
    """An h5ad file of cells that express that share of the genes, in counts that fall off as a gamma-Poisson's do."""
    rates = np.random.default_rng(0).gamma(0.3, (1 - expressed) ** (-1 / 0.3) - 1, genes)
    rng = np.random.default_rng([1, seed])
    blocks = [sparse.csr_matrix(rng.poisson(rates, (1000, genes)).astype(np.float32)) for _ in range(-(-cells // 1000))]
    obs = pd.DataFrame(index=[f"cell{seed}_{i}" for i in range(cells)])
    ad.AnnData(sparse.vstack(blocks).tocsr()[:cells], obs=obs).write_h5ad(path)


class Rows(list):
    """Rows of a benchmark, printed and appended to a file of JSON lines as they are found; an interrupted one goes on.

    Args:
      path: the file; None to write none. What it has is read.
    """

    def __init__(self, path: Path | None):
        lines = path.read_text().splitlines() if path and path.exists() else []
        super().__init__(json.loads(line) for line in lines)
        self.path = path

    def has(self, **key: object) -> bool:
        """Whether a row says all this."""
        return any(all(row.get(name) == value for name, value in key.items()) for row in self)

    def keep(self, row: dict) -> None:
        """One row more."""
        self.append(row)
        print(json.dumps(row), flush=True)
        if self.path:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")


def forget_programs() -> None:
    """Those that were compiled, between models: of twenty they are more maps of memory than Linux allows a process."""
    jax.clear_caches()


def show(title: str, rows: list[dict[str, object]]) -> None:
    """Print rows as a Markdown table."""
    frame = pd.DataFrame(rows)
    shown = [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in row] for row in frame.itertuples(index=False)]
    print(f"\n{title}\n")
    print("| " + " | ".join(frame.columns) + " |")
    print("|" + "---|" * len(frame.columns))
    for row in shown:
        print("| " + " | ".join(row) + " |")
