"""What is asked about is never told: by no message, in no network, in neither direction. What stands beside it is no edge."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import GENES, pairs_of, some_edges
from sklearn.metrics import roc_auc_score

from mofm.batch import ACTIVATES, NO_EDGE, REGULATES, REPRESSES, LinkQuestions
from mofm.batches.graph import make_graph
from mofm.nn import model
from mofm.nn.grn import GrnConfig
from mofm.nn.spec import EncoderConfig, ModelSpec
from mofm.objectives.link_prediction import LARGEST_SHARE, ask, link_prediction, pair_number
from mofm.parallel.mesh import MeshConfig, make_mesh
from mofm.parallel.place import place_graph

ASKED, BUDGET = 16, 256
KEYS = range(20)
ANSWERS = {1: ACTIVATES, -1: REPRESSES, 0: REGULATES}

draw = jax.jit(ask, static_argnums=(2, 3))


def drawn(key, edges=None, asked=ASKED, edge_dropout=0.0, budget=BUDGET):
    """(edges with the weight that is left of them, questions with their kind), as tables; the latter where asked."""
    edges = some_edges() if edges is None else edges
    seen, questions = jax.device_get(draw(jax.random.key(key), make_graph(edges, GENES, budget), asked, edge_dropout))
    assert (seen.weight_M[len(edges) :] == 0).all()
    columns = {name[:-2]: leaf for name, leaf in questions._asdict().items()}
    table = type(edges)(columns | {"kind": np.repeat(range(4), asked)})
    return edges.assign(left=seen.weight_M[: len(edges)]), table[table["mask"]].drop(columns="mask")


def between(frame):
    """Pairs of genes, whichever comes first."""
    return {frozenset(pair) for pair in pairs_of(frame)}


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("edge_dropout", [0.0, 0.3])
def test_no_message_passes_between_genes_that_are_asked_about(key, edge_dropout):
    edges, questions = drawn(key, edge_dropout=edge_dropout)
    assert between(edges[edges["left"] > 0]).isdisjoint(between(questions))
    others = edges[
        [frozenset(pair) not in between(questions) for pair in zip(edges["tf"], edges["target"], strict=True)]
    ]
    left = others["left"] > 0
    assert left.all() if edge_dropout == 0 else 0.5 < left.mean() < 0.9
    np.testing.assert_array_equal(others["left"][left], others["weight"][left])


def test_networks_have_what_that_is_about():
    """Pairs in two networks, and edges both ways: without them the tests here would hold of anything."""
    edges = some_edges()
    assert edges.duplicated(["tf", "target"]).sum() > 5
    assert len(pairs_of(edges)) - len(between(edges)) > 2
    reverse = [between(q.query("kind == 3")) for q in (drawn(key)[1] for key in KEYS)]
    assert sum(map(len, reverse)) > 10


SPEC = ModelSpec(
    EncoderConfig(width=16, blocks=1, heads=2, ffn=24, cell_width=8, bins=6, compute_dtype="float32"),
    GENES,
    GrnConfig(width=8, layers=2, kind="attention", heads=2),
    relations=2,
)


@pytest.fixture(scope="module")
def params():
    """Random in every weight."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(partial(model.init, SPEC), jax.random.key(0))
    return jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), shapes)


@partial(jax.jit, static_argnums=0)
def scores(spec, params, graph, questions):
    states = model.gene_states(spec, params, graph)
    return model.score_links(spec, params, states, questions.tf_Q, questions.target_Q, questions.relation_Q)


@pytest.mark.parametrize("key", range(4))
def test_answers_are_as_if_the_asked_edges_had_never_been(params, key):
    edges = some_edges()
    seen, questions = draw(jax.random.key(key), make_graph(edges, SPEC.genes, BUDGET), ASKED, 0.0)
    asked = between(drawn(key)[1])
    never = edges[[frozenset(pair) not in asked for pair in zip(edges["tf"], edges["target"], strict=True)]]
    assert len(never) < len(edges)
    logit_QA = scores(SPEC, params, make_graph(never, SPEC.genes, BUDGET), questions)
    np.testing.assert_allclose(scores(SPEC, params, seen, questions), logit_QA, rtol=1e-5, atol=1e-5)
    told_QA = scores(SPEC, params, make_graph(edges, SPEC.genes, BUDGET), questions)
    assert not np.allclose(told_QA, logit_QA, atol=1e-2)  # while the whole graph would say otherwise


def test_no_gradient_comes_by_way_of_an_asked_edge(params):
    graph, key = jax.device_put(make_graph(some_edges(), SPEC.genes, BUDGET)), jax.random.key(0)

    def loss(weight_M):
        seen, questions = ask(key, graph._replace(weight_M=weight_M), ASKED, 0.0)
        logit_QA = scores(SPEC, params, seen, questions)
        return link_prediction(logit_QA, questions)["link_nll"]

    gradient_M = np.asarray(jax.jit(jax.grad(loss))(graph.weight_M))[: len(some_edges())]
    left = drawn(0)[0]["left"].to_numpy()
    assert (gradient_M[left == 0] == 0).all()
    assert (gradient_M[left > 0] != 0).mean() > 0.5


@pytest.mark.parametrize("key", KEYS)
def test_edges_are_asked_for_what_they_are_and_others_are_none(key):
    edges, questions = drawn(key)
    known = {(e.tf, e.target, e.relation): ANSWERS[e.sign] for e in edges.itertuples()}
    ours, others = questions[questions["kind"] == 0], questions[questions["kind"] > 0]
    for question in ours.itertuples():
        assert known[question.tf, question.target, question.relation] == question.answer
    assert len(ours) == min(ASKED, np.ceil(LARGEST_SHARE * len(edges)))
    assert (others["answer"] == NO_EDGE).all()
    assert pairs_of(others).isdisjoint(pairs_of(edges))
    assert (others["tf"] != others["target"]).all()
    assert set(others["tf"]) <= set(edges["tf"])


def test_whatever_can_be_asked_is_asked():
    """What is not asked is an edge, a gene with itself, or the reverse of an edge whose target regulates nothing."""
    edges = some_edges()
    graph = make_graph(edges, GENES, BUDGET)
    reasons = np.zeros(3, int)
    for key in KEYS:
        questions = jax.device_get(draw(jax.random.key(key), graph, ASKED, 0.0)[1])
        for tf, target, mask in zip(questions.tf_Q, questions.target_Q, questions.mask_Q, strict=True):
            why = [(tf, target) in pairs_of(edges), tf == target, tf not in set(edges["tf"])]
            assert mask == (not any(why)) or why[0]
            reasons += np.array(why) & ~mask
    assert (reasons > 5).all()


@pytest.mark.parametrize("key", KEYS)
def test_each_kind_of_pair_keeps_an_end_of_its_edge(key):
    graph = make_graph(some_edges(), GENES, BUDGET)
    questions = jax.device_get(draw(jax.random.key(key), graph, ASKED, 0.0)[1])
    tfs, targets, relations = (x.reshape(4, ASKED) for x in (questions.tf_Q, questions.target_Q, questions.relation_Q))
    np.testing.assert_array_equal(tfs[1], tfs[0])
    np.testing.assert_array_equal(targets[2], targets[0])
    np.testing.assert_array_equal((tfs[3], targets[3]), (targets[0], tfs[0]))
    np.testing.assert_array_equal(relations, np.tile(relations[0], (4, 1)))


def test_pairs_beside_edges_have_the_degrees_of_edges():
    """In the edge's own network: by another's degrees it could be told what is no edge."""
    edges = some_edges()
    graph = make_graph(edges, GENES, BUDGET)
    many = [jax.device_get(draw(jax.random.key(key), graph, 400, 0.0)[1]) for key in range(60)]
    tfs, targets, relations = (np.concatenate([getattr(q, name).reshape(4, -1) for q in many], axis=1)
                               for name in ("tf_Q", "target_Q", "relation_Q"))  # fmt: skip
    for relation, ours in edges.groupby("relation"):
        for end, drawn_Q in (("target", targets[1]), ("tf", tfs[2]), ("tf", tfs[0])):
            share_G = np.bincount(drawn_Q[relations[0] == relation], minlength=GENES)
            share_G = share_G / share_G.sum()
            degree_G = np.bincount(ours[end], minlength=GENES) / len(ours)
            np.testing.assert_allclose(share_G, degree_G, atol=0.012)
            assert (share_G[degree_G == 0] == 0).all()
            assert degree_G.max() > 0.05
    by_relation = [edges[edges["relation"] == n]["target"].value_counts(normalize=True) for n in range(2)]
    assert by_relation[0].sub(by_relation[1], fill_value=0).abs().max() > 0.02


def test_pair_numbers_by_brute_force():
    edges = some_edges()
    graph = make_graph(edges, GENES, BUDGET)
    tf, target = (x.ravel() for x in np.meshgrid(np.arange(GENES), np.arange(GENES), indexing="ij"))
    numbers = np.asarray(pair_number(graph, tf, target))
    number_of = dict(zip(zip(edges["tf"], edges["target"], strict=True), graph.pair_M[: len(edges)], strict=True))
    np.testing.assert_array_equal(numbers, [number_of.get(pair, -1) for pair in zip(tf, target, strict=True)])


@pytest.mark.parametrize("budget", [100, BUDGET])
def test_pair_numbers_with_and_without_padding(budget):
    """The largest key of all is found, and one above it is not, where the table of keys is full and where it is not."""
    edges = some_edges().drop_duplicates(["tf", "target"])[:100]
    graph = make_graph(edges, GENES, budget)
    last = graph.known_M[:100].max()
    tf = np.flatnonzero(graph.regulator_G == last // GENES)
    assert int(pair_number(graph, tf, np.array([last % GENES]))[0]) == 99
    assert int(pair_number(graph, tf, np.array([last % GENES + 1]))[0]) == -1


@pytest.mark.parametrize("edge_dropout", [0.0, 0.1, 0.6])
def test_share_of_other_edges_dropped(edge_dropout):
    """Of pairs: of an edge in two networks, neither tells what the other hides."""
    shares, both = [], 0
    for key in range(200):
        edges, questions = drawn(key, asked=4, edge_dropout=edge_dropout)
        others = edges[
            [frozenset(pair) not in between(questions) for pair in zip(edges["tf"], edges["target"], strict=True)]
        ]
        is_out = (others["left"] == 0).groupby([others["tf"], others["target"]])
        assert (is_out.nunique() == 1).all()
        both += (is_out.size() > 1).sum()
        shares.append(is_out.first().mean())
    assert both > 100
    assert np.mean(shares) == pytest.approx(edge_dropout, abs=0.02)


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_of_a_small_network_few_edges_are_asked(count):
    edges = some_edges(relations=1)[:count]
    for key in range(5):
        left, questions = drawn(key, edges, asked=64)
        asked = questions[questions["kind"] == 0]
        assert len(asked) == max(1, LARGEST_SHARE * count if LARGEST_SHARE * count % 1 == 0 else np.ceil(count / 4))
        assert (left["left"] > 0).sum() == count - len(pairs_of(asked))
    if count == 1:
        assert len(questions) == 1  # nothing to ask it beside: no other gene is a target or a TF
        loss = lambda x: link_prediction(x, _as_questions(questions))["link_nll"]  # noqa: E731
        value, gradient = jax.value_and_grad(loss)(jnp.zeros((1, 2)))
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


def _as_questions(table):
    columns = (table[name].to_numpy() for name in ("tf", "target", "relation", "answer"))
    return LinkQuestions(*columns, np.ones(len(table), bool))


def test_the_same_key_asks_the_same_on_any_mesh():
    graph = make_graph(some_edges(), GENES, BUDGET)
    one, again, other = (jax.device_get(draw(jax.random.key(key), graph, ASKED, 0.3)) for key in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert (one[1].tf_Q != other[1].tf_Q).any()
    assert (one[0].weight_M != other[0].weight_M).any()
    mesh = make_mesh(MeshConfig(2, 4, 1))
    with jax.set_mesh(mesh):
        laid = jax.device_get(draw(jax.random.key(0), place_graph(graph, mesh), ASKED, 0.3))
    jax.tree.map(np.testing.assert_array_equal, laid, one)


def answered(seed=0, count=60, decimals=7):
    """(logit_QA, questions) with answers of every kind; few decimals make ties."""
    rng = np.random.default_rng(seed)
    logit_QA = np.round(rng.normal(0, 2, (count, 2)), decimals).astype(np.float32)
    answer_Q, mask_Q = rng.integers(0, 4, count).astype(np.int32), rng.random(count) < 0.7
    ints = np.zeros(count, np.int32)
    return logit_QA, LinkQuestions(ints, ints, ints, answer_Q, mask_Q)


@pytest.mark.parametrize("decimals", [7, 0])
@pytest.mark.parametrize("seed", range(3))
def test_metrics_by_brute_force(seed, decimals):
    logit_QA, questions = answered(seed, decimals=decimals)
    metrics = {name: float(value) for name, value in jax.jit(link_prediction)(logit_QA, questions).items()}
    odds_QS = np.exp(np.concatenate([np.zeros((len(logit_QA), 1)), logit_QA.astype(np.float64)], axis=1))
    chance_QS = odds_QS / odds_QS.sum(axis=1, keepdims=True)
    link, none, signs = [], [], []
    for q in np.flatnonzero(questions.mask_Q):
        answer = questions.answer_Q[q]
        right = chance_QS[q, 1:].sum() if answer == REGULATES else chance_QS[q, answer]
        (none if answer == NO_EDGE else link).append(-np.log(right))
        if answer in (ACTIVATES, REPRESSES) and logit_QA[q, 0] != logit_QA[q, 1]:
            signs.append((logit_QA[q, 0] > logit_QA[q, 1]) == (answer == ACTIVATES))
    assert metrics["link_nll"] == pytest.approx((np.mean(link) + np.mean(none)) / 2, rel=1e-5)
    if decimals:
        assert metrics["link_sign_accuracy"] == pytest.approx(np.mean(signs), rel=1e-6)
    score_Q, mask_Q = np.round(chance_QS[:, 1:].sum(axis=1), 10), questions.mask_Q
    assert (len(np.unique(score_Q)) < 40) == (decimals == 0)
    expected = roc_auc_score(questions.answer_Q[mask_Q] != NO_EDGE, score_Q[mask_Q])
    assert metrics["link_auroc"] == pytest.approx(expected, abs=1e-6)


def test_sure_answers_are_still_ranked():
    """Beyond the logits at which a float32 probability is 1."""
    logit_QA = np.array([[30, 0], [25, 0], [35, 0], [40, 0]], np.float32)
    questions = LinkQuestions(*[np.zeros(4, np.int32)] * 3, np.array([1, 0, 0, 1], np.int32), np.ones(4, bool))
    assert float(link_prediction(logit_QA, questions)["link_auroc"]) == pytest.approx(0.75)


def test_ties_count_half():
    logit_QA, questions = answered()
    metrics = link_prediction(np.zeros_like(logit_QA), questions)
    assert float(metrics["link_auroc"]) == pytest.approx(0.5)
    one = LinkQuestions(*[np.zeros(3, np.int32)] * 3, np.array([1, 0, 0], np.int32), np.ones(3, bool))
    tied = np.array([[1, 0], [1, 0], [-1, 0]], np.float32)  # its edge ties with one, and is above the other
    assert float(link_prediction(tied, one)["link_auroc"]) == pytest.approx(0.75)


def test_what_is_not_asked_changes_nothing_and_gets_no_gradient():
    logit_QA, questions = answered()
    garbage_QA = np.where(questions.mask_Q[:, None], logit_QA, 1e4).astype(np.float32)
    turned = questions._replace(answer_Q=np.where(questions.mask_Q, questions.answer_Q, 3 - questions.answer_Q))
    for name, value in link_prediction(garbage_QA, turned).items():
        assert float(value) == pytest.approx(float(link_prediction(logit_QA, questions)[name]), rel=1e-6)
    gradient_QA = np.asarray(jax.grad(lambda x: link_prediction(x, questions)["link_nll"])(logit_QA))
    assert (gradient_QA[~questions.mask_Q] == 0).all()
    assert (np.abs(gradient_QA[questions.mask_Q]).max(axis=1) > 0).all()


@pytest.mark.parametrize("left", ["nothing", "edges", "none"])
def test_metrics_are_finite_whatever_is_asked(left):
    logit_QA, questions = answered()
    is_link_Q = questions.answer_Q != NO_EDGE
    mask_Q = {"nothing": False, "edges": is_link_Q, "none": ~is_link_Q}[left] & questions.mask_Q
    of = lambda x: link_prediction(x, questions._replace(mask_Q=mask_Q))  # noqa: E731
    assert all(np.isfinite(value) for value in of(logit_QA).values())
    for scale in (1, 1e4):
        assert np.isfinite(jax.grad(lambda x: of(x)["link_nll"])(scale * logit_QA)).all()
