"""Matrices of 10x Genomics, of whatever version and layout, give the counts that are in them, one table a modality."""

import gzip
import json
import re
import shutil

import h5py
import numpy as np
import pytest

from mofm.errors import InputError
from mofm.omics.describe import describe
from mofm.omics.modalities import HASHTAG
from mofm.omics.readers import Reading, open_h5ad, open_table, open_tables

KINDS = {"rna": "Gene Expression", "atac": "Peaks", "adt": "Antibody Capture"}
LEFT_OUT = {"CRISPR Guide Capture": 2, HASHTAG: 1}


def refusal(path, **options) -> str:
    """The one line that refuses the file, by whichever step meets the fault."""
    with pytest.raises(InputError) as caught, open_tables(path, Reading(**options)) as tables:
        assert [list(table.rows()) for table in tables]
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def assert_is_whole(path, kind, tenx, dense_rows, block_entries=4_000_000):
    with open_tables(path) as tables:
        assert tables.layout.kind == kind
        assert [table.modality for table in tables] == ["rna", "atac", "adt"]
        assert tables.left_out == LEFT_OUT
        for table in tables:
            truth = tenx.of(KINDS[table.modality])
            truth = truth[:, :-1] if table.modality == "adt" else truth  # the hashtag
            np.testing.assert_array_equal(dense_rows(table, block_entries)[0], truth)
            np.testing.assert_array_equal(dense_rows(table, block_entries)[0], truth)
            assert table.obs.index.tolist() == tenx.barcodes
        assert tables[0].var.index.tolist() == tenx.names[:30]
        assert tables[0].var["gene_ids"].tolist() == tenx.ids[:30]
        assert tables[1].var.index.tolist() == tenx.ids[30:55]


@pytest.mark.parametrize("block_entries", [30, 4_000_000])
def test_hdf5(tmp_path, tenx, write_10x_h5, dense_rows, block_entries):
    path = write_10x_h5(tmp_path / "filtered_feature_bc_matrix.h5", tenx)
    assert_is_whole(path, "10x h5", tenx, dense_rows, block_entries)
    path.rename(tmp_path / "renamed.dat")
    assert_is_whole(tmp_path / "renamed.dat", "10x h5", tenx, dense_rows)


def test_hdf5_of_cell_ranger_2(tmp_path, tenx, write_10x_h5, dense_rows):
    path = write_10x_h5(tmp_path / "filtered_gene_bc_matrices_h5.h5", tenx, version=2)
    with open_tables(path) as (table,):
        assert table.modality == "rna"
        np.testing.assert_array_equal(dense_rows(table)[0], tenx.counts)
        assert table.var["gene_ids"].tolist() == tenx.ids
    with h5py.File(path, "r+") as file:
        file.copy("GRCh38", "mm10")
    assert "several genomes (GRCh38, mm10)" in refusal(path)


@pytest.mark.parametrize("block_entries", [30, 4_000_000])
@pytest.mark.parametrize("order", ["cell", "feature", "any"])
@pytest.mark.parametrize("zipped", [True, False])
def test_mtx_folder(tmp_path, tenx, write_mtx, dense_rows, monkeypatch, order, zipped, block_entries):
    monkeypatch.setattr("mofm.omics.mtx._TEXT_BYTES", 700)
    folder = write_mtx(tmp_path / "filtered_feature_bc_matrix", tenx, order, zipped)
    assert_is_whole(folder, "10x mtx", tenx, dense_rows, block_entries)


def test_mtx_file_of_prefixed_names(tmp_path, tenx, write_mtx, dense_rows):
    folder = write_mtx(tmp_path / "geo", tenx)
    for file in list(folder.iterdir()):
        shutil.copy(file, folder / f"GSM2_{file.name}")
        file.rename(folder / f"GSM1_{file.name}")
    assert "several matrices (GSM1_matrix.mtx.gz, GSM2_matrix.mtx.gz)" in refusal(folder)
    assert_is_whole(folder / "GSM1_matrix.mtx.gz", "10x mtx", tenx, dense_rows)


def test_mtx_of_cell_ranger_2_and_turned(tmp_path, tenx, write_mtx, dense_rows):
    folder = write_mtx(tmp_path / "hg19", tenx, zipped=False, version=2)
    with open_tables(folder) as (table,):
        np.testing.assert_array_equal(dense_rows(table)[0], tenx.counts)
    head, size, *lines = [line for line in (folder / "matrix.mtx").read_text().splitlines() if "json" not in line]
    turned = [" ".join([*line.split()[1::-1], *line.split()[2:]]) for line in (size, *lines)]
    (folder / "matrix.mtx").write_text("\n".join([head.replace("integer", "real"), *turned]) + "\n")
    with open_tables(folder) as (table,):
        np.testing.assert_array_equal(dense_rows(table)[0], tenx.counts)


def test_mtx_of_peaks_in_a_bed_file(tmp_path, tenx, write_mtx, dense_rows):
    peaks = tenx._replace(counts=tenx.of("Peaks"), ids=tenx.ids[30:55], names=tenx.ids[30:55], kinds=["Peaks"] * 25)
    folder = write_mtx(tmp_path / "filtered_peak_bc_matrix", peaks, zipped=False)
    bed = [peak.replace(":", "\t").replace("-", "\t") for peak in peaks.ids]
    (folder / "peaks.bed").write_text("\n".join(bed) + "\n")
    (folder / "features.tsv").unlink()
    with open_tables(folder) as (table,):
        assert table.modality == "atac"
        assert table.var.index.tolist() == peaks.ids
        np.testing.assert_array_equal(dense_rows(table)[0], peaks.counts)


@pytest.mark.parametrize("sub", [".", "outs"])
def test_output_folders_of_cell_ranger(tmp_path, tenx, write_10x_h5, write_mtx, dense_rows, sub):
    outs = tmp_path / "sample" / sub
    outs.mkdir(parents=True, exist_ok=True)
    write_mtx(outs / "filtered_feature_bc_matrix", tenx)
    assert_is_whole(tmp_path / "sample", "10x outs", tenx, dense_rows)
    raw = tenx._replace(counts=tenx.counts * 0)
    write_10x_h5(outs / "raw_feature_bc_matrix.h5", raw)
    write_10x_h5(outs / "filtered_feature_bc_matrix.h5", tenx)
    shutil.rmtree(outs / "filtered_feature_bc_matrix")
    (outs / "atac_fragments.tsv.gz").write_bytes(b"not looked at where the matrix has peaks")
    assert_is_whole(tmp_path / "sample", "10x outs", tenx, dense_rows)


def test_one_modality_of_several(tmp_path, tenx, write_10x_h5, dense_rows):
    path = write_10x_h5(tmp_path / "a.h5", tenx)
    with open_table(path, "adt") as table:
        np.testing.assert_array_equal(dense_rows(table)[0], tenx.of("Antibody Capture")[:, :-1])
        assert table.left_out == LEFT_OUT | {"Gene Expression": 30, "Peaks": 25}
    with open_h5ad(path) as table:
        assert (table.modality, table.n_features) == ("rna", 30)
    with pytest.raises(InputError, match="holds rna, atac, adt; say which one with --modality"):
        open_table(path)
    assert "has no methylation, but rna, atac, adt" in refusal(path, modality="methylation")


def test_a_report_of_each(tmp_path, tenx, write_10x_h5, write_mtx):
    for path in (write_10x_h5(tmp_path / "a.h5", tenx), write_mtx(tmp_path / "folder", tenx)):
        report = json.loads(json.dumps(describe(path)))
        assert report["usable"]
        assert [(table["modality"], table["features"]) for table in report["tables"]] == [
            ("rna", 30),
            ("atac", 25),
            ("adt", 4),
        ]
        assert report["sets"] == {"rna + atac + adt": 40}
        assert report["left_out"] == LEFT_OUT


# --- what is wrong is told ---


def test_nothing_that_is_modelled(tmp_path, tenx, write_10x_h5):
    path = write_10x_h5(tmp_path / "a.h5", tenx._replace(kinds=["Custom"] * len(tenx.kinds)))
    assert "mofm models none of its features (Custom)" in refusal(path)


def test_names_that_do_not_fit_the_matrix(tmp_path, tenx, write_10x_h5, write_mtx):
    path = write_10x_h5(tmp_path / "a.h5", tenx._replace(barcodes=tenx.barcodes[1:]))
    assert "its names are not" in refusal(path)
    folder = write_mtx(tmp_path / "b", tenx._replace(barcodes=tenx.barcodes[1:]))
    assert "take the three files of one folder" in refusal(folder)
    repeated = tenx._replace(barcodes=[*tenx.barcodes[:-1], tenx.barcodes[0]])
    assert "repeat an earlier one" in refusal(write_10x_h5(tmp_path / "c.h5", repeated))


@pytest.mark.parametrize("part", ["features", "barcodes"])
def test_a_folder_that_is_not_whole(tmp_path, tenx, write_mtx, part):
    folder = write_mtx(tmp_path / "a", tenx)
    (folder / f"{part}.tsv.gz").unlink()
    line = refusal(folder)
    assert f"{part}.tsv" in line
    assert "copy the whole folder" in line


@pytest.mark.parametrize("share", [0.3, 0.8, 0.99])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_matrix_that_is_cut_short(tmp_path, tenx, write_mtx, zipped, share):
    folder = write_mtx(tmp_path / "a", tenx, zipped=zipped)
    file = folder / ("matrix.mtx.gz" if zipped else "matrix.mtx")
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    assert "cut short" in refusal(folder)


def rewrite(folder, old: str, new: str) -> None:
    text = gzip.decompress((folder / "matrix.mtx.gz").read_bytes()).decode()
    assert old in text
    (folder / "matrix.mtx.gz").write_bytes(gzip.compress(text.replace(old, new, 1).encode()))


def test_a_matrix_that_is_no_matrix(tmp_path, tenx, write_mtx):
    counts = tenx.counts.copy()
    counts[20, 11] = 123
    for place, (old, new, words) in enumerate(
        [
            ("coordinate", "array", "begins .%%matrixmarket matrix array"),
            ("general", "symmetric", "begins .%%matrixmarket"),
            ("\n12 21 123\n", "\n12 21 -3\n", "negative"),
            ("\n12 21 123\n", "\n12 210 123\n", "outside of its"),
            ("\n12 21 123\n", "\n0 21 123\n", "outside of its"),
            ("\n12 21 123\n", "\ntwelve 21 123\n", "damaged or cut short"),
        ]
    ):
        folder = write_mtx(tmp_path / str(place), tenx._replace(counts=counts))
        rewrite(folder, old, new)
        assert re.search(words, refusal(folder))


def test_normalised_values_are_no_counts(tmp_path, tenx, write_mtx):
    folder = write_mtx(tmp_path / "a", tenx)
    rewrite(folder, "integer", "real")
    rewrite(folder, "\n1 ", "\n1.0 ")
    assert "damaged" in refusal(folder)
    folder = write_mtx(tmp_path / "b", tenx)
    text = gzip.decompress((folder / "matrix.mtx.gz").read_bytes()).decode().replace("integer", "real")
    head, lines = text.splitlines()[:3], text.splitlines()[3:]
    (folder / "matrix.mtx.gz").write_bytes(gzip.compress("\n".join([*head, *(f"{x}.5" for x in lines)]).encode()))
    assert "raw counts are needed" in refusal(folder)
