"""What a table's features are is found for each modality in its own way, and said in one form."""

import numpy as np
import pandas as pd
import pytest

from mofm.errors import InputError
from mofm.omics.genome import gene_table
from mofm.omics.identity import resolve
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


@pytest.mark.parametrize(("build", "species"), [("mm10", "human"), ("hg38", "mouse")])
def test_regions_of_another_species_are_refused(build, species):
    with pytest.raises(InputError, match=rf"a\.h5ad: the regions are of GRC.* {species} ones .*--species") as error:
        resolve(table("atac", ["chr1:100-200", "chr1:300-400"]), gene_table(species), build)
    assert "\n" not in str(error.value)


def test_methylation_of_genes():
    found = resolve(table("methylation", ["CD3D", "MS4A1"]), gene_table("human"))
    check_form(found, 2)
    assert found.ids == ["ENSG00000167286", "ENSG00000156738"]


def test_antibodies_by_whichever_name_is_known():
    names, ids = ["a1", "a2", "a3"], ["CD3", "CD8a", "CD19"]
    by_id = resolve(table("adt", names, gene_ids=ids), gene_table("human"))
    by_name = resolve(table("adt", ids, gene_ids=names), gene_table("human"))
    check_form(by_id, 3)
    assert by_id.ids == by_name.ids
    assert (by_id.features_from, by_name.features_from) == ("gene_ids", "var_names")
    assert not (by_id.how == "unresolved").any()
