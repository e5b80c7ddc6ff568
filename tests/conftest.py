"""Eight fake devices for every test that imports jax, the folder of real data sets, and one tiny trained model."""

import ctypes
import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from jaxlib.version import __version_info__ as JAXLIB

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# No compilation cache: a CPU program that comes out of it has lost the order of its collectives, and on eight devices it hangs
# until XLA aborts the process.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
# Tests compile far longer than they compute: what the compiler does to make programs fast is left out.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
KNOWN_FLAGS = (
    "--xla_cpu_use_fusion_emitters=false",  # a train step compiles in half the time
    # Eight devices of two busy cores can wait for one another longer than the 40 s after which XLA aborts the process.
    "--xla_cpu_collective_call_terminate_timeout_seconds=600",
)
for flag in KNOWN_FLAGS if JAXLIB[:2] == (0, 10) else ():  # a version that does not know a flag ends the process
    if flag.split("=")[0] not in os.environ["XLA_FLAGS"]:
        os.environ["XLA_FLAGS"] += f" {flag}"


LONGEST_FIRST = (
    "test_evaluate.py",
    "test_network.py",
    "test_resume.py",
    "test_rollback.py",
)
"""Files that take minutes: begun first, so that no worker is left alone with one at the end."""


def pytest_addoption(parser):
    """`--all`."""
    parser.addoption(
        "--all", action="store_true", help="the tests marked slow too: more than half an hour more on two cores"
    )


def pytest_collection_modifyitems(config, items):
    """Leaves out what is marked slow, and says so; sorts the longest files to the front."""
    if not config.getoption("--all"):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("slow")])
        items[:] = [item for item in items if not item.get_closest_marker("slow")]
    place = {name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


def pytest_runtest_logreport(report):
    """Names what failed, or the test in which a worker died, at once: a session that is stopped prints no summary."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        print(f"\nFAILED {report.nodeid}\n{report.longreprtext[-2000:]}", flush=True)


MOST_MAPS = 10_000
"""Memory maps of a process after which it forgets its compiled programs: each has some sixty, and Linux allows 65,530."""


@pytest.fixture(scope="module", autouse=True)
def room_for_programs():
    """After a file of tests: a worker that has compiled thousands of programs would hold gigabytes, and the next compilation
    would end it with a segmentation fault."""
    yield
    maps = Path("/proc/self/maps")
    if "jax" in sys.modules and maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        sys.modules["jax"].clear_caches()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture
def real_data():
    """A function (file name) -> path in MOFM_DATA; skips the test, by name, where the file is absent."""

    def path(name: str) -> Path:
        folder = os.environ.get("MOFM_DATA")
        if not folder or not (Path(folder) / name).exists():
            pytest.skip(f"real data set {name} is not there: set MOFM_DATA to the folder that holds it")
        return Path(folder) / name

    return path


@pytest.fixture
def make_view():
    """A function (cells, tokens, genes, seed) -> TokenBatch of random counts, the last tokens of odd cells padding."""
    from mofm.batch import LIBRARY_SCALE, TokenBatch

    def view(cells: int = 4, tokens: int = 12, genes: int = 40, seed: int = 0) -> TokenBatch:
        rng = np.random.default_rng(seed)
        features_BL = np.stack([rng.permutation(genes)[:tokens] for _ in range(cells)]).astype(np.int32)
        counts_BL = rng.poisson(2.0, (cells, tokens)).astype(np.float32)
        mask_BL = np.ones((cells, tokens), bool)
        mask_BL[1::2, -3:] = False
        library_B = (counts_BL.sum(axis=1) * 3 + 50).astype(np.float32)
        values_BL = np.log1p(counts_BL / library_B[:, None] * LIBRARY_SCALE).astype(np.float32)
        features_BL, counts_BL, values_BL = features_BL * mask_BL, counts_BL * mask_BL, values_BL * mask_BL
        ids_B = np.arange(cells, dtype=np.int32)
        return TokenBatch(features_BL, values_BL, counts_BL, mask_BL, library_B, ids_B, np.zeros_like(ids_B))

    return view


@pytest.fixture(scope="session")
def make_cells():
    """A function (cells, seed, genes) -> AnnData of raw counts of real human genes.

    Names are symbols, ids are in var["gene_ids"]. Two cell types in two batches.
    """
    import anndata as ad
    from scipy import sparse

    from mofm.omics.genome import gene_table

    table = gene_table("human")
    frame = table.frame[table.frame["biotype"] == "protein_coding"]
    frame = frame[~frame["symbol"].isin(table.ambiguous_symbols) & (frame["symbol"] != frame["gene_id"])]

    def cells(cells: int = 60, seed: int = 0, genes: slice = slice(0, 300)) -> ad.AnnData:
        chosen = frame.iloc[::50].iloc[genes]
        rng = np.random.default_rng(seed)
        rates_TG = np.random.default_rng(99).gamma(0.3, 1.0, (2, len(chosen)))
        types = rng.integers(0, 2, cells)
        counts = rng.poisson(rates_TG[types] * rng.lognormal(0, 0.3, (cells, 1))).astype(np.float32)
        counts[0] += 1
        adata = ad.AnnData(sparse.csr_matrix(counts))
        adata.obs_names = [f"cell{i}" for i in range(cells)]
        adata.var_names = chosen["symbol"].tolist()
        adata.var["gene_ids"] = chosen["gene_id"].tolist()
        adata.obs["cell_type"] = np.array(["a", "b"])[types]
        adata.obs["batch"] = np.array(["one", "two"])[rng.integers(0, 2, cells)]
        return adata

    return cells


class Trained(NamedTuple):
    """One tiny trained model: its file of cells, its corpus, its config, and the run's directory."""

    source: Path
    corpus: Path
    config: "Config"  # noqa: F821
    workdir: Path


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """A function (name, fill) -> folder that `fill` (a function of the folder) filled: once a session, not once a worker."""
    import fcntl

    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def made(name: str, fill: Callable[[Path], None]) -> Path:
        folder, done = root / name, root / f"{name}.done"
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def trained(make_cells, made_once) -> Trained:
    """A model of width 16 trained for 6 steps on 96 cells of 300 genes. Leave its files as they are."""
    from mofm.corpus.ingest import ingest
    from mofm.training.config import build_config
    from mofm.training.loop import train

    def config_of(folder: Path):
        data = {"corpus": str(folder / "corpus"), "batch_size": 16, "tokens": 64, "block_cells": 8, "window_blocks": 4}
        encoder = {"width": 16, "blocks": 1, "heads": 2, "ffn": 24, "cell_width": 8, "bins": 6}
        encoder["compute_dtype"] = "float32"
        run = {"steps": 6, "log_every": 1, "eval_every": 3, "eval_cells": 8, "checkpoint_every": 3}
        optimizer = {"learning_rate": 1e-2, "warmup_steps": 2}
        return build_config({"data": data, "encoder": encoder, "run": run, "optimizer": optimizer})

    def fill(folder: Path):
        make_cells(96).write_h5ad(folder / "cells.h5ad")
        ingest([folder / "cells.h5ad"], folder / "corpus")
        train(config_of(folder), folder / "run", quiet=True)

    folder = made_once("trained", fill)
    return Trained(folder / "cells.h5ad", folder / "corpus", config_of(folder), folder / "run")


@pytest.fixture
def snapshot():
    """A function (folder) -> {path: bytes, or None for a folder} of all below it, to see that nothing was written."""

    def everything(folder: Path) -> dict[Path, bytes | None]:
        return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}

    return everything


class Soma(NamedTuple):
    """What a TileDB-SOMA experiment is made of.

    Attributes:
      obs: one row a cell, without soma_joinid; text becomes categorical, as in the Census, but for obs_id.
      var: one row a gene.
      layers: dense counts of each layer of X; cells x genes.
      presence: bool, datasets in the order of their names x genes; None for an experiment that is not in a Census.
      organism, build: of the Census.
      ids: of the cells; 0, 1, 2 ... where None.
    """

    obs: "pd.DataFrame"  # noqa: F821
    var: "pd.DataFrame"  # noqa: F821
    layers: dict[str, np.ndarray]
    presence: np.ndarray | None = None
    organism: str = "homo_sapiens"
    build: str = "2025-01-30"
    ids: np.ndarray | None = None


@pytest.fixture(scope="session")
def write_soma():
    """A function (folder, Soma) -> folder of a Census, or of an experiment alone, written by tiledbsoma."""
    soma = pytest.importorskip("tiledbsoma", reason="tiledbsoma is not installed")
    import pandas as pd
    import pyarrow as pa

    def table_of(frame: pd.DataFrame, ids: np.ndarray) -> pa.Table:
        columns = {"soma_joinid": pa.array(ids, pa.int64())}
        for name, values in frame.items():
            if isinstance(values.dtype, pd.CategoricalDtype):
                codes = pa.array(values.cat.codes.to_numpy(np.int32))
                columns[name] = pa.DictionaryArray.from_arrays(
                    codes, pa.array(list(values.cat.categories), pa.large_string())
                )
            else:
                columns[name] = pa.array(values.to_list(), pa.large_string() if values.dtype == object else None)
        return pa.table(columns)

    def entries_of(rows, columns, values) -> pa.Table:
        return pa.table({"soma_dim_0": rows, "soma_dim_1": columns, "soma_data": values})

    def add_table(place, key: str, table: pa.Table) -> tuple[str, pa.Table]:
        last = int(table["soma_joinid"].to_numpy().max())
        with place.add_new_dataframe(
            key, schema=table.schema, index_column_names=["soma_joinid"], domain=[[0, last]]
        ) as made:
            return made.uri, table

    def add_matrix(place, key: str, entries: pa.Table, shape) -> tuple[str, pa.Table]:
        with place.add_new_sparse_ndarray(key, type=entries.schema.field("soma_data").type, shape=shape) as made:
            return made.uri, entries

    def fill(experiment, given: Soma) -> list[tuple[str, pa.Table]]:
        ids = np.arange(len(given.obs)) if given.ids is None else given.ids
        written = [add_table(experiment, "obs", table_of(given.obs, ids))]
        rna = experiment.add_new_collection("ms").add_new_collection("RNA", soma.Measurement)
        written.append(add_table(rna, "var", table_of(given.var, np.arange(len(given.var)))))
        layers = rna.add_new_collection("X")
        for name, counts in given.layers.items():
            rows, columns = np.nonzero(counts)
            entries = entries_of(ids[rows], columns, counts[rows, columns].astype(np.float32))
            written.append(add_matrix(layers, name, entries, (int(ids.max()) + 1, len(given.var))))
        return written

    def write(folder: Path, given: Soma) -> Path:
        if given.presence is None:
            with soma.Experiment.create(str(folder)) as experiment:
                written = fill(experiment, given)
        else:
            with soma.Collection.create(str(folder)) as root:
                info, data = root.add_new_collection("census_info"), root.add_new_collection("census_data")
                names = sorted(given.obs["dataset_id"].unique())
                numbers = 3 + 2 * np.arange(len(names))  # a dataset's number is not its place among the names
                about = {"dataset_id": names, "dataset_title": [f"Title of {name}" for name in names]}
                told = {"label": ["census_schema_version", "census_build_date"], "value": ["2.1.0", given.build]}
                written = [
                    add_table(info, "datasets", table_of(pd.DataFrame(about, dtype=object), numbers)),
                    add_table(info, "summary", table_of(pd.DataFrame(told, dtype=object), np.arange(2))),
                ]
                experiment = data.add_new_collection(given.organism, soma.Experiment)
                written += fill(experiment, given)
                rows, columns = np.nonzero(given.presence)
                entries = entries_of(numbers[rows], columns, np.ones(len(rows), bool))
                shape = (int(numbers.max()) + 1, len(given.var))
                written.append(add_matrix(experiment.ms["RNA"], "feature_dataset_presence_matrix", entries, shape))
        # Values of categorical columns are kept only where the table was opened after it was made.
        for uri, table in written:
            with soma.open(uri, "w") as opened:
                opened.write(table)
        return folder

    return write


@pytest.fixture
def census() -> Soma:
    """60 cells of three datasets and 40 genes; two measure not all of them, and some cells are no primary data.

    Cells of the datasets lie among each other, and their ids leave gaps.
    """
    import pandas as pd

    from mofm.omics.genome import gene_table

    rng = np.random.default_rng(0)
    presence = np.ones((3, 40), bool)
    presence[1, 30:], presence[2, :5] = False, False
    which = np.r_[np.repeat([0, 1, 2], 16), rng.integers(0, 3, 12)]
    counts = (rng.poisson(2.0, (60, 40)) * (rng.random((60, 40)) < 0.5)) * presence[which]
    counts[5], counts[7, 10] = 0, 70_000
    obs = pd.DataFrame(
        {
            "dataset_id": pd.Categorical(np.array(["ds-a", "ds-b", "ds-c"])[which]),
            "cell_type": pd.Categorical(rng.choice(["T cell", "B cell"], 60)),
            "tissue": pd.Categorical(rng.choice(["lung", "blood"], 60)),
            "disease": pd.Categorical(rng.choice(["normal", "asthma"], 60)),
            "is_primary_data": rng.random(60) < 0.8,
            "nnz": (counts > 0).sum(axis=1),
        }
    )
    genes = gene_table("human")
    var = pd.DataFrame(
        {"feature_id": genes.gene_ids[100:140], "feature_name": [f"name{i}" for i in range(40)]}, dtype=object
    )
    ids = np.sort(rng.choice(400, 60, replace=False))
    return Soma(obs, var, {"raw": counts}, presence, ids=ids)
