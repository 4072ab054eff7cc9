"""All judges on clean and corrupted features: which figure is of what."""

import numpy as np
import pytest

from tests.utils.judging.test_fewshot import predictions
from utils.judging.judges import (
    check_labels_per_class,
    draw_labelled,
    judge_clouds,
    judges_table,
)
from utils.judging.knn import knn_predict
from utils.judging.svm import fit_linear_svm

CENTRES = np.random.default_rng(0).normal(size=(3, 5))
LABELS = np.random.default_rng(0).permutation(np.repeat([0, 2, 3], [4, 9, 6]))


def features(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(count) % 3)
    return CENTRES[labels] + 0.8 * random.normal(size=(count, 5)), labels


def few_labels(train, tests, truth, count: int, draw: int, seed: int) -> list[float]:
    """Of every copy, the accuracy of an SVM on the standardised labelled rows."""
    vectors, labels = train
    rows = draw_labelled(labels, count, seed, draw)
    predicted = predictions(vectors[rows], labels[rows], *tests.values())
    return [np.mean(own == truth) for own in predicted]


def test_every_figure_is_that_of_its_judge_and_clouds() -> None:
    train, (clean, truth) = features(45, 1), features(90, 2)
    tests = {
        name: clean + x * np.random.default_rng(3).normal(size=clean.shape)
        for name, x in {"clean": 0, "noisy": 1, "turned": 3}.items()
    }
    svm = fit_linear_svm(*train)
    actual = judge_clouds(svm, train, tests, truth, 5, (1, 4), draws=6, seed=3)
    assert list(actual) == ["clean", "noisy", "turned", "mean"]
    expected = {name: {} for name in tests}
    for name, own in tests.items():
        expected[name]["accuracy"] = [np.mean(svm.predict(own) == truth)]
        voted = knn_predict(*train, own, 5)
        expected[name]["knn_accuracy"] = [np.mean(voted == truth)]
    for count in (1, 4):
        drawn = [few_labels(train, tests, truth, count, draw, 3) for draw in range(6)]
        for name, own in zip(tests, np.transpose(drawn), strict=True):
            expected[name][f"labels_{count}_accuracy"] = own
    expected["mean"] = {  # draw by draw
        judge: (expected["noisy"][judge] + np.array(expected["turned"][judge])) / 2
        for judge in expected["clean"]
    }
    for name, own in expected.items():
        for judge, values in own.items():
            assert actual[name].pop(judge) == pytest.approx(np.mean(values), abs=1e-15)
            if judge.startswith("labels"):
                deviation = actual[name].pop(judge.replace("accuracy", "deviation"))
                variance = np.mean((values - np.mean(values)) ** 2)
                assert deviation == pytest.approx(variance**0.5)
        assert actual[name] == {}
    for judge in expected["clean"]:
        assert len({tuple(expected[name][judge]) for name in tests}) == 3


def test_judges_that_are_not_asked_for_are_left_out() -> None:
    train, (clean, truth) = features(45, 1), features(90, 2)
    actual = judge_clouds(fit_linear_svm(*train), train, {"clean": clean}, truth, knn=0)
    assert {name: list(own) for name, own in actual.items()} == {"clean": ["accuracy"]}


def test_draws_are_stratified_nested_and_seeded() -> None:
    drawn = {(s, d): draw_labelled(LABELS, 4, s, d) for s in (1, 2) for d in (0, 1)}
    for (seed, draw), rows in drawn.items():
        assert len(set(rows)) == 12
        assert np.bincount(LABELS[rows]).tolist() == [4, 0, 4, 4]
        assert (rows == draw_labelled(LABELS, 4, seed, draw)).all()
        assert set(draw_labelled(LABELS, 2, seed, draw)) < set(rows)
    assert len({tuple(rows) for rows in drawn.values()}) == 4


def test_a_class_with_too_few_clouds_is_named() -> None:
    names = ["cup", "absent", "lamp", "door"]
    check_labels_per_class(LABELS, names, [4, 1])
    check_labels_per_class(LABELS, names, [])
    with pytest.raises(ValueError, match=r"--labels_per_class 5: class 'cup' has 4"):
        check_labels_per_class(LABELS, names, [1, 5, 2])


def test_the_table_has_a_line_a_judge_and_a_column_a_copy() -> None:
    few = {"labels_1_accuracy": 0.5, "labels_1_deviation": 0.0125}
    others = {"C": 1, "class_accuracy": 0.8}
    record = {"accuracy": 0.9, **others, "knn_accuracy": 0.7, **few}
    mean = {"accuracy": 0.25, "knn_accuracy": 0.2, **few, "labels_1_accuracy": 0.375}
    table = judges_table({"clean": record, "mean": mean})
    assert [line.split() for line in table.splitlines()] == [
        ["clean", "mean"],
        ["SVM", "90.00%", "25.00%"],
        ["k-NN", "70.00%", "20.00%"],
        *[["1", "label", "50.00%", "±", "1.25%", "37.50%", "±", "1.25%"]],
    ]
