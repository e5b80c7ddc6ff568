"""Cells a second and peak memory of ingest, for each kind of file; of several files at once; and beside annbatch.

    python tests/benchmarks/ingest.py [--cells 20000] [--genes 8000] [--jobs 2] [--only WORDS]
                                      [--peer-cells 50000] [--peer-genes 20000] [--rounds 3]

Every measurement is a fresh process (ingest_once.py), which imports before its clock starts; memory is the most that it
held resident, less what it held after imports; of several processes, that of the first, which commits. Each file has
the same cells; one is multimodal (RNA, ATAC, antibodies).

Where annbatch is installed (`pip install -e ".[bench]"`, Python 3.12) it converts the same h5ad file, uncompressed and
gzipped, in processes of its own (convert_annbatch.py), in turn with mofm; figures are medians of rounds, and the ratio is
to its fastest setting. It makes float32 shards of what it finds: no check of values, no identity of features, no digest,
no fsync. The last line is one JSON object; its rates are those of the gzipped file.
"""

import gzip
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import anndata as ad
import h5py
import mudata
import numpy as np
import pandas as pd
from common import machine, parser, show, write_cells
from scipy import sparse

from mofm.omics.genome import gene_table

PLAIN, GZIPPED = "beside annbatch, h5ad uncompressed", "beside annbatch, h5ad gzipped"
PEER_FILES = {PLAIN: None, GZIPPED: "gzip"}
PEAKS, ANTIBODIES, REGIONS, FRAGMENTS_A_CELL = 20_000, 100, 2_000, 500


def main() -> None:
    """Write the files, and time each."""
    arguments = parser(__doc__)
    arguments.add_argument("--cells", type=int, default=20_000)
    arguments.add_argument("--genes", type=int, default=8_000)
    arguments.add_argument("--jobs", type=int, default=2)
    arguments.add_argument(
        "--only", default="", metavar="WORDS", help="inputs whose name has these words (default: all)"
    )
    arguments.add_argument("--peer-cells", type=int, default=50_000)
    arguments.add_argument("--peer-genes", type=int, default=20_000)
    arguments.add_argument("--rounds", type=int, default=3)
    args = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(machine())
        files = write_files(Path(folder), args.cells, args.genes)
        rows = [measure(name, [path], Path(folder) / "corpus", 1) for name, path in files.items() if args.only in name]
        for jobs in (1, args.jobs):
            if args.only in (name := f"4 x h5ad, {jobs} process(es)"):
                rows.append(measure(name, several(files["h5ad, CSR"], Path(folder)), Path(folder) / "corpus", jobs))
        show("Ingest, each in a process of its own", rows)
        beside = {}
        for name, compression in PEER_FILES.items():
            if args.only in name:
                path = write_h5ad(Path(folder) / "peer.h5ad", args.peer_cells, args.peer_genes, compression)
                beside[name] = compare(path, Path(folder) / "out", args.rounds)
                title = f"{name}: {args.peer_cells:,} cells x {args.peer_genes:,} genes, {path.stat().st_size / 1e6:,.0f} MB"
                show(title, [{"conversion": key} | medians for key, medians in beside[name].items()])
        print(json.dumps(summary(rows, beside)))


def compare(path: Path, out: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Medians of what each way to convert a file measures, mofm's first, the ways in turn in each round."""
    here = Path(__file__)
    ways = {"mofm": [here.with_name("ingest_once.py"), "1"]}
    if all(importlib.util.find_spec(name) for name in ("annbatch", "zarrs")):
        from convert_annbatch import SETTINGS

        ways |= {f"annbatch: {setting}": [here.with_name("convert_annbatch.py"), setting] for setting in SETTINGS}
    else:
        print("not measured: annbatch (pip install -e '.[bench]', Python 3.12)")
    measured = [{name: converted(way, out, path) for name, way in ways.items()} for _ in range(rounds)]
    return {
        name: {key: float(np.median([one[name][key] for one in measured])) for key in measured[0][name]}
        for name in ways
    }


def summary(rows: list[dict], beside: dict[str, dict[str, dict]]) -> dict:
    """The figures that matter, for a program. None where annbatch was not measured."""
    found = {name: (each["mofm"], best_peer(each)) for name, each in beside.items()}
    ours, theirs = found.get(GZIPPED, (None, None))
    ratios = {name: one["cells/s"] / two["cells/s"] for name, (one, two) in found.items() if two}
    return {
        "ours_cells_per_s": ours and ours["cells/s"],
        "annbatch_cells_per_s": theirs and theirs["cells/s"],
        "ratio": ratios.get(GZIPPED),
        "ratio_uncompressed": ratios.get(PLAIN),
        "rss_gb": ours and ours["MB of memory"] / 1e3,
        "annbatch_rss_gb": theirs and theirs["MB of memory"] / 1e3,
        "readers": {row["input"]: {"cells_per_s": row["cells/s"], "mb": row["MB of memory"]} for row in rows},
    }


def best_peer(measured: dict[str, dict]) -> dict | None:
    """The fastest that is not mofm."""
    return max((one for name, one in measured.items() if name != "mofm"), key=lambda one: one["cells/s"], default=None)


def measure(name: str, paths: list[Path], out: Path, jobs: int) -> dict:
    """One ingest in a process of its own."""
    said = converted([Path(__file__).with_name("ingest_once.py"), str(jobs)], out, *paths)
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    return {"input": name, "MB": sum(file.stat().st_size for file in files) / 1e6, **said}


def converted(way: list, out: Path, *paths: Path) -> dict[str, float]:
    """What one conversion says of itself; what it wrote is deleted."""
    out = out.with_name("out.zarr")
    command = [str(word) for word in (sys.executable, *way, out, *paths)]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    if done.returncode:
        sys.exit(f"{way[-1]} failed:\n{done.stderr}")
    shutil.rmtree(out)
    return json.loads(done.stdout.splitlines()[-1])


def write_files(folder: Path, cells: int, genes: int) -> dict[str, Path]:
    """A file of each kind."""
    path = folder / "csr.h5ad"
    write_cells(path, cells, genes)
    rna = ad.read_h5ad(path)
    rna.obs_names = [f"{place:016d}-1" for place in range(cells)]
    rna.var_names = gene_table("human").gene_ids[:genes]
    rna.write_h5ad(path)
    rng = np.random.default_rng(0)
    atac = named(
        rna,
        random(cells, PEAKS, 0.03, rng),
        [f"chr{1 + i % 22}:{i * 5000 + 10}-{i * 5000 + 900}" for i in range(PEAKS)],
    )
    adt = named(rna, random(cells, ANTIBODIES, 0.8, rng), [f"antibody{i}" for i in range(ANTIBODIES)])
    files = {"h5ad, CSR": path}
    by_column = ad.AnnData(sparse.csc_matrix(rna.X), rna.obs, rna.var)
    files["zarr v3, CSR"] = folder / "csr.zarr"
    with ad.settings.override(zarr_write_format=3):
        rna.write_zarr(files["zarr v3, CSR"])
    for name, adata in {"h5ad, CSC": by_column, "h5ad, ATAC": atac}.items():
        files[name] = folder / f"{name.split()[-1]}.h5ad"
        adata.write_h5ad(files[name])
    files["h5ad, methylation fractions (dense)"] = folder / "methylation.h5ad"
    fractions = rng.integers(0, 11, (cells, REGIONS)).astype(np.float32) / 10
    fractions[rng.random(fractions.shape) < 0.5] = np.nan
    named(rna, fractions, atac.var_names[:REGIONS]).write_h5ad(files["h5ad, methylation fractions (dense)"])
    files["h5mu, RNA + ATAC + antibodies"] = folder / "all.h5mu"
    mudata.MuData({"rna": rna, "atac": atac, "adt": adt}).write_h5mu(files["h5mu, RNA + ATAC + antibodies"])
    files["10x HDF5"] = write_10x(folder / "tenx.h5", rna)
    files["10x mtx, gzipped"] = write_mtx(folder / "mtx", rna)
    files["fragments, gzipped"] = write_fragments(folder / "fragments.tsv.gz", rna.obs_names.to_numpy(), rng)
    return files


def write_h5ad(path: Path, cells: int, genes: int, compression: str | None) -> Path:
    """RNA of real genes, a tenth of them in a cell, as anndata writes it with that compression."""
    write_cells(path, cells, genes, expressed=0.1)
    adata = ad.read_h5ad(path)
    adata.var_names = gene_table("human").gene_ids[:genes]
    adata.write_h5ad(path, compression=compression)
    return path


def random(cells: int, features: int, density: float, rng: np.random.Generator) -> sparse.csr_matrix:
    """Counts of 1 to 3."""
    matrix = sparse.random(cells, features, density, "csr", np.float32, rng=rng)
    matrix.data = rng.integers(1, 4, matrix.nnz).astype(np.float32)
    return matrix


def named(rna: ad.AnnData, matrix, names) -> ad.AnnData:
    """Other features of the same cells."""
    return ad.AnnData(matrix, obs=rna.obs, var=pd.DataFrame(index=list(names)))


def write_10x(path: Path, rna: ad.AnnData) -> Path:
    """As Cell Ranger 3 and later."""
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"], group["shape"] = rna.obs_names.to_numpy().astype("S"), rna.shape[::-1]
        for key in ("data", "indices", "indptr"):
            group.create_dataset(
                key, data=getattr(rna.X, key).astype(np.int64 if key == "indptr" else np.int32), compression="gzip"
            )
        features = group.create_group("features")
        features["id"] = features["name"] = rna.var_names.to_numpy().astype("S")
        features["feature_type"] = np.array(["Gene Expression"] * rna.n_vars, "S")
    return path


def write_mtx(folder: Path, rna: ad.AnnData) -> Path:
    """As Cell Ranger 3 and later."""
    folder.mkdir()
    matrix = rna.X.tocoo()
    with gzip.open(folder / "matrix.mtx.gz", "wt", compresslevel=1) as file:
        file.write(f"%%MatrixMarket matrix coordinate integer general\n{rna.n_vars} {rna.n_obs} {matrix.nnz}\n")
        columns = {0: matrix.col + 1, 1: matrix.row + 1, 2: matrix.data.astype(np.int64)}
        pd.DataFrame(columns).to_csv(file, sep=" ", header=False, index=False)
    for name, names in (("features", rna.var_names), ("barcodes", rna.obs_names)):
        with gzip.open(folder / f"{name}.tsv.gz", "wt") as file:
            file.write("".join(f"{one}\n" for one in names))
    return folder


def write_fragments(path: Path, cells: np.ndarray, rng: np.random.Generator) -> Path:
    """Sorted, half of them in 50,000 places that all cells share."""
    number = len(cells) * FRAGMENTS_A_CELL
    place = np.where(
        rng.random(number) < 0.5, rng.integers(0, 50_000, number) * 60_000, rng.integers(0, 3_000_000_000, number)
    )
    place = np.sort(place + rng.integers(0, 500, number))
    start = place % 150_000_000
    table = pd.DataFrame({"chrom": pd.Categorical.from_codes(place // 150_000_000, [f"chr{i:02d}" for i in range(21)])})
    table["start"], table["end"] = start, start + rng.integers(30, 600, number)
    table["barcode"], table["count"] = rng.choice(cells, number), 1
    with gzip.open(path, "wt", compresslevel=1) as file:
        table.to_csv(file, sep="\t", header=False, index=False)
    return path


def several(path: Path, folder: Path) -> list[Path]:
    """Four files of other bytes and the same size."""
    copies = []
    for number in range(4):
        adata = ad.read_h5ad(path)
        adata.obs["copy"] = number
        copies.append(folder / f"copy{number}.h5ad")
        adata.write_h5ad(copies[-1])
    return copies


if __name__ == "__main__":
    main()
