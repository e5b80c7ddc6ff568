"""What a table's features are is found for each modality in its own way, and said in one form."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from mofm.batches.spaces import identities
from mofm.errors import InputError
from mofm.omics.genome import gene_table
from mofm.omics.identity import resolve
from mofm.omics.orthologs import read_orthologs
from mofm.omics.table import CountTable


def table(modality: str, names: list[str], **columns) -> CountTable:
    var = pd.DataFrame(columns, index=names)
    return CountTable("a.h5ad", "h5ad", "a.h5ad", modality, "X", "csr", pd.DataFrame(index=["c"]), var, source=None)


def check_form(found, n_names: int) -> None:
    """What a corpus relies on."""
    assert len(found.ids) == len(found.symbols) == len(found.how) == n_names
    assert found.summary()["names"] == n_names
    assert found.summary()["unresolved"] == np.count_nonzero(found.how == "unresolved")


def test_genes():
    found = resolve(table("rna", ["CD3D", "ENSG00000167286.4", "no such gene"]), gene_table("human"))
    check_form(found, 3)
    assert found.ids == ["ENSG00000167286", "ENSG00000167286", "no such gene"]
    assert (found.features_from, found.build, found.build_evidence) == ("var_names", None, "")


@pytest.mark.parametrize("modality", ["atac", "methylation"])
def test_regions(modality):
    found = resolve(table(modality, ["1-100-200", "chr1:300-400", "chrX_5_9"]), gene_table("human"), "hg19")
    check_form(found, 3)
    assert found.ids == ["GRCh37_chr1:100-200", "GRCh37_chr1:300-400", "GRCh37_chrX:5-9"]
    assert found.symbols == ["chr1:100-200", "chr1:300-400", "chrX:5-9"]
    assert found.build == "GRCh37"


def test_peaks_by_columns():
    found = resolve(table("atac", ["p1", "p2"], chrom=["chr1", "chr2"], start=[5, 7], end=[9, 19]), gene_table("human"))
    assert found.ids == ["chr1:5-9", "chr2:7-19"]
    assert found.build is None
    assert "cannot be inferred" in found.build_evidence
    with pytest.raises(InputError, match="none of 2 regions has a place"):
        resolve(table("atac", ["p1", "p2"]), gene_table("human"))


def regions_by(where: str, names: list[str]) -> CountTable:
    """Peaks by these names, in the index or in a column."""
    return (
        table("atac", names)
        if where == "names"
        else table("atac", [f"p{i}" for i in range(len(names))], interval=names)
    )


@pytest.mark.parametrize("where", ["names", "interval"])
def test_names_of_regions_tell_their_build(where):
    names = ["GRCh37_chr1:100-200", "GRCh37_chr1:300-400"]
    found = resolve(regions_by(where, names), gene_table("human"))
    assert (found.build, found.ids, found.build_evidence) == ("GRCh37", names, "GRCh37, named by the file")
    assert resolve(regions_by(where, names), gene_table("human"), "hg19").build == "GRCh37"
    refused = {
        r"the regions are of GRCh37, by the file, and --build says GRCh38; leave --build out": (names, "hg38"),
        r"the regions are of GRCm38, a mouse genome, and human ones": (["mm10_chr1:100-200"], None),
        r"holds regions of GRCh38 and GRCm38, .* to a file of its own": (
            ["hg38_chr1:100-200", "mm10___chr1:100-200"],
            None,
        ),
        r"the regions are of mm9, by the file, a genome build that mofm does not have": (
            ["mm9_chr1:100-200"],
            "mm10",
        ),
    }
    for what, (those, build) in refused.items():
        with pytest.raises(InputError, match=rf"a\.h5ad: {what}") as error:
            resolve(regions_by(where, those), gene_table("human"), build)
        assert "\n" not in str(error.value)


def test_a_build_that_is_given_is_said_to_be():
    found = resolve(table("atac", ["chr1:100-200"]), gene_table("human"), "hg19")
    assert found.build_evidence == "GRCh37, given"


@pytest.mark.parametrize(("release", "build"), [
    ("GENCODE 49 (GRCh38.p14)", "GRCh38"), ("mine (hg38)", "GRCh38"), ("mine (GRCf1.p2)", "GRCf1"), ("mine", None)
])  # fmt: skip
def test_the_build_of_a_gene_table_has_mofms_name(release, build):
    assert dataclasses.replace(gene_table("human"), release=release).build == build


@pytest.mark.parametrize("release", ["GENCODE 49 (GRCh38.p14)", "mine (hg38)"])
def test_what_is_accepted_of_regions_can_be_linked_to_genes(release):
    genes = dataclasses.replace(gene_table("human"), release=release)
    for build in ("GRCh38", "GRCh37"):
        gene = gene_table("human", build).frame.iloc[genes.row_of_symbol["CD19"]]
        found = resolve(table("atac", [f"{build}_{gene['chrom']}:{gene['start']}-{gene['start'] + 500}"]), genes)
        assert len(identities("atac", found.ids, genes).feature_E)


@pytest.mark.parametrize("release", ["mine", "mine (T2T-CHM13v2.0)"])
def test_regions_of_a_build_without_genes_are_refused_at_once(release):
    genes = dataclasses.replace(gene_table("human"), release=release)
    with pytest.raises(
        InputError, match=r"a\.h5ad: the regions are of GRCh38, .*'mine.*--release 'NAME \(GRCh38"
    ) as error:
        resolve(table("atac", ["GRCh38_chr1:100-200"]), genes)
    assert "\n" not in str(error.value)


def test_regions_named_as_of_the_genes_own_build_are_of_it():
    genes = dataclasses.replace(gene_table("human"), species="fish", release="Ensembl 1 (GRCz11.p2)")
    found = resolve(table("atac", ["GRCz11_chr1:1000000-1000500"]), genes)
    assert (found.ids, found.build) == (["chr1:1000000-1000500"], None)
    assert "taken to be of the build of the fish genes" in found.build_evidence
    assert len(identities("atac", found.ids, genes).feature_E)
    with pytest.raises(InputError, match=r"of GRCz10, by the file, .*--species FILE\.parquet"):
        resolve(table("atac", ["GRCz10_chr1:100-200"]), genes)


@pytest.mark.parametrize(("build", "species"), [("mm10", "human"), ("hg38", "mouse")])
def test_regions_of_another_species_are_refused(build, species):
    with pytest.raises(InputError, match=rf"a\.h5ad: the regions are of GRC.* {species} ones .*--species") as error:
        resolve(table("atac", ["chr1:100-200", "chr1:300-400"]), gene_table(species), build)
    assert "\n" not in str(error.value)


def test_methylation_of_genes():
    found = resolve(table("methylation", ["CD3D", "MS4A1"]), gene_table("human"))
    check_form(found, 2)
    assert found.ids == ["ENSG00000167286", "ENSG00000156738"]


MOUSE = [("Cd3d", "CD3D"), ("Ms4a1", "MS4A1"), ("Gnai3", "GNAI3"), ("Xkr4", "")]


@pytest.fixture
def orthologs(tmp_path):
    path = tmp_path / "mouse_human.tsv"
    path.write_text("".join(f"{mouse}\t{human}\n" for mouse, human in [*MOUSE, ("Lyz1", "LYZ"), ("Lyz2", "LYZ")]))
    return read_orthologs(path, gene_table("human"))


@pytest.mark.parametrize("modality", ["rna", "methylation"])
def test_genes_of_another_species_are_refused_wherever_they_are_named(modality):
    names = [mouse for mouse, _ in MOUSE]
    ids = [gene_table("mouse").gene_ids[gene_table("mouse").row_of_symbol[name]] for name in names]
    for given in (table(modality, names), table(modality, ids), table(modality, ["a", "b", "c", "d"], gene_ids=ids)):
        with pytest.raises(InputError, match=r"a\.h5ad: .* mouse genes .*--orthologs TABLE.*--species mouse"):
            resolve(given, gene_table("human"))
        check_form(resolve(given, gene_table("mouse")), 4)
    check_form(resolve(table(modality, ["CD3D", "MS4A1", "mouse_name"], gene_name=names[:3]), gene_table("human")), 3)


def test_orthologs_are_used_counted_and_told(orthologs):
    found = resolve(table("rna", [mouse for mouse, _ in MOUSE]), gene_table("human"), orthologs=orthologs)
    check_form(found, 4)
    assert found.symbols == ["CD3D", "MS4A1", "GNAI3", "Xkr4"]
    assert found.summary()["ortholog"] == 3
    assert found.summary()["orthologs"] == {"pairs": 3, "left_out_several": 2, "left_out_unknown": 0}
    (note,) = found.notes
    assert note.startswith("3 of 4 genes through their one-to-one orthologs in mouse_human.tsv, 1 mean no gene")
    assert "3 pairs can be used, 2 that are not one to one and 0 whose gene is not known are left out" in note


def test_orthologs_of_other_genes_do_not_let_another_species_pass(tmp_path):
    (tmp_path / "one.tsv").write_text("none of these\tCD3D\n")
    given = read_orthologs(tmp_path / "one.tsv", gene_table("human"))
    mouse = gene_table("mouse").symbols[:2000]
    with pytest.raises(
        InputError, match=r"mouse genes .*, and one\.tsv has an ortholog of none of them; give"
    ) as error:
        resolve(table("rna", mouse), gene_table("human"), orthologs=given)
    assert "\n" not in str(error.value)
    check_form(resolve(table("rna", gene_table("human").symbols[:2000]), gene_table("human"), orthologs=given), 2000)
    check_form(resolve(table("rna", ["a", "b", "c"]), gene_table("human"), orthologs=given), 3)


def test_antibodies_do_not_go_through_orthologs_and_say_so(orthologs):
    found = resolve(table("adt", ["CD3", "CD19"]), gene_table("human"), orthologs=orthologs)
    assert found.ids == resolve(table("adt", ["CD3", "CD19"]), gene_table("human")).ids
    assert found.notes == ("antibodies are read as human ones, not through the orthologs",)


def test_antibodies_by_whichever_name_is_known():
    names, ids = ["a1", "a2", "a3"], ["CD3", "CD8a", "CD19"]
    by_id = resolve(table("adt", names, gene_ids=ids), gene_table("human"))
    by_name = resolve(table("adt", ids, gene_ids=names), gene_table("human"))
    check_form(by_id, 3)
    assert by_id.ids == by_name.ids
    assert (by_id.features_from, by_name.features_from) == ("gene_ids", "var_names")
    assert not (by_id.how == "unresolved").any()
