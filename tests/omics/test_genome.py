"""The bundled gene tables hold what they say, and the builder makes the same table from the same lists or refuses."""

import gzip
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mofm.errors import InputError
from mofm.omics import build_gene_table as builder
from mofm.omics.genome import COLUMNS, bundled_species, gene_table, read_gene_table

GENES = (
    "ENSG00000000009,TWIN,1,100,lncRNA\n"
    "ENSG00000000003,TWIN,2,100,protein_coding\n"
    "ENSG00000000002,TWIN,2,100,protein_coding\n"
    "ENSG00000000001,TWIN,2,100,protein_coding\n"
    "ENSG00000000004,NA,2,100,protein_coding\n"
    "ENSG00000000005,ENSG00000000005,2,100,lncRNA\n"
)
PLACES = (
    "chrom,start,end,gene_id,gene_name,strand\n"
    "chr9,10,20,ENSG00000000009.1,TWIN,+\n"
    "chr3,10,20,ENSG00000000003.2,TWIN,+\n"
    "chr2,10,20,ENSG00000000002.2,TWIN,-\n"
    "GL000008.2,10,20,ENSG00000000001.2,TWIN,+\n"
    "MT,0,20,ENSG00000000004.2,NA,+\n"
    "X,10,20,ENSG00000000005.2,ENSG00000000005,+\n"
)
SAYS = {"release": "R1 (hg0)", "source": "a test", "licence": "MIT"}


def written(path, text):
    path.write_bytes(gzip.compress(text.encode(), mtime=0))  # no time of day: the table records the sum of its input
    return path


def built(folder, genes=GENES, places=PLACES, out="out.parquet"):
    places = None if places is None else written(folder / "places.csv.gz", places)
    builder.build_gene_table("human", written(folder / "genes.csv.gz", genes), places, folder / out, **SAYS)
    return folder / out


@pytest.mark.parametrize(("species", "prefix", "gene_id", "symbol", "chrom", "start", "end"), [
    ("human", "ENSG", "ENSG00000156738", "MS4A1", "chr11", 60455845, 60470752),
    ("mouse", "ENSMUSG", "ENSMUSG00000051951", "Xkr4", "chr1", 3276123, 3741721),
])  # fmt: skip
def test_bundled_tables(species, prefix, gene_id, symbol, chrom, start, end):
    table = gene_table(species)
    frame = table.frame
    assert table.species == species
    assert tuple(frame.columns) == COLUMNS
    assert frame["gene_id"].str.fullmatch(prefix + r"\d{11}").all()
    assert frame["gene_id"].is_monotonic_increasing
    assert frame["gene_id"].is_unique
    assert not frame.isna().any().any()
    assert frame["start"].dtype == frame["end"].dtype == np.int32
    assert (frame["start"] >= 0).all()
    assert (frame["start"] < frame["end"]).all()
    assert set(frame["strand"].unique()) == {"+", "-"}
    assert {"chr1", "chrX", "chrM"} < set(frame["chrom"].cat.categories)
    row = frame.iloc[table.row_of_id[gene_id]]
    assert (row.symbol, row.chrom, row.start, row.end) == (symbol, chrom, start, end)
    assert table.row_of_symbol[symbol] == table.row_of_id[gene_id]
    assert "GENCODE" in table.version
    assert "MIT License" in table.licence


def test_tables_are_shipped_and_small():
    sizes = {path.stem: path.stat().st_size for path in (Path(builder.__file__).parent / "data").glob("*.parquet")}
    assert set(sizes) == set(bundled_species()) >= {"human", "mouse"}
    assert max(sizes.values()) < 1_500_000


def test_every_symbol_has_one_row_and_that_row_has_the_symbol():
    table = gene_table()
    assert set(table.row_of_symbol) == set(table.symbols)
    assert all(table.symbols[row] == symbol for symbol, row in table.row_of_symbol.items())
    counts = pd.Series(table.symbols).value_counts()
    assert table.ambiguous_symbols == set(counts[counts > 1].index)


def test_pseudoautosomal_symbol_is_the_gene_on_x():
    table = gene_table()
    rows = table.frame.iloc[[table.row_of_symbol[symbol] for symbol in ("CD99", "IL3RA", "VAMP7")]]
    assert list(rows["chrom"]) == ["chrX"] * 3


@pytest.mark.parametrize("name", ["Human", "humans", "hunan"])
def test_unknown_species_names_the_nearest(name):
    with pytest.raises(InputError, match=r"Did you mean 'human'\?"):
        gene_table(name)


def test_unknown_species_far_from_all():
    with pytest.raises(InputError, match="mofm ships human, mouse") as error:
        gene_table("zebrafish")
    assert "\n" not in str(error.value)


def test_builder_orders_by_id_and_reads_back(tmp_path):
    table = read_gene_table(built(tmp_path))
    assert table.gene_ids == [f"ENSG0000000000{i}" for i in (1, 2, 3, 4, 5, 9)]
    assert list(table.frame["chrom"]) == ["GL000008.2", "chr2", "chr3", "chrM", "chrX", "chr9"]
    assert table.symbols[3] == "NA"  # a name here, not a missing value
    assert (table.release, table.source, table.licence) == ("R1 (hg0)", "a test", "MIT")
    assert table.version == "R1 (hg0), from a test"


def test_symbol_rule_prefers_coding_then_chromosome_then_lowest_id(tmp_path):
    table = read_gene_table(built(tmp_path))
    assert table.gene_ids[table.row_of_symbol["TWIN"]] == "ENSG00000000002"
    assert table.ambiguous_symbols == {"TWIN"}


def test_builder_gives_the_same_bytes_whatever_the_order_of_lines(tmp_path):
    first = built(tmp_path, out="first.parquet").read_bytes()
    assert built(tmp_path, out="again.parquet").read_bytes() == first
    head, *lines = PLACES.splitlines()
    shuffled = read_gene_table(built(tmp_path, places="\n".join([head, *lines[::-1]]) + "\n"))
    pd.testing.assert_frame_equal(shuffled.frame, read_gene_table(tmp_path / "first.parquet").frame)


def test_builder_without_coordinates_leaves_places_unknown(tmp_path):
    table = read_gene_table(built(tmp_path, places=None))
    assert table.frame["chrom"].isna().all()
    assert (table.frame["start"] == -1).all()
    assert table.gene_ids[table.row_of_symbol["TWIN"]] == "ENSG00000000001"


@pytest.mark.parametrize(("genes", "places", "says"), [
    (GENES.replace("00009,", "00009.1,"), PLACES, "no unversioned ENSG ids .*ENSG00000000009.1"),
    (GENES.replace("ENSG", "ENSMUSG"), PLACES, "6 of 6 genes are no unversioned ENSG ids"),
    (GENES + GENES.splitlines()[0] + "\n", PLACES, "repeat an earlier one"),
    (GENES.replace(",lncRNA", ","), PLACES, "no symbol or no biotype"),
    ("a,b\nc,d\n", PLACES, "2 columns where 5"),
    ("", PLACES, "cannot be read as CSV"),
    (GENES, PLACES.replace("strand", "sign"), "columns strand missing"),
    (GENES, PLACES.replace("chr9,10,20", "chr9,20,20"), "no interval .*ENSG00000000009"),
    (GENES, PLACES.replace("chr9,10,20", "chr9,ten,20"), "no interval .*ENSG00000000009"),
    (GENES, PLACES.replace(",-", ",."), "strand other than"),
    (GENES, PLACES + "chrY,1,2,ENSG00000000009.7,TWIN,+\n", "repeat an earlier one"),
    (GENES, PLACES + "chrY,1,2,ENSG00000000019.7,TWIN,+\n", "not in the gene list .*ENSG00000000019"),
    (GENES + "ENSG00000000019,N,1,1,lncRNA\n", PLACES, "missing here .*ENSG00000000019"),
])  # fmt: skip
def test_builder_refuses(tmp_path, genes, places, says):
    with pytest.raises(InputError, match=says) as error:
        built(tmp_path, genes, places)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out.parquet").exists()


def test_command_line(tmp_path, monkeypatch, capsys):
    genes, places = written(tmp_path / "g.csv.gz", GENES), written(tmp_path / "p.csv.gz", PLACES)
    (tmp_path / "LICENSE").write_text("Permission is granted")
    out = tmp_path / "deep" / "human.parquet"
    arguments = ["human", genes, places, out, "--release", "R2", "--licence", tmp_path / "LICENSE"]
    monkeypatch.setattr(sys, "argv", ["build", *map(str, arguments)])
    assert builder.main() == 0
    assert "6 genes" in capsys.readouterr().out
    assert read_gene_table(out).version == "R2, from g.csv.gz"
    assert read_gene_table(out).licence == "Permission is granted"
    monkeypatch.setattr(sys, "argv", ["build", "human", str(tmp_path / "none.csv.gz"), str(out)])
    assert builder.main() == 2
    assert "none.csv.gz" in capsys.readouterr().err


def test_reading_what_is_no_gene_table(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_gene_table(tmp_path / "absent.parquet")
    (tmp_path / "text.parquet").write_text("not parquet")
    with pytest.raises(InputError, match="cannot be read"):
        read_gene_table(tmp_path / "text.parquet")
    pq.write_table(pa.table({"gene_id": ["ENSG00000000001"]}), tmp_path / "other.parquet")
    with pytest.raises(InputError, match=r"symbol, .* missing"):
        read_gene_table(tmp_path / "other.parquet")
