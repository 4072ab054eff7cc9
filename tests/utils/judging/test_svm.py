"""The SVM and the choice of its C."""

import numpy as np
import pytest
from sklearn.svm import SVC

from utils.judging import svm

CANDIDATES = (0.01, 0.1, 1.0, 10.0, 100.0)


def blobs(samples: int, classes: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    centres = np.random.default_rng(1).normal(size=(classes, 12))
    labels = random.integers(classes, size=samples)
    return centres[labels] + spread * random.normal(size=(samples, 12)), labels


@pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
def test_many_classes_of_any_size_with_ties_of_votes(C: float) -> None:
    random = np.random.default_rng(3)
    labels = np.concatenate([np.arange(25), random.integers(25, size=400)])
    features = random.normal(size=(25, 6))[labels] + random.normal(size=(425, 6))
    labels = 2 * labels + 3
    tests = random.normal(size=(3000, 6)) * 1.5
    reference = SVC(kernel="linear", C=C).fit(features, labels).predict(tests)
    fitted = svm.fit_linear_svm(features, labels, C)
    assert (fitted.predict(tests) == reference).all()
    half = np.roll(reference, 1)
    assert fitted.score(tests, half) == np.mean(reference == half)
    reference = SVC(kernel="linear", C=C).fit(features[::2], labels[::2])
    part = svm.SVMProblem(features, labels).fit(C, np.arange(0, 425, 2))
    assert (part.predict(tests) == reference.predict(tests)).all()


def test_a_decision_of_zero_votes_for_the_second_class_as_in_libsvm() -> None:
    rows, sides, middle = np.array([[-1.0], [1.0]]), np.array([3, 7]), np.zeros((1, 1))
    fitted = svm.fit_linear_svm(rows, sides, C=1.0)
    assert (middle @ fitted.weights.T + fitted.intercepts).item() == 0
    reference = SVC(kernel="linear").fit(rows, sides)
    assert fitted.predict(middle) == reference.predict(middle)


def test_the_gram_matrix_is_computed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svm, "_BLOCK", 7)
    x = np.random.default_rng(0).normal(size=(40, 5))
    np.testing.assert_allclose(svm._gram(x), x @ x.T, rtol=1e-14, atol=1e-14)


def test_held_out_rows_are_stratified_disjoint_and_seeded() -> None:
    labels = np.repeat([0, 1, 2, 3], [50, 10, 2, 1])
    kept, held = svm.held_out_split(labels, seed=3)
    assert sorted([*kept, *held]) == list(range(len(labels)))
    assert np.bincount(labels[held], minlength=4).tolist() == [10, 2, 1, 0]
    again = svm.held_out_split(labels, seed=3)[1]
    other = svm.held_out_split(labels, seed=4)[1]
    assert (held == again).all()
    assert (held != other).any()


def test_C_is_the_best_on_the_held_out_rows() -> None:
    features, labels = blobs(200, 4, 1.2)
    features *= 0.02  # small features, as an untrained encoder has
    problem = svm.SVMProblem(features, labels)
    chosen, accuracy = svm.choose_C(problem, CANDIDATES, seed=0)
    kept, held = svm.held_out_split(labels, 0)
    for C in CANDIDATES:
        reference = SVC(kernel="linear", C=C).fit(features[kept], labels[kept])
        assert accuracy[C] == reference.score(features[held], labels[held])
    best = max(accuracy.values())
    assert chosen == min(C for C, value in accuracy.items() if value == best)
    assert accuracy[0.01] < best
    assert svm.choose_C(problem, [0.5]) == (0.5, {})  # nothing to choose
    equal, accuracy = svm.choose_C(svm.SVMProblem(*blobs(40, 2, 0.01)), [9.0, 4.0])
    assert (equal, accuracy) == (4.0, {4.0: 1.0, 9.0: 1.0})  # the smallest


def test_unusable_input_is_refused() -> None:
    features, labels = blobs(20, 2, 1.0)
    with pytest.raises(ValueError, match="two classes"):
        svm.fit_linear_svm(features, np.zeros(20, int))
    features[3, 4] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        svm.fit_linear_svm(features, labels)


def test_a_judgement_is_that_of_the_chosen_C_on_the_test_rows() -> None:
    features, labels = blobs(300, 4, 1.2)
    train, test = (features[:200], labels[:200]), (features[200:], labels[200:])
    every = svm.judge_features(train, test, 5, CANDIDATES, 3, test_every_C=True)
    chosen, held_out = svm.choose_C(svm.SVMProblem(*train), CANDIDATES, seed=3)
    assert chosen == every.C
    assert {row["C"]: row["held_out"] for row in every.table} == held_out
    assert (every.train_size, every.test_size) == (200, 100)
    fitted = {C: SVC(kernel="linear", C=C).fit(*train) for C in CANDIDATES}
    predicted = {C: reference.predict(test[0]) for C, reference in fitted.items()}
    accuracy = {C: np.mean(predicted[C] == test[1]) for C in CANDIDATES}
    assert {row["C"]: row["test"] for row in every.table} == accuracy
    assert every.accuracy == accuracy[chosen] == every.svm.score(*test)
    counts = np.zeros((5, 5), int)
    np.add.at(counts, (test[1], predicted[chosen]), 1)
    assert (every.matrix == counts).all()
    rates = [np.mean(predicted[chosen][test[1] == c] == c) for c in range(4)]
    assert every.class_accuracy == pytest.approx(np.mean(rates))
    one = svm.judge_features(train, test, 5, CANDIDATES, 3)
    assert [(row["C"], row["test"]) for row in one.table] == [(chosen, every.accuracy)]
    assert (one.matrix == counts).all()
