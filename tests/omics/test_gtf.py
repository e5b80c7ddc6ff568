"""A gene table is made from GENCODE's and Ensembl's GTF alike, gzipped or not, and from nothing less."""

import gzip
import sys

import pytest

from mofm.errors import InputError
from mofm.omics import build_gene_table as builder
from mofm.omics.genome import read_gene_table
from mofm.omics.gtf import read_gtf

GENCODE = (
    "##description: evidence-based annotation\n"
    'chr1\tHAVANA\tgene\t11869\t14409\t.\t+\t.\tgene_id "ENSG00000223972.5"; gene_type "lncRNA"; gene_name "DDX11L1";\n'
    'chr1\tHAVANA\ttranscript\t11869\t14409\t.\t+\t.\tgene_id "ENSG00000223972.5"; transcript_id "ENST00000456328.2";\n'
    'chrY\tHAVANA\tgene\t253743\t255091\t.\t-\t.\tgene_id "ENSG00000182378.15_PAR_Y"; gene_type "protein_coding";\n'
    'KI270711.1\tENSEMBL\tgene\t4612\t29626\t.\t-\t.\tgene_id "ENSG00000271254.6"; gene_type "protein_coding";\n'
)
ENSEMBL = (
    "#!genome-build GRCh38.p14\n"
    '1\thavana\tgene\t11869\t14409\t.\t+\t.\tgene_id "ENSG00000223972"; gene_version "5"; gene_name "DDX11L1"; '
    'gene_biotype "lncRNA";\n'
    'MT\tinsdc\tgene\t577\t647\t.\t+\t.\tgene_id "ENSG00000210049"; gene_version "1"; gene_biotype "Mt_tRNA";\n'
)


def written(path, text):
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["genes.gtf", "genes.gtf.gz"])
def test_gencode(tmp_path, name):
    frame = read_gtf(written(tmp_path / name, GENCODE))
    assert frame.values.tolist() == [
        ["ENSG00000223972", "DDX11L1", "lncRNA", "chr1", 11868, 14409, "+"],
        ["ENSG00000271254", "ENSG00000271254", "protein_coding", "KI270711.1", 4611, 29626, "-"],
    ]


def test_ensembl(tmp_path):
    frame = read_gtf(written(tmp_path / "genes.gtf.gz", ENSEMBL))
    assert frame["gene_id"].tolist() == ["ENSG00000223972", "ENSG00000210049"]
    assert frame["biotype"].tolist() == ["lncRNA", "Mt_tRNA"]


def test_command_line_makes_the_same_table_from_both(tmp_path, monkeypatch):
    first_lines = {"a": GENCODE, "b": ENSEMBL}
    for name, text in first_lines.items():
        path, out = written(tmp_path / f"{name}.gtf.gz", text), tmp_path / f"{name}.parquet"
        monkeypatch.setattr(sys, "argv", ["x", "human", str(path), str(out), "--release", "R1 (GRCh38)"])
        assert builder.main() == 0
    tables = [read_gene_table(tmp_path / f"{name}.parquet") for name in first_lines]
    assert [table.build for table in tables] == ["GRCh38"] * 2
    rows = [table.frame[table.frame["gene_id"] == "ENSG00000223972"].values.tolist() for table in tables]
    assert rows[0] == rows[1]
    assert tables[1].frame.loc[0, "chrom"] == "chrM"


@pytest.mark.parametrize(("text", "says"), [
    ("", "no line of feature 'gene'"),
    ("a\tb\tgene\t1\n", "line 1 is no gene"),
    (GENCODE.replace("11869", "x"), "line 2 is no gene"),
    (GENCODE.replace('gene_id "ENSG00000223972.5"; ', ""), "line 2 is no gene"),
    (GENCODE.replace("ENSG", "ENSMUSG"), "are no unversioned ENSG ids"),
    (GENCODE.replace("\t+\t", "\t.\t"), "strand other than"),
    (GENCODE + GENCODE, "repeat an earlier one"),
])  # fmt: skip
def test_what_is_no_annotation_is_refused(tmp_path, text, says):
    path = written(tmp_path / "genes.gtf", text)
    with pytest.raises(InputError, match=says) as error:
        builder.build_gene_table("human", path, None, tmp_path / "o", release="R", source="S", licence="L")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "o").exists()


def test_truncated_gzip_and_needless_coordinates_are_told(tmp_path):
    path = written(tmp_path / "genes.gtf.gz", GENCODE)
    with pytest.raises(InputError, match="not needed"):
        builder.build_gene_table("human", path, path, tmp_path / "o", release="R", source="S", licence="L")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="cannot be read as GTF"):
        read_gtf(path)
