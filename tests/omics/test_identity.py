"""What a table's features are is found for each modality in its own way, and said in one form."""

import numpy as np
import pandas as pd
import pytest

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
    assert "cannot be told" in found.build_evidence
    with pytest.raises(InputError, match="none of 2 regions tells its place"):
        resolve(table("atac", ["p1", "p2"]), gene_table("human"))


def test_names_of_regions_tell_their_build():
    names = ["GRCh37_chr1:100-200", "GRCh37_chr1:300-400"]
    found = resolve(table("atac", names), gene_table("human"))
    assert (found.build, found.ids) == ("GRCh37", names)
    assert resolve(table("atac", names), gene_table("human"), "hg38").build == "GRCh38"  # a person knows better
    with pytest.raises(InputError, match="the regions are of GRCm38, a mouse genome, and human ones"):
        resolve(table("atac", ["mm10_chr1:100-200"]), gene_table("human"))
    with pytest.raises(InputError, match=r"a\.h5ad: holds regions of GRCh38 and GRCm38, .* to a file of its own"):
        resolve(table("atac", ["hg38_chr1:100-200", "mm10___chr1:100-200"]), gene_table("human"), "hg38")


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
