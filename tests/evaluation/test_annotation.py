"""The readers of labels: right where the answer is known, at chance where there is nothing to read, and blind to how an
embedding happens to be laid out. And the intervals: around the score, as wide as the binomial says."""

import numpy as np
import pytest

from mofm.errors import InputError
from mofm.evaluation import annotation
from mofm.evaluation.annotation import (
    cross_validated,
    cross_validated_fit,
    knn_accuracy,
    linear_probe,
    stratified_folds,
)
from mofm.evaluation.scores import score

READERS = (knn_accuracy, linear_probe)


def clusters(seed=0, cells=180, types=3, columns=6, apart=3.0):
    """(embedding, labels): Gaussian clusters around centres that are `apart`."""
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(np.random.default_rng(1).normal(size=(columns, columns)))[0][:types] * apart
    codes = rng.integers(0, types, cells)
    return centres[codes] + rng.normal(size=(cells, columns)), np.array([f"type{code}" for code in codes])


@pytest.fixture(scope="module")
def split():
    X_ND, labels = clusters()
    return X_ND[:120], labels[:120], X_ND[120:], labels[120:]


@pytest.mark.parametrize("reader", READERS)
def test_separate_clusters_are_all_named(reader):
    X_ND, labels = clusters(apart=40.0)
    readout = reader(X_ND[:120], labels[:120], X_ND[120:], labels[120:])
    assert readout.accuracy == (1.0, 1.0, 1.0)
    assert readout.macro_f1 == (1.0, 1.0, 1.0)
    np.testing.assert_array_equal(readout.predicted, labels[120:])
    assert (readout.n_train, readout.n_test, readout.unseen, readout.unlabelled) == (120, 60, {}, 0)


@pytest.mark.parametrize("reader", READERS)
def test_permuted_labels_give_chance(reader):
    X_ND, labels = clusters(cells=1200, apart=40.0)
    labels = np.random.default_rng(3).permutation(labels)
    accuracy = reader(X_ND[:600], labels[:600], X_ND[600:], labels[600:]).accuracy
    assert abs(accuracy.value - 1 / 3) < 4 * np.sqrt(2 / 9 / 600)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("change", ["rotation", "shift", "scale", "reflection", "a column of zeros"])
def test_layout_does_not_matter(reader, split, change):
    train_ND, train_labels, test_ND, test_labels = split
    rotation = np.linalg.qr(np.random.default_rng(9).normal(size=(6, 6)))[0]
    changes = {
        "rotation": lambda x_ND: x_ND @ rotation,
        "shift": lambda x_ND: x_ND + 1000 * np.arange(6),
        "scale": lambda x_ND: x_ND * 1e-3,
        "reflection": lambda x_ND: -x_ND,
        "a column of zeros": lambda x_ND: np.hstack([x_ND, np.zeros((len(x_ND), 1))]),
    }
    before = reader(train_ND, train_labels, test_ND, test_labels)
    after = reader(changes[change](train_ND), train_labels, changes[change](test_ND), test_labels)
    assert 0.6 < before.accuracy.value < 1.0  # neither so easy nor so hard that nothing could change
    np.testing.assert_array_equal(after.predicted, before.predicted)
    assert after.accuracy == before.accuracy


@pytest.mark.parametrize("reader", READERS)
def test_one_column_of_noise_can_matter(reader, split):
    """The tests above can fail: a change that is no rotation, shift or scale does change what is read."""
    train_ND, train_labels, test_ND, test_labels = split
    squeeze = np.array([1e-3, 1, 1, 1, 1, 100])
    before = reader(train_ND, train_labels, test_ND, test_labels)
    after = reader(train_ND * squeeze, train_labels, test_ND * squeeze, test_labels)
    assert (after.predicted != before.predicted).any()


def test_knn_by_hand():
    """Directions from the training mean (0, 0): two voters each side; a tie goes to the name that sorts first."""
    train_ND = np.array([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.1], [-1.0, -0.1]])
    labels = np.array(["b", "b", "a", "a"])
    readout = knn_accuracy(train_ND, labels, np.array([[9.0, 0.0], [-0.2, 0.0], [0.0, 5.0]]), ["b", "a", "b"], k=2)
    assert readout.predicted.tolist() == ["b", "a", "a"]
    assert readout.accuracy.value == pytest.approx(2 / 3)
    assert readout.reader == "2-NN"


def test_few_cells_lower_the_voters(split):
    train_ND, train_labels, test_ND, test_labels = split
    assert knn_accuracy(train_ND[:4], train_labels[:4], test_ND, test_labels, k=15).reader == "4-NN"


@pytest.mark.parametrize("reader", READERS)
def test_order_of_cells_does_not_matter(split, reader):
    train_ND, train_labels, test_ND, test_labels = split
    order = np.random.default_rng(2).permutation(60)
    before = reader(train_ND, train_labels, test_ND, test_labels)
    after = reader(train_ND, train_labels, test_ND[order], test_labels[order])
    np.testing.assert_array_equal(after.predicted, before.predicted[order])
    assert after.accuracy.value == before.accuracy.value


@pytest.mark.parametrize("reader", READERS)
def test_test_labels_decide_nothing_but_the_score(split, reader):
    train_ND, train_labels, test_ND, test_labels = split
    other = np.random.default_rng(4).permutation(test_labels)
    np.testing.assert_array_equal(
        reader(train_ND, train_labels, test_ND, test_labels).predicted,
        reader(train_ND, train_labels, test_ND, other).predicted,
    )


@pytest.mark.parametrize("reader", READERS)
def test_unseen_types_are_errors_and_missing_labels_are_left_out(split, reader):
    train_ND, train_labels, test_ND, test_labels = split
    train = np.where(np.arange(120) < 10, None, train_labels.astype(object))
    test = test_labels.astype(object)
    test[:5], test[5:8] = "novel", np.nan
    readout = reader(train_ND, train, test_ND, test)
    assert readout.unseen == {"novel": 5}
    assert readout.unlabelled == 13
    assert (readout.n_train, readout.n_test, len(readout.predicted)) == (110, 57, 57)
    assert readout.accuracy.value == np.mean(readout.predicted == test[[*range(5), *range(8, 60)]])
    assert readout.accuracy.value <= 52 / 57


@pytest.mark.parametrize("reader", READERS)
def test_what_cannot_be_read(split, reader):
    train_ND, train_labels, test_ND, test_labels = split
    with pytest.raises(InputError, match="one row a label"):
        reader(train_ND, train_labels[:-1], test_ND, test_labels)
    with pytest.raises(InputError, match="not one embedding"):
        reader(train_ND[:, :3], train_labels, test_ND, test_labels)
    with pytest.raises(InputError, match="no training cell has a label"):
        reader(train_ND, [None] * 120, test_ND, test_labels)
    spoiled = test_ND.copy()
    spoiled[3, 2] = np.nan
    with pytest.raises(InputError, match="1 cells have values that are not finite"):
        reader(train_ND, train_labels, spoiled, test_labels)


@pytest.mark.parametrize("reader", READERS)
def test_one_type_and_one_point(reader):
    readout = reader(np.ones((5, 2)), ["a"] * 5, np.ones((3, 2)), ["a", "a", "b"])
    assert readout.predicted.tolist() == ["a", "a", "a"]
    assert readout.accuracy.value == pytest.approx(2 / 3)


def test_score_against_sklearn():
    from sklearn.metrics import accuracy_score, f1_score

    rng = np.random.default_rng(0)
    true = rng.choice(list("abcd"), 300, p=[0.6, 0.2, 0.15, 0.05])
    named = np.where(rng.random(300) < 0.6, true, rng.choice(list("abcde"), 300))
    readout = score("reader", true, true, named, 0, seed=0)
    assert readout.accuracy.value == pytest.approx(accuracy_score(true, named))
    expected = f1_score(true, named, average=None, labels=list("abcd")).mean()
    assert readout.macro_f1.value == pytest.approx(expected)


def test_the_interval_is_the_binomials():
    rng = np.random.default_rng(1)
    true = rng.choice(["a", "b"], 2000)
    named = np.where(rng.random(2000) < 0.8, true, np.where(true == "a", "b", "a"))
    value, low, high = score("reader", true, true, named, 0, seed=0).accuracy
    assert low < value < high
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(value * (1 - value) / 2000), rel=0.15)
    few = score("reader", true[:100], true[:100], named[:100], 0, seed=0).accuracy
    assert few.high - few.low > 3 * (high - low)


def test_the_seed_moves_the_ends_of_the_interval_only():
    true, named = np.array(list("aabbab" * 20)), np.array(list("ababab" * 20))
    one, same, other = (score("reader", true, true, named, 0, seed=seed) for seed in (0, 0, 1))
    assert one.accuracy == same.accuracy
    assert one.accuracy.value == other.accuracy.value
    assert one.macro_f1 != other.macro_f1


def test_rows_for_the_figure(split):
    rows = knn_accuracy(*split).rows("mofm")
    assert [row["metric"] for row in rows] == ["15-NN accuracy", "15-NN macro-F1"]
    assert all(row["representation"] == "mofm" and row["low"] <= row["value"] <= row["high"] for row in rows)
    assert linear_probe(*split).rows("x")[0]["metric"] == "linear probe accuracy"  # whatever C was chosen


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_folds_are_even_in_every_label(folds):
    labels = np.array(list("a" * 41 + "b" * 17 + "c" * 6))
    fold_N = stratified_folds(labels, folds, seed=0)
    for cells in (fold_N, *(fold_N[labels == name] for name in "abc")):
        sizes = np.bincount(cells, minlength=folds)
        assert sizes.max() - sizes.min() <= 1
    np.testing.assert_array_equal(fold_N, stratified_folds(labels, folds, seed=0))
    assert (fold_N != stratified_folds(labels, folds, seed=1)).any()


def test_cross_validation_tests_every_cell_once_and_never_trains_on_it(monkeypatch):
    monkeypatch.setattr(annotation, "PROBE_GRID", (0.1, 1.0))
    X_ND, labels = clusters(cells=63)
    labels[:2] = "rare"
    labels = labels.astype(object)
    labels[2] = None
    seen = []

    def embed(train, test):
        assert not set(train) & set(test)
        assert set(train) | set(test) == set(range(3, 63))
        seen.extend(test)
        return X_ND[train], X_ND[test]

    result = cross_validated_fit(embed, labels, folds=4)
    assert sorted(seen) == list(range(3, 63))
    assert (result.n_cells, result.left_out, result.unlabelled) == (60, {"rare": 2}, 1)
    assert result == cross_validated(X_ND, labels, folds=4)
    assert result.knn_accuracy.mean == pytest.approx(np.mean(result.knn_accuracy.per_fold))
    assert len(result.probe_macro_f1.per_fold) == 4
    assert len(result.rows("mofm")) == 4


def test_cross_validation_without_a_label_often_enough():
    with pytest.raises(InputError, match="as many as 5 cells"):
        cross_validated(np.zeros((8, 2)), list("aabbccdd"), folds=5)
