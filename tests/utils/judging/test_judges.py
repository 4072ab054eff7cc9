"""All judges on clean and corrupted features: which figure is of what."""

from __future__ import annotations

import numpy as np
import pytest

from utils.judging.few_labels import few_label_accuracies
from utils.judging.judges import judge_clouds, judges_table
from utils.judging.knn import knn_predict
from utils.judging.svm import fit_linear_svm

CENTRES = np.random.default_rng(0).normal(size=(3, 5))


def features(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(count) % 3)
    return CENTRES[labels] + 0.8 * random.normal(size=(count, 5)), labels


def test_every_figure_is_that_of_its_judge_and_clouds() -> None:
    train, (clean, truth) = features(45, 1), features(90, 2)
    tests = {
        name: clean + x * np.random.default_rng(3).normal(size=clean.shape)
        for name, x in {"clean": 0, "noisy": 1, "turned": 3}.items()
    }
    svm = fit_linear_svm(*train)
    found = judge_clouds(svm, train, tests, truth, 5, (1, 4), draws=6, seed=3)
    assert list(found) == ["clean", "noisy", "turned", "mean"]
    few = {}
    for name, own in tests.items():
        assert found[name]["accuracy"] == np.mean(svm.predict(own) == truth)
        voted = knn_predict(*train, own, 5)
        assert found[name]["knn_accuracy"] == np.mean(voted == truth)
        for count in (1, 4):
            drawn = few_label_accuracies(train, (own, truth), count, 6, 3)
            few[name, count] = np.array(drawn)
            mean = sum(drawn) / 6
            variance = sum((x - mean) ** 2 for x in drawn) / 6
            assert found[name][f"labels_{count}_accuracy"] == pytest.approx(mean)
            deviation = found[name][f"labels_{count}_deviation"]
            assert deviation == pytest.approx(variance**0.5)
    for judge in ("accuracy", "knn_accuracy", "labels_4_accuracy"):
        middle = (found["noisy"][judge] + found["turned"][judge]) / 2
        assert found["mean"][judge] == pytest.approx(middle)
        assert len({found[name][judge] for name in tests}) == 3
    both = (few["noisy", 4] + few["turned", 4]) / 2  # draw by draw
    assert found["mean"]["labels_4_deviation"] == pytest.approx(both.std())


def test_judges_that_are_not_asked_for_are_left_out() -> None:
    train, (clean, truth) = features(45, 1), features(90, 2)
    found = judge_clouds(fit_linear_svm(*train), train, {"clean": clean}, truth, knn=0)
    assert {name: list(own) for name, own in found.items()} == {"clean": ["accuracy"]}


def test_the_table_has_a_line_a_judge_and_a_column_a_copy() -> None:
    few = {"labels_1_accuracy": 0.5, "labels_1_deviation": 0.0125}
    record = {
        "C": 1,
        "accuracy": 0.9,
        "class_accuracy": 0.8,
        "knn_accuracy": 0.7,
        **few,
    }
    mean = {"accuracy": 0.25, "knn_accuracy": 0.2, **few, "labels_1_accuracy": 0.375}
    table = judges_table({"clean": record, "mean": mean})
    assert [line.split() for line in table.splitlines()] == [
        ["clean", "mean"],
        ["SVM", "90.00%", "25.00%"],
        ["k-NN", "70.00%", "20.00%"],
        *[["1", "label", "50.00%", "±", "1.25%", "37.50%", "±", "1.25%"]],
    ]
