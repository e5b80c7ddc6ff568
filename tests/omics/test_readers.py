"""Whatever h5ad file holds the counts, the same counts come out; or one line says why not."""

import json
import os
import tracemalloc
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from mofm.errors import InputError
from mofm.omics.describe import describe
from mofm.omics.readers import open_h5ad

N_CELLS, N_GENES = 83, 41
DATA = os.environ.get("MOFM_DATA")


def random_counts(n_cells=N_CELLS, n_genes=N_GENES, seed=0, density=0.3) -> np.ndarray:
    """Dense counts with an empty cell, an empty gene, a full cell and a count of 300."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(2.0, (n_cells, n_genes)) * (rng.random((n_cells, n_genes)) < density)
    counts[5], counts[7], counts[9, 0] = 0, 1 + counts[7], 300
    counts[:, 3] = 0
    return counts


def tables(n_cells: int, n_genes: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    obs = pd.DataFrame({"score": np.full(n_cells, np.nan)}, index=[f"cell-{i}" for i in range(n_cells)])
    return obs, pd.DataFrame(index=[f"feature-{i}" for i in range(n_genes)])


def write(path: Path, matrix, place: str = "X", **kwargs) -> Path:
    """An h5ad with `matrix` in `place`; where that is not X, X is scaled."""
    obs, var = tables(*matrix.shape)
    scaled = np.random.default_rng(1).normal(size=matrix.shape).astype(np.float32)
    adata = ad.AnnData(matrix if place == "X" else scaled, obs, var)
    if place == "raw/X":
        adata.raw = ad.AnnData(matrix, obs, var.rename(index=lambda name: f"raw-{name}"))
    elif place != "X":
        adata.layers[place.removeprefix("layers/")] = matrix
    adata.write_h5ad(path, **kwargs)
    return path


def read(path: Path, block_entries: int = 4_000_000, **kwargs) -> tuple[np.ndarray, int]:
    """All counts as a dense array, and the number of blocks; what `CountRows` promises is asserted on the way."""
    with open_h5ad(path, **kwargs) as table:
        blocks = []
        for rows in table.rows(block_entries):
            assert rows.indptr_N.dtype == np.int64
            assert rows.indptr_N[0] == 0
            assert rows.indptr_N[-1] == len(rows.indices) == len(rows.data)
            largest = int(rows.data.max(initial=0))
            assert rows.data.dtype == (np.uint8 if largest < 256 else np.uint16 if largest < 65536 else np.uint32)
            assert (rows.data > 0).all()
            for start, stop in zip(rows.indptr_N[:-1], rows.indptr_N[1:], strict=True):
                assert (np.diff(rows.indices[start:stop].astype(np.int64)) > 0).all()
            shape = (rows.n_cells, table.n_features)
            blocks.append(scipy.sparse.csr_array((rows.data.astype(np.int64), rows.indices, rows.indptr_N), shape))
        dense = scipy.sparse.vstack(blocks).toarray()
        assert dense.shape == (table.n_cells, table.n_features)
        assert table.n_empty == (dense.sum(1) == 0).sum()
        return dense, len(blocks)


def refusal(path: Path, **kwargs) -> str:
    """The one line that refuses the file, by whichever step meets the fault."""
    with pytest.raises(InputError) as caught:
        read(path, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def messy(counts: np.ndarray, dtype) -> scipy.sparse.csr_matrix:
    """The same counts as a CSR with explicit zeros, unsorted indices and every count of 300 in three parts."""
    rng = np.random.default_rng(2)
    indptr, indices, data = [0], [], []
    for row in counts:
        entries = [(column, value) for column, value in enumerate(row) if value or rng.random() < 0.1]
        entries = [part for c, v in entries for part in ([(c, 100)] * 3 if v == 300 else [(c, v)])]
        rng.shuffle(entries)
        indices += [column for column, _ in entries]
        data += [value for _, value in entries]
        indptr.append(len(indices))
    return scipy.sparse.csr_matrix((np.array(data, dtype), indices, indptr), counts.shape)


LAYOUTS = {
    "csr": scipy.sparse.csr_matrix,
    "csc": scipy.sparse.csc_matrix,
    "dense": np.asarray,
}


@pytest.mark.parametrize("block_entries", [1, 50, 4_000_000])
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8])
@pytest.mark.parametrize("place", ["X", "layers/counts", "raw/X"])
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_counts_are_read_whatever_the_layout(tmp_path, layout, place, dtype, block_entries):
    counts = random_counts()
    if dtype == np.uint8:
        counts = np.minimum(counts, 255)
    path = write(tmp_path / "a.h5ad", LAYOUTS[layout](counts.astype(dtype)), place)
    dense, n_blocks = read(path, block_entries)
    np.testing.assert_array_equal(dense, counts)
    assert (n_blocks > 1) == (block_entries < counts.size)
    with open_h5ad(path) as table:
        assert (table.counts_from, table.layout, table.recovered) == (place, layout, False)
        assert table.var.index[0] == ("raw-feature-0" if place == "raw/X" else "feature-0")
        assert table.modality == "rna"


@pytest.mark.parametrize("block_entries", [1, 7, 100, 4_000_000])
@pytest.mark.parametrize("layout", ["csr", "csc"])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_messy_sparse_matrices_come_out_canonical(tmp_path, layout, dtype, block_entries):
    counts = random_counts()
    if layout == "csr":
        matrix = messy(counts, dtype)
    else:
        turned = messy(counts.T, dtype)
        matrix = scipy.sparse.csc_matrix((turned.data, turned.indices, turned.indptr), counts.shape)
    path = write(tmp_path / "a.h5ad", scipy.sparse.csr_matrix(counts))
    write_sparse(path, matrix)
    dense, _ = read(path, block_entries)
    np.testing.assert_array_equal(dense, counts)


def write_sparse(path: Path, matrix) -> None:
    """Puts a matrix in X with its arrays just as they are: anndata would refuse or tidy some."""
    with h5py.File(path, "r+") as file:
        attrs = dict(file["X"].attrs) | {"encoding-type": f"{matrix.format}_matrix"}
        del file["X"]
        group = file.create_group("X")
        group.attrs.update(attrs)
        for key in ("data", "indices", "indptr"):
            group[key] = getattr(matrix, key)


@pytest.mark.parametrize("chunks", [(4, 5), (83, 41), (1, 41), (83, 1)])
@pytest.mark.parametrize("block_entries", [41, 41 * 6, 41 * 10])
def test_dense_chunks_of_any_shape(tmp_path, chunks, block_entries):
    counts = random_counts()
    path = write(tmp_path / "a.h5ad", counts.astype(np.float32))
    with h5py.File(path, "r+") as file:
        attrs = dict(file["X"].attrs)
        del file["X"]
        file.create_dataset("X", data=counts, chunks=chunks, compression="gzip").attrs.update(attrs)
    np.testing.assert_array_equal(read(path, block_entries)[0], counts)


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_memory_does_not_follow_the_file(tmp_path, layout):
    block_entries = 20_000
    peaks = []
    for n_cells in (1_000, 8_000):
        counts = np.random.default_rng(0).poisson(1.0, (n_cells, 100)).astype(np.float32)
        path = write(tmp_path / f"{n_cells}.h5ad", LAYOUTS[layout](counts))
        with open_h5ad(path) as table:
            tracemalloc.start()
            total = sum(int(rows.data.sum()) for rows in table.rows(block_entries))
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert total == counts.sum()
        whole = counts.nbytes
    # CSC holds 16 bytes a cell, nothing else may grow.
    assert peaks[1] < 1.5 * peaks[0] + 16 * 8_000
    assert peaks[1] < 100 * block_entries + 16 * 8_000 < whole


def test_scratch_is_deleted(tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    path = write(tmp_path / "a.h5ad", scipy.sparse.csc_matrix(random_counts().astype(np.float32)))
    read(path, 10)
    assert list(scratch.iterdir()) == []


def test_full_scratch_folder_is_told(tmp_path, monkeypatch):
    path = write(tmp_path / "a.h5ad", scipy.sparse.csc_matrix(random_counts().astype(np.float32)))
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10})())
    assert "TMPDIR" in refusal(path)


def test_rows_may_be_read_again(tmp_path):
    path = write(tmp_path / "a.h5ad", scipy.sparse.csc_matrix(random_counts().astype(np.float32)))
    with open_h5ad(path) as table:
        first, again, other = [[rows.data.sum() for rows in table.rows(size)] for size in (100, 100, 10**6)]
    assert first == again
    assert sum(first) == sum(other) == random_counts().sum()


# --- which matrix ---


def test_a_usual_layer_goes_before_raw_and_x(tmp_path):
    counts = random_counts()
    obs, var = tables(*counts.shape)
    adata = ad.AnnData(3 * counts.astype(np.float32), obs, var)
    adata.raw = ad.AnnData(2 * counts.astype(np.float32), obs, var)
    adata.layers["other"] = 5 * counts.astype(np.float32)
    adata.write_h5ad(tmp_path / "raw.h5ad")
    np.testing.assert_array_equal(read(tmp_path / "raw.h5ad")[0], 2 * counts)
    adata.layers["counts"] = counts.astype(np.float32)
    adata.write_h5ad(tmp_path / "all.h5ad")
    for name, factor in {None: 1, "layers/counts": 1, "raw/X": 2, "X": 3, "layers/other": 5}.items():
        np.testing.assert_array_equal(read(tmp_path / "all.h5ad", counts_from=name)[0], factor * counts)
    line = refusal(tmp_path / "all.h5ad", counts_from="layers/count")
    assert "Did you mean 'layers/counts'?" in line
    assert "raw/X, X, layers/other" in line


def test_an_unusual_layer_is_suggested_not_taken(tmp_path):
    path = write(tmp_path / "a.h5ad", random_counts().astype(np.float32), "layers/spliced")
    assert "--counts-from layers/spliced" in refusal(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: np.log1p(x / x.sum(1, keepdims=True).clip(1) * 1e4), ["log-normalised", "--recover-counts"]),
        (lambda x: (x - x.mean(0)) / (x.std(0) + 1), ["scaled", "--counts-from"]),
        (lambda x: x * 12.3, ["normalised or corrected"]),
        (lambda x: -x, ["negative"]),
        (lambda x: np.where(x == 300, np.nan, x), ["NaN"]),
        (lambda x: np.where(x == 300, np.inf, x), ["infinite"]),
        (lambda x: 0 * x, ["all zeros"]),
    ],
)
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_what_is_not_counts_is_refused_and_described(tmp_path, layout, change, words):
    path = write(tmp_path / "a.h5ad", LAYOUTS[layout](change(random_counts().astype(np.float64)).astype(np.float32)))
    line = refusal(path)
    for word in [str(path), "X is", *words]:
        assert word in line
    report = json.loads(json.dumps(describe(path)))
    assert not report["usable"]
    assert report["why"] == line


@pytest.mark.parametrize("bad", [-1.0, 0.5, np.nan, np.inf, 2.0**33])
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_one_bad_value_that_no_sample_sees_is_found_and_named(tmp_path, monkeypatch, layout, bad):
    monkeypatch.setattr("mofm.omics.matrices._SAMPLE_PLACES", 2)
    monkeypatch.setattr("mofm.omics.matrices._SAMPLE_ENTRIES", 41)
    counts = random_counts().astype(np.float64)
    counts[40, 20] = bad
    path = write(tmp_path / "a.h5ad", LAYOUTS[layout](counts))
    line = refusal(path, block_entries=100)
    assert "'cell-40' (row 40)" in line
    assert "'feature-20'" in line


def test_explicit_zeros_alone_are_all_zeros(tmp_path):
    matrix = scipy.sparse.csr_matrix(random_counts().astype(np.float32))
    matrix.data[:] = 0
    path = write(tmp_path / "a.h5ad", scipy.sparse.csr_matrix((3, 3), dtype=np.float32))
    write_sparse_with_shape(path, matrix)
    assert "all zeros" in refusal(path)


def write_sparse_with_shape(path: Path, matrix) -> None:
    write(path, scipy.sparse.csr_matrix(matrix.shape, dtype=np.float32))
    write_sparse(path, matrix)


# --- recovery ---


def log_normalised(counts: np.ndarray) -> np.ndarray:
    return np.log1p(counts / counts.sum(1, keepdims=True).clip(1) * 1e4).astype(np.float32)


def counts_with_ones() -> np.ndarray:
    """As the recovery assumes: every cell that has counts has a 1 among them."""
    counts = random_counts()
    counts[counts.sum(1) > 0, 0] = 1
    return counts


@pytest.mark.parametrize("block_entries", [30, 4_000_000])
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_log_normalised_counts_are_recovered(tmp_path, layout, block_entries):
    counts = counts_with_ones()
    path = write(tmp_path / "a.h5ad", LAYOUTS[layout](log_normalised(counts)))
    np.testing.assert_array_equal(read(path, block_entries, recover_counts=True)[0], counts)
    with open_h5ad(path, recover_counts=True) as table:
        assert table.recovered
        assert table.recovered_share == 1.0
    if layout != "csc":
        assert describe(path)["matrices"]["X"]["recoverable_share"] == 1.0


def test_recovery_is_refused_with_its_share(tmp_path):
    corrected = counts_with_ones() * np.random.default_rng(0).uniform(0.5, 2, (N_CELLS, N_GENES))
    line = refusal(write(tmp_path / "a.h5ad", log_normalised(corrected)), recover_counts=True)
    assert "% of them invert to whole numbers, 99% needed" in line


def test_recovery_looks_at_the_whole_file(tmp_path, monkeypatch):
    monkeypatch.setattr("mofm.omics.anndatas.BLOCK_ENTRIES", 100)
    values = log_normalised(counts_with_ones())
    values[60:] *= 0.9
    assert "invert to whole numbers" in refusal(write(tmp_path / "a.h5ad", values), recover_counts=True)


def test_a_value_that_is_no_log_refuses_recovery(tmp_path, monkeypatch):
    monkeypatch.setattr("mofm.omics.matrices._SAMPLE_PLACES", 2)
    monkeypatch.setattr("mofm.omics.matrices._SAMPLE_ENTRIES", 41)
    for bad, word in {-1.0: "negative", np.nan: "not a finite", 900.0: "too large"}.items():
        values = log_normalised(counts_with_ones())
        values[40, 20] = bad
        assert word in refusal(write(tmp_path / "a.h5ad", scipy.sparse.csr_matrix(values)), recover_counts=True)


def test_counts_are_never_recovered(tmp_path):
    path = write(tmp_path / "a.h5ad", random_counts().astype(np.float32), "layers/counts")
    with open_h5ad(path, recover_counts=True) as table:
        assert not table.recovered
        assert table.recovered_share is None


def test_pbmc68k_is_recovered(tmp_path):
    scanpy = pytest.importorskip("scanpy")
    adata = scanpy.datasets.pbmc68k_reduced()
    adata.write_h5ad(tmp_path / "a.h5ad")
    line = refusal(tmp_path / "a.h5ad")
    assert "raw/X is log-normalised" in line
    assert "X is scaled" in line
    with open_h5ad(tmp_path / "a.h5ad", recover_counts=True) as table:
        assert table.counts_from == "raw/X"
        assert 0.999 < table.recovered_share < 1
        rows = next(table.rows())
    logged = adata.raw.X.tocsr()
    logged.sort_indices()
    np.testing.assert_array_equal(rows.indices, logged.indices)
    for cell in (0, 350, 699):
        part = slice(rows.indptr_N[cell], rows.indptr_N[cell + 1])
        linear = np.expm1(logged.data[part].astype(np.float64))
        np.testing.assert_allclose(rows.data[part], linear / linear.min(), atol=0.5)


# --- files that are not there, not whole or not what they seem ---


def test_missing_and_foreign_files(tmp_path):
    assert "no such file" in refusal(tmp_path / "none.h5ad")
    assert "folder" in refusal(tmp_path)
    (tmp_path / "empty.h5ad").touch()
    assert "empty" in refusal(tmp_path / "empty.h5ad")
    (tmp_path / "text.h5ad").write_text("gene\tcount\n" * 100)
    assert "not an HDF5 file" in refusal(tmp_path / "text.h5ad")
    with h5py.File(tmp_path / "other.h5ad", "w") as file:
        file["weights"] = np.zeros(3)
    assert "neither h5ad nor AnnData in zarr (it holds weights" in refusal(tmp_path / "other.h5ad")
    with h5py.File(tmp_path / "mu.h5mu", "w") as file:
        file.create_group("mod")
    assert "MuData" in refusal(tmp_path / "mu.h5mu")
    assert "MuData" in describe(tmp_path / "mu.h5mu")["why"]


@pytest.mark.parametrize("share", [0.0001, 0.001, 0.1, 0.5, 0.9, 0.9999])
def test_truncated_files(tmp_path, share):
    path = write(tmp_path / "a.h5ad", scipy.sparse.csr_matrix(random_counts().astype(np.float32)), compression="gzip")
    whole = path.read_bytes()
    path.write_bytes(whole[: max(1, int(share * len(whole)))])
    assert str(path) in refusal(path)


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_damaged_blocks(tmp_path, layout):
    path = write(tmp_path / "a.h5ad", LAYOUTS[layout](random_counts().astype(np.float32)), compression="gzip")
    key = "X" if layout == "dense" else "X/data"
    with h5py.File(path, "r") as file:
        block = file[key].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[block.byte_offset : block.byte_offset + block.size] = b"\xaa" * block.size
    path.write_bytes(content)
    assert "damaged" in refusal(path)
    assert not describe(path)["usable"]


@pytest.mark.parametrize("key", ["X/data", "X/indices", "X/indptr"])
def test_blocks_never_written_are_no_zeros(tmp_path, key):
    path = write(tmp_path / "a.h5ad", scipy.sparse.csr_matrix(random_counts().astype(np.float32)))
    with h5py.File(path, "r+") as file:
        old = file[key]
        shape, dtype = old.shape, old.dtype
        del file[key]
        file.create_dataset(key, shape, dtype, chunks=(16,))[:16] = 0
    assert "never written" in refusal(path)


@pytest.mark.parametrize("key", ["X/data", "X/indptr", "obs", "var", "obs/_index"])
def test_missing_parts(tmp_path, key):
    path = write(tmp_path / "a.h5ad", scipy.sparse.csr_matrix(random_counts().astype(np.float32)))
    with h5py.File(path, "r+") as file:
        del file[key]
    assert str(path) in refusal(path)


@pytest.mark.parametrize("layout", ["csr", "csc"])
@pytest.mark.parametrize(
    ("array", "change", "word"),
    [
        ("indptr", lambda x: np.concatenate([x[:4], x[4:6][::-1], x[6:]]), "steadily"),
        ("indptr", lambda x: x[:-1], "its shape needs"),
        ("indptr", lambda x: x - 1, "runs from"),
        ("indptr", lambda x: np.where(x == x[-1], x + 5, x), "runs from"),
        ("indices", lambda x: np.where(np.arange(len(x)) == 50, 10_000, x), "reach from"),
        ("indices", lambda x: np.where(np.arange(len(x)) == 50, -1, x), "reach from"),
        ("data", lambda x: x[:-1], "runs from"),
    ],
)
def test_broken_sparse_structure(tmp_path, layout, array, change, word):
    counts = 1 + random_counts()
    path = write(tmp_path / "a.h5ad", LAYOUTS[layout](counts.astype(np.float32)))
    with h5py.File(path, "r+") as file:
        values = change(file[f"X/{array}"][:])
        del file[f"X/{array}"]
        file[f"X/{array}"] = values
    line = refusal(path)
    assert word in line
    assert f"damaged {layout.upper()} matrix" in line


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_byte_never_ends_in_a_traceback(tmp_path, seed):
    path = write(tmp_path / "a.h5ad", scipy.sparse.csr_matrix(random_counts().astype(np.float32)), compression="gzip")
    content = np.frombuffer(path.read_bytes(), np.uint8).copy()
    rng = np.random.default_rng(seed)
    start = rng.integers(0, len(content) - 64)
    content[start : start + 64] = rng.integers(0, 256, 64)
    path.write_bytes(content.tobytes())
    for use in (read, describe):
        line = str(path)
        try:
            use(path)
        except InputError as error:
            line = str(error)
        assert str(path) in line
        assert "\n" not in line


def test_no_cells_no_genes(tmp_path):
    assert "no cells" in refusal(write(tmp_path / "a.h5ad", np.zeros((0, 4), np.float32)))
    assert "no genes" in refusal(write(tmp_path / "b.h5ad", np.zeros((4, 0), np.float32)))


def test_repeated_cell_names(tmp_path):
    path = write(tmp_path / "a.h5ad", random_counts().astype(np.float32))
    adata = ad.read_h5ad(path)
    adata.obs_names = ["x", "y", *adata.obs_names[2:-2], "y", "y"]
    adata.write_h5ad(path)
    line = refusal(path)
    assert "2 of 83 cell names repeat" in line
    assert "'y'" in line
    assert "obs_names_make_unique" in line


def test_genes_by_cells_is_told(tmp_path):
    path = write(tmp_path / "a.h5ad", random_counts().astype(np.float32))
    adata = ad.read_h5ad(path)
    adata.obs_names = [f"ENSG{i:011d}.2" for i in range(N_CELLS)]
    adata.write_h5ad(path)
    assert "genes x cells" in refusal(path)
    adata.obs_names = [f"known-{i}" for i in range(N_CELLS)]
    adata.write_h5ad(path)
    read(path)
    known = lambda names: np.mean([name.startswith("known") for name in names])  # noqa: E731
    assert "genes x cells" in refusal(path, looks_like_genes=known)


def test_a_matrix_that_does_not_fit_its_tables(tmp_path):
    path = write(tmp_path / "a.h5ad", random_counts().astype(np.float32))
    with h5py.File(path, "r+") as file:
        del file["X"]
        file["X"] = random_counts().T
    assert "transpose" in refusal(path)


def test_other_kinds_of_features_are_left_out_and_counted(tmp_path):
    counts = random_counts()
    path = write(tmp_path / "a.h5ad", scipy.sparse.csr_matrix(counts.astype(np.float32)))
    adata = ad.read_h5ad(path)
    kinds = np.array(["Gene Expression"] * N_GENES, object)
    kinds[[1, 4]], kinds[30:] = "Antibody Capture", "Peaks"
    adata.var["feature_types"] = pd.Categorical(kinds)
    kept = kinds == "Gene Expression"
    values = counts.astype(np.float32)
    values[:, ~kept] -= 0.5  # what is left out need not be counts
    for name, layout in LAYOUTS.items():
        adata.X = layout(values)
        adata.write_h5ad(path)
        np.testing.assert_array_equal(read(path, 60)[0], counts[:, kept])
        with open_h5ad(path) as table:
            assert table.layout == name
            assert table.left_out == {"Peaks": 11, "Antibody Capture": 2}
            assert list(table.var.index) == list(adata.var_names[kept])
    adata.var["feature_types"] = "Peaks"
    adata.write_h5ad(path)
    assert "no genes among what it measures" in refusal(path)


# --- old files ---


def test_sparse_matrices_of_old_anndata_are_read(tmp_path):
    counts = random_counts()
    path = write(tmp_path / "a.h5ad", scipy.sparse.csr_matrix(counts.astype(np.float32)))
    with h5py.File(path, "r+") as file:
        attrs = file["X"].attrs
        for key in list(attrs):
            del attrs[key]
        attrs["h5sparse_format"], attrs["h5sparse_shape"] = b"csr", counts.shape
    np.testing.assert_array_equal(read(path)[0], counts)


def test_tables_of_old_anndata_are_refused_with_a_remedy(tmp_path):
    path = write(tmp_path / "a.h5ad", random_counts().astype(np.float32))
    with h5py.File(path, "r+") as file:
        del file["obs"]
        file["obs"] = np.zeros(N_CELLS, [("index", "S8"), ("louvain", np.int8)])
    assert "read_h5ad(...)" in refusal(path)


def test_describe_a_usable_file(tmp_path):
    path = write(tmp_path / "a.h5ad", random_counts().astype(np.float32), "layers/counts")
    report = json.loads(json.dumps(describe(path)))
    assert report["usable"]
    assert report["counts_from"] == "layers/counts"
    assert report["cells"] == N_CELLS
    assert report["matrices"]["X"]["kind"] == "scaled"
    assert report["obs_columns"] == {"score": "float64"}


@pytest.mark.skipif(DATA is None, reason="MOFM_DATA is not set: the Kang PBMC files are not read")
@pytest.mark.parametrize("name", ["kang_pbmc_ctrl", "kang_pbmc_stim"])
def test_kang_is_read_as_anndata_reads_it(name):
    path = Path(DATA) / f"{name}.h5ad"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    truth = ad.read_h5ad(path).X.tocsr()
    with open_h5ad(path) as table:
        start = 0
        for rows in table.rows(300_000):
            part = truth[start : start + rows.n_cells]
            part.sort_indices()
            np.testing.assert_array_equal(rows.indptr_N, part.indptr)
            np.testing.assert_array_equal(rows.indices, part.indices)
            np.testing.assert_array_equal(rows.data, part.data)
            start += rows.n_cells
        assert start == table.n_cells == truth.shape[0]
