"""The linear SVM that judges frozen features, and the honest choice of its C."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.svm import SVC

from utils.judging.metrics import confusion_matrix, mean_class_accuracy
from utils.parallel.seed import SPLIT, generator
from utils.run import interrupts
from utils.run.logger import progress

_BLOCK = 1024  # rows of the Gram matrix that one thread computes at a time


@dataclass(frozen=True)
class LinearSVM:
    """A fitted one-against-one linear SVM of n classes, P = n (n - 1) / 2 pairs."""

    classes: (
        np.ndarray
    )  # (n,), ascending; the pairs are (0, 1), (0, 2), ..., (n-2, n-1)
    weights: np.ndarray  # (P, F), pointing to the pair's first class
    intercepts: np.ndarray  # (P,)

    def predict(self, features: np.ndarray) -> np.ndarray:
        """(M, F) -> (M,) labels: most votes of the pairs, of equal ones the first."""
        decisions = features.astype(np.float64) @ self.weights.T + self.intercepts
        votes = np.zeros((len(features), len(self.classes)), np.int64)
        pairs = itertools.combinations(range(len(self.classes)), 2)
        for column, (first, second) in zip(decisions.T, pairs, strict=True):
            votes[:, first] += column > 0
            votes[:, second] += column <= 0
        return self.classes[votes.argmax(axis=1)]

    def score(self, features: np.ndarray, labels: np.ndarray) -> float:
        """The share of rows that get their label."""
        return float(np.mean(self.predict(features) == labels))


class SVMProblem:
    """Training rows with all their products: fits for any C and any of the rows.

    Args:
        features: (M, F), finite.
        labels: (M,) integers of at least two classes.

    Raises:
        ValueError: if the features are not finite or there is a single class.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray) -> None:
        if not np.isfinite(features).all():
            raise ValueError("features are not finite: the encoder has diverged")
        if len(np.unique(labels)) < 2:
            raise ValueError("an SVM needs samples of at least two classes")
        self.features, self.labels = features.astype(np.float64), labels
        # Class after class: the part of a pair is then four whole pieces of the matrix.
        order = np.argsort(labels, kind="stable")
        self._gram, self._place = _gram(self.features[order]), np.argsort(order)

    def fit(self, C: float, rows: np.ndarray | None = None) -> LinearSVM:
        """``SVC(kernel="linear", C=C)`` on the rows, None for all of them.

        libsvm solves a binary problem for each pair of classes. Here each gets its own
        small part of one Gram matrix instead of computing products again, and the pairs
        are solved side by side.
        """
        rows = np.arange(len(self.labels)) if rows is None else rows
        classes = np.unique(self.labels[rows])
        if len(classes) < 2:
            raise ValueError("an SVM needs samples of at least two classes")
        members = [rows[self.labels[rows] == label] for label in classes]
        pairs = list(itertools.combinations(range(len(classes)), 2))

        def solve(pair: tuple[int, int]) -> tuple[np.ndarray, float]:
            own = np.concatenate([members[c] for c in pair])
            sides = np.repeat([0, 1], [len(members[c]) for c in pair])
            interrupts.check("in the fit of the SVM")
            place = self._place[own]
            gram = self._gram[np.ix_(place, place)]
            svm = SVC(kernel="precomputed", C=C).fit(gram, sides)
            # scikit-learn's signs point to the second class.
            weights = -svm.dual_coef_[0] @ self.features[own[svm.support_]]
            return weights, -float(svm.intercept_[0])

        with ThreadPoolExecutor(_cores()) as pool:
            solved = list(
                progress(
                    pool.map(solve, pairs), total=len(pairs), desc=f"SVM, C = {C:g}"
                )
            )
        weights, intercepts = zip(*solved, strict=True)
        return LinearSVM(classes, np.stack(weights), np.array(intercepts))


def _cores() -> int:
    """Cores that this process may use: rank 0 fits while the other ranks wait."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _gram(features: np.ndarray) -> np.ndarray:
    """(M, M) products of all rows, on a GPU if there is one."""
    x = torch.from_numpy(features)
    if torch.cuda.is_available():
        x = x.cuda()
        return (x @ x.T).cpu().numpy()
    count = len(features)
    gram = np.empty((count, count))

    def fill(start: int) -> None:
        own = slice(start, start + _BLOCK)
        gram[own, start:] = (x[own] @ x[start:].T).numpy()
        gram[start:, own] = gram[own, start:].T

    with ThreadPoolExecutor(_cores()) as pool:
        list(pool.map(fill, range(0, count, _BLOCK)))
    return gram


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
    return SVMProblem(features, labels).fit(C)


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
    problem: SVMProblem, candidates: Sequence[float], seed: int = 0
) -> tuple[float, dict[float, float]]:
    """The C that is best on a held-out fifth of the training set.

    Test data are not involved. Of equally good values the smallest is taken.

    Returns:
        the chosen C, and the held-out accuracy of every candidate.
    """
    if len(candidates) == 1:
        return float(candidates[0]), {}
    kept, held = held_out_split(problem.labels, seed)
    accuracy = {
        C: problem.fit(C, kept).score(problem.features[held], problem.labels[held])
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
        ValueError: see :class:`SVMProblem`.
    """
    problem = SVMProblem(*train)
    C, held_out = choose_C(problem, candidates, seed)
    accuracy, matrices = {}, {}
    for value in sorted(candidates) if test_every_C else [C]:
        predicted = problem.fit(value).predict(test[0])
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
