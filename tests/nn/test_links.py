"""The link scorer against sums written out; it tells directions, signs and networks apart."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from mofm.nn.links import FORM_START, TENDENCY_SCALE, LinkScorer, answer_log_probabilities

WIDTH, RELATIONS, GENES = 6, 3, 9
SCORER = LinkScorer(RELATIONS, WIDTH)
TENDENCY_GN = np.random.default_rng(3).uniform(-1, 1, (GENES, RELATIONS)).astype(np.float32)


@pytest.fixture(scope="module")
def states():
    rng = np.random.default_rng(0)
    return [rng.normal(size=(GENES, WIDTH)).astype(np.float32) for _ in range(2)]


@pytest.fixture(scope="module")
def fresh(states):
    relation_Q = np.zeros(GENES, np.int32)
    return nn.meta.unbox(SCORER.init(jax.random.key(0), states[0], TENDENCY_GN, states[1], relation_Q))["params"]


@pytest.fixture(scope="module")
def params(fresh):
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: leaf + rng.normal(size=leaf.shape).astype(np.float32), fresh)


def questions(count=50):
    rng = np.random.default_rng(2)
    return (rng.integers(n, size=count).astype(np.int32) for n in (GENES, GENES, RELATIONS))


def score(params, states, tf_Q, target_Q, relation_Q):
    asked = (states[0][tf_Q], TENDENCY_GN[tf_Q], states[1][target_Q], relation_Q)
    return np.asarray(SCORER.apply({"params": params}, *asked))


def test_matches_sums_written_out(params, states):
    tf_Q, target_Q, relation_Q = questions()
    logit_QA = score(params, states, tf_Q, target_Q, relation_Q)
    regulator_GR, target_GR, form_NAR, bias_NA = (
        np.asarray(x, np.float64) for x in (*states, params["form"], params["bias"])
    )
    for q, (tf, target, relation) in enumerate(zip(tf_Q, target_Q, relation_Q, strict=True)):
        for answer, start in enumerate((1, -1)):
            form_R = (form_NAR[relation, answer] + start) * FORM_START / np.sqrt(WIDTH)
            size = np.sqrt(np.mean(regulator_GR[tf] ** 2))
            expected = form_R @ (regulator_GR[tf] / size * target_GR[target]) + bias_NA[relation, answer]
            expected += start * TENDENCY_SCALE * float(params["tendency"][relation]) * TENDENCY_GN[tf, relation]
            assert logit_QA[q, answer] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_every_pair_is_each_pair(params, states):
    tf_T = np.array([4, 0, 7])
    for relation in range(RELATIONS):
        asked = (states[0][tf_T], TENDENCY_GN[tf_T], states[1], relation)
        logit_TGA = SCORER.apply({"params": params}, *asked, method="every_pair")
        tfs, targets = (x.ravel() for x in np.meshgrid(tf_T, np.arange(GENES), indexing="ij"))
        each = score(params, states, tfs, targets, np.full(len(tfs), relation))
        np.testing.assert_allclose(np.reshape(logit_TGA, each.shape), each, rtol=1e-4, atol=1e-5)


def test_a_score_has_a_direction_a_sign_and_a_network(params, states):
    tf_Q, target_Q, relation_Q = questions()
    keep = tf_Q != target_Q
    tf_Q, target_Q, relation_Q = tf_Q[keep], target_Q[keep], relation_Q[keep]
    plain = score(params, states, tf_Q, target_Q, relation_Q)
    assert (np.abs(plain - score(params, states, target_Q, tf_Q, relation_Q)) > 1e-3).all()
    assert (np.abs(plain - score(params, states, tf_Q, target_Q, (relation_Q + 1) % RELATIONS)) > 1e-3).all()
    assert (np.abs(plain[:, 0] - plain[:, 1]) > 1e-3).all()


@pytest.mark.parametrize("name", ["form", "bias", "tendency"])
def test_a_networks_weights_are_its_own(params, states, name):
    tf_Q, target_Q, relation_Q = questions()
    plain = score(params, states, tf_Q, target_Q, relation_Q)
    other = score(params | {name: params[name].at[1].add(1.0)}, states, tf_Q, target_Q, relation_Q)
    is_its = relation_Q == 1
    np.testing.assert_array_equal(other[~is_its], plain[~is_its])
    assert (np.abs(other - plain)[is_its] > 1e-5).all()


def test_size_of_the_target_is_kept_and_of_the_regulator_not(params, states):
    params = params | {"tendency": np.zeros(RELATIONS, np.float32)}
    tf_Q, target_Q, relation_Q = questions()
    plain = score(params, states, tf_Q, target_Q, relation_Q)
    bias_QA = np.asarray(params["bias"])[relation_Q]
    regulators = score(params, [3 * states[0], states[1]], tf_Q, target_Q, relation_Q)
    targets = score(params, [states[0], 3 * states[1]], tf_Q, target_Q, relation_Q)
    np.testing.assert_allclose(regulators, plain, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(targets - bias_QA, 3 * (plain - bias_QA), rtol=1e-4, atol=1e-4)


def test_at_the_start_a_tf_activates_what_goes_with_it(fresh, states):
    """And represses what opposes it, as strongly; a TF whose state is nothing says nothing, and has finite gradients."""
    same = score(fresh, [states[0], states[0]], *[np.arange(GENES)] * 2, np.zeros(GENES, int))
    opposed = score(fresh, [states[0], -states[0]], *[np.arange(GENES)] * 2, np.zeros(GENES, int))
    assert (same[:, 0] > 0).all()
    np.testing.assert_allclose(same, -same[:, ::-1], rtol=1e-6)
    np.testing.assert_allclose(opposed, same[:, ::-1], rtol=1e-6)
    nothing = np.zeros((1, WIDTH), np.float32)
    loss = lambda x, y: SCORER.apply({"params": fresh}, x, TENDENCY_GN[:1], y, np.zeros(1, int))[0, 0]  # noqa: E731
    value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(nothing, states[1][:1])
    assert value == 0
    assert all(np.isfinite(leaf).all() for leaf in gradients)


def test_answers_share_one_softmax():
    logit_QA = np.random.default_rng(0).normal(0, 30, (100, 2)).astype(np.float32)
    log_QS = np.asarray(answer_log_probabilities(logit_QA), np.float64)
    np.testing.assert_allclose(np.exp(log_QS).sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(log_QS[:, 1:] - log_QS[:, :1], logit_QA, rtol=1e-4, atol=1e-4)
    assert np.isfinite(answer_log_probabilities(np.array([[1e4, -1e4], [-1e4, -1e4]], np.float32))).all()
