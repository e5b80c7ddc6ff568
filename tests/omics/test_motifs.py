"""Motif hits become edges from their TFs to the genes near them, nearer and better ones stronger, in their own build."""

import gzip

import numpy as np
import pandas as pd
import pytest

from mofm.errors import InputError
from mofm.inspection import inspect
from mofm.omics.describe_network import all_genes
from mofm.omics.genome import gene_table
from mofm.omics.links import link_regions
from mofm.omics.motifs import tfs_of_motif
from mofm.omics.networks import read_networks

HUMAN = gene_table("human")
ALL = all_genes(HUMAN)


def row(symbol):
    return HUMAN.row_of_symbol[symbol]


def start_of(symbol, build=None):
    """Chromosome, transcription start and sign of the strand."""
    gene = gene_table("human", build).frame.iloc[row(symbol)]
    forward = gene["strand"] == "+"
    return gene["chrom"], int(gene["start"] if forward else gene["end"] - 1), 1 if forward else -1


def hit(symbol, name, away=100, score="5", build=None):
    """A line of BED, `away` bp upstream of a gene's start."""
    chrom, at, sign = start_of(symbol, build)
    at -= sign * away
    return f"{chrom}\t{at}\t{at + 12}\t{name}\t{score}\t+\n"


def written(path, text):
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def read(tmp_path, text, name="hits.bed", genes=ALL, **options):
    """(weight by (TF, target), report) of a table of hits."""
    network = read_networks([written(tmp_path / name, text)], genes, HUMAN, **options)
    symbols = genes["symbol"].tolist()
    edges = network.edges
    assert (edges["sign"] == 0).all()
    assert edges["weight"].between(0, 1, inclusive="right").all()
    pairs = [(symbols[tf], symbols[target]) for tf, target in zip(edges["tf"], edges["target"], strict=True)]
    return dict(zip(pairs, edges["weight"], strict=True)), network.report["hits"]


@pytest.mark.parametrize(("name", "tfs"), [
    ("CTCF", ["CTCF"]), ("MA0139.1_CTCF", ["CTCF"]), ("MA0139.1 CTCF", ["CTCF"]), ("MA0139.2.CTCF", ["CTCF"]),
    ("CTCF(Zf)/CD4+-CTCF-ChIP-Seq(Barski_et_al.)/Homer", ["CTCF"]), ("CTCF_HUMAN.H11MO.0.A", ["CTCF"]),
    ("CTCF.H12CORE.0.P.B", ["CTCF"]), ("ENSG00000102974_LINE3_CTCF_D", ["CTCF"]), ("Foxa2", ["FOXA2"]),
    ("FOS::JUN", ["FOS", "JUN"]), ("MA0099.3_FOS::JUN", ["FOS", "JUN"]), ("FOS_JUN", ["FOS", "JUN"]),
    ("RXRA::VDR(var.2)", ["RXRA", "VDR"]), ("NKX3-1", ["NKX3-1"]),
])  # fmt: skip
def test_names_of_motifs(name, tfs):
    assert tfs_of_motif(name, HUMAN) == [HUMAN.gene_ids[row(symbol)] for symbol in tfs]


def test_what_is_no_tf_keeps_its_name():
    assert tfs_of_motif("AP-1(bZIP)/ThioMac-PU.1-ChIP-Seq/Homer", HUMAN) == ["AP-1"]
    assert tfs_of_motif("EWSR1::NOTHING", HUMAN) == [HUMAN.gene_ids[row("EWSR1")], "NOTHING"]


BED = hit("TP53", "CTCF") + hit("MYC", "FOS::JUN") + hit("MYC", "peak_1")


@pytest.mark.parametrize(("name", "text"), [
    ("hits.bed", BED),
    ("hits.bed.gz", "track name=hits\n" + BED),
    ("hits.tsv", "#chrom\tstart\tend\tmotif\tscore\tstrand\n" + BED),
    ("hits.csv", "chr,start,end,TF,score,strand\n" + BED.replace("\t", ",")),
    ("hits.txt", "motif_id motif_alt_id sequence_name start stop strand score\n" + "".join(
        f"M{at} {name} {chrom} {first} {last} {strand} {score}\n"
        for at, (chrom, first, last, name, score, strand) in enumerate(line.split() for line in BED.splitlines()))),
    ("hits.tsv", "peak\ttf\n" + "".join(
        f"{chrom}:{first}-{last}\t{name}\n" for chrom, first, last, name, *_ in (line.split() for line in BED.splitlines()))),
])  # fmt: skip
def test_every_layout(tmp_path, name, text):
    edges, report = read(tmp_path, text, name)
    assert {("CTCF", "TP53"), ("FOS", "MYC"), ("JUN", "MYC")} <= set(edges)
    assert report["unknown_tfs"] == ["peak_1"]
    assert report["lines"] == 3
    assert edges["CTCF", "TP53"] > 0.9


def test_nearer_better_and_more_hits_weigh_more(tmp_path):
    near, best = hit("MYC", "CTCF", 100), hit("MYC", "JUN", 20_000, "10")
    far = "".join(hit("MYC", "FOS", 20_000 + 50 * at, "5") for at in range(4))
    edges, _ = read(tmp_path, near + best + far + hit("MYC", "SP1", 20_000, "5"))
    weight = {tf: edges[tf, "MYC"] for tf in ("CTCF", "JUN", "FOS", "SP1")}
    # At 20 kb a link is 1/4: with scores of 1, 1/2 and 1/2 four times, and a hit in the promoter of score 1/2.
    link = 0.25 - 2**-10
    expected = {"CTCF": 0.5, "JUN": link, "SP1": link / 2, "FOS": 1 - (1 - link / 2) ** 4}
    for tf in expected:
        assert weight[tf] / weight["SP1"] == pytest.approx(expected[tf] / expected["SP1"], rel=0.05)


def test_a_palindrome_and_what_is_left_out(tmp_path):
    line = hit("TP53", "CTCF")
    twice, once = line + line.replace("+", "-").replace("\t5\t", "\t3\t"), hit("TP53", "SP1")
    empty = "chr1\t200\t100\tSP1\t5\t+\n" + hit("TP53", "SP1", 90, "0") + "chr13\t5000000\t5000012\tSP1\t5\t+\n"
    alone, _ = read(tmp_path, line + once)
    edges, report = read(tmp_path, twice + once + empty)
    assert edges == {pair: pytest.approx(weight) for pair, weight in alone.items()}
    counted = [report[key] for key in ("same_place", "unplaced", "zero_weight", "unlinked", "lines")]
    assert counted == [1, 1, 1, 1, 6]


def test_order_changes_nothing(tmp_path):
    lines = [
        hit(gene, tf, away) for gene in ("MYC", "TP53") for tf in ("FOS::JUN", "SP1") for away in range(0, 9000, 700)
    ]
    first = read(tmp_path, "".join(lines))
    assert first == read(tmp_path, "".join(np.random.default_rng(0).permutation(lines)))


def test_the_build_is_found_by_evidence_or_given(tmp_path):
    coding = HUMAN.frame[HUMAN.frame["biotype"] == "protein_coding"]["symbol"].iloc[:3000:2]
    old = gene_table("human", "GRCh37").frame
    placed = [name for name in coding if old["start"].iloc[row(name)] >= 0]
    text = "".join(hit(name, "CTCF", build="GRCh37") for name in placed)
    network = read_networks([written(tmp_path / "hits.bed", text)], ALL, HUMAN)
    assert any("GRCh37: " in note for note in network.notes)
    weight = network.edges.set_index("target")["weight"]
    assert (weight.reindex([row(name) for name in placed]) > 0.9).mean() > 0.95
    with pytest.raises(InputError, match="not of GRCh38"):
        read(tmp_path, text, build="hg38")
    with pytest.raises(InputError, match="unknown genome build 'hg77'"):
        read(tmp_path, text, build="hg77")


def test_only_genes_of_the_model(tmp_path):
    edges, report = read(tmp_path, hit("MYC", "FOS") + hit("TP53", "SP1"), genes=ALL.iloc[[row("MYC"), row("FOS")]])
    assert set(edges) == {("FOS", "MYC")}
    assert report["absent_tfs"] == ["SP1"]
    assert "TP53" in report["absent_targets"]["first"]


@pytest.mark.parametrize(("text", "words"), [
    (hit("MYC", "FOS") + hit("MYC", "FOS", score="x"), "line 2 has 'x' as score, and 1 of 2 are no finite"),
    ("chrom\tstart\tend\ttf\nchr1\tx\ty\tFOS\n", "none of 1 regions has a place"),
    ("chr13\t5000000\t5000012\tFOS\t5\t+\n", "none of 1 hits with a score above 0 is near a human gene"),
    (hit("MYC", "peak_1"), "none of .* lines joins two genes of the model"),
])  # fmt: skip
def test_errors(tmp_path, text, words):
    with pytest.raises(InputError, match=words) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_scores_that_say_nothing(tmp_path):
    for score in (".", "0", "-3"):
        edges, _ = read(tmp_path, hit("MYC", "FOS", score=score) + hit("MYC", "JUN", score=score))
        assert edges["FOS", "MYC"] == edges["JUN", "MYC"] == 1.0


def test_inspect(tmp_path):
    report = inspect(written(tmp_path / "hits.bed", BED))
    assert (report["usable"], report["kind"], report["network"]["unknown_tfs"]) == (True, "motif hits", ["peak_1"])
    fragments = "".join(f"chr1\t{at}\t{at + 200}\tACGTACGT{at}-1\t1\n" for at in range(1000, 9000, 100))
    assert inspect(written(tmp_path / "fragments.bed.gz", fragments))["kind"] == "fragments"


def test_weights_are_those_of_one_hit_after_another(tmp_path):
    rng = np.random.default_rng(0)
    genes = HUMAN.frame[HUMAN.frame["chrom"] == "chr19"].iloc[:60]
    start = np.maximum(genes["start"].to_numpy()[rng.integers(0, 60, 300)] + rng.integers(-50_000, 50_000, 300), 0)
    tfs, score = rng.choice(["CTCF", "SP1", "TP53"], 300), rng.integers(1, 9, 300)
    table = pd.DataFrame({"chrom": "chr19", "start": start, "end": start + 12, "tf": tfs, "score": score})
    table.to_csv(tmp_path / "hits.tsv", sep="\t", index=False)
    edges = read_networks([tmp_path / "hits.tsv"], ALL, HUMAN).edges.set_index(["tf", "target"])["weight"]
    links = link_regions(table["chrom"], start, start + 12, HUMAN)
    none = {}
    for region, gene, weight in zip(links.region, links.gene, links.weight, strict=True):
        pair = row(tfs[region]), int(gene)
        chance = min(float(weight * links.strength[region]), 1.0) * score[region] / score.max()
        none[pair] = none.get(pair, 1.0) * (1 - chance)
    expected = {pair: 1 - rest for pair, rest in none.items() if pair[0] != pair[1]}
    assert len(edges) == len(expected)
    found = pd.Series(expected).reindex(edges.index)
    np.testing.assert_allclose(edges, found / found.max(), rtol=1e-4, atol=1e-7)
