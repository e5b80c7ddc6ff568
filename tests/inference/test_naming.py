"""What is told of a cell by chances of its labels: a label where one is sure, else the most specific broader term that is; and
of a broader term as many cells are right as it says."""

import numpy as np
import pytest

from mofm.errors import InputError
from mofm.inference.calibration import reliability
from mofm.inference.head import fit_head, names_by_head
from mofm.inference.naming import UNKNOWN, check_confidence, lineage_of, name_cells
from mofm.omics.ontology import read_ontology

# leukocyte > lymphocyte > T cell > mature T cell > (CD4, CD8 (also a killer)); NK (a killer); B; monocyte > CD14, CD16
TERMS = {
    "X:1": ("cell", ()),
    "X:2": ("leukocyte", ("X:1",)),
    "X:3": ("lymphocyte", ("X:2",)),
    "X:4": ("T cell", ("X:3",)),
    "X:5": ("mature T cell", ("X:4",)),
    "X:6": ("CD4 T cell", ("X:5",)),
    "X:7": ("CD8 T cell", ("X:5", "X:9")),
    "X:8": ("NK cell", ("X:3", "X:9")),
    "X:9": ("killer", ("X:2",)),
    "X:10": ("B cell", ("X:3",)),
    "X:11": ("monocyte", ("X:2",)),
    "X:12": ("CD14 monocyte", ("X:11",)),
    "X:13": ("CD16 monocyte", ("X:11",)),
    "X:14": ("memory T cell", ("X:5",)),
}
LABELS = ("B cell", "CD14 monocyte", "CD16 monocyte", "CD4 T cell", "CD8 T cell", "NK cell", "doublet")


@pytest.fixture(scope="module")
def ontology(tmp_path_factory):
    path = tmp_path_factory.mktemp("ontology") / "x.obo"
    terms = [
        "\n".join(["[Term]", f"id: {term}", f"name: {name}", *(f"is_a: {parent}" for parent in parents)])
        for term, (name, parents) in TERMS.items()
    ]
    path.write_text("ontology: x\n\n" + "\n\n".join(terms) + "\n")
    return read_ontology(path)


@pytest.fixture(scope="module")
def lineage(ontology):
    return lineage_of(LABELS, ontology)


def told(lineage, least, labels=LABELS, **chances):
    """(what is said, its id, its chance) of one cell."""
    given = {name.replace("_", " "): chance for name, chance in chances.items()}
    assert sum(given.values()) == pytest.approx(1)
    names = name_cells(np.array([[given.get(label, 0.0) for label in labels]]), labels, least, lineage)
    return names.labels[0], names.terms[0], pytest.approx(float(names.confidence_N[0]))


def test_the_most_specific_term_that_is_sure_enough_is_told(lineage):
    say = lineage, 0.8
    assert told(*say, CD4_T_cell=0.85, B_cell=0.15) == ("CD4 T cell", "X:6", 0.85)
    # "T cell" has the same labels below it, and other kinds: it leaves more open.
    assert told(*say, CD4_T_cell=0.45, CD8_T_cell=0.45, B_cell=0.1) == ("mature T cell", "X:5", 0.9)
    assert told(*say, CD4_T_cell=0.45, B_cell=0.45, CD14_monocyte=0.1) == ("lymphocyte", "X:3", 0.9)
    assert told(*say, CD14_monocyte=0.5, CD16_monocyte=0.5) == ("monocyte", "X:11", 1.0)
    # Only "leukocyte" and "cell" remain, of which all are: nothing that was not known.
    assert told(*say, CD4_T_cell=0.5, CD14_monocyte=0.5) == (UNKNOWN, "", 0.5)
    # What is no term counts for none.
    assert told(*say, CD4_T_cell=0.4, CD8_T_cell=0.35, doublet=0.25) == (UNKNOWN, "", 0.4)
    assert told(*say, doublet=0.8, B_cell=0.2) == ("doublet", "", 0.8)


def test_of_terms_that_no_is_a_orders_fewer_labels_go_first_then_the_likelier(lineage):
    """A CD8 T cell is a T cell and a killer."""
    mix = {"CD8_T_cell": 0.5, "NK_cell": 0.3, "CD4_T_cell": 0.2}
    assert told(lineage, 0.65, **mix) == ("killer", "X:9", 0.8)
    assert told(lineage, 0.65, **mix | {"NK_cell": 0.2, "CD4_T_cell": 0.3}) == ("mature T cell", "X:5", 0.8)
    assert told(lineage, 0.9, **mix) == ("lymphocyte", "X:3", 1.0)
    even = {"CD8_T_cell": 0.5, "NK_cell": 0.25, "CD4_T_cell": 0.25}
    assert told(lineage, 0.6, **even) == ("killer", "X:9", 0.75)  # two kinds of it, three of the other


def test_an_ontology_changes_only_what_would_be_unknown(lineage):
    chance_NC = np.random.default_rng(0).dirichlet(np.full(len(LABELS), 0.3), 2_000)
    for least in (0.2, 0.5, 0.8):
        plain, by_terms = (name_cells(chance_NC, LABELS, least, one) for one in (None, lineage))
        was_told = plain.labels != UNKNOWN
        np.testing.assert_array_equal(by_terms.labels[was_told], plain.labels[was_told])
        np.testing.assert_array_equal(by_terms.likeliest, plain.likeliest)
        assert not by_terms.is_broader_N[was_told].any()
        is_told = by_terms.labels != UNKNOWN
        assert (by_terms.confidence_N[is_told] >= least - 1e-6).all()
        np.testing.assert_array_equal(is_told, was_told | by_terms.is_broader_N)
        assert least < 0.5 or by_terms.is_broader_N.mean() > 0.1
    strange = name_cells(chance_NC, LABELS, 0.5, lineage, is_strange_N=np.arange(2_000) % 2 == 0)
    assert set(strange.labels[::2]) == {UNKNOWN}
    assert set(strange.terms[::2]) == {""}
    np.testing.assert_allclose(strange.confidence_N[::2], chance_NC[::2].max(axis=1), rtol=1e-6)


def test_a_label_that_others_are_kinds_of_counts_them(ontology):
    labels = ("B cell", "CD4 T cell", "NK cell", "T cell", "monocyte")
    lineage = lineage_of(labels, ontology)
    assert told(lineage, 0.5, labels, T_cell=0.6, CD4_T_cell=0.3, B_cell=0.1) == ("T cell", "X:4", 0.9)
    assert told(lineage, 0.7, labels, T_cell=0.4, CD4_T_cell=0.4, B_cell=0.2) == ("T cell", "X:4", 0.8)
    assert told(lineage, 0.35, labels, T_cell=0.4, CD4_T_cell=0.39, B_cell=0.21) == ("T cell", "X:4", 0.79)


def test_two_labels_of_one_term_are_told_as_the_term(ontology):
    labels = ("B cells", "B-cell", "CD4 T cell", "x:0007")
    lineage = lineage_of(labels, ontology)
    assert lineage.terms.tolist()[:3] == ["X:10", "X:10", "X:6"]
    chance_NC = np.array([[0.4, 0.4, 0.2, 0.0], [0.9, 0.1, 0.0, 0.0]])
    names = name_cells(chance_NC, labels, 0.7, lineage)
    assert names.labels.tolist() == ["B cell", "B cells"]
    np.testing.assert_allclose(names.confidence_N, [0.8, 1.0], rtol=1e-6)


def test_what_is_told_does_not_depend_on_the_order_of_labels_or_blocks(ontology, lineage, monkeypatch):
    chance_NC = np.round(np.random.default_rng(1).dirichlet(np.full(len(LABELS), 0.5), 500), 1)
    chance_NC[:, -1] = 1 - chance_NC[:, :-1].sum(axis=1)  # many ties
    order = np.random.default_rng(2).permutation(len(LABELS))
    chance_NC = chance_NC[np.sort(-chance_NC, axis=1)[:, 0] != np.sort(-chance_NC, axis=1)[:, 1]]
    assert len(chance_NC) > 200
    names = name_cells(chance_NC, LABELS, 0.6, lineage)
    monkeypatch.setattr("mofm.inference.naming.BLOCK", 7)
    others = [LABELS[place] for place in order]
    again = name_cells(chance_NC[:, order], others, 0.6, lineage_of(others, ontology))
    for one, other in zip(names, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_labels_that_are_no_terms_are_told(ontology, lineage):
    (note,) = lineage.notes
    assert "x.obo: 6 of 7 labels are terms; 1 are none ('doublet')" in note
    with pytest.raises(InputError, match="none of 2 labels is one of its terms"):
        lineage_of(["one", "other"], ontology)
    for confidence in (0, -1, 1.5):
        with pytest.raises(InputError, match="more than 0 and at most 1"):
            check_confidence(confidence)


def test_broader_terms_are_as_right_as_they_say(lineage, ontology):
    """Clouds of cells whose types are near each other as the ontology has them; a head that never saw the judged cells."""
    kinds = LABELS[:-1]
    groups = {"B cell": 0, "CD4 T cell": 1, "CD8 T cell": 1, "NK cell": 1, "CD14 monocyte": 2, "CD16 monocyte": 2}
    rng = np.random.default_rng(0)
    centre_GE, own_CE = 0.7 * rng.normal(size=(3, 8)), 0.5 * rng.normal(size=(len(kinds), 8))
    centre_CE = centre_GE[[groups[kind] for kind in kinds]] + own_CE

    def cells(count, seed):
        rng = np.random.default_rng(seed)
        code_N = rng.choice(len(kinds), count, p=[0.1, 0.3, 0.1, 0.25, 0.15, 0.1])
        embedding_NE = (centre_CE[code_N] + rng.normal(size=(count, 8))).astype(np.float32)
        return embedding_NE, np.array(kinds, object)[code_N]

    embedding_NE, labels = cells(4_000, 1)
    head = fit_head(embedding_NE, labels, np.arange(4_000) % 3 == 0)
    embedding_NE, truth = cells(20_000, 2)
    lineage = lineage_of(head.labels, ontology)
    names = names_by_head(head, embedding_NE, 0.8, lineage)
    place = {label: number for number, label in enumerate(lineage.names)}
    right_N = np.array([
        said != UNKNOWN and lineage.counts_CT[place[true], place[said]]
        for said, true in zip(names.labels, truth, strict=True)
    ])  # fmt: skip
    broad = names.is_broader_N
    assert broad.mean() > 0.2
    assert reliability(names.confidence_N[broad], right_N[broad]) < 0.04
    is_told = names.labels != UNKNOWN
    assert reliability(names.confidence_N[is_told], right_N[is_told]) < 0.03
    assert right_N[is_told].mean() > 0.88
    # Twice as sure of its logits, it would not be right as often as it says.
    hot_NC = np.exp(head.logits(embedding_NE) / (head.temperature / 3))
    hot = name_cells(hot_NC / hot_NC.sum(axis=1, keepdims=True), head.labels, 0.8, lineage)
    hot_right_N = np.array([lineage.counts_CT[place[true], place.get(said, -1)]
                            for said, true in zip(hot.labels, truth, strict=True)])  # fmt: skip
    assert reliability(hot.confidence_N[hot.is_broader_N], hot_right_N[hot.is_broader_N]) > 0.08
