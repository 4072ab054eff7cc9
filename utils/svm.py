"""The linear SVM that judges frozen features, and the honest choice of its C."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.svm import SVC

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
