"""Files as instruments and their software lay them out, written by hand; what is in them is known."""

import dataclasses
import functools
import gzip
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from mofm.omics.genome import gene_table
from mofm.omics.simulate import AdtConfig, AtacConfig, MultiomicsConfig, SimulationConfig, simulate, simulate_multiomics
from mofm.omics.table import CountTable

BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


class Tenx(NamedTuple):
    """A matrix as Cell Ranger has it: dense counts (cells x features), barcodes, and features.tsv's columns."""

    counts: np.ndarray
    barcodes: list[str]
    ids: list[str]
    names: list[str]
    kinds: list[str]

    def of(self, kind: str) -> np.ndarray:
        """The counts of the features of one type."""
        return self.counts[:, np.array(self.kinds) == kind]


@pytest.fixture(scope="session")
def barcodes():
    """A function (number, seed) -> distinct barcodes with the suffix -1."""

    def draw(number: int, seed: int = 0) -> list[str]:
        rng = np.random.default_rng(seed)
        return [f"{''.join(letters)}-1" for letters in rng.choice(list("ACGT"), (number, 16))]

    return draw


@pytest.fixture
def tenx(barcodes) -> Tenx:
    """A multiome with antibodies, a hashtag among them, and guides: 40 cells, one of them empty."""
    rng = np.random.default_rng(0)
    genes = gene_table("human").frame.iloc[100:400:10]
    peaks = [f"chr{1 + i % 3}:{1000 * i + 500}-{1000 * i + 1400}" for i in range(25)]
    adt = ["CD3", "CD4", "CD8a", "CD19", "Hashtag_1"]
    ids = [*genes["gene_id"], *peaks, *adt, "guide1", "guide2"]
    names = [
        *genes["symbol"],
        *peaks,
        "CD3_TotalSeqB",
        "CD4_TotalSeqB",
        "CD8a_TotalSeqB",
        "CD19_TotalSeqB",
        "Hashtag_1",
    ]
    names += ["guide1", "guide2"]
    kinds = ["Gene Expression"] * 30 + ["Peaks"] * 25 + ["Antibody Capture"] * 5 + ["CRISPR Guide Capture"] * 2
    counts = rng.poisson(1.5, (40, len(ids))) * (rng.random((40, len(ids))) < 0.4)
    counts[7], counts[3, 1] = 0, 700
    counts[:, 57] += 1
    counts[7, 57] = 0
    return Tenx(counts, barcodes(40), ids, names, kinds)


@pytest.fixture(scope="session")
def write_10x_h5():
    """A function (path, Tenx, version of Cell Ranger's layout) -> path."""

    def write(path: Path, tenx: Tenx, version: int = 3) -> Path:
        by_barcode = scipy.sparse.csc_matrix(tenx.counts.T.astype(np.int32))
        text = lambda values: np.array(values, dtype="S")  # noqa: E731
        with h5py.File(path, "w") as file:
            group = file.create_group("matrix" if version > 2 else "GRCh38")
            group["barcodes"] = text(tenx.barcodes)
            for key in ("data", "indices", "indptr"):
                group.create_dataset(key, data=getattr(by_barcode, key).astype(np.int64), compression="gzip")
            group["shape"] = np.array(by_barcode.shape, np.int32)
            if version > 2:
                features = group.create_group("features")
                features["id"], features["name"] = text(tenx.ids), text(tenx.names)
                features["feature_type"] = text(tenx.kinds)
                features["genome"] = text(["GRCh38"] * len(tenx.ids))
                features["_all_tag_keys"] = text(["genome", "interval"])
            else:
                group["genes"], group["gene_names"] = text(tenx.ids), text(tenx.names)
        return path

    return write


@pytest.fixture(scope="session")
def write_mtx():
    """A function (folder, Tenx, order of the entries, zipped, version) -> folder of matrix, features and barcodes."""

    def write(folder: Path, tenx: Tenx, order: str = "cell", zipped: bool = True, version: int = 3) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        cells, features = np.nonzero(tenx.counts)
        by = {"cell": np.lexsort((features, cells)), "feature": np.lexsort((cells, features))}
        by["any"] = np.random.default_rng(1).permutation(len(cells))
        lines = ["%%MatrixMarket matrix coordinate integer general", '%metadata_json: {"software_version": "7.1.0"}']
        lines.append(f"{tenx.counts.shape[1]} {tenx.counts.shape[0]} {len(cells)}")
        lines += [f"{features[i] + 1} {cells[i] + 1} {tenx.counts[cells[i], features[i]]}" for i in by[order]]
        columns = zip(tenx.ids, tenx.names, tenx.kinds, strict=True)
        names = ["\t".join(row[: 3 if version > 2 else 2]) for row in columns]
        files = {"matrix.mtx": lines, "features.tsv" if version > 2 else "genes.tsv": names}
        for name, content in {**files, "barcodes.tsv": tenx.barcodes}.items():
            text = "\n".join(content) + "\n"
            if zipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
            else:
                (folder / name).write_text(text)
        return folder

    return write


def bgzip(text: str) -> bytes:
    """Text as bgzip compresses it: gzip members of known size, and an empty one at the end."""
    blocks = []
    for start in range(0, len(text), 60_000):
        part = text[start : start + 60_000].encode()
        deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
        body = deflate.compress(part) + deflate.flush()
        head = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x06\0BC\x02\0" + struct.pack("<H", len(body) + 25)
        blocks.append(head + body + struct.pack("<II", zlib.crc32(part), len(part)))
    return b"".join(blocks) + BGZF_END


@pytest.fixture(scope="session")
def draw_fragments():
    """A function (barcodes, number, seed) -> sorted fragments: a table of chrom, start, end, barcode, count."""

    def draw(barcodes: list[str], number: int = 6_000, seed: int = 0) -> pd.DataFrame:
        rng = np.random.default_rng(seed)
        chrom = np.sort(rng.choice(["chr1", "chr2", "chrM"], number, p=[0.5, 0.4, 0.1]))
        start = rng.integers(0, 100_000, number)
        start, end = start, start + rng.integers(30, 900, number)
        barcode = rng.choice(barcodes, number)
        table = pd.DataFrame({"chrom": chrom, "start": start, "end": end, "barcode": barcode, "count": 1})
        return table.sort_values(["chrom", "start", "end"], kind="stable", ignore_index=True)

    return draw


@pytest.fixture(scope="session")
def write_fragments():
    """A function (path, table, bgzipped) -> path, with the comments that Cell Ranger writes on top."""

    def write(path: Path, table: pd.DataFrame, bgzipped: bool = True) -> Path:
        text = "# id=sample\n# pipeline_name=cellranger-arc\n# primary_contig=chr1\n"
        text += table.to_csv(sep="\t", header=False, index=False)
        path.write_bytes(bgzip(text) if bgzipped else text.encode())
        return path

    return write


@pytest.fixture(scope="session")
def dense_rows():
    """A function (table, block_entries) -> (all counts dense, all hits dense or None); what rows promise is asserted."""

    def read(table: CountTable, block_entries: int = 4_000_000) -> tuple[np.ndarray, np.ndarray | None]:
        counts, hits = [], []
        for rows in table.rows(block_entries):
            assert rows.indptr_N[0] == 0
            assert rows.indptr_N[-1] == len(rows.indices) == len(rows.data)
            assert (rows.data > 0).all()
            row = np.repeat(np.arange(rows.n_cells), np.diff(rows.indptr_N))
            assert (np.diff(row * 2**32 + rows.indices) > 0).all()
            dense = np.zeros((2, rows.n_cells, table.n_features), np.int64)
            dense[0][row, rows.indices] = rows.data
            if rows.hits is not None:
                assert rows.hits.shape == rows.data.shape
                assert (rows.hits <= rows.data).all()
                dense[1][row, rows.indices] = rows.hits
            counts.append(dense[0])
            hits.append(dense[1] if rows.hits is not None else None)
        counts = np.concatenate(counts)
        assert counts.shape == (table.n_cells, table.n_features)
        assert table.n_empty == (counts.sum(axis=1) == 0).sum()
        return counts, None if hits[0] is None else np.concatenate(hits)

    return read


@pytest.fixture(scope="session")
def small() -> SimulationConfig:
    """Two lineages of two types: the smallest network with both kinds of switches."""
    return SimulationConfig(cells=400, genes=200, tfs=20, cell_types=4, types_per_lineage=2)


@pytest.fixture(scope="session")
def varied(small):
    """A function (changes to the small config) -> its simulation. Leave it as it is: the next test gets it too."""
    simulated = functools.cache(simulate)

    def vary(**changes) -> anndata.AnnData:
        return simulated(dataclasses.replace(small, **changes))

    return vary


@pytest.fixture(scope="session")
def multiomics_config(small) -> MultiomicsConfig:
    """The small config with two donors and a path, in all four omics."""
    cells = dataclasses.replace(small, donors=2, path_types=3, batch_effect=0.1)
    return MultiomicsConfig(cells, AtacConfig(background_peaks=100), AdtConfig(antibodies=20))


@pytest.fixture(scope="session")
def multiomics(multiomics_config) -> dict[str, anndata.AnnData]:
    """The four omics of `multiomics_config`. Leave them as they are."""
    return simulate_multiomics(multiomics_config)
