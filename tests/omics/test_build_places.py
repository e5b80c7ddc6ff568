"""Genes are placed in an older build to the base or not at all, and the script says what is wrong with its wheel."""

import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofm.errors import InputError
from mofm.omics import build_places as builder
from mofm.omics.genome import OLDER_BUILDS, gene_table

FOLDER = "SigProfilerMatrixGenerator/references/chromosomes/transcripts"


def transcripts(rows):
    """Frames as `read_transcripts` gives them: (gene, transcript, start, end), all on chr1, strand +."""
    frame = pd.DataFrame(rows, columns=["gene_id", "transcript", "start", "end"])
    return frame.assign(chrom="chr1", strand="+")


def genes(*rows):
    frame = pd.DataFrame(rows, columns=["gene_id", "start", "end"])
    return frame.assign(chrom="chr1", strand="+", biotype="lncRNA")


def test_gene_between_agreeing_anchors_moves_with_them():
    new = transcripts([("A", "TA", 1000, 2000), ("B", "TB", 9000, 9500)])
    old = transcripts([("A", "TA", 1100, 2100), ("B", "TB", 9100, 9600)])
    places = builder.places_in(genes(("X", 4000, 5000), ("A", 900, 2000)), new, old)
    assert places.loc[places["gene_id"] == "X", ["start", "end", "how"]].values.tolist() == [[4100, 5100, "moved"]]
    # No anchor lies left of A, so its own annotation in the older build speaks.
    assert places.loc[places["gene_id"] == "A", ["start", "end", "how"]].values.tolist() == [[1100, 2100, "annotated"]]


def test_gene_where_the_assembly_changed_is_left_out():
    new = transcripts([("A", "TA", 1000, 2000), ("B", "TB", 9000, 9500)])
    old = transcripts([("A", "TA", 1000, 2000), ("B", "TB", 19000, 19500)])
    assert builder.places_in(genes(("X", 4000, 5000)), new, old).empty


def test_a_transcript_that_changed_is_no_anchor():
    new = transcripts([("A", "TA", 1000, 2000), ("B", "TB", 3000, 4000), ("C", "TC", 9000, 9500)])
    old = transcripts([("A", "TA", 1000, 2000), ("B", "TB", 3100, 4000), ("C", "TC", 9000, 9500)])
    assert builder.anchors(new, old)["gene_id"].tolist() == ["A", "C"]


@given(st.integers(-5000, 5000), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_shift_of_a_whole_chromosome_is_found_exactly(by, seed):
    starts = np.sort(np.random.default_rng(seed).choice(np.arange(10_000, 10**6), 40, replace=False))
    new = transcripts([(f"G{i}", f"T{i}", start, start + 500) for i, start in enumerate(starts)])
    old = new.assign(start=new["start"] + by, end=new["end"] + by)
    shift, disagreement = builder.shifts(genes(("X", starts[0] + 1000, starts[-1] - 1000)), builder.anchors(new, old))
    assert (shift.tolist(), disagreement.tolist()) == ([by], [0])


@pytest.mark.parametrize(("build", "symbol", "chrom", "start", "end"), [
    ("GRCh37", "MS4A1", "chr11", 60223318, 60238225),  # GENCODE 19 has 60223224-60238233
    ("GRCh37", "GAPDH", "chr12", 6643093, 6647537),
    ("GRCm38", "Xkr4", "chr1", 3205900, 3671498),
])  # fmt: skip
def test_well_known_genes_lie_where_browsers_show_them(build, symbol, chrom, start, end):
    table = gene_table(OLDER_BUILDS[build], build)
    gene = table.frame.iloc[table.row_of_symbol[symbol]]
    assert gene["chrom"] == chrom
    assert abs(gene["start"] - start) < 10_000
    assert abs(gene["end"] - end) < 10_000


@pytest.mark.parametrize(("build", "known"), [("GRCh37", 0.92), ("GRCm38", 0.97)])
def test_older_builds_have_the_same_rows_and_most_places(build, known):
    older, newest = gene_table(OLDER_BUILDS[build], build), gene_table(OLDER_BUILDS[build])
    assert older.build == build != newest.build
    assert older.gene_ids == newest.gene_ids
    assert older.row_of_symbol == newest.row_of_symbol
    placed = (older.frame["start"] >= 0).to_numpy()
    assert placed.mean() > known
    assert (older.frame["chrom"].isna().to_numpy() == ~placed).all()
    coding = (older.frame["biotype"] == "protein_coding").to_numpy()
    assert placed[coding].mean() > 0.98
    lengths = (older.frame["end"] - older.frame["start"])[placed]
    assert (lengths == (newest.frame["end"] - newest.frame["start"])[placed]).mean() > 0.97
    assert "BSD 2-Clause" in older.licence


def test_a_build_that_there_is_not_is_told():
    with pytest.raises(InputError, match=r"no human genes placed in build 'GRCm38': mofm has GRCh38, GRCh37"):
        gene_table("human", "GRCm38")


def wheel(path, builds):
    with zipfile.ZipFile(path, "w") as archive:
        for build, text in builds.items():
            archive.writestr(f"{FOLDER}/{build}/1_transcripts.txt", text)
        archive.writestr("x.dist-info/licenses/LICENSE", "BSD")
    return path


def test_command_line_reads_a_wheel(tmp_path, monkeypatch, capsys):
    cd3d = gene_table("human").frame.iloc[gene_table("human").row_of_id["ENSG00000198851"]]  # CD3E, beside CD3D
    line = f"ENSG00000198851\tT1\t11\t1\t{cd3d['start'] + 1}\t{cd3d['end']}\tCD3E\tprotein_coding\n"
    path = wheel(tmp_path / "w.whl", {"GRCh38": line, "GRCh37": line})
    monkeypatch.setattr(sys, "argv", ["x", "human", "GRCh38", "GRCh37", str(path), str(tmp_path / "out" / "o.parquet")])
    assert builder.main() == 0
    assert "1 of 78,894 genes" in capsys.readouterr().out
    written = pd.read_parquet(tmp_path / "out" / "o.parquet")
    assert written.loc[0, ["gene_id", "chrom", "start", "end"]].tolist() == [
        *("ENSG00000198851", "chr11", cd3d["start"], cd3d["end"]),
    ]
    monkeypatch.setattr(sys, "argv", ["x", "human", "GRCh38", "mm2", str(path), str(tmp_path / "o.parquet")])
    assert builder.main() == 2
    assert "no transcripts of build 'mm2'" in capsys.readouterr().err


def test_what_is_no_wheel_is_told(tmp_path):
    (tmp_path / "w.whl").write_text("text")
    with pytest.raises(InputError, match=r"w\.whl: cannot be read as a wheel"):
        builder.read_transcripts(tmp_path / "w.whl", "GRCh38")
