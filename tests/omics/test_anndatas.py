"""AnnData of any modality, alone or in MuData: what it is, is found or told, and its counts come out."""

import json

import anndata as ad
import h5py
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from mofm.axes import MODALITIES
from mofm.errors import InputError
from mofm.omics.describe import describe
from mofm.omics.readers import Reading, open_h5ad, open_table, open_tables

GENES = ["CD3D", "MS4A1", "CD14", "GNLY", "ISG15", "FCGR3A", "NKG7", "LYZ"]
PEAKS = [f"1-{i * 1000 + 9963}-{i * 1000 + 10665}" for i in range(12)]
PROTEINS = ["CD3", "CD4", "CD8a", "HTO_1"]


def of(names: list[str], cells: list[str], seed: int = 0) -> ad.AnnData:
    """Counts with a one in each row, columns of obs and var of every kind."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(1.0, (len(cells), len(names))).astype(np.float32)
    counts[:, 0] += 1
    obs = pd.DataFrame({"batch": pd.Categorical(["a", "b"] * len(cells))[: len(cells)]}, index=cells)
    return ad.AnnData(scipy.sparse.csr_matrix(counts), obs, pd.DataFrame(index=names))


@pytest.fixture
def cells(barcodes):
    return barcodes(30)


@pytest.fixture
def write_h5mu(tmp_path):
    """A function (modalities) -> path of an h5mu file that mudata writes."""

    def write(**modalities):
        mdata = mudata.MuData(modalities)
        mdata.obs["cell_type"] = pd.Categorical(["T", "B"] * mdata.n_obs)[: mdata.n_obs]
        mdata.obs["rna:score"] = 1.0
        mdata.write_h5mu(tmp_path / "cells.h5mu")
        return tmp_path / "cells.h5mu"

    return write


def refusal(path, **options) -> str:
    with pytest.raises(InputError) as caught, open_tables(path, Reading(**options)):
        pass
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


# --- h5ad ---


@pytest.mark.parametrize(("names", "found"), [(GENES, "rna"), (PEAKS, "atac"), (PROTEINS[:3], "rna")])
def test_what_names_tell(tmp_path, cells, dense_rows, names, found):
    adata = of(names, cells)
    adata.write_h5ad(tmp_path / "a.h5ad")
    with open_tables(tmp_path / "a.h5ad") as (table,):
        assert table.modality == found
        np.testing.assert_array_equal(dense_rows(table)[0], adata.X.toarray())
        assert table.obs.equals(adata.obs)
    for modality in MODALITIES[:3]:
        with open_tables(tmp_path / "a.h5ad", Reading(modality=modality)) as (table,):
            assert table.modality == modality


def test_genes_with_places_are_genes(tmp_path, cells):
    adata = of(GENES, cells)
    adata.var = adata.var.assign(chrom="chr1", start=range(8), end=range(1, 9))
    adata.write_h5ad(tmp_path / "a.h5ad")
    with open_tables(tmp_path / "a.h5ad") as (table,):
        assert table.modality == "rna"


def test_several_types_in_one_matrix(tmp_path, cells, dense_rows):
    adata = of([*GENES, *PEAKS, *PROTEINS, "guide"], cells)
    kinds = ["Gene Expression"] * 8 + ["Peaks"] * 12 + ["Antibody Capture"] * 4 + ["CRISPR Guide Capture"]
    adata.var["feature_types"] = kinds
    adata.write_h5ad(tmp_path / "a.h5ad")
    dense = adata.X.toarray()
    with open_tables(tmp_path / "a.h5ad") as tables:
        assert [table.modality for table in tables] == ["rna", "atac", "adt"]
        for table, columns in zip(tables, (slice(0, 8), slice(8, 20), slice(20, 23)), strict=True):
            np.testing.assert_array_equal(dense_rows(table)[0], dense[:, columns])
        assert tables.left_out == {"CRISPR Guide Capture": 1, "hashtag (an antibody by its type)": 1}
    adata.var["feature_types"] = "Custom"
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert "nor anything else that mofm models (var['feature_types'] has Custom)" in refusal(tmp_path / "a.h5ad")


def test_proteins_must_be_counts(tmp_path, cells):
    adata = of(PROTEINS, cells)
    adata.X = np.log1p(adata.X.toarray()) - 1
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert "no raw counts found: X is scaled or centred" in refusal(tmp_path / "a.h5ad", modality="adt")


def test_fractions_that_nobody_named_are_told_from_other_values(tmp_path, cells):
    adata = of(GENES, cells)
    hint = "if these are methylation fractions, say --modality methylation"
    for values, is_hinted in ((np.random.default_rng(0).random(adata.shape), True), (adata.X.toarray() + 0.5, False)):
        values[0, 0] = np.nan
        ad.AnnData(values, adata.obs, adata.var).write_h5ad(tmp_path / "a.h5ad")
        assert (hint in refusal(tmp_path / "a.h5ad")) == is_hinted
    adata.X = np.nan_to_num(values) % 1
    adata.write_h5ad(tmp_path / "b.h5ad")
    with open_tables(tmp_path / "b.h5ad", Reading("methylation")) as tables:
        assert tables[0].modality == "methylation"


def test_peaks_by_cells_are_turned(tmp_path, cells):
    adata = of([f"peak{i}" for i in range(30)], [f"chr1:{i}-{i + 9}" for i in range(30)])
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert "cells must be rows" in refusal(tmp_path / "a.h5ad", modality="atac")


# --- h5mu ---


def test_modalities_of_mudata(cells, write_h5mu, dense_rows):
    rna, atac, hto = of(GENES, cells), of(PEAKS, cells[::-1], 1), of(["A", "B"], cells, 2)
    path = write_h5mu(prot=of(PROTEINS, cells, 3), rna=rna, hto=hto, peaks=atac)
    with open_tables(path) as tables:
        assert tables.layout.kind == "h5mu"
        assert [table.modality for table in tables] == ["rna", "atac", "adt"]
        assert tables.left_out == {"hto": 2, "hashtag (an antibody by its type)": 1}
        np.testing.assert_array_equal(dense_rows(tables[0])[0], rna.X.toarray())
        np.testing.assert_array_equal(dense_rows(tables[1], 5)[0], atac.X.toarray())
        assert tables[1].obs.index.tolist() == cells[::-1]
        assert tables[0].obs["batch"].tolist() == rna.obs["batch"].tolist()
        assert "rna:score" not in tables[0].obs
        types = [table.obs["cell_type"].loc[cells].tolist() for table in tables]
        assert types == [types[0]] * 3
        assert set(types[0]) == {"T", "B"}
    report = json.loads(json.dumps(describe(path)))
    assert report["usable"]
    assert [part["name"] for part in report["parts"]] == ["rna", "peaks", "prot"]
    assert report["sets"] == {"rna + atac + adt": 30}


def test_one_modality_of_mudata(cells, write_h5mu):
    path = write_h5mu(rna=of(GENES, cells), atac=of(PEAKS, cells))
    with open_table(path, "atac") as table:
        assert table.n_features == len(PEAKS)
    with open_h5ad(path) as table:
        assert table.modality == "rna"
    assert "has no adt, but rna, atac; name one of these" in refusal(path, modality="adt")
    with pytest.raises(InputError, match="holds rna, atac; say which one with --modality"):
        open_table(path)


def test_a_modality_of_another_name_is_known_by_its_feature_types(cells, write_h5mu):
    named = of(PEAKS, cells)
    named.var["feature_types"] = "Peaks"
    path = write_h5mu(rna=of(GENES, cells), my_counts=named, spliced=of(GENES, cells))
    with open_tables(path) as tables:
        assert [table.modality for table in tables] == ["rna", "atac"]
        assert tables.left_out == {"spliced": 8}


def test_counts_are_named_for_the_modalities_that_have_them(cells, write_h5mu, dense_rows):
    rna, atac = of(GENES, cells), of(PEAKS, cells)
    rna.layers["raw_umis"] = rna.X.copy()
    rna.X = np.log1p(rna.X)
    path = write_h5mu(rna=rna, atac=atac)
    assert "modality 'rna': no raw counts found" in refusal(path)
    with open_tables(path, Reading(counts_from="layers/raw_umis")) as tables:
        assert [table.counts_from for table in tables] == ["layers/raw_umis", "X"]
        np.testing.assert_array_equal(dense_rows(tables[0])[0], rna.layers["raw_umis"].toarray())
    assert "no matrix 'layers/other'" in refusal(path, counts_from="layers/other")


def test_mudata_without_a_modelled_modality(cells, write_h5mu):
    path = write_h5mu(hto=of(["A", "B"], cells), spliced=of(GENES, cells))
    line = refusal(path)
    assert "none of its modalities (hto, spliced) is one that mofm models" in line
    assert not describe(path)["usable"]


def test_two_modalities_of_one_kind(cells, write_h5mu):
    path = write_h5mu(rna=of(GENES, cells), gex=of(GENES, cells))
    assert "'rna' and 'gex' are both rna" in refusal(path)


def test_a_modality_without_shared_cells_is_reported(cells, write_h5mu):
    path = write_h5mu(rna=of(GENES, cells), atac=of(PEAKS, [f"S1#{cell}" for cell in cells]))
    report = describe(path)
    assert not report["usable"]
    assert "atac shares no cell name with rna" in report["why"] or "rna shares no cell name with atac" in report["why"]


def test_a_damaged_modality_is_named(cells, write_h5mu):
    path = write_h5mu(rna=of(GENES, cells), atac=of(PEAKS, cells))
    with h5py.File(path, "r+") as file:
        del file["mod/atac/X/indptr"]
    assert "modality 'atac'" in refusal(path)


# --- real files ---


@pytest.mark.parametrize(
    ("name", "modalities", "left_out"),
    [
        ("citeseq_pbmc_500.h5mu", ["rna", "adt"], {"hto": 4}),
        ("a549_scicar.h5mu", ["rna", "atac"], {}),
        ("multiome_S1.h5mu", ["rna", "atac"], {}),
    ],
)
def test_real_mudata_is_read_as_mudata_reads_it(real_data, name, modalities, left_out):
    path = real_data(name)
    with open_tables(path) as tables:
        assert [table.modality for table in tables] == modalities
        assert tables.left_out == left_out
        for table in tables:
            with h5py.File(path) as file:
                truth = ad.io.read_elem(file[f"mod/{table.modality}"])
            matrix = scipy.sparse.csr_matrix(truth.X)
            matrix.sort_indices()
            blocks = list(table.rows(200_000))
            np.testing.assert_array_equal(np.concatenate([rows.indices for rows in blocks]), matrix.indices)
            np.testing.assert_array_equal(np.concatenate([rows.data for rows in blocks]), matrix.data)
            assert table.obs.index.tolist() == truth.obs_names.tolist()
            assert table.var.index.tolist() == truth.var_names.tolist()
