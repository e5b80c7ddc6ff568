"""A region's links follow their formula, sum to one, and move as little as the region does; wrong builds get none."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofm.errors import InputError
from mofm.omics.genome import COLUMNS, GeneTable, gene_table
from mofm.omics.links import BIOTYPES, FEATURES, KINDS, REACH, link_regions

HUMAN = gene_table("human")
fast = settings(max_examples=100, deadline=None)


def table_of(*rows, release="R1 (hg0)"):
    """A gene table of (chrom, start, end, strand), all coding."""
    frame = pd.DataFrame(rows, columns=["chrom", "start", "end", "strand"])
    frame = frame.assign(gene_id=[f"G{i}" for i in range(len(rows))], biotype="protein_coding")
    frame = frame.assign(symbol=frame["gene_id"]).astype({"chrom": "category", "strand": "category"})
    return GeneTable("human", release, "a test", "MIT", frame[list(COLUMNS)])


def link_one(table, start, end, chrom="chr1", **options):
    return link_regions([chrom], np.array([start]), np.array([end]), table, **options)


def potential(d=np.inf, p=np.inf, b=np.inf):
    """The score of the module's docstring, written out for one pair."""
    return max(0.0, max(2 ** (-p / 250), 0.25 * 2 ** (-b / 250), 2 ** (-d / 10_000)) - 2**-10)


def scores_by_hand(start, end, table):
    """Scores of one region on chr1 against every gene, one pair at a time."""
    scores = np.zeros(len(table.frame))
    for row, gene in enumerate(table.frame.itertuples()):
        tss, before, after = (gene.start, 2000, 500) if gene.strand == "+" else (gene.end - 1, 500, 2000)
        if gene.chrom == "chr1":
            gaps = [
                max(0, start - last, first - (end - 1))
                for first, last in ((tss, tss), (tss - before, tss + after), (gene.start, gene.end - 1))
            ]
            scores[row] = potential(*gaps)
    return scores


genes_near = st.lists(
    st.tuples(st.just("chr1"), st.integers(200_000, 400_000), st.integers(1, 150_000), st.sampled_from("+-")).map(
        lambda gene: (gene[0], gene[1], gene[1] + gene[2], gene[3])
    ),
    min_size=1,
    max_size=12,
)


@given(genes_near, st.integers(50_000, 600_000), st.integers(1, 20_000), st.integers(1, 6))
@fast
def test_links_are_those_of_the_formula(genes, start, width, top):
    table = table_of(*genes)
    links = link_one(table, start, start + width, top=top)
    scores = scores_by_hand(start, start + width, table)
    order = np.argsort(-scores, kind="stable")
    kept = [row for row in order[:top] if scores[row] > 0]
    left_out = scores[order[top]] if len(scores) > top else 0.0
    expected = scores[kept] - 0.9 * left_out
    assert links.gene.tolist() == kept
    np.testing.assert_allclose(links.weight, expected / expected.sum() if kept else [], rtol=1e-4)
    np.testing.assert_allclose(links.strength[0], scores[kept].sum(), rtol=1e-4)
    assert links.summary()["unlinked"] == (not kept)


@pytest.mark.parametrize(("strand", "start", "end", "distance", "kind"), [
    ("+", 199_000, 199_500, -501, "promoter"),
    ("+", 197_000, 197_501, -2500, "distal"),
    ("+", 200_300, 200_400, 300, "promoter"),
    ("+", 201_000, 201_100, 1000, "body"),
    ("+", 190_000, 210_000, 0, "promoter"),
    ("-", 250_100, 250_200, -101, "promoter"),
    ("-", 240_000, 240_100, 9900, "body"),
    ("-", 199_000, 199_500, 50_500, "distal"),
])  # fmt: skip
def test_distance_is_signed_along_the_strand(strand, start, end, distance, kind):
    links = link_one(table_of(("chr1", 200_000, 250_000, strand)), start, end)
    assert (links.distance.tolist(), [KINDS[number] for number in links.kind]) == ([distance], [kind])
    assert links.weight.tolist() == [1.0]
    upstream, downstream = links.features[0, :2]
    assert (abs(upstream) < downstream) == (distance < 0) or distance == 0


def test_regions_far_from_genes_have_no_link_and_are_counted():
    table = table_of(("chr1", 200_000, 201_000, "+"), ("chr2", 5_000_000, 5_001_000, "+"))
    links = link_regions(
        ["chr1", "chr1", "chr3", "", "chr2"],
        np.array([200_000 + REACH + 5000, 200_100, 200_000, -1, 200_000]),
        np.array([200_000 + REACH + 5500, 200_200, 200_500, -1, 200_500]),
        table,
    )
    assert links.unlinked.tolist() == [0, 2, 3, 4]
    assert links.summary() == {
        **{"regions": 5, "unlinked": 4, "links": 1},
        "by_kind": {"promoter": 1, "body": 0, "distal": 0},
    }
    genes, weights = links.padded(3)
    assert genes.tolist() == [[0, 0, 0]] * 5
    assert weights.sum(axis=1).tolist() == [0, 1, 0, 0, 0]
    assert (links.features[[2, 3], 0] == links.features[2, 0]).all()  # as far as can be
    nothing = link_regions([], np.empty(0), np.empty(0), table)
    assert (len(nothing.region), nothing.features.shape) == (0, (0, len(FEATURES)))


def dense(links, n_genes):
    """Weights as a table of regions x genes."""
    weights_PG = np.zeros((len(links.strength), n_genes))
    weights_PG[links.region, links.gene] = links.weight
    return weights_PG


NEAR_GENES = HUMAN.frame[HUMAN.frame["biotype"].isin(BIOTYPES) & (HUMAN.frame["chrom"] == "chr19")]
CHR19 = dataclasses.replace(HUMAN, frame=HUMAN.frame[HUMAN.frame["chrom"] == "chr19"].reset_index(drop=True))


@given(st.integers(0, len(NEAR_GENES) - 1), st.booleans(), st.integers(-3000, 3000), st.integers(1, 3000))
@settings(max_examples=300, deadline=None)
def test_a_shift_of_one_base_hardly_moves_anything(row, at_end, away, width):
    gene = NEAR_GENES.iloc[row]
    start = max(0, (gene["end"] if at_end else gene["start"]) + away)
    starts = np.array([start, start + 1])
    links = link_regions(["chr19"] * 2, starts, starts + width, CHR19)
    weights = dense(links, len(CHR19.frame))
    assert np.abs(weights[1] - weights[0]).sum() < 0.05
    assert np.abs(links.strength[1] - links.strength[0]) < 0.05
    assert np.abs(links.features[1] - links.features[0]).max() < 0.025


def test_a_shift_of_one_megabase_moves_nearly_all():
    genes = HUMAN.frame[HUMAN.frame["biotype"].isin(BIOTYPES)].sample(3000, random_state=0)
    chrom, start = genes["chrom"].astype(str).to_numpy(), genes["start"].to_numpy(np.int64)
    there = np.isin(chrom, [f"chr{i}" for i in range(1, 18)])
    chrom, start = chrom[there], start[there]
    shifted = np.where(start > 20_000_000, start - 1_000_000, start + 1_000_000)
    here, away = (link_regions(chrom, at, at + 500, HUMAN) for at in (start, shifted))
    same = pd.merge(*(pd.DataFrame({"region": x.region, "gene": x.gene}) for x in (here, away)))
    assert same["region"].nunique() / len(chrom) < 0.01  # only inside the longest genes
    moved = np.abs(here.features - away.features).max(axis=1)
    assert np.quantile(moved, 0.02) > 0.1


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_links_sum_to_one_in_order_whatever_the_company(seed):
    rng = np.random.default_rng(seed)
    chosen = HUMAN.frame.iloc[rng.integers(0, len(HUMAN.frame), 50)]
    chrom = chosen["chrom"].astype(str).to_numpy()
    start = np.maximum(chosen["start"].to_numpy(np.int64) - rng.integers(0, 150_000, 50), 0)
    links = link_regions(chrom, start, start + 400, HUMAN, top=5)
    totals = np.bincount(links.region, links.weight, minlength=50)
    np.testing.assert_allclose(totals[links.strength > 0], 1, atol=1e-5)
    assert (links.weight > 0).all()
    assert np.bincount(links.region).max() <= 5
    falling = np.diff(links.weight)[np.diff(links.region) == 0]
    assert (np.diff(links.region) >= 0).all()
    assert (falling <= 1e-7).all()
    alone = link_one(HUMAN, start[7], start[7] + 400, chrom[7], top=5)
    assert alone.gene.tolist() == links.gene[links.region == 7].tolist()
    np.testing.assert_array_equal(alone.features[0], links.features[7])
    genes, weights = links.padded(8)
    np.testing.assert_allclose(weights.sum(axis=1), totals, atol=1e-6)
    assert (genes[7, : len(alone.gene)] == alone.gene).all()


def test_blocks_do_not_show(monkeypatch):
    start = np.arange(1_000_000, 3_000_000, 20_000)
    whole = link_regions(["chr19"] * 100, start, start + 500, HUMAN)
    monkeypatch.setattr("mofm.omics.links._BLOCK", 7)
    parts = link_regions(["chr19"] * 100, start, start + 500, HUMAN)
    for field in dataclasses.fields(whole):
        np.testing.assert_array_equal(getattr(whole, field.name), getattr(parts, field.name), err_msg=field.name)


def test_only_genes_that_reads_are_counted_over():
    start = np.arange(1_000_000, 50_000_000, 100_000)
    chrom = ["chr19"] * len(start)
    biotypes = HUMAN.frame["biotype"].to_numpy()
    assert set(biotypes[link_regions(chrom, start, start + 500, HUMAN).gene]) <= set(BIOTYPES)
    every = set(biotypes[link_regions(chrom, start, start + 500, HUMAN, biotypes=None).gene])
    assert every - set(BIOTYPES)


def test_promoter_of_gapdh_in_both_builds():
    """The same region, at its place in each build, has the same links."""
    ways = {}
    for build, start in (("GRCh38", 6_533_700), ("GRCh37", 6_642_866)):
        table = gene_table("human", build)
        links = link_one(table, start, start + 600, "chr12", build=build)
        ways[build] = {table.symbols[row]: weight for row, weight in zip(links.gene, links.weight, strict=True)}
    assert "GAPDH" in ways["GRCh38"]
    assert ways["GRCh38"].keys() == ways["GRCh37"].keys()
    assert all(abs(ways["GRCh38"][gene] - ways["GRCh37"][gene]) < 0.01 for gene in ways["GRCh38"])


def test_wrong_builds_get_no_links():
    with pytest.raises(InputError, match=r"regions of GRCh37 cannot be linked to genes placed in GRCh38.*--build"):
        link_one(HUMAN, 1000, 2000, build="hg19")
    with pytest.raises(InputError, match=r"2 of 2 regions begin past the ends .* of GRCh38.*--build"):
        link_regions(["chr1", "chr2"], np.array([249_000_000, 243_000_000]), np.array([249_000_100] * 2), HUMAN)
    assert len(link_one(HUMAN, 6_533_700, 6_534_000, "chr12", build="hg38").gene)
