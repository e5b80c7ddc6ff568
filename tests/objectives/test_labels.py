"""The loss of labels is the weighted cross-entropy of the cells whose label is known, and nothing of the others; its gradient
is that of finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from sklearn.metrics import log_loss

from mofm.errors import InputError
from mofm.objectives.labels import MOST_WEIGHT, Classes, LinearHead, balanced, label_parts
from mofm.objectives.total import ObjectivesConfig

OF_LABEL = np.array([1, -1, 0, 2, -1], np.int32)
"""Four labels, of which the second is told by no head; and a cell without one."""
CLASSES = Classes(OF_LABEL, np.array([0.5, 2.0, 1.0], np.float32))
LABELS = np.array([0, 2, 3, 1, -1, 0, 3, 2], np.int32)
KNOWN = OF_LABEL[LABELS] >= 0


@pytest.fixture
def given():
    rng = np.random.default_rng(0)
    head = LinearHead(*(rng.normal(size=shape).astype(np.float32) for shape in ((5, 3), (3,))))
    return rng.normal(size=(8, 5)).astype(np.float32), head


def test_it_is_the_weighted_log_loss_of_known_labels(given):
    embedding, head = given
    parts = label_parts(embedding, head, CLASSES, LABELS)
    chances = np.array(jax.nn.softmax(embedding @ head.weight_EC + head.bias_C))[KNOWN]
    truth = OF_LABEL[LABELS][KNOWN]
    weights = CLASSES.weight_C[truth]
    expected = log_loss(truth, chances, sample_weight=weights, labels=[0, 1, 2]) * weights.mean()
    assert float(parts["label_nll"]) == pytest.approx(expected, rel=1e-5)
    assert float(parts["label_accuracy"]) == pytest.approx(np.mean(chances.argmax(axis=1) == truth))
    assert int(parts["labelled"]) == KNOWN.sum() == 6


def test_its_gradient_is_that_of_finite_differences(given):
    def loss(embedding, head):
        return label_parts(embedding, head, CLASSES, LABELS)["label_nll"]

    check_grads(loss, given, order=1, modes=("rev",), atol=1e-2, rtol=1e-2)


def test_cells_of_which_nothing_is_known_add_nothing(given):
    embedding, head = given

    def loss(embedding, labels):
        return label_parts(embedding, head, CLASSES, labels)["label_nll"]

    slope = np.asarray(jax.grad(loss)(embedding, LABELS))
    assert not slope[~KNOWN].any()
    assert np.abs(slope[KNOWN]).max(axis=1).min() > 0
    assert loss(embedding, LABELS) == loss(np.where(KNOWN[:, None], embedding, 7.0), LABELS)
    nothing = np.full(8, -1, np.int32)
    assert loss(embedding, nothing) == 0
    assert not np.asarray(jax.grad(loss)(jnp.asarray(embedding), nothing)).any()


def test_weights_are_inverse_to_the_cells_and_bounded():
    weights = balanced(np.array([60, 30, 10, 0]))
    np.testing.assert_allclose(weights[:3] * [60, 30, 10], 100 / 3, rtol=1e-6)
    assert weights.dtype == np.float32
    assert balanced(np.array([10_000, 1])).tolist() == [pytest.approx(0.50005), MOST_WEIGHT]
    assert np.isfinite(balanced(np.zeros(2, int))).all()


def test_labels_may_train_alone_but_something_must():
    assert ObjectivesConfig(token_weight=0, cell_weight=0, supervised_weight=1).supervised_weight == 1
    for weights in ({"token_weight": 0, "cell_weight": 0}, {"supervised_weight": -1}):
        with pytest.raises(InputError, match="objectives"):
            ObjectivesConfig(**weights)
