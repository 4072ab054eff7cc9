"""Few labels: what is drawn, and the accuracy against a loop."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.svm import SVC

from utils.judging.few_labels import (
    check_labels_per_class,
    draw_labelled,
    few_label_accuracies,
)

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 2, 3], [4, 9, 6]))
NAMES = ["cup", "absent", "lamp", "door"]


def test_draws_are_stratified_nested_and_seeded() -> None:
    drawn = {(s, d): draw_labelled(LABELS, 4, s, d) for s in (1, 2) for d in (0, 1)}
    for (seed, draw), rows in drawn.items():
        assert len(set(rows)) == 12
        assert np.bincount(LABELS[rows]).tolist() == [4, 0, 4, 4]
        assert (rows == draw_labelled(LABELS, 4, seed, draw)).all()
        assert set(draw_labelled(LABELS, 2, seed, draw)) < set(rows)
    assert len({tuple(rows) for rows in drawn.values()}) == 4


def test_accuracy_is_that_of_an_svm_on_the_standardised_labelled_rows() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(19, 6)) + LABELS[:, None] * 0.5
    test = random.normal(size=(40, 6)) + random.choice([0, 2, 3], 40)[:, None] * 0.5
    truth = random.choice([0, 2, 3], 40)
    scale = 10.0 ** np.arange(6)  # what standardising has to undo
    found = few_label_accuracies(
        (features * scale, LABELS), (test * scale, truth), count=3, draws=5, seed=4
    )
    for draw, accuracy in enumerate(found):
        rows = draw_labelled(LABELS, 3, 4, draw)
        mean = sum(features[row] for row in rows) / 9
        variance = sum((features[row] - mean) ** 2 for row in rows) / 9
        scaled, others = ((x - mean) / np.sqrt(variance) for x in (features, test))
        svm = SVC(kernel="linear", C=1.0).fit(scaled[rows], LABELS[rows])
        right = sum(svm.predict(others[i : i + 1])[0] == truth[i] for i in range(40))
        assert accuracy == right / 40
    assert len(set(found)) > 1


def test_a_class_with_too_few_clouds_is_named() -> None:
    check_labels_per_class(LABELS, NAMES, [4, 1])
    check_labels_per_class(LABELS, NAMES, [])
    with pytest.raises(ValueError, match=r"--labels_per_class 5: class 'cup' has 4"):
        check_labels_per_class(LABELS, NAMES, [1, 5, 2])
