"""Networks as one padded graph: pairs across relations, keys that can be searched, budgets; and questions of edges."""

import numpy as np
import pandas as pd
import pytest
from networks import GENES, pairs_of, some_edges

from mofm.batch import ACTIVATES, NO_EDGE, REGULATES, REPRESSES
from mofm.batches.graph import EDGE_MULTIPLE, NOTHING, ask_about, make_graph
from mofm.errors import InputError

COLUMNS = {"tf_M": "tf", "target_M": "target", "relation_M": "relation", "sign_M": "sign", "weight_M": "weight"}


@pytest.fixture(params=[0, 1, 2])
def edges(request):
    return some_edges(request.param, relations=3)


def test_edges_come_first_and_padding_is_nothing(edges):
    graph = make_graph(edges, GENES, 300)
    for name, column in COLUMNS.items():
        leaf = getattr(graph, name)
        assert leaf.dtype == (np.float32 if name == "weight_M" else np.int32)
        np.testing.assert_array_equal(leaf[: len(edges)], edges[column])
        assert (leaf[len(edges) :] == 0).all()
        assert len(leaf) == 300
    assert len(graph.pair_M) == len(graph.known_M) == 300
    assert (graph.weight_M[: len(edges)] > 0).all()


def test_one_relation_comes_after_another(edges):
    """And the graph is the same whatever the order of the edges of each."""
    graph = make_graph(edges.sample(frac=1, random_state=0), GENES, 300)
    count = len(edges)
    assert (np.diff(graph.relation_M[:count]) >= 0).all()
    columns = zip(*(getattr(graph, name)[:count].tolist() for name in COLUMNS), strict=True)
    expected = zip(*(edges[column].tolist() for column in COLUMNS.values()), strict=True)
    assert sorted(columns) == sorted(expected)


def test_edges_of_one_pair_share_its_number_and_no_others(edges):
    graph = make_graph(edges, GENES, 300)
    count = len(edges)
    numbers = pd.Series(graph.pair_M[:count]).groupby([edges["tf"], edges["target"]])
    assert (numbers.nunique() == 1).all()
    assert (numbers.size() > 1).any()
    assert sorted(numbers.first()) == list(range(len(pairs_of(edges))))


def test_keys_are_sorted_and_tell_their_pairs(edges):
    graph = make_graph(edges, GENES, 300)
    pairs = len(pairs_of(edges))
    assert (np.diff(graph.known_M[:pairs]) > 0).all()
    assert (graph.known_M[pairs:] == NOTHING).all()
    regulators = np.flatnonzero(graph.regulator_G >= 0)
    np.testing.assert_array_equal(regulators, np.unique(edges["tf"]))
    np.testing.assert_array_equal(np.sort(graph.regulator_G[regulators]), np.arange(len(regulators)))
    assert (np.delete(graph.regulator_G, regulators) == -1).all()
    of_number = {int(number): tf for tf, number in enumerate(graph.regulator_G) if number >= 0}
    keys = graph.known_M[graph.pair_M[: len(edges)]]
    told = [(of_number[int(key) // GENES], int(key) % GENES) for key in keys]
    assert told == list(zip(edges["tf"], edges["target"], strict=True))


@pytest.mark.parametrize(
    ("count", "padded"), [(1, EDGE_MULTIPLE), (EDGE_MULTIPLE, EDGE_MULTIPLE), (EDGE_MULTIPLE + 1, 2 * EDGE_MULTIPLE)]
)
def test_padded_to_as_few_as_divide(count, padded):
    edges = some_edges(genes=4000, tfs=60, edges=2 * EDGE_MULTIPLE + 300)[:count]
    assert len(edges) == count
    graph = make_graph(edges, 4000)
    assert len(graph.weight_M) == padded
    assert (graph.weight_M > 0).sum() == count


def test_a_budget_is_kept_or_refused():
    edges = some_edges()
    assert len(make_graph(edges, GENES, len(edges)).weight_M) == len(edges)
    with pytest.raises(InputError, match=rf"network\.edge_budget=9: .* have {len(edges)} edges; raise it"):
        make_graph(edges, GENES, 9)


def one_edge_of(tfs: int, genes: int) -> pd.DataFrame:
    """An edge of each TF to the last gene; that of the last TF is the largest key that there can be."""
    rows = np.arange(tfs, dtype=np.int32)
    return pd.DataFrame({"tf": rows, "target": np.int32(genes - 1), "relation": 0, "sign": 1, "weight": 1.0})


def test_pairs_beyond_2_to_the_31_are_refused_and_those_below_are_right():
    genes = 2**20
    graph = make_graph(one_edge_of(2**11 - 1, genes), genes)
    largest = (2**11 - 1) * genes - 1
    assert graph.known_M[: 2**11 - 1].max() == largest < NOTHING
    assert (graph.known_M[: 2**11 - 1] > 0).all()
    with pytest.raises(
        InputError, match=r"2,048 TFs x 1,048,576 genes are more pairs than 2\^31; use networks of fewer"
    ):
        make_graph(one_edge_of(2**11, genes), genes)


def test_questions_are_the_edges_and_the_others():
    edges = some_edges()
    other_Q = np.random.default_rng(0).integers(0, GENES, len(edges)).astype(np.int32)
    other_Q[3:6] = -1
    questions = ask_about(edges, (edges["tf"].to_numpy(), other_Q))
    count = len(edges)
    np.testing.assert_array_equal(questions.tf_Q, np.tile(edges["tf"], 2))
    np.testing.assert_array_equal(questions.relation_Q, np.tile(edges["relation"], 2))
    np.testing.assert_array_equal(questions.target_Q[:count], edges["target"])
    signs = {ACTIVATES: 1, REPRESSES: -1, REGULATES: 0}
    assert [signs[answer] for answer in questions.answer_Q[:count]] == edges["sign"].tolist()
    assert (questions.answer_Q[count:] == NO_EDGE).all()
    # Neither an edge without a pair beside it nor the pair that is not there is asked.
    expected = np.tile(other_Q >= 0, 2)
    np.testing.assert_array_equal(questions.mask_Q, expected)
    asked = questions.mask_Q[count:]
    np.testing.assert_array_equal(questions.target_Q[count:][asked], other_Q[asked])
    assert (questions.target_Q >= 0).all()
    assert all(leaf.dtype == np.int32 for leaf in questions[:4])
    assert questions.mask_Q.dtype == bool
