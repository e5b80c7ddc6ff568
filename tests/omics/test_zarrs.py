"""AnnData in zarr is read as AnnData in HDF5 is: the same rows, the same refusals. Lost chunks are told, not zeros."""

import shutil

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import zarr

from mofm.errors import InputError
from mofm.omics.layouts import layout_of
from mofm.omics.readers import open_h5ad, open_tables
from mofm.omics.zarrs import BandedArray

LAYOUTS = {"csr": scipy.sparse.csr_matrix, "csc": scipy.sparse.csc_matrix, "dense": np.asarray}
N_CELLS, N_GENES = 83, 41


def random_counts(n_cells: int = N_CELLS, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.poisson(3.0, (n_cells, N_GENES)) * (rng.random((n_cells, N_GENES)) < 0.3)


def anndata_of(matrix, first: int = 0) -> ad.AnnData:
    obs = pd.DataFrame({"label": pd.Categorical(["b", "a"] * len_of(matrix))[: len_of(matrix)]})
    obs.index = [f"cell{first + i}" for i in range(len(obs))]
    return ad.AnnData(matrix, obs, pd.DataFrame(index=[f"gene{i}" for i in range(N_GENES)]))


def len_of(matrix) -> int:
    return matrix.shape[0]


def write(path, adata, version: int = 3, chunks=None):
    with ad.settings.override(zarr_write_format=version):
        adata.write_zarr(path)
    if chunks is not None:
        group = zarr.open_group(path, mode="r+", use_consolidated=False)
        ad.io.write_elem(group, "X", adata.X, dataset_kwargs={"chunks": chunks})
        zarr.consolidate_metadata(path)
    assert (path / ("zarr.json" if version == 3 else ".zgroup")).exists()
    return path


def write_collection(path, parts):
    """As annbatch's `DatasetCollection` lays one out."""
    group = zarr.open_group(path, mode="w", zarr_format=3)
    with ad.settings.override(zarr_write_format=3):
        for number, adata in enumerate(parts):
            ad.io.write_elem(group, f"dataset_{number}", adata)
    group.update_attributes({"encoding-type": "annbatch-preshuffled", "encoding-version": "0.1.0"})
    return path


def read(path, block_entries: int = 4_000_000, **kwargs):
    with open_h5ad(path, **kwargs) as table:
        blocks = [
            scipy.sparse.csr_array((rows.data, rows.indices, rows.indptr_N), (rows.n_cells, table.n_features)).toarray()
            for rows in table.rows(block_entries)
        ]
        return np.concatenate(blocks), table


def refusal(path, **kwargs) -> str:
    with pytest.raises(InputError) as caught:
        read(path, **kwargs)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("block_entries", [50, 4_000_000])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("version", [2, 3])
def test_stores_are_read_whatever_the_layout(tmp_path, version, layout, dtype, block_entries):
    counts = random_counts()
    chunks = (20, 10) if layout == "dense" else (20,)
    path = write(tmp_path / "a.zarr", anndata_of(LAYOUTS[layout](counts.astype(dtype))), version, chunks=chunks)
    read_back, table = read(path, block_entries)
    np.testing.assert_array_equal(read_back, counts)
    assert (table.kind, table.layout) == ("zarr", layout)
    assert table.obs["label"].tolist()[:2] == ["b", "a"]
    assert table.var.index.tolist() == [f"gene{i}" for i in range(N_GENES)]


@pytest.mark.parametrize("place", ["layers/counts", "raw/X"])
def test_counts_are_found_where_they_are(tmp_path, place):
    counts = random_counts()
    adata = anndata_of(scipy.sparse.csr_matrix(counts.astype(np.float32)))
    if place == "raw/X":
        adata.raw = adata.copy()
    else:
        adata.layers["counts"] = adata.X.copy()
    adata.X = np.log1p(counts / 3)
    read_back, table = read(write(tmp_path / "a.zarr", adata))
    np.testing.assert_array_equal(read_back, counts)
    assert table.counts_from == place


def test_a_store_without_counts_is_refused(tmp_path):
    path = write(tmp_path / "a.zarr", anndata_of(scipy.sparse.csr_matrix(np.log1p(random_counts() / 3))))
    assert "no raw counts found: X is log-normalised" in refusal(path)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("key", ["data", "indices", "indptr"])
def test_a_lost_chunk_of_a_sparse_matrix_is_told(tmp_path, version, key):
    matrix = scipy.sparse.csr_matrix(random_counts().astype(np.float32))
    path = write(tmp_path / "a.zarr", anndata_of(matrix), version, chunks=(20,))
    (path / "X" / key / ("c/1" if version == 3 else "1")).unlink()
    assert "cannot be read, the file is damaged" in refusal(path)


@pytest.mark.parametrize("change", [lambda data: data[:-3], lambda data: b"no chunk"], ids=["cut", "garbage"])
def test_a_damaged_chunk_is_told(tmp_path, change):
    matrix = scipy.sparse.csr_matrix(random_counts().astype(np.float32))
    path = write(tmp_path / "a.zarr", anndata_of(matrix), chunks=(2000,))
    chunk = path / "X/data/c/0"
    chunk.write_bytes(change(chunk.read_bytes()))
    assert "X cannot be read" in refusal(path) or "X/data cannot be read" in refusal(path)


@pytest.mark.parametrize("key", ["obs", "var", "X/data", "obs/_index"])
def test_a_missing_part_is_told(tmp_path, key):
    path = write(tmp_path / "a.zarr", anndata_of(scipy.sparse.csr_matrix(random_counts().astype(np.float32))))
    shutil.rmtree(path / key)
    assert refusal(path)


def test_metadata_that_is_no_json_is_told(tmp_path):
    path = write(tmp_path / "a.zarr", anndata_of(scipy.sparse.csr_matrix(random_counts().astype(np.float32))))
    (path / "zarr.json").write_text("{")
    assert "zarr cannot open it" in refusal(path)


def test_another_group_is_no_anndata(tmp_path):
    zarr.open_group(tmp_path / "a.zarr", mode="w").create_group("images")
    assert "neither h5ad nor AnnData in zarr (it holds images" in refusal(tmp_path / "a.zarr")


@pytest.mark.parametrize("block_entries", [50, 4_000_000])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_collection_is_one_table_in_the_order_of_its_numbers(tmp_path, layout, block_entries):
    whole = [random_counts(20, seed) for seed in range(11)]
    parts = [anndata_of(LAYOUTS[layout](one.astype(np.float32)), 20 * i) for i, one in enumerate(whole)]
    read_back, table = read(write_collection(tmp_path / "a.zarr", parts), block_entries)
    np.testing.assert_array_equal(read_back, np.concatenate(whole))
    assert table.kind == "zarr collection"
    assert table.obs.index.tolist() == [f"cell{i}" for i in range(220)]


def test_a_bad_value_in_a_later_part_is_named(tmp_path):
    parts = [anndata_of(scipy.sparse.csr_matrix(random_counts(20, i).astype(np.float32)), 20 * i) for i in range(9)]
    parts[3].X.data[5] = 0.5
    assert "holds 0.5, not a whole number, in cell 'cell6" in refusal(write_collection(tmp_path / "a.zarr", parts))


def test_parts_of_other_features_or_of_the_same_cells_are_refused(tmp_path):
    parts = [anndata_of(scipy.sparse.csr_matrix(random_counts(20, i).astype(np.float32)), 20 * i) for i in range(2)]
    parts[1].var_names = [*parts[1].var_names[1:], "another"]
    assert "dataset_1 has other features than /dataset_0" in refusal(write_collection(tmp_path / "a.zarr", parts))
    parts[1].var_names, parts[1].obs_names = parts[0].var_names, parts[0].obs_names
    assert "20 of 40 cell names repeat" in refusal(write_collection(tmp_path / "b.zarr", parts))


def test_mudata_in_zarr_has_its_modalities(tmp_path):
    rna = anndata_of(scipy.sparse.csr_matrix(random_counts().astype(np.float32)))
    atac = anndata_of(scipy.sparse.csr_matrix(random_counts(seed=1).astype(np.float32)))
    atac.var_names = [f"chr1:{i * 1000 + 1}-{i * 1000 + 500}" for i in range(N_GENES)]
    mudata.MuData({"rna": rna, "atac": atac}).write_zarr(tmp_path / "a.zarr")
    assert layout_of(tmp_path / "a.zarr").kind == "zarr mudata"
    with open_tables(tmp_path / "a.zarr") as tables:
        assert [table.modality for table in tables] == ["rna", "atac"]
        assert sum(rows.data.sum() for rows in tables[1].rows()) == atac.X.sum()


def test_every_file_of_a_store_is_its_input(tmp_path):
    path = write(tmp_path / "a.zarr", anndata_of(scipy.sparse.csr_matrix(random_counts().astype(np.float32))))
    assert set(layout_of(path).all_files) == {file for file in path.rglob("*") if file.is_file()}


def test_rows_of_chunks_are_decoded_once(tmp_path):
    values = np.arange(600.0).reshape(60, 10)
    array = zarr.create_array(tmp_path / "a.zarr", data=values, chunks=(16, 5))
    bands, decoded = BandedArray(array), []

    class Counted:
        def __getitem__(self, rows):
            decoded.append((rows.start, rows.stop))
            return array[rows]

    bands._array = Counted()
    for start in range(0, 60, 4):
        np.testing.assert_array_equal(bands[start : start + 4], values[start : start + 4])
    assert decoded == [(0, 16), (16, 32), (32, 48), (48, 64)]
