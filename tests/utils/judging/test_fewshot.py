"""Few-shot episodes: what is drawn, and the accuracy against a loop."""

import math

import numpy as np
import pytest
from sklearn.svm import SVC

from utils.judging.fewshot import (
    FewShotResult,
    check_classes,
    draw_episode,
    evaluate_episodes,
)

LABELS = np.repeat(np.arange(6), [9, 12, 30, 10, 9, 11])


def predictions(support, labels, *queries: np.ndarray) -> list[np.ndarray]:
    """Of an SVM on the standardised support, for each set of queries."""
    mean = sum(support) / len(support)
    scale = np.sqrt(sum((row - mean) ** 2 for row in support) / len(support))
    svm = SVC(kernel="linear", C=1.0).fit((support - mean) / scale, labels)
    return [svm.predict((query - mean) / scale) for query in queries]


def test_an_episode_has_its_ways_shots_and_queries() -> None:
    seen = set()
    for run in range(60):
        support, query = draw_episode(LABELS, 4, 3, 5, seed=1, run=run)
        assert len(set(support) | set(query)) == 4 * (3 + 5)  # no row twice
        classes = set(LABELS[support])
        assert len(classes) == 4
        assert classes == set(LABELS[query])
        for label in classes:
            assert (LABELS[support] == label).sum() == 3
            assert (LABELS[query] == label).sum() == 5
        seen |= set(support) | set(query)
    assert seen == set(range(len(LABELS)))


def test_episodes_are_functions_of_seed_setting_and_run() -> None:
    first = draw_episode(LABELS, 4, 3, 5, seed=1, run=0)
    again = draw_episode(LABELS, 4, 3, 5, seed=1, run=0)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    for seed, run in ((2, 0), (1, 1)):
        other = draw_episode(LABELS, 4, 3, 5, seed, run)
        assert not np.array_equal(first[0], other[0])


def test_accuracy_is_that_of_an_svm_on_the_standardised_support() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(len(LABELS), 8)) + LABELS[:, None] * 0.7
    features *= 10.0 ** np.arange(8)  # what standardising has to undo
    actual = evaluate_episodes(features, LABELS, 3, 4, 5, n_runs=6, seed=7)
    for run, accuracy in enumerate(actual.accuracies):
        support, query = draw_episode(LABELS, 3, 4, 5, 7, run)
        (own,) = predictions(features[support], LABELS[support], features[query])
        assert accuracy == np.mean(own == LABELS[query])
    assert len(set(actual.accuracies)) > 1


def test_the_queries_may_be_of_other_copies_of_the_clouds() -> None:
    features = np.random.default_rng(0).normal(size=(len(LABELS), 8))
    setting = (3, 4, 5, 6, 7)
    clean = evaluate_episodes(features, LABELS, *setting)
    copies = {"same": features, "opposite": -features}
    actual = evaluate_episodes(features, LABELS, *setting, copies)
    assert actual.accuracies == clean.accuracies and list(actual.copies) == list(copies)
    rates = []
    for run in range(6):
        support, query = draw_episode(LABELS, 3, 4, 5, 7, run)
        (own,) = predictions(features[support], LABELS[support], -features[query])
        rates.append(np.mean(own == LABELS[query]))
    assert actual.copies == {"same": clean.mean, "opposite": np.mean(rates)}
    assert clean.mean != np.mean(rates)


def test_mean_population_deviation_and_interval() -> None:
    result = FewShotResult((0.5, 0.7, 0.9))
    assert math.isclose(result.mean, 0.7)
    assert math.isclose(result.deviation, math.sqrt((0.2**2 + 0 + 0.2**2) / 3))
    sample = math.sqrt((0.2**2 + 0 + 0.2**2) / 2)
    assert math.isclose(result.interval, 1.96 * sample / math.sqrt(3))
    assert FewShotResult((0.5,)).interval is None


def test_a_class_with_too_few_samples_is_named() -> None:
    names = ["a", "b", "c", "d", "lamp", "f"]
    check_classes(LABELS, names, 6, 4, 5)
    labels = np.delete(LABELS, np.flatnonzero(LABELS == 4)[:2])
    with pytest.raises(ValueError, match=r"class 'lamp' has 7 samples.* = 9"):
        check_classes(labels, names, 6, 4, 5)
    with pytest.raises(ValueError, match=r"--k_way 7: .* 6 classes"):
        check_classes(LABELS, names, 7, 1, 1)
