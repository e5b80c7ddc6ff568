"""A network of any lab's layout becomes the same edges, and whatever does not become one is counted and named."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofm.errors import InputError
from mofm.inspection import inspect
from mofm.omics.describe_network import all_genes
from mofm.omics.genome import gene_table
from mofm.omics.networks import read_networks
from mofm.printed import render

HUMAN = gene_table("human")
SYMBOLS = ["TP53", "CDKN1A", "MDM2", "FOS", "JUN", "MYC", "CTCF"]


def model(*symbols):
    ids = [HUMAN.gene_ids[HUMAN.row_of_symbol[symbol]] for symbol in symbols]
    return pd.DataFrame({"id": ids, "symbol": list(symbols), "measured": True})


GENES = model(*SYMBOLS)


def written(path, text):
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def edges_of(network, genes=GENES):
    """(TF, target, sign, weight, confidence) of each edge."""
    symbols = genes["symbol"].tolist()
    return [
        (symbols[edge.tf], symbols[edge.target], edge.sign, round(float(edge.weight), 4), edge.confidence)
        for edge in network.edges.itertuples()
    ]


def read(tmp_path, text, name="net.tsv", genes=GENES, **options):
    network = read_networks([written(tmp_path / name, text)], genes, HUMAN, **options)
    return edges_of(network, genes), network.report[network.relations[0]]


SIGNED = [("TP53", "CDKN1A", 1, 1.0, ""), ("TP53", "MDM2", -1, 1.0, "")]
LEVELS = [("TP53", "CDKN1A", 1, 1.0, "A"), ("TP53", "MDM2", -1, 1.0, "B")]
OMNIPATH = (
    "source\ttarget\tsource_genesymbol\ttarget_genesymbol\tis_directed\tis_stimulation\tis_inhibition\t"
    "consensus_stimulation\tconsensus_inhibition\tcuration_effort\n"
)


@pytest.mark.parametrize(("name", "text", "expected"), [
    ("dorothea.tsv", "tf\ttarget\tconfidence\tsign\nTP53\tCDKN1A\tA\t1\nTP53\tMDM2\tB\t-1\n", LEVELS),
    ("dorothea.tsv.gz", "tf\ttarget\tconfidence\tsign\nTP53\tCDKN1A\tA\t1\nTP53\tMDM2\tB\t-1\n", LEVELS),
    ("mor.csv", "source,confidence,target,mor\nTP53,A,CDKN1A,1\nTP53,B,MDM2,-1\n", LEVELS),
    ("decoupler.csv", ",source,target,weight\n0,TP53,CDKN1A,1.0\n1,TP53,MDM2,-1.0\n", SIGNED),
    ("sized_mor.csv", "source,target,mor\nTP53,CDKN1A,0.5\nTP53,MDM2,-0.25\n",
     [("TP53", "CDKN1A", 1, 1.0, ""), ("TP53", "MDM2", -1, 0.5, "")]),
    ("collectri.csv", "source,target,weight,resources,references,sign_decision\n"
     "TP53,CDKN1A,1,TRRUST;SIGNOR,1;2,PMID\nTP53,MDM2,-1,TRRUST,3,default activation\n", SIGNED),
    ("trrust.tsv", "TP53\tCDKN1A\tActivation\t1;2\nTP53\tMDM2\tRepression\t3\nFOS\tMYC\tUnknown\t4\n",
     [*SIGNED, ("FOS", "MYC", 0, 1.0, "")]),
    ("grnboost.tsv", "TF\ttarget\timportance\nTP53\tCDKN1A\t8\nTP53\tMDM2\t2\n",
     [("TP53", "CDKN1A", 0, 1.0, ""), ("TP53", "MDM2", 0, 0.25, "")]),
    ("arboreto.tsv", "TP53\tCDKN1A\t8.0\nTP53\tMDM2\t2.0\n",
     [("TP53", "CDKN1A", 0, 1.0, ""), ("TP53", "MDM2", 0, 0.25, "")]),
    ("omnipath.tsv", OMNIPATH + "P04637\tP38936\tTP53\tCDKN1A\t1\t1\t1\t1\t0\t9\nP04637\tQ00987\tTP53\tMDM2\tTrue\tFalse\t"
     "True\tFalse\tFalse\t1\nP04637\tP01106\tTP53\tMYC\t0\t1\t0\t1\t0\t1\n", SIGNED),
    ("words.csv", "Regulator,Gene,Effect\nTP53,CDKN1A,up-regulates\nTP53,MDM2,inhibition\n", SIGNED),
    ("signed.csv", "tf,gene,score\nTP53,CDKN1A,0.7\nTP53,MDM2,-0.35\n",
     [("TP53", "CDKN1A", 1, 1.0, ""), ("TP53", "MDM2", -1, 0.5, "")]),
    ("comments.txt", "# made by hand\n#tf\ttarget\tsign\nTP53\tCDKN1A\t+\n\nTP53\tMDM2\t-\n", SIGNED),
    ("r.txt", '"tf" "target" "sign"\n"1" "TP53" "CDKN1A" 1\n"2" "TP53" "MDM2" -1\n', SIGNED),
    ("bom.csv", "\ufefftf,target,sign\r\nTP53,CDKN1A,1\r\nTP53,MDM2,-1\r\n", SIGNED),
    ("ids.csv", "tf,target,sign\nENSG00000141510.18,ENSG00000124762,1\nENSG00000141510,Hdm2,-1\nTP53,MDM2,-1\n", SIGNED),
])  # fmt: skip
def test_every_layout(tmp_path, name, text, expected):
    edges, report = read(tmp_path, text, name)
    assert sorted(edges) == sorted(expected)
    assert json.loads(json.dumps(report)) == report
    assert report["edges"] == len(expected)
    assert report["undirected"] == (name == "omnipath.tsv")


def test_types_and_names_of_relations(tmp_path):
    one = written(tmp_path / "a.b.tsv.gz", "tf\ttarget\nTP53\tMYC\nFOS\tMYC\n")
    two = written(tmp_path / "c=d.csv", "tf,target\nTP53,MYC\n")
    network = read_networks([f"mine={one}", str(two), one], GENES, HUMAN)
    assert network.relations == ("mine", "c=d", "a.b")
    kinds = ["int32", "int32", "int16", "int8", "float32", "object"]
    assert [str(kind) for kind in network.edges.dtypes] == kinds
    assert network.edges["relation"].tolist() == [0, 0, 1, 2, 2]
    assert list(network.report) == list(network.relations)
    assert len(network.notes) == 3
    assert network.edges[["relation", "tf", "target"]].equals(
        network.edges[["relation", "tf", "target"]].sort_values(["relation", "tf", "target"], ignore_index=True)
    )
    none = read_networks([], GENES, HUMAN)
    assert [str(kind) for kind in none.edges.dtypes] == kinds
    with pytest.raises(InputError, match=r"two relations named 'a.b'.*NAME=PATH"):
        read_networks([one, f"a.b={two}"], GENES, HUMAN)


@pytest.mark.parametrize("kind", ["object", "category"])
def test_parquet(tmp_path, kind):
    frame = pd.DataFrame(
        {"source": ["TP53", "TP53", None], "target": ["CDKN1A", "MDM2", "MYC"], "weight": [1.0, -1, 1]}
    )
    frame.astype({"source": kind}).to_parquet(tmp_path / "net.parquet")
    network = read_networks([tmp_path / "net.parquet"], GENES, HUMAN)
    assert edges_of(network) == SIGNED
    assert network.report["net"]["unnamed"] == 1


def test_signs_and_weights_of_two_columns(tmp_path):
    energies = "tf,target,sign,weight\nTP53,CDKN1A,1,-4\nTP53,MDM2,,-2\n"  # all below 0: their size counts
    assert read(tmp_path, energies)[0] == [("TP53", "CDKN1A", 1, 1.0, ""), ("TP53", "MDM2", 0, 0.5, "")]
    both = "tf,target,sign,weight\nTP53,CDKN1A,1,-4\nTP53,MDM2,unknown,-2\nTP53,MYC,-1,1\n"
    signs = {target: sign for _, target, sign, _, _ in read(tmp_path, both)[0]}
    assert signs == {"CDKN1A": 1, "MDM2": -1, "MYC": -1}
    edges, report = read(tmp_path, "tf,target,weight\nTP53,MDM2,-3\nTP53,MYC,0\n")
    assert (edges, report["zero_weight"]) == ([("TP53", "MDM2", -1, 1.0, "")], 1)
    assert read(tmp_path, "tf,target,weight\nTP53,MDM2,1e-60\nTP53,MYC,1\n")[0][0][3] == 0.0  # by 4 digits; above 0
    assert (read_networks([tmp_path / "net.tsv"], GENES, HUMAN).edges["weight"] > 0).all()


def test_duplicates_keep_the_best_and_disagreement_loses_the_sign(tmp_path):
    text = (
        "tf\ttarget\tsign\tweight\tconfidence\n"
        "TP53\tCDKN1A\t1\t1\tC\nTP53\tCDKN1A\t0\t4\tB;D\nTP53\tCDKN1A\t1\t2\t\n"
        "TP53\tMDM2\t1\t4\tlow\nTP53\tMDM2\t-1\t2\thigh\n"
        "TP53\tTP53\t1\t4\tA\n"
        "FOS\tMYC\tboth\t4\t0.2\nFOS\tMYC\t1\t4\t0.9\n"
    )
    edges, report = read(tmp_path, text)
    assert edges == [
        ("TP53", "CDKN1A", 1, 1.0, "B;D"), ("TP53", "MDM2", 0, 1.0, "high"), ("FOS", "MYC", 0, 1.0, "0.9"),
    ]  # fmt: skip
    assert (report["duplicates"], report["sign_conflicts"], report["self_loops"]) == (4, 2, 1)
    assert report["sign_conflicts_first"] == ["TP53 -> MDM2", "FOS -> MYC"]
    assert (report["activating"], report["repressing"], report["sign_unknown"]) == (1, 0, 2)
    trrust, told = read(tmp_path, "TP53\tMDM2\tActivation\t1\nTP53\tMDM2\tRepression\t2\n", "trrust.tsv")
    assert (trrust, told["sign_conflicts"]) == ([("TP53", "MDM2", 0, 1.0, "")], 1)


def test_complexes_and_names_that_mean_nothing(tmp_path):
    lines = ["FOS_JUN\tMYC", "COMPLEX:FOS_JUN\tMDM2", "AP1\tMYC", "NFKB\tMYC", "COMPLEX:P01100_P05412\tMYC",
             "FOS_NOTHING\tMYC", "TP53\tNOTHING", "SOX2\tMYC", "TP53\tNANOG", "TP53\t", "COMPLEX:TP53\tMYC"]  # fmt: skip
    edges, report = read(tmp_path, "tf\ttarget\n" + "\n".join(lines))
    pairs = {(tf, target) for tf, target, *_ in edges}
    assert pairs == {("FOS", "MYC"), ("JUN", "MYC"), ("FOS", "MDM2"), ("JUN", "MDM2"), ("TP53", "MYC")}
    assert report["unknown_tfs"] == ["AP1", "COMPLEX:P01100_P05412", "FOS_NOTHING", "NFKB"]
    assert report["unknown_targets"] == ["NOTHING"]
    assert report["absent_tfs"] == ["SOX2"]
    assert report["absent_targets"] == {"count": 1, "first": ["NANOG"]}
    assert report["complexes"] == ["COMPLEX:FOS_JUN", "FOS_JUN"]
    assert (report["unnamed"], report["lines_of_unknown_names"], report["absent_pairs"]) == (1, 5, 2)


def test_made_up_genes_are_known_by_their_own_names(tmp_path):
    genes = pd.DataFrame({
        "id": ["SIMG00001", "SIMG00002", *GENES["id"][:1]], "symbol": ["SIMG00001", "Two", "TP53"], "measured": True,
    })  # fmt: skip
    edges, report = read(tmp_path, "tf,target\nSIMG00001,Two\nSIMG00002,TP53\n", genes=genes)
    assert [(tf, target) for tf, target, *_ in edges] == [("SIMG00001", "Two"), ("Two", "TP53")]
    assert not report["unknown_tfs"]


def test_levels_of_confidence_and_tissue(tmp_path):
    text = (
        "TF\ttarget\ttissue\tlevel\nTP53\tMYC\tblood,colon\tA\nTP53\tMDM2\tLung; Blood\tB\nFOS\tMYC\tlung\tB\n"
        "JUN\tMYC\t\tA\n"
    )
    edges, report = read(tmp_path, text, tissues=["Blood"], confidences=["B"])
    assert [edge[:2] for edge in edges] == [("TP53", "MDM2")]
    assert (report["left_out_by_confidence"], report["left_out_by_tissue"]) == (2, 1)
    with pytest.raises(
        InputError, match=r"no line is of tissue 'blod', there are .*blood, colon.* Did you mean 'blood'"
    ):
        read(tmp_path, text, tissues=["blod", "lung"])
    with pytest.raises(InputError, match="no line is of confidence 'E', there are A, B"):
        read(tmp_path, text, confidences=["A", "E"])
    with pytest.raises(InputError, match="has no column of confidence, and confidence A is asked for"):
        read(tmp_path, "tf,target\nTP53,MYC\n", confidences=["A"])
    plain, word = tmp_path / "plain.tsv", tmp_path / "word.csv"
    written(plain, text)
    written(word, "tf,target,confidence\nTP53,CTCF,high\n")
    assert len(read_networks([plain, word], GENES, HUMAN, confidences=["A", "high"]).edges) == 3
    with pytest.raises(InputError, match=r"word.csv: no line is of confidence 'A', there are high"):
        read_networks([plain, word], GENES, HUMAN, confidences=["A"])


@pytest.mark.parametrize(("text", "words"), [
    ("", "holds no line"),
    ("tf,target\n", "holds no line"),
    ("factor,regulon\nTP53,MYC\n", r"names the TF and target, its columns are factor, regulon; name those .* tf and target"),
    ("tf,regulon\nTP53,MYC\n", "names the target, its columns are tf, regulon"),
    ("tf,target,weight\nTP53,MYC,1\n\nTP53,FOS,nan\n", r"line 4 has 'nan' as weight, and 1 of 2 are no finite"),
    ("tf,target,weight\nTP53,MYC,inf\n", "line 2 has 'inf' as weight"),
    ("tf,target,sign\nTP53,MYC,sideways\n", r"line 2 has 'sideways' as sign, which is no sign"),
    ("tf,target\nTP53,MYC\nTP53,MYC,FOS,JUN\n", "not those of one table"),
    ("tf,target\nTP53,NANOG\nSOX2,MYC\n", r"none of 2 lines joins two genes of the model \(it names SOX2, TP53 and .*TP53"),
    ("tf,target\nTP53,TP53\n", "none of 1 lines"),
    ("tf,target\nTrp53,Mdm2\nFos,Myc\nJun,Myc\n", r"100% of the names are mouse genes .*--species mouse"),
])  # fmt: skip
def test_errors(tmp_path, text, words):
    with pytest.raises(InputError, match=words) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)
    assert "net.tsv" in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    whole = gzip.compress(b"tf\ttarget\n" + b"TP53\tMYC\n" * 9000)
    cases = {"cut.tsv.gz": whole[:-30], "bytes.tsv": bytes(range(256)), "cut.parquet": b"PAR1" + bytes(40)}
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name}: cannot be read as a table"):
            read_networks([tmp_path / name], GENES, HUMAN)
    with pytest.raises(InputError, match="no such file"):
        read_networks([f"x={tmp_path}/none.tsv"], GENES, HUMAN)
    with pytest.raises(InputError, match="is no file"):
        read_networks([tmp_path], GENES, HUMAN)


names = st.sampled_from([*SYMBOLS, "FOS_JUN", "NOTHING", "NANOG", "", "p53"])
lines = st.lists(
    st.tuples(names, names, st.sampled_from(["1", "-1", "0", "both"]), st.sampled_from("0124"), st.sampled_from("ABC")),
    min_size=1,
    max_size=30,
)


@settings(max_examples=40, deadline=None)
@given(lines=lines, data=st.data())
def test_order_changes_nothing_and_every_line_is_accounted_for(tmp_path_factory, lines, data):
    folder = tmp_path_factory.mktemp("net")
    lines = [*lines, ("TP53", "MYC", "1", "4", "A"), ("TP53", "MDM2", "1", "4", "B")]
    found = []
    for some in (lines, data.draw(st.permutations(lines))):
        text = "tf\ttarget\tsign\tweight\tlevel\n" + "".join("\t".join(line) + "\n" for line in some)
        path = written(folder / "net.tsv", text)
        found.append(read_networks([path], GENES, HUMAN, confidences=["A", "B"]))
    one, other = found
    assert one.edges.equals(other.edges)
    assert one.report == other.report
    told = one.report["net"]
    reasons = ("unnamed", "undirected", "zero_weight", "left_out_by_confidence", "left_out_by_tissue")
    used = told["lines"] - sum(told[reason] for reason in reasons) - told["lines_of_unknown_names"]
    assert used <= told["pairs"]
    assert told["pairs"] == sum(told[key] for key in ("absent_pairs", "self_loops", "duplicates", "edges"))
    assert told["edges"] == told["activating"] + told["repressing"] + told["sign_unknown"] == len(one.edges)
    assert not one.edges.duplicated(["relation", "tf", "target"]).any()
    assert one.edges["weight"].between(0, 1, inclusive="right").all()
    assert (one.edges["tf"] != one.edges["target"]).all()


def test_inspect(tmp_path, capsys):
    path = written(tmp_path / "net.tsv", "tf\ttarget\tsign\nTP53\tMYC\t1\nTP53\tNOTHING\t1\n")
    report = inspect(path)
    assert (report["usable"], report["kind"], report["species"]) == (True, "network", "human")
    assert (report["network"]["edges"], report["network"]["unknown_targets"]) == (1, ["NOTHING"])
    assert inspect(written(tmp_path / "mouse.csv", "tf,target\nTrp53,Mdm2\nFos,Myc\n"))["species"] == "mouse"
    refused = inspect(written(tmp_path / "bad.csv", "tf,target,weight\nTP53,MYC,nan\n"))
    assert not refused["usable"]
    assert "line 2 has 'nan'" in refused["why"]
    for some in (report, refused):
        render(some)
        render(some, as_json=True)
    out = capsys.readouterr().out
    assert "unknown targets: NOTHING" in out
    assert "not usable as it is: " in out
    with pytest.raises(InputError, match="not an HDF5 file"):
        inspect(written(tmp_path / "other.tsv", "a\tb\n1\t2\n"))


@pytest.mark.skipif("MOFM_DATA" not in os.environ, reason="MOFM_DATA is not set: dorothea_human.tsv.gz not looked for")
def test_dorothea():
    path = Path(os.environ["MOFM_DATA"]) / "dorothea_human.tsv.gz"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    network = read_networks([path], all_genes(HUMAN), HUMAN)
    told = network.report["dorothea_human"]
    assert (told["lines"], told["tfs"], told["unknown_tfs"]) == (29_086, 361, [])
    assert told["lines"] - told["lines_of_unknown_names"] - told["duplicates"] - told["self_loops"] == told["edges"]
    assert (told["edges"], told["lines_of_unknown_names"], told["duplicates"]) == (28_568, 487, 31)
    assert (told["targets"], len(told["unknown_targets"])) == (9_498, 292)
    assert network.edges["confidence"].value_counts().index.tolist() == ["D", "C", "A", "B"]
    assert np.array_equal(np.unique(network.edges["sign"]), [-1, 1])
    best = read_networks([f"A={path}"], all_genes(HUMAN), HUMAN, confidences=["A"])
    assert best.report["A"]["left_out_by_confidence"] == 29_086 - 5_434
    assert set(best.edges["confidence"]) == {"A"}
