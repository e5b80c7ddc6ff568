"""A file is what is in it, whatever it is called; what it is not is told with what was looked for."""

import gzip

import anndata as ad
import h5py
import numpy as np
import pytest

from mofm.errors import InputError
from mofm.omics.layouts import is_fragment, layout_of
from mofm.omics.modalities import are_hashtags, modality_of, region_share


def refusal(path) -> str:
    with pytest.raises(InputError) as caught:
        layout_of(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_hdf5_is_told_by_its_groups(tmp_path):
    ad.AnnData(np.ones((2, 2), np.float32)).write_h5ad(tmp_path / "a.h5mu")
    assert layout_of(tmp_path / "a.h5mu").kind == "h5ad"
    for group, kind in (
        ("mod/rna", "h5mu"),
        ("matrix/barcodes", "10x h5"),
        ("GRCh38/barcodes", "10x h5"),
        ("x", "h5ad"),
    ):
        with h5py.File(tmp_path / "b.h5ad", "w") as file:
            file.create_group(group)
        assert layout_of(tmp_path / "b.h5ad").kind == kind


@pytest.mark.parametrize("zipped", [True, False])
def test_fragments_are_told_by_their_first_line(tmp_path, zipped):
    text = b"# id=x\nchr1\t10\t90\tAAAC-1\t1\n"
    (tmp_path / "a.txt").write_bytes(gzip.compress(text) if zipped else text)
    layout = layout_of(tmp_path / "a.txt")
    assert (layout.kind, layout.files, layout.fragments) == ("fragments", (), tmp_path / "a.txt")
    assert layout.all_files == (tmp_path / "a.txt",)


@pytest.mark.parametrize(
    "line",
    ["", "chr1\t10\t90", "chr1 10 90 AAAC-1 1", "gene\tcount\tx\ty", "chr1\t-1\t90\tA\t1", "\t1\t2\tA", "chr1\t1\t2\t"],
)
def test_other_lines_are_no_fragments(line):
    assert is_fragment("chr1\t1\t2\tA\t1\t+\n")
    assert not is_fragment(line)


def test_what_is_not_known_is_told_with_what_was_looked_for(tmp_path):
    (tmp_path / "table.csv").write_text("gene,cell1\nCD3D,4\n")
    line = refusal(tmp_path / "table.csv")
    assert "its first line 'gene,cell1'" in line
    assert (
        "give h5ad, h5mu, zarr, 10x HDF5, a 10x folder of matrix.mtx, a Cell Ranger outs folder, "
        "fragments.tsv.gz or a TileDB-SOMA experiment" in line
    )
    (tmp_path / "folder").mkdir()
    line = refusal(tmp_path / "folder")
    assert (
        "looked for filtered_feature_bc_matrix.h5, filtered_peak_bc_matrix.h5, a matrix.mtx and fragments.tsv.gz"
        in line
    )
    assert "no such file" in refusal(tmp_path / "absent")
    (tmp_path / "empty").touch()
    assert "0 bytes" in refusal(tmp_path / "empty")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"chr1\t10\t90\tA\t1\n" * 100)[:12])
    assert "cannot be read as text or gzip" in refusal(tmp_path / "cut.gz")
    (tmp_path / "comments").write_text("# only\n# comments\n")
    assert "its first line ''" in refusal(tmp_path / "comments")


@pytest.mark.parametrize(
    ("word", "modality"),
    [
        ("Gene Expression", "rna"), ("GEX", "rna"), ("RNA", "rna"), ("Peaks", "atac"), ("ATAC", "atac"), ("prot", "adt"),
        ("Antibody Capture", "adt"), ("ADT", "adt"), ("DNA_methylation", "methylation"), ("hto", None), ("spliced", None),
        ("CRISPR Guide Capture", None), ("Multiplexing Capture", None), ("Custom", None), ("", None),
    ],
)  # fmt: skip
def test_words_for_modalities(word, modality):
    assert modality_of(word) == modality


def test_hashtags_are_told_from_antibodies():
    tags = ["HTO1", "HTO_2", "hto-a", "Hashtag_1", "hash-tag 3", "TotalSeq_hashtag7", "S1_HTO", "CMO301"]
    antibodies = ["CD3", "CD45RA", "HLA-DR", "PHTO", "THTOX", "CMO", "CD62L"]
    assert are_hashtags(tags).all()
    assert not are_hashtags(antibodies).any()


def test_names_of_regions():
    regions = [
        "chr1:100-200",
        "chr1-100-200",
        "chr1_100_200",
        "1-100-200",
        "X:1-2",
        "GL000219.1:5-90",
        "chrUn_KI270:1-2",
        "GRCh38_chr1:100-200",
        "grch38.p14_1-100-200",
        "mm9___chrX_5_9",
    ]
    assert region_share(regions) == 1.0
    assert region_share(["CD3D", "HLA-DRB1", "chr1", "1-2", "MT-CO1", "ENSG00000167286", "AC001.1-2", "H2-K1-3"]) == 0.0
    assert region_share(["slide1_100_200", "sample1_1_2_3", "GRCh38_CD3D", "mm10_AC001.1-2"]) == 0.0
    assert region_share([]) == 0.0
