"""The linear SVM that judges frozen features, and the honest choice of its C."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.svm import SVC

from utils.metrics import confusion_matrix, mean_class_accuracy
from utils.seed import SPLIT, generator


@dataclass(frozen=True)
class LinearSVM:
    """A fitted one-against-one linear SVM; features (M, F), labels (M,)."""

    classifier: SVC

    def predict(self, features: np.ndarray) -> np.ndarray:
        """(M, F) -> (M,) labels."""
        return self.classifier.predict(features)

    def score(self, features: np.ndarray, labels: np.ndarray) -> float:
        """The share of rows that get their label."""
        return float(np.mean(self.predict(features) == labels))


def fit_linear_svm(
    features: np.ndarray, labels: np.ndarray, C: float = 0.1
) -> LinearSVM:
    """Fit ``SVC(kernel="linear", C=C)``, as the published evaluation does.

    Args:
        features: (M, F), finite.
        labels: (M,) integers of at least two classes.
        C: inverse strength of the regularisation.

    Raises:
        ValueError: if the features are not finite or there is a single class.
    """
    if not np.isfinite(features).all():
        raise ValueError("features are not finite: the encoder has diverged")
    if len(np.unique(labels)) < 2:
        raise ValueError("an SVM needs samples of at least two classes")
    classifier = SVC(kernel="linear", C=C, cache_size=1000)
    return LinearSVM(classifier.fit(features.astype(np.float64), labels))


def held_out_split(
    labels: np.ndarray, seed: int, share: float = 0.2
) -> tuple[np.ndarray, np.ndarray]:
    """Stratified row numbers (kept, held out), a function of labels and seed.

    Of every class with at least two samples ``share`` of them, at least one and not
    all, is held out; a class of one sample is kept.
    """
    random = generator(SPLIT, seed)
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        count = min(max(1, round(share * len(rows))), len(rows) - 1)
        held[rows[:count]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def choose_C(
    features: np.ndarray, labels: np.ndarray, candidates: Sequence[float], seed: int = 0
) -> tuple[float, dict[float, float]]:
    """The C that is best on a held-out fifth of the training set.

    Test data are not involved. Of equally good values the smallest is taken.

    Returns:
        the chosen C, and the held-out accuracy of every candidate.
    """
    if len(candidates) == 1:
        return float(candidates[0]), {}
    kept, held = held_out_split(labels, seed)
    accuracy = {
        C: fit_linear_svm(features[kept], labels[kept], C).score(
            features[held], labels[held]
        )
        for C in sorted(candidates)
    }
    return max(accuracy, key=lambda C: (accuracy[C], -C)), accuracy


@dataclass(frozen=True)
class Judgement:
    """What a linear SVM says of an encoder's features; C chosen without test data."""

    C: float
    held_out: dict[float, float]  # accuracy by C; empty for a single candidate
    test: dict[float, float]  # accuracy by C, of those that were fitted
    matrix: np.ndarray  # test counts at the chosen C: true classes down
    train_size: int

    @property
    def accuracy(self) -> float:
        """The share of the test split that is right, at the chosen C."""
        return self.test[self.C]

    @property
    def class_accuracy(self) -> float:
        """The mean of that share over the classes that occur."""
        return mean_class_accuracy(self.matrix)

    @property
    def test_size(self) -> int:
        return int(self.matrix.sum())


def judge_features(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    num_classes: int,
    candidates: Sequence[float],
    seed: int = 0,
    test_every_C: bool = False,
) -> Judgement:
    """Choose C on held-out training data, fit on all of them, count on the test split.

    Args:
        train, test: features (M, F) and labels (M,) in [0, num_classes).
        num_classes: how many there are.
        candidates: values of C, at least one.
        seed: of the held-out rows.
        test_every_C: also the test accuracy of the values that were not chosen.

    Raises:
        ValueError: see :func:`fit_linear_svm`.
    """
    C, held_out = choose_C(*train, candidates, seed)
    accuracy, matrices = {}, {}
    for value in sorted(candidates) if test_every_C else [C]:
        predicted = fit_linear_svm(*train, value).predict(test[0])
        matrices[value] = confusion_matrix(test[1], predicted, num_classes)
        accuracy[value] = float(np.trace(matrices[value]) / matrices[value].sum())
    return Judgement(C, held_out, accuracy, matrices[C], len(train[1]))


def judgement_table(judgements: Mapping[str, Mapping[str, Judgement]]) -> str:
    """A line for each data set and encoder: accuracies in %, C, numbers of clouds.

    Args:
        judgements: by data set, then by encoder.
    """
    form = "{:<14}{:<13}{:>9}{:>12}{:>8}{:>8}{:>7}"
    heads = ("data set", "encoder", "accuracy", "mean class", "C", "train", "test")
    lines = [form.format(*heads)]
    lines.append("-" * len(lines[0]))
    for name, encoders in judgements.items():
        for encoder, found in encoders.items():
            rates = (f"{100 * x:.2f}" for x in (found.accuracy, found.class_accuracy))
            sizes = (found.train_size, found.test_size)
            lines.append(form.format(name, encoder, *rates, f"{found.C:g}", *sizes))
    return "\n".join(lines)
