"""Cells a second and peak memory of ingest, for each kind of file; and of several files at once, by number of processes.

    python tests/benchmarks/ingest.py [--cells 20000] [--genes 8000] [--jobs 2] [--only WORDS]

Every measurement is a fresh process (ingest_once.py), which imports before its clock starts; memory is the most that it
held resident, less what it held after imports; of several processes, that of the first, which commits. Each file has
the same cells; one is multimodal (RNA, ATAC, antibodies).
"""

import gzip
import json
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
    args = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(machine())
        files = write_files(Path(folder), args.cells, args.genes)
        rows = [measure(name, [path], Path(folder) / "corpus", 1) for name, path in files.items() if args.only in name]
        for jobs in (1, args.jobs):
            if args.only in (name := f"4 x h5ad, {jobs} process(es)"):
                rows.append(measure(name, several(files["h5ad, CSR"], Path(folder)), Path(folder) / "corpus", jobs))
        show("Ingest, each in a process of its own", rows)


def measure(name: str, paths: list[Path], out: Path, jobs: int) -> dict:
    """One ingest in a process of its own."""
    command = [sys.executable, Path(__file__).with_name("ingest_once.py"), str(jobs), out, *paths]
    said = json.loads(
        subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, check=True, text=True).stdout.splitlines()[-1]
    )
    subprocess.run(["rm", "-r", str(out)], check=True)
    size = sum(file.stat().st_size for path in paths for file in ([path] if path.is_file() else path.iterdir()))
    return {"input": name, "MB": size / 1e6, **said}


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
