"""An AnnData in memory gives the rows, names and refusals that it gives as a file: sparse, dense, backed, a view, raw."""

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from mofm.errors import InputError
from mofm.omics.readers import Reading, open_tables

EVERYTHING = Reading()


def told(source, reading=EVERYTHING):
    """What a source says: by modality the matrix that is read, its names, and its counts."""
    found = {}
    with open_tables(source, reading) as tables:
        for table in tables:
            counts = np.zeros((table.n_cells, table.n_features))
            start = 0
            for rows in table.rows(block_entries=400):
                cell = start + np.repeat(np.arange(rows.n_cells), np.diff(rows.indptr_N))
                counts[cell, rows.indices] = rows.data
                start += rows.n_cells
            names = tuple(table.obs.index), tuple(table.var.index), tuple(table.obs.columns)
            found[table.modality] = (table.counts_from, names, counts.tolist())
        return found, dict(tables.left_out)


@pytest.fixture
def cells(make_cells):
    return make_cells(30)


def forms(cells: ad.AnnData):
    """The same cells, stored in every way."""
    yield "csr", cells
    yield "csc", ad.AnnData(sparse.csc_matrix(cells.X), cells.obs, cells.var)
    yield "coo", ad.AnnData(sparse.csr_array(cells.X), cells.obs, cells.var)
    yield "dense", ad.AnnData(cells.X.toarray(), cells.obs, cells.var)
    yield "by columns", ad.AnnData(np.asfortranarray(cells.X.toarray()), cells.obs, cells.var)
    yield "integers", ad.AnnData(cells.X.toarray().astype(np.uint16), cells.obs, cells.var)


def test_every_form_reads_as_its_file(cells, tmp_path):
    for name, form in forms(cells):
        form.write_h5ad(tmp_path / "cells.h5ad")
        wanted = told(tmp_path / "cells.h5ad")
        assert told(form) == wanted, name
        backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
        assert told(backed) == wanted, name
        assert told(backed[5:20]) == told(form[5:20].copy()) == told(form[5:20]), name
        backed.file.close()


def test_where_the_counts_are_is_found_and_named_as_in_a_file(cells, tmp_path):
    adata = cells.copy()
    adata.raw = adata
    adata.layers["mine"] = adata.X.toarray() + 1
    adata.X = np.log1p(adata.X.toarray())
    adata = adata[:, 10:].copy()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    for reading in (Reading(), Reading(counts_from="layers/mine"), Reading(counts_from="raw/X")):
        wanted = told(tmp_path / "cells.h5ad", reading)
        assert told(adata, reading) == told(backed, reading) == wanted
    assert told(adata)[0]["rna"][0] == "raw/X"


def test_mudata_reads_as_its_file(cells, tmp_path):
    protein = ad.AnnData(np.arange(60.0).reshape(20, 3), pd.DataFrame(index=cells.obs_names[:20]))
    protein.var_names = ["CD3", "CD4", "CD8A"]
    tags = ad.AnnData(np.ones((30, 1)), pd.DataFrame(index=cells.obs_names), pd.DataFrame(index=["tag"]))
    mdata = mudata.MuData({"prot": protein, "rna": cells, "hto": tags})
    mdata.obs["donor"] = "d1"
    mdata.write_h5mu(tmp_path / "cells.h5mu")
    wanted = told(tmp_path / "cells.h5mu")
    assert set(wanted[0]) == {"rna", "adt"}
    assert wanted[1] == {"hto": 1}
    assert told(mdata) == wanted
    assert told(mdata, Reading("adt"))[0] == {"adt": wanted[0]["adt"]}


def test_nothing_is_changed_or_copied(cells):
    before = cells.copy()
    with open_tables(cells) as tables:
        (table,) = tables
        matrix = table.source.candidate.matrix
        assert np.shares_memory(matrix._values, cells.X.data)
        table.obs["mine"] = 1
    pd.testing.assert_frame_equal(cells.obs, before.obs)


def test_refusals_are_those_of_files_without_a_path(cells):
    def said(adata, reading=EVERYTHING):
        with pytest.raises(InputError) as error:
            told(adata, reading)
        return str(error.value)

    half = ad.AnnData(cells.X.toarray() + 0.5, cells.obs, cells.var)
    assert said(half).startswith("AnnData: no raw counts found: X is")
    twice = cells.copy()
    twice.obs_names = ["cell"] * 30
    assert "AnnData" in said(twice)
    assert "no matrix 'layers/x'" in said(cells, Reading(counts_from="layers/x"))
    assert "X, obs and var are needed" in said(ad.AnnData(obs=cells.obs, var=cells.var))
    assert "this is AnnData" in said(cells, Reading(obs_filter="a"))
    with pytest.raises(InputError, match="a list is none of AnnData"):
        open_tables([cells])


def test_arrays_that_are_computed_later_are_refused(cells):
    dask = pytest.importorskip("dask.array", reason="dask is not installed")
    lazy = ad.AnnData(dask.from_array(cells.X.toarray()), cells.obs, cells.var)
    with pytest.raises(InputError, match="to_memory"):
        told(lazy)
