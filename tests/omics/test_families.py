"""Every gene has one family or none, every family two genes or more; what a table says, and what symbols say without one."""

import gzip

import numpy as np
import pandas as pd
import pytest

from mofm.errors import InputError
from mofm.omics.families import families_by_symbol, read_families, stem
from mofm.omics.genome import gene_table

SYMBOLS = ["KRT5", "KRT14", "KRT18", "VIM", "DES", "GAPDH", "HLA-A", "HLA-DRA", "CD3D", "CD4"]


@pytest.fixture(scope="module")
def species():
    return gene_table("human")


@pytest.fixture(scope="module")
def genes(species):
    """The model's genes, in an order of their own."""
    ids = [species.gene_ids[species.row_of_symbol[symbol]] for symbol in SYMBOLS]
    return pd.DataFrame({"id": ids, "symbol": SYMBOLS})


def named(found, symbols):
    """symbol -> family, of those that have one; after the invariants of any table of families."""
    assert found.family_G.dtype == np.int32
    assert found.family_G.shape == (len(symbols),)
    assert list(found.names) == sorted(set(found.names))
    assert found.family_G.min(initial=-1) >= -1
    sizes = np.bincount(found.family_G[found.family_G >= 0], minlength=len(found.names))
    assert len(sizes) == len(found.names)
    assert (sizes >= 2).all()
    assert found.report["genes"] == len(symbols)
    assert found.report["in_families"] == sizes.sum()
    assert found.report["families"] == len(found.names)
    return {symbol: found.names[k] for symbol, k in zip(symbols, found.family_G, strict=True) if k >= 0}


# --- by symbols ---


@pytest.mark.parametrize(
    ("symbol", "expected"),
    [
        *(("KRT5", "KRT"), ("KRT14", "KRT"), ("KRT6A", "KRT"), ("RPL10A", "RPL"), ("RPL3", "RPL"), ("RPS4X", "RPS")),
        *(("RPS27L", "RPS"), ("COL1A1", "COL"), ("CYP2D6", "CYP"), ("SLC25A13", "SLC"), ("HOXA10", "HOXA")),
        *(("HLA-A", "HLA-"), ("HLA-DRB1", "HLA-"), ("MT-CO1", "MT-"), ("MT-ND4L", "MT-"), ("MT1X", "MT")),
        *(("IL2RA", "IL2R"), ("IL2RG", "IL2R"), ("CSF2RB", "CSF2R"), ("IGHV3-23", "IGHV"), ("TRAV1-2", "TRAV")),
        *(("GATA3", "GATA"), ("STAT5A", "STAT"), ("H2AC6", "H2AC"), ("H2-K1", "H2-")),
        *((name, None) for name in ("GAPDH", "VIM", "CD4", "CD3D", "C1ORF43", "CXORF21", "FAM3A", "TMEM14A", "LINC01128")),
        *((name, None) for name in ("LOC1234", "KRT5-AS1", "MIR17HG-IT1", "RP11-34P13", "AC012345.1", "A1", "ENSG00000", "")),
    ],
)  # fmt: skip
def test_stems(symbol, expected):
    assert stem(symbol) == expected


def test_symbols_that_share_a_stem_are_a_family(genes):
    found = families_by_symbol(genes)
    assert named(found, SYMBOLS) == {
        "KRT5": "KRT", "KRT14": "KRT", "KRT18": "KRT", "HLA-A": "HLA-", "HLA-DRA": "HLA-"
    }  # fmt: skip
    assert found.notes == ("5 of 10 genes are in 2 families by their symbols, the largest KRT (3), HLA- (2)",)


def test_a_gene_that_is_the_stem_of_others_is_of_their_family():
    symbols = ["TUBB", "TUBB3", "JUN", "JUNB", "VIM"]
    assert named(families_by_symbol(pd.DataFrame({"symbol": symbols})), symbols) == {"TUBB": "TUBB", "TUBB3": "TUBB"}


def test_letter_case_does_not_matter_nor_does_the_order(genes):
    mouse = genes.assign(symbol=genes["symbol"].str.title())
    np.testing.assert_array_equal(families_by_symbol(mouse).family_G, families_by_symbol(genes).family_G)
    order = np.random.default_rng(1).permutation(len(genes))
    again = families_by_symbol(genes.iloc[order])
    np.testing.assert_array_equal(again.family_G, families_by_symbol(genes).family_G[order])


def test_genes_without_kin_make_no_family():
    symbols = ["VIM", "GAPDH", "KRT5", "CD4", "CD3D"]
    found = families_by_symbol(pd.DataFrame({"symbol": symbols}))
    assert (named(found, symbols), found.names) == ({}, ())
    assert found.notes == ("0 of 5 genes are in 0 families by their symbols",)


def test_the_genes_of_a_species(species):
    frame = species.frame[species.frame["biotype"] == "protein_coding"]
    found = families_by_symbol(frame)
    of = named(found, frame["symbol"].tolist())
    assert of["RPLP0"] == of["RPLP1"] == "RPLP"
    assert len({of[f"MT-CO{i}"] for i in (1, 2, 3)}) == 1
    assert next(iter(found.report["largest"])) == "ZNF"
    assert list(found.report["largest"].values()) == sorted(found.report["largest"].values(), reverse=True)


# --- by a table ---

HGNC = """hgnc_id\tsymbol\tname\tlocus_group\talias_symbol\tgene_group\tgene_group_id\tensembl_gene_id
HGNC:6442\tKRT5\tkeratin 5\tprotein\t\t"Keratins, type II"\t609\tENSG00000186081
HGNC:6416\tKRT14\tkeratin 14\tprotein\tEBS3|EBS4\t"Keratins, type I|Intermediate filaments"\t608|607\tENSG00000186847
HGNC:6430\tKRT18\tkeratin 18\tprotein\t\t"Keratins, type I|Intermediate filaments"\t608|607\tENSG00000111057
HGNC:12692\tVIM\tvimentin\tprotein\t\t"Intermediate filaments"\t607\tENSG00000026025
HGNC:2770\tDES\tdesmin\tprotein\t\t"Intermediate filaments"\t607\tENSG00000175084
HGNC:4141\tGAPDH\tglyceraldehyde-3-phosphate dehydrogenase\tprotein\t\t\t\tENSG00000111640
HGNC:1\tNOSUCH1\tno gene\tprotein\t\t"Intermediate filaments"\t607\t
HGNC:1516\tCASP8\tcaspase 8\tprotein\t\t"Caspases|Intermediate filaments"\t468|607\tENSG00000064012
"""


@pytest.fixture
def hgnc(tmp_path):
    path = tmp_path / "hgnc_complete_set.txt"
    path.write_text(HGNC)
    return path


EXPECTED = {
    "KRT14": "Keratins, type I", "KRT18": "Keratins, type I", "VIM": "Intermediate filaments", "DES": "Intermediate filaments"
}  # fmt: skip


def test_hgncs_complete_set(hgnc, genes, species):
    found = read_families(hgnc, genes, species)
    assert named(found, SYMBOLS) == EXPECTED  # KRT5 is alone in its family, GAPDH has none
    assert found.report == {
        "genes": 10, "in_families": 4, "families": 2, "largest": {"Intermediate filaments": 2, "Keratins, type I": 2},
        "lines": 8, "unknown": 1, "absent": 1, "several": 2,
    }  # fmt: skip
    assert found.notes == (
        "4 of 10 genes are in 2 families by hgnc_complete_set.txt, the largest Intermediate filaments (2), "
        "Keratins, type I (2); 1 names mean no human gene (NOSUCH1)",
    )


def lines(path):
    """A line for each gene and group, as HGNC's groups are downloaded."""
    frame = pd.read_csv(path, sep="\t", dtype=str).dropna(subset="gene_group")
    frame = frame.assign(gene_group=frame["gene_group"].str.split("|")).explode("gene_group")
    names = {"symbol": "Approved symbol", "gene_group": "Group name", "ensembl_gene_id": "Ensembl gene ID"}
    return frame.rename(columns=names)


@pytest.mark.parametrize("kind", ["gene groups", "csv", "parquet", "gzip", "ids alone", "aliases", "shuffled"])
def test_other_layouts_say_the_same(hgnc, tmp_path, genes, species, kind):
    path = tmp_path / "table"
    frame = lines(hgnc)
    if kind == "gene groups":
        frame.to_csv(path, sep="\t", index=False)
    elif kind == "csv":
        frame[["Approved symbol", "Group name"]].set_axis(["Gene", "Family"], axis=1).to_csv(path, index=False)
    elif kind == "parquet":
        path = tmp_path / "table.parquet"
        frame.to_parquet(path)
    elif kind == "gzip":
        path.write_bytes(gzip.compress(HGNC.encode(), mtime=0))
    elif kind == "ids alone":
        frame[["Ensembl gene ID", "Group name"]].to_csv(path, sep="\t", index=False)
    elif kind == "aliases":
        path.write_text(HGNC.replace("\tVIM\t", "\tnot a name\t"))  # its id still tells
    else:
        head, *rest = HGNC.splitlines(keepends=True)
        path.write_text(head + "".join(rest[::-1]))
    assert named(read_families(path, genes, species), SYMBOLS) == EXPECTED


def test_a_gene_takes_its_next_family_where_it_would_be_alone_in_the_smallest(tmp_path, species):
    symbols = ["KRT5", "KRT14", "KRT18", "VIM"]
    genes = pd.DataFrame({"id": symbols, "symbol": symbols})
    path = tmp_path / "t.csv"
    # "ab" is the smallest of KRT5 and KRT14, but KRT14 is as well in "aa": then KRT5 would have "ab" for itself.
    families = {"KRT5": "ab|big", "KRT14": "aa|ab|big", "KRT18": "aa|big", "VIM": "big"}
    path.write_text("gene,family\n" + "".join(f"{gene},{some}\n" for gene, some in families.items()))
    expected = {"KRT5": "big", "KRT14": "aa", "KRT18": "aa", "VIM": "big"}
    assert named(read_families(path, genes, species), symbols) == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("symbol\tname\nKRT5\tkeratin\n", "no column names the families, its columns are symbol, name"),
        ("family\tname\nKRT\tkeratin\n", "no column names the genes, its columns are family, name"),
        ("a,b\nKRT5,KRT\n", "no column names the genes and families, its columns are a, b; name them gene and family"),
        (
            "gene,family\nKRT5,a\nKRT14,b\n",
            "no two genes of the model are in one of its families (it names KRT5, KRT14",
        ),
        ("gene,family\nNOSUCH1,a\nNOSUCH2,a\n", "give a table of human genes, by symbol or Ensembl id"),
        ("gene,family\nKRT5,\nKRT14,\n", "no two genes of the model are in one of its families"),
        ("gene,family\n", "holds no line of a table"),
        (None, "no such file"),
    ],
)
def test_a_table_that_gives_no_families_is_refused(tmp_path, genes, species, content, said):
    path = tmp_path / "table.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError) as caught:
        read_families(path, genes, species)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
