"""Mouse genes reach a human model one to one or not at all, and only by a table that somebody gave."""

import functools
import gzip
import json

import pandas as pd
import pytest

from mofm.errors import InputError
from mofm.omics.features import resolve_var
from mofm.omics.genome import gene_table
from mofm.omics.orthologs import check_species, read_orthologs, resolve_through

HUMAN, MOUSE = gene_table("human"), gene_table("mouse")


def id_of(table, symbol):
    return table.gene_ids[table.row_of_symbol[symbol]]


PAIRS = [("Cd3d", "CD3D"), ("Ms4a1", "MS4A1"), ("Gnai3", "GNAI3")]
BIOMART = "Gene stable ID\tGene name\tHuman gene name\tHuman gene stable ID\tHuman homology type\n" + "".join(
    f"{id_of(MOUSE, mouse)}\t{mouse}\t{human}\t{id_of(HUMAN, human)}\tortholog_one2one\n" for mouse, human in PAIRS
)


def written(path, text):
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize(("name", "text"), [
    ("biomart.tsv", BIOMART),
    ("biomart.csv", BIOMART.replace("\t", ",")),
    ("biomart.txt.gz", BIOMART),
    ("versioned.tsv", BIOMART.replace("\tCd3d", ".14\tCd3d")),
    ("symbols.tsv", "".join(f"{mouse}\t{human}\n" for mouse, human in PAIRS)),
    ("header.csv", "mouse,human\n" + "".join(f"{mouse},{human}\n" for mouse, human in PAIRS)),
    ("ids.tsv", "".join(f"{id_of(MOUSE, mouse)}\t{id_of(HUMAN, human)}\n" for mouse, human in PAIRS)),
    ("mixed.tsv", "".join(f"{mouse}\t{id_of(HUMAN, human)}\n" for mouse, human in PAIRS)),
])  # fmt: skip
def test_tables_of_every_kind_say_the_same(tmp_path, name, text):
    orthologs = read_orthologs(written(tmp_path / name, text), HUMAN)
    assert orthologs.pairs == 3
    names = ["Cd3d", id_of(MOUSE, "Cd3d"), f"{id_of(MOUSE, 'Ms4a1')}.7", "mm10___Gnai3", "Xkr4", "CD3D"]
    resolution = resolve_through(names, HUMAN, orthologs)
    assert resolution.symbols == ["CD3D", "CD3D", "MS4A1", "GNAI3", "Xkr4", "CD3D"]
    assert resolution.how.tolist() == [*["ortholog"] * 4, "unresolved", "symbol"]
    assert resolution.ids[0] == id_of(HUMAN, "CD3D")
    assert resolution.summary()["ortholog"] == 4
    assert json.loads(json.dumps(orthologs.summary())) == orthologs.summary()


def test_only_one_to_one_is_used_and_the_rest_is_counted(tmp_path):
    text = (
        "Cd3d\tCD3D\n"
        "Ms4a1\tMS4A1\nMs4a1\tMS4A2\n"  # one to two
        "Gnai3\tGNAI3\nGnai2\tGNAI3\n"  # two to one
        "Xkr4\tnothing\n"  # no human gene
        "Cd3d\tCD3D\n"  # said twice
    )
    orthologs = read_orthologs(written(tmp_path / "o.tsv", text), HUMAN)
    assert (orthologs.pairs, orthologs.left_out) == (1, {"several": 4, "unknown": 1})
    resolution = resolve_through(["Cd3d", "Ms4a1", "Gnai3", "Gnai2", "Xkr4"], HUMAN, orthologs)
    assert (resolution.how == "ortholog").tolist() == [True, False, False, False, False]


def test_homology_type_is_believed(tmp_path):
    text = BIOMART.replace("ortholog_one2one", "ortholog_one2many", 1)
    orthologs = read_orthologs(written(tmp_path / "o.tsv", text), HUMAN)
    assert (orthologs.pairs, orthologs.left_out["several"]) == (2, 1)


def third_species(species, homology):
    """A BioMart export of rat or mouse genes with the columns of a third species before those of human ones."""
    head, *lines = BIOMART.splitlines()
    id_and_name, target = "\t".join(head.split("\t")[:2]), "\t".join(head.split("\t")[2:])
    text = f"{id_and_name}\t{species} gene stable ID\t{species} gene name\t{species} homology type\t{target}\n"
    for number, line in enumerate(lines):
        cells = line.split("\t")
        third = [f"ENSXXXG{number:011}", f"third{number}", homology]
        text += "\t".join([*cells[:2], *third, *cells[2:]]) + "\n"
    return text


@pytest.mark.parametrize("species", ["Rat", "Mouse", "Chinese hamster CHOK1GS"])
def test_columns_of_a_third_species_say_nothing(tmp_path, species):
    text = third_species(species, "ortholog_many2many")
    orthologs = read_orthologs(written(tmp_path / "o.tsv", text), HUMAN)
    assert orthologs.target_of == read_orthologs(written(tmp_path / "two.tsv", BIOMART), HUMAN).target_of
    without = text.replace(f"{species} homology type", "Query protein")
    assert read_orthologs(written(tmp_path / "o.tsv", without), HUMAN).target_of == orthologs.target_of
    not_single = text.replace("ortholog_one2one", "ortholog_one2many", 1).replace("many2many", "one2one")
    found = read_orthologs(written(tmp_path / "o.tsv", not_single), HUMAN)
    assert (found.pairs, found.left_out["several"]) == (2, 1)


def test_sources_of_several_species_are_refused(tmp_path):
    text = "Mouse gene name\tRat gene name\tRat homology type\tHuman gene name\nCd3d\tCd3d\tortholog_one2one\tCD3D\n"
    with pytest.raises(
        InputError, match=r"o\.tsv: its header names genes of mouse and of rat, .* of one in --orthologs"
    ):
        read_orthologs(written(tmp_path / "o.tsv", text), HUMAN)
    one = "Mouse gene id\tMouse gene name\tHuman gene name\nENSMUSG00000032094\tCd3d\tCD3D\n"
    assert {"ENSMUSG00000032094", "Cd3d"} <= set(read_orthologs(written(tmp_path / "o.tsv", one), HUMAN).target_of)


def test_lines_without_a_counterpart_are_no_pairs(tmp_path):
    text = BIOMART + f"{id_of(MOUSE, 'Xkr4')}\tXkr4\t\t\t\n"
    assert read_orthologs(written(tmp_path / "o.tsv", text), HUMAN).left_out == {"several": 0, "unknown": 0}


def test_one_gene_in_one_gene_out(tmp_path):
    """No two ids of the source end in one gene of the target, whatever symbols they share."""
    orthologs = read_orthologs(written(tmp_path / "o.tsv", BIOMART), HUMAN)
    resolution = resolve_through(MOUSE.gene_ids, HUMAN, orthologs)
    used = [gene for gene, how in zip(resolution.ids, resolution.how, strict=True) if how == "ortholog"]
    assert len(used) == len(set(used)) == orthologs.pairs


def test_var_is_resolved_through_orthologs(tmp_path):
    orthologs = read_orthologs(written(tmp_path / "o.tsv", BIOMART), HUMAN)
    var = pd.DataFrame({"gene_ids": [id_of(MOUSE, mouse) for mouse, _ in PAIRS]}, index=["a", "b", "c"])
    chosen, resolution = resolve_var(var, HUMAN, functools.partial(resolve_through, orthologs=orthologs))
    assert chosen == "gene_ids"
    assert resolution.symbols == [human for _, human in PAIRS]


@pytest.mark.parametrize(("text", "says"), [
    ("", "no table of orthologs"),
    ("Cd3d\nMs4a1\n", "no table of orthologs"),
    ("a\tb\nc\td\n", "none of 2 lines pairs a gene with one human gene"),
    ("CD3D\tCd3d\n", "none of 1 lines"),
])  # fmt: skip
def test_what_is_no_table_is_refused(tmp_path, text, says):
    with pytest.raises(InputError, match=says) as error:
        read_orthologs(written(tmp_path / "o.tsv", text), HUMAN)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="cannot be read"):
        read_orthologs(tmp_path / "absent.tsv", HUMAN)


@pytest.mark.parametrize(("table", "other"), [(HUMAN, MOUSE), (MOUSE, HUMAN)])
def test_genes_of_another_species_ask_for_orthologs(tmp_path, table, other):
    for names in (other.gene_ids, other.symbols, [f"{gene}.3" for gene in other.gene_ids]):
        with pytest.raises(InputError, match=rf"a\.h5ad: .*{other.species} genes.*--orthologs TABLE") as error:
            check_species(names, table, "a.h5ad")
        assert "\n" not in str(error.value)
    for names in (table.gene_ids, table.symbols, [], ["one", "two"], [*table.symbols[:500], *other.symbols[:500]]):
        check_species(names, table, "its own, or nobody's")
    orthologs = read_orthologs(written(tmp_path / "o.tsv", BIOMART), HUMAN)
    assert set(resolve_through(["CD3D", "MS4A1"], HUMAN, orthologs).how) == {"symbol"}
