"""Peaks lie apart from each other, near their genes, and on their chromosomes."""

import dataclasses

import numpy as np
import pytest

from mofm.errors import InputError
from mofm.omics.genome import gene_table
from mofm.omics.simulation.genes import choose_genes, spans, tss
from mofm.omics.simulation.peaks import REACH, draw_peaks

NONE = np.array([], dtype=np.int64)


@pytest.fixture(scope="module")
def genes(small):
    return choose_genes(small, gene_table("human"), NONE)


@pytest.fixture(scope="module")
def peaks(small, genes):
    return draw_peaks(small, np.arange(200) % 8, 300, genes, gene_table("human"))


def test_there_are_as_many_as_asked_for(peaks):
    gene_P = peaks["gene"].to_numpy()
    assert (gene_P == -1).sum() == 300
    np.testing.assert_array_equal(np.bincount(gene_P[gene_P >= 0]), 1 + np.arange(200) % 8)
    assert peaks["is_promoter"].sum() == 200


def test_names_are_places_in_genome_order_and_no_two_overlap(peaks):
    assert peaks.index.is_unique
    assert list(peaks.index[:1]) == [f"{peaks['chrom'].iloc[0]}:{peaks['start'].iloc[0]}-{peaks['end'].iloc[0]}"]
    assert (np.diff(peaks["chrom"].cat.codes) >= 0).all()
    for _, here in peaks.groupby("chrom", observed=True):
        assert (here["start"].to_numpy()[1:] >= here["end"].to_numpy()[:-1]).all()
    assert (peaks["end"] > peaks["start"]).all()


def test_peaks_of_a_gene_are_within_reach_on_its_chromosome(peaks, genes):
    owned = peaks[peaks["gene"] >= 0]
    own = genes.iloc[owned["gene"].to_numpy()]
    assert (owned["chrom"].astype(str).to_numpy() == own["chrom"].astype(str).to_numpy()).all()
    first = tss(own)
    assert np.abs(owned["start"] - first).max() <= REACH
    assert np.abs(owned["end"] - first).max() <= REACH
    promoters = owned["is_promoter"].to_numpy()
    assert ((owned["start"] <= first) & (first < owned["end"]))[promoters].all()
    downstream = np.where(own["strand"] == "-", -1, 1) * ((owned["start"] + owned["end"]) // 2 - first)
    np.testing.assert_array_equal(owned["distance"], downstream)
    assert np.median(np.abs(owned["distance"])[~promoters]) < REACH / 3
    assert (owned["distance"] < 0).any()


def test_peaks_lie_within_the_span_of_their_chromosomes(peaks):
    span = spans(gene_table("human")).loc[peaks["chrom"].astype(str)]
    inside = (peaks["start"].to_numpy() >= span["start"].to_numpy() - 250) & (
        peaks["end"].to_numpy() <= span["end"].to_numpy() + 250
    )
    assert inside.all()


def test_background_leaves_the_peaks_of_genes_alone(small, genes, peaks):
    more = draw_peaks(small, np.arange(200) % 8, 1000, genes, gene_table("human"))
    assert more[more["gene"] >= 0].equals(peaks[peaks["gene"] >= 0])


def test_no_room_is_said(small, genes):
    crowded = np.where(np.arange(200) == 0, 300, 0)
    with pytest.raises(InputError, match="no room for 300 peaks: lower"):
        draw_peaks(dataclasses.replace(small), crowded, 0, genes, gene_table("human"))
