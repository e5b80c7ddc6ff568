"""Labels are as near as their terms are in the ontology; what is no term is near itself alone, and is told."""

import gzip
import itertools

import numpy as np
import pytest

from mofm.errors import InputError
from mofm.omics.ontology import label_kinship, plain_label, read_ontology

# As the Cell Ontology writes them: comments, modifiers, edges of other kinds, terms of other ontologies, obsolete ones.
OBO = r"""format-version: 1.2
data-version: cl/releases/2025-01-01/cl-basic.owl
ontology: cl/cl-basic

[Term]
id: CL:0000000
name: cell
is_a: UBERON:0000061 ! anatomical structure

[Term]
id: CL:0000542
name: lymphocyte
def: "A lymphocyte is a leukocyte! It has [Term] in its text." [GOC:add]
synonym: "lymph cell" RELATED []
is_a: CL:0000000 ! cell

[Term]
id: CL:0000084
name: T cell
alt_id: CL:0000804
synonym: "immature T cell" RELATED []
synonym: "T lymphocyte" EXACT []
synonym: "T-cell" EXACT [MESH:D013601, "a \"quote\""]
is_a: CL:0000542 {is_inferred="true"} ! lymphocyte
relationship: RO:0002202 CL:0000827 {gci_filler="x", all_only="true"} ! develops from pro-T cell

[Term]
id: CL:0000236
name: B cell
synonym: "killer" EXACT []
is_a: CL:0000542 ! lymphocyte

[Term]
id: CL:0000623
name: natural killer cell
synonym: "NK cell" EXACT []
synonym: "killer" EXACT []
is_a: CL:0000542 ! lymphocyte

[Term]
id: CL:0000624
name: CD4-positive, alpha-beta T cell
is_a: CL:0000084 ! T cell

[Term]
id: CL:0000827
name: pro-T cell

[Term]
id: CL:0000945
name: obsolete lymphocyte of B lineage
is_obsolete: true
replaced_by: CL:0000236

[Term]
id: CL:0000946
name: obsolete something
is_obsolete: true
consider: CL:0000236
consider: CL:0000084

[Typedef]
id: RO:0002202
name: develops from
"""
TERMS = ["CL:0000000", "CL:0000542", "CL:0000084", "CL:0000236", "CL:0000623", "CL:0000624", "CL:0000827"]


@pytest.fixture(scope="module")
def obo(tmp_path_factory):
    path = tmp_path_factory.mktemp("ontology") / "cl.obo"
    path.write_text(OBO)
    return path


def between(obo, one, other, **given):
    return float(label_kinship([one, other], obo, **given).affinity_CC[0, 1])


@pytest.mark.parametrize(
    ("one", "other", "steps"),
    [
        ("T cell", "lymphocyte", 1),
        ("T cell", "B cell", 2),
        ("CD4-positive, alpha-beta T cell", "lymphocyte", 2),
        ("CD4-positive, alpha-beta T cell", "NK cell", 3),
        ("cell", "CD4-positive, alpha-beta T cell", 3),
        ("T cell", "T lymphocyte", 0),
    ],
)
def test_nearness_is_a_power_of_the_steps(obo, one, other, steps):
    for decay, reach in itertools.product((0.3, 0.5, 1.0), (0, 1, 2, 3)):
        expected = np.float32(decay**steps if steps <= reach else 0)
        assert between(obo, one, other, decay=decay, reach=reach) == expected


def test_only_is_a_counts(obo):
    assert between(obo, "T cell", "pro-T cell", reach=9) == 0


def test_a_table_is_symmetric_with_ones_on_its_diagonal_whatever_the_order(obo):
    labels = [*TERMS, "no such cell", "killer"]
    found = label_kinship(labels, obo, decay=0.6, reach=3)
    assert found.affinity_CC.dtype == np.float32
    assert found.affinity_CC.shape == (9, 9)
    np.testing.assert_array_equal(found.affinity_CC, found.affinity_CC.T)
    assert (np.diag(found.affinity_CC) == 1).all()
    order = np.random.default_rng(0).permutation(9)
    again = label_kinship([labels[place] for place in order], obo, decay=0.6, reach=3)
    np.testing.assert_array_equal(again.affinity_CC, found.affinity_CC[np.ix_(order, order)])


def test_more_reach_changes_no_nearness_that_there_was(obo):
    tables = [label_kinship(TERMS, obo, reach=reach).affinity_CC for reach in range(5)]
    np.testing.assert_array_equal(tables[0], np.eye(7))
    for less, more in itertools.pairwise(tables):
        np.testing.assert_array_equal(more[less > 0], less[less > 0])
    near = [np.count_nonzero(table) for table in tables]
    assert near[0] < near[1] < near[2] < near[3] == near[4]


@pytest.mark.parametrize(
    ("label", "term"),
    [
        *((term, term) for term in TERMS),
        *(("cl_0000084", "CL:0000084"), (" CL:0000084 ", "CL:0000084"), ("CL:0000804", "CL:0000084")),
        *(("t  CELL", "CL:0000084"), ("T-cells", "CL:0000084"), ("T_lymphocytes", "CL:0000084")),
        *(("NK cell", "CL:0000623"), ("CL:0000945", "CL:0000236"), ("cd4 positive, alpha beta T cell", "CL:0000624")),
        *(("CL:0000946", None), ("CL:9999999", None), ("immature T cell", None), ("lymph cell", None), ("", None)),
        *(
            ("anatomical structure", None),
            ("UBERON:0000061", None),
            ("killer", None),
            ("RO:0002202", None),
            ("s", None),
        ),
    ],
)
def test_what_a_label_is(obo, label, term):
    assert label_kinship([label, "cell"], obo).terms == (term, "CL:0000000")


def test_what_is_no_term_is_near_itself_alone_and_is_told(obo):
    labels = ["T cell", "killer", "B cell", "doublet", "low quality"]
    found = label_kinship(labels, obo)
    np.testing.assert_array_equal(found.affinity_CC[[1, 3, 4]], np.eye(5)[[1, 3, 4]])
    assert found.report == {
        "labels": 5, "terms": 2, "pairs": 1, "unknown": ["doublet", "low quality"], "ambiguous": ["killer"]
    }  # fmt: skip
    assert found.notes == (
        "cl.obo: 2 of 5 labels are terms, 1 pairs of them within 2 steps; 2 are none ('doublet', 'low quality'); "
        "1 could be several ('killer')",
    )


def test_a_name_goes_before_another_terms_synonym(tmp_path):
    path = tmp_path / "x.obo"
    path.write_text('ontology: x\n\n[Term]\nid: X:1\nname: a\nsynonym: "b" EXACT []\n\n[Term]\nid: X:2\nname: b\n')
    assert label_kinship(["b", "a"], path).terms == ("X:2", "X:1")


def test_a_gzipped_file_is_the_same(obo, tmp_path):
    (tmp_path / "cl.obo.gz").write_bytes(gzip.compress(OBO.encode()))
    np.testing.assert_array_equal(
        label_kinship(TERMS, tmp_path / "cl.obo.gz").affinity_CC, label_kinship(TERMS, obo).affinity_CC
    )


def test_a_circle_of_terms_ends(tmp_path):
    path = tmp_path / "x.obo"
    terms = [f"[Term]\nid: X:{i}\nname: n{i}\nis_a: X:{(i + 1) % 3}\n" for i in range(3)]
    path.write_text("ontology: x\n\n" + "\n".join(terms))
    np.testing.assert_array_equal(label_kinship(["n0", "n1", "n2"], path, reach=5).affinity_CC, np.eye(3) / 2 + 0.5)


def test_no_labels_are_an_empty_table(obo):
    assert label_kinship([], obo).affinity_CC.shape == (0, 0)


def test_terms_of_other_ontologies_that_have_no_name_here_are_none(obo):
    assert set(read_ontology(obo).is_a) == set(TERMS)


def refusal(call):
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file; give an ontology in OBO"),
        (b"", "no term with a name"),
        (b"<rdf:RDF>\n</rdf:RDF>\n", "no term with a name in it; give an ontology in OBO, not in OWL or JSON"),
        (b"ontology: x\n\n[Term]\nname: no id\n", "cannot be read as an ontology in OBO"),
        (b"ontology: x\n\n[Term]\nid: X:1\nbroken line\n", "cannot be read as an ontology in OBO"),
        (b"\xff\xfe\x00", "cannot be read as an ontology in OBO"),
        (b"ontology: x\n\n[Term]\nid: X:1\nname: one\n", "none of 1 labels is one of its terms ('T cell')"),
    ],
)
def test_a_file_that_is_no_ontology_is_told(tmp_path, content, said):
    path = tmp_path / "x.obo"
    if content is not None:
        path.write_bytes(content)
    told = refusal(lambda: label_kinship(["T cell"], path))
    assert said in told
    assert str(path) in told


@pytest.mark.parametrize("given", [{"decay": 0.0}, {"decay": 1.5}, {"reach": -1}])
def test_values_out_of_their_range_are_refused(obo, given):
    assert next(iter(given)) in refusal(lambda: label_kinship(["T cell"], obo, **given))


def test_plain_labels_compare():
    assert plain_label(" CD4-positive_T   Cell ") == plain_label("cd4 positive t cell") == "cd4 positive t cell"
