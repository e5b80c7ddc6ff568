"""Experiments written by tiledbsoma are read cell by cell as they were written; whatever is wrong is one line."""

import shutil
import sys

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("tiledbsoma", reason="tiledbsoma is not installed")

from mofm.errors import InputError
from mofm.inspection import inspect
from mofm.omics import soma_table
from mofm.omics.readers import Reading, find_layout, open_cells, open_tables
from mofm.omics.soma import find_soma
from mofm.omics.soma_cells import select_cells


@pytest.fixture
def folder(tmp_path, census, write_soma):
    return write_soma(tmp_path / "census", census)


@pytest.fixture
def alone(census):
    """An experiment as `tiledbsoma.io.from_anndata` names its columns: no datasets, cells and genes by their names."""
    obs = pd.DataFrame({"obs_id": [f"cell{i}" for i in range(60)], "age": np.arange(60.0)})
    var = pd.DataFrame({"var_id": census.var["feature_id"]})
    return census._replace(obs=obs, var=var, layers={"data": census.layers["raw"]}, presence=None)


def refusal(call, *args, **kwargs) -> str:
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def expected(census, dataset: str, chosen=True) -> tuple[np.ndarray, np.ndarray]:
    """(places of the cells, places of the genes) of one dataset."""
    rows = np.flatnonzero((census.obs["dataset_id"] == dataset) & chosen)
    return rows, np.flatnonzero(census.presence["abc".index(dataset[-1])])


# --- what is read is what was written ---

MORE_BLOCKS = [(False, 1), (True, 1), (False, 37), (True, 4_000_000)]


@pytest.mark.parametrize(
    ("duplicates", "block_entries"),
    [(False, 4_000_000), (True, 37), *(pytest.param(*one, marks=pytest.mark.slow) for one in MORE_BLOCKS)],
)
def test_each_dataset_has_its_primary_cells_and_the_genes_it_measures(
    folder, census, dense_rows, block_entries, duplicates
):
    parts = select_cells(find_soma(folder), duplicates=duplicates)
    assert {part.dataset for part in parts} == {"ds-a", "ds-b", "ds-c"}
    for part in parts:
        rows, genes = expected(census, part.dataset, census.obs["is_primary_data"] | duplicates)
        with open_cells(part, Reading()) as (table,):
            assert np.array_equal(dense_rows(table, block_entries)[0], census.layers["raw"][np.ix_(rows, genes)])
            assert table.var.index.tolist() == census.var["feature_id"].iloc[genes].tolist()
            assert table.obs.index.tolist() == [f"{part.dataset}/{one}" for one in census.ids[rows]]
            assert table.obs["cell_type"].tolist() == census.obs["cell_type"].iloc[rows].tolist()
            assert set(table.obs["dataset_id"].cat.categories) == {part.dataset}
            assert table.counts_from == "X/raw"
            assert f"Title of {part.dataset}" in table.notes
            # Read again, by another cut.
            assert np.array_equal(dense_rows(table, 11)[0], census.layers["raw"][np.ix_(rows, genes)])


def test_cells_are_read_by_ranges_or_one_by_one_with_the_same_result(folder, census, dense_rows, monkeypatch):
    (part,) = (part for part in select_cells(find_soma(folder), duplicates=True) if part.dataset == "ds-b")
    found = []
    for dense_enough in (0, 1000):
        monkeypatch.setattr(soma_table, "_DENSE_ENOUGH", dense_enough)
        with open_cells(part, Reading()) as (table,):
            found.append(dense_rows(table)[0])
    rows, genes = expected(census, "ds-b")
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], census.layers["raw"][np.ix_(rows, genes)])


def test_a_filter_chooses_cells_beside_primary_data(folder, census):
    parts = select_cells(find_soma(folder), "tissue == 'lung' and disease in ['asthma'] or tissue == 'blood'")
    lung, asthma = census.obs["tissue"] == "lung", census.obs["disease"] == "asthma"
    chosen = census.obs["is_primary_data"] & ((lung & asthma) | ~lung)
    assert chosen.sum() < census.obs["is_primary_data"].sum()
    for part in parts:
        assert np.array_equal(part.ids_N, census.ids[expected(census, part.dataset, chosen)[0]])


def test_an_experiment_alone_is_one_dataset(tmp_path, alone, write_soma, dense_rows):
    path = write_soma(tmp_path / "mine", alone)
    with open_tables(path) as (table,):
        assert np.array_equal(dense_rows(table)[0], alone.layers["data"])
        assert table.obs.index.tolist() == alone.obs["obs_id"].tolist()
        assert table.var.index.tolist() == alone.var["var_id"].tolist()
        assert table.counts_from == "X/data"
        assert table.kind == "soma"


def test_an_experiment_of_tiledbsoma_io(tmp_path, make_cells, dense_rows):
    import tiledbsoma.io

    adata = make_cells(50)
    if None in adata.layers:
        pytest.skip("tiledbsoma.io does not know that X is a layer too in anndata 0.13, and writes no AnnData of it")
    tiledbsoma.io.from_anndata(str(tmp_path / "io"), adata, measurement_name="RNA")
    with open_tables(tmp_path / "io") as (table,):
        assert np.array_equal(dense_rows(table)[0], adata.X.toarray())
        assert table.obs.index.tolist() == adata.obs_names.tolist()
        assert table.obs["batch"].astype(str).tolist() == adata.obs["batch"].tolist()
        assert table.var.index.tolist() == adata.var_names.tolist()


def test_without_a_census_all_genes_of_a_dataset_are_measured_and_it_is_said(tmp_path, census, write_soma):
    path = write_soma(tmp_path / "mine", census._replace(presence=None))
    part = select_cells(find_soma(path))[1]
    with open_cells(part, Reading()) as (table,):
        assert table.n_features == 40
        assert any("all are taken as measured" in note for note in table.notes)


def test_the_layer_of_counts_is_found_or_named(tmp_path, alone, write_soma, dense_rows):
    counts = alone.layers["data"]
    layers = {"data": np.log1p(counts), "counts": counts, "more": counts * 2}
    path = write_soma(tmp_path / "mine", alone._replace(layers=layers))
    with open_tables(path) as (table,):
        assert table.counts_from == "X/counts"
    with open_tables(path, Reading(counts_from="X/more")) as (table,):
        assert np.array_equal(dense_rows(table)[0], counts * 2)
    assert "no matrix 'X/mor'" in refusal(open_tables, path, Reading(counts_from="X/mor"))
    assert "X/data is log-normalised" in refusal(open_tables, path, Reading(counts_from="X/data"))


# --- which experiment, and what it is ---


def test_a_census_its_experiment_and_a_copy_are_one(folder, tmp_path):
    place = find_soma(folder)
    inner = find_soma(folder / "census_data" / "homo_sapiens")
    shutil.copytree(folder, tmp_path / "copy")
    assert place.identity == inner.identity == find_soma(tmp_path / "copy").identity
    assert inner.census is not None
    assert place.build == "2025-01-30"


def test_what_is_written_to_an_experiment_changes_what_it_is(tmp_path, alone, write_soma):
    import tiledbsoma

    path = write_soma(tmp_path / "mine", alone)
    shutil.copytree(path, tmp_path / "copy")
    place = find_soma(path)
    assert place.identity == find_soma(tmp_path / "copy").identity
    assert not place.is_changed()
    with tiledbsoma.open(str(path / "obs"), "w") as obs:
        obs.metadata["more"] = 1
    assert place.is_changed()


@pytest.fixture
def directory(monkeypatch, folder, tmp_path):
    """The directory of releases, which cellxgene-census fetches, says that they are on this disk. All else is real."""
    requests = pytest.importorskip("requests")
    pytest.importorskip("cellxgene_census", reason="cellxgene-census is not installed")

    class Answer:
        def __init__(self, content):
            self.json = lambda: content
            self.raise_for_status = lambda: None

    lies = {"uri": str(folder), "relative_uri": "census", "s3_region": None}
    release = {"release_build": "2025-01-30", "release_date": None, "soma": lies, "h5ads": lies}
    gone = {**release, "flags": {"retracted": True}, "retraction": {"reason": "mistakes", "replaced_by": "2025-01-30"}}
    releases = {"stable": "2025-01-30", "2025-01-30": release, "2024-01-01": gone}
    mirrors = {"default": "here", "here": {"provider": "file", "base_uri": f"{tmp_path}/", "region": None}}
    monkeypatch.setattr(requests, "get", lambda url, **_: Answer(mirrors if "mirrors" in url else releases))
    return releases


@pytest.mark.parametrize("url", ["census://stable/homo_sapiens", "census://2025-01-30/human"])
def test_a_url_is_a_dated_build(directory, folder, census, url, dense_rows):
    layout = find_layout(url)
    assert layout.soma.source == "census://2025-01-30/homo_sapiens"
    assert layout.soma.is_public
    assert layout.soma.identity == find_soma(folder).identity
    part = select_cells(layout.soma)[0]
    rows, genes = expected(census, part.dataset, census.obs["is_primary_data"])
    with open_cells(part, Reading()) as (table,):
        assert np.array_equal(dense_rows(table)[0], census.layers["raw"][np.ix_(rows, genes)])


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("census://2025-01-31/homo_sapiens", "no version '2025-01-31'; use stable, latest or a date"),
        ("census://2024-01-01/homo_sapiens", "was retracted (mistakes); use 2025-01-30"),
        ("census://stable/homo_sapien", "no organism 'homo_sapien' there; it has homo_sapiens. Did you mean"),
        ("census://stable", "an organism are needed, as in census://2025-01-30/homo_sapiens"),
    ],
)
def test_a_wrong_url(directory, url, said):
    assert said in refusal(find_layout, url)


def test_no_network(directory, monkeypatch):
    import requests

    def offline(*_, **__):
        raise requests.ConnectionError("Name or service not known")

    monkeypatch.setattr(requests, "get", offline)
    assert "cannot be reached (Name or service not known); check" in refusal(
        find_layout, "census://stable/homo_sapiens"
    )


# --- what is wrong is said in a line ---


@pytest.mark.parametrize(
    ("filter_", "said"),
    [
        ("tisue == 'lung'", "obs has no column 'tisue'; it has soma_joinid, dataset_id"),
        ("tisue == 'lung'", "Did you mean 'tissue'?"),
        ("tissue == lung", "lung is no value; quote text ('lung')"),
        ("is_primary_data == true", "true is no value"),
        ("tissue = 'lung'", "not an expression"),
        ("tissue == 'Lung'", "selects no cell: tissue has no 'Lung'. Did you mean 'lung'?"),
        ("nnz == 'many'", "TileDB cannot use it (Cannot cast `many`"),
        ("tissue", "(a column is compared with a value of another type, or with nothing); write comparisons"),
        ("tissue == 3", "compared with a value of another type"),
        ("tissue == 'lung' & nnz > 3", "it has more than comparisons"),
        ("nnz > 1000000", "selects no cell: cells that are not primary data need --duplicates"),
    ],
)
def test_a_wrong_filter(folder, filter_, said):
    assert said in refusal(select_cells, find_soma(folder), filter_)


def test_nothing_is_primary(tmp_path, census, write_soma):
    path = write_soma(tmp_path / "c", census._replace(obs=census.obs.assign(is_primary_data=False)))
    assert "none of its cells is primary data; take the others with --duplicates" in refusal(
        select_cells, find_soma(path)
    )


def test_several_organisms_are_to_be_named(folder):
    import tiledbsoma

    with tiledbsoma.open(str(folder / "census_data"), "w") as data:
        data.add_new_collection("mus_musculus", tiledbsoma.Experiment).close()
    said = refusal(find_soma, folder)
    assert f"Name one, as in {folder}/census_data/homo_sapiens" in said
    assert find_soma(folder / "census_data" / "homo_sapiens").build == "2025-01-30"


def test_what_is_no_experiment(folder, tmp_path):
    assert "a DataFrame of TileDB-SOMA, not an experiment" in refusal(find_layout, folder / "census_info" / "datasets")
    assert "no such file" in refusal(find_layout, tmp_path / "nothing")
    assert "no TileDB-SOMA there" in refusal(find_layout, f"file://{tmp_path}/nothing")


@pytest.mark.parametrize("times", [0, 1])
def test_a_bucket_that_fails_is_told_in_a_line(folder, monkeypatch, times):
    import tiledbsoma

    def fail(*_, **__):
        raise RuntimeError("S3: Error while listing with prefix 's3://bucket'\nmore")

    if times == 0:
        monkeypatch.setattr(tiledbsoma, "open", fail)
        assert "TileDB cannot read it (S3: Error while listing" in refusal(find_layout, folder)
    else:
        with open_cells(select_cells(find_soma(folder))[0], Reading()) as (table,):
            monkeypatch.setattr(tiledbsoma.SparseNDArray, "read", fail)
            assert "TileDB cannot read X/raw (S3: Error" in refusal(lambda: list(table.rows()))


def test_normalised_values_are_refused_before_and_while_they_stream(tmp_path, alone, write_soma):
    path = write_soma(tmp_path / "log", alone._replace(layers={"data": np.log1p(alone.layers["data"])}))
    assert "no raw counts found: X/data is log-normalised" in refusal(open_tables, path)
    # One value beyond those that are looked at first.
    many = np.tile(alone.layers["data"], (10, 1)).astype(float)
    many[590, 3] = 0.5
    obs = pd.DataFrame({"obs_id": [f"cell{i}" for i in range(600)]})
    path = write_soma(tmp_path / "late", alone._replace(obs=obs, layers={"data": many}, ids=None))
    with open_tables(path) as (table,):
        said = refusal(lambda: list(table.rows()))
    assert "X/data holds 0.5, not a whole number, in cell 'cell590'" in said


def test_counts_of_a_gene_that_is_not_measured_are_damage(tmp_path, census, write_soma):
    counts = census.layers["raw"].copy()
    counts[np.flatnonzero(census.obs["dataset_id"] == "ds-b")[-1], 35] = 4
    path = write_soma(tmp_path / "c", census._replace(layers={"raw": counts}))
    (part,) = (part for part in select_cells(find_soma(path), duplicates=True) if part.dataset == "ds-b")
    assert "has a count of feature 35 in cell 'ds-b/" in refusal(open_cells, part, Reading())


def test_a_filter_for_what_is_no_soma(tmp_path, make_cells):
    make_cells(5).write_h5ad(tmp_path / "cells.h5ad")
    for reading, option in ((Reading(obs_filter="a == 1"), "--obs-filter"), (Reading(duplicates=True), "--duplicates")):
        said = refusal(open_tables, tmp_path / "cells.h5ad", reading)
        assert f"{option} is for cells of a SOMA experiment, and this is h5ad" in said


def test_what_is_not_installed_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tiledbsoma", None)
    assert 'not installed: pip install "mofm[census]"' in refusal(find_layout, folder)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "cellxgene_census", None)
    assert 'pip install "mofm[census]"' in refusal(find_layout, "census://stable/homo_sapiens")


def test_another_measurement(folder):
    assert "no measurement is adt; it has RNA" in refusal(
        lambda: open_cells(select_cells(find_soma(folder))[0], Reading(modality="adt"))
    )


# --- told ---


def test_inspect_tells_the_datasets(folder, census):
    report = inspect(folder, Reading(obs_filter="tissue == 'lung'"))
    chosen = census.obs["is_primary_data"] & (census.obs["tissue"] == "lung")
    assert report["usable"]
    assert report["kind"] == "soma"
    assert report["cells"] == chosen.sum()
    told = {one["dataset"]: one["cells"] for one in report["selected"]}
    assert told == census.obs["dataset_id"][chosen].value_counts().to_dict()
    assert report["features"]["rna"]["species"] == "human"
    assert report["features"]["rna"]["unresolved"] == 0


def test_one_table_is_asked_of_one_dataset(folder, dense_rows):
    assert "3 datasets" in refusal(open_tables, folder)
    with open_tables(folder, Reading(obs_filter="dataset_id == 'ds-c'")) as (table,):
        assert table.n_features == 35
        assert dense_rows(table)[0].any()
