"""Simulated genes take the identity and the place of real ones, each of its own."""

import dataclasses
import re

import numpy as np
import pytest

from mofm.errors import InputError
from mofm.omics.features import resolve_var
from mofm.omics.genome import gene_table
from mofm.omics.simulation.genes import choose_genes, spans, tss

NONE = np.array([], dtype=np.int64)


@pytest.mark.parametrize("species", ["human", "mouse"])
def test_genes_are_of_the_table(small, species):
    table = gene_table(species)
    genes = choose_genes(small, table, NONE)
    assert genes.index.is_unique
    rows = table.frame.set_index("gene_id").loc[genes.index]
    assert (rows["symbol"] == genes["gene_symbol"]).all()
    for column in ("chrom", "start", "end", "strand"):
        assert (rows[column].astype(str) == genes[column].astype(str)).all()
    _, resolution = resolve_var(genes, table)
    assert set(resolution.how) == {"ensembl"}


def test_surface_genes_are_surface_antigens_and_leave_the_others(small):
    table, surface_A = gene_table("human"), np.arange(10, 40)
    without, genes = choose_genes(small, table, NONE), choose_genes(small, table, surface_A)
    assert all(re.fullmatch(r"CD\d+[A-Z]*", symbol) for symbol in genes["gene_symbol"].iloc[surface_A])
    others = np.setdiff1d(np.arange(200), surface_A)
    assert genes.iloc[others].equals(without.iloc[others])
    assert genes.index.is_unique


def test_more_genes_or_another_seed(small):
    table = gene_table("human")
    few, many = (choose_genes(dataclasses.replace(small, genes=genes), table, NONE) for genes in (200, 300))
    assert many.index[:200].equals(few.index)
    other = choose_genes(dataclasses.replace(small, seed=1), table, NONE)
    assert len(set(other.index) & set(few.index)) < 20


def test_starts_are_apart_and_on_the_right_end(small):
    genes = choose_genes(dataclasses.replace(small, genes=15_000), gene_table("human"), NONE)
    first = tss(genes)
    np.testing.assert_array_equal(first[(genes["strand"] == "+")], genes["start"][genes["strand"] == "+"])
    np.testing.assert_array_equal(first[(genes["strand"] == "-")], genes["end"][genes["strand"] == "-"] - 1)
    for chrom in genes["chrom"].unique():
        assert np.diff(np.sort(first[genes["chrom"] == chrom])).min(initial=10**9) >= 2000


def test_more_genes_than_there_are(small):
    with pytest.raises(InputError, match=r"genes=30000 are more than the \d+ usable genes of the human gene table"):
        choose_genes(dataclasses.replace(small, genes=30_000), gene_table("human"), NONE)


def test_spans_are_in_genome_order():
    span = spans(gene_table("human"))
    assert list(span.index) == [f"chr{name}" for name in [*range(1, 23), "X"]]
    assert (span["end"] > span["start"]).all()
