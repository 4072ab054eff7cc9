"""Linear SVM on frozen features, and the choice of its C without test data."""

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from utils.judging.metrics import confusion_matrix, mean_class_accuracy
from utils.parallel.machine import cores
from utils.parallel.seed import SPLIT, generator
from utils.run import signals
from utils.run.logger import progress

_BLOCK = 1024  # rows of the Gram matrix per task


@dataclass(frozen=True)
class LinearSVM:
    """A fitted one-against-one linear SVM of n classes, P = n (n - 1) / 2 pairs."""

    # (n,), ascending; the pairs are (0, 1), (0, 2), ..., (n - 2, n - 1)
    classes: np.ndarray
    weights: np.ndarray  # (P, F), positive for the pair's first class
    intercepts: np.ndarray  # (P,)

    def predict(self, features: np.ndarray) -> np.ndarray:
        """(M, F) -> (M,) labels: the class with most votes; ties go to the first."""
        decisions = features.astype(np.float64) @ self.weights.T + self.intercepts
        votes = np.zeros((len(features), len(self.classes)), np.int64)
        pairs = itertools.combinations(range(len(self.classes)), 2)
        for column, (first, second) in zip(decisions.T, pairs, strict=True):
            votes[:, first] += column > 0
            votes[:, second] += column <= 0
        return self.classes[votes.argmax(axis=1)]

    def score(self, features: np.ndarray, labels: np.ndarray) -> float:
        """Accuracy: the share of rows that get their label."""
        return float(np.mean(self.predict(features) == labels))


class SVMProblem:
    """Training rows and their Gram matrix, to fit for several C and subsets of rows.

    Args:
        features: (M, F).
        labels: (M,) integers.

    Raises:
        ValueError: if the features are not finite.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray) -> None:
        if not np.isfinite(features).all():
            raise ValueError("features are not finite: the encoder has diverged")
        self.features, self.labels = features.astype(np.float64), labels
        # Sorted by class: the part of a pair is then four blocks of the matrix.
        order = np.argsort(labels, kind="stable")
        self._gram, self._position = _gram(self.features[order]), np.argsort(order)

    def fit(self, C: float, rows: np.ndarray | None = None) -> LinearSVM:
        """``SVC(kernel="linear", C=C)`` on these rows, None for all of them.

        libsvm solves a binary problem for each pair of classes. Here each problem gets
        its part of one Gram matrix instead of computing the products again, and the
        problems are solved in parallel threads.

        Raises:
            ValueError: if the rows are of a single class.
        """
        from sklearn.svm import SVC  # slow to import

        rows = np.arange(len(self.labels)) if rows is None else rows
        classes = np.unique(self.labels[rows])
        if len(classes) < 2:
            raise ValueError("an SVM needs samples of at least two classes")
        members = [rows[self.labels[rows] == label] for label in classes]
        pairs = list(itertools.combinations(range(len(classes)), 2))

        def solve(pair: tuple[int, int]) -> tuple[np.ndarray, float]:
            pair_rows = np.concatenate([members[c] for c in pair])
            sides = np.repeat([0, 1], [len(members[c]) for c in pair])
            signals.check("in the fit of the SVM")
            positions = self._position[pair_rows]
            gram = self._gram[np.ix_(positions, positions)]
            svm = SVC(kernel="precomputed", C=C).fit(gram, sides)
            # scikit-learn's sign is positive for the second class.
            weights = -svm.dual_coef_[0] @ self.features[pair_rows[svm.support_]]
            return weights, -float(svm.intercept_[0])

        # Rank 0 has the cores to itself while the other ranks wait.
        with ThreadPoolExecutor(cores()) as pool:
            solving = pool.map(solve, pairs)
            solved = list(progress(solving, total=len(pairs), desc=f"SVM, C = {C:g}"))
        weights, intercepts = zip(*solved, strict=True)
        return LinearSVM(classes, np.stack(weights), np.array(intercepts))


def _gram(features: np.ndarray) -> np.ndarray:
    """(M, M) inner products of all rows, on a GPU if there is one."""
    x = torch.from_numpy(features)
    if torch.cuda.is_available():
        x = x.cuda()
        return (x @ x.T).cpu().numpy()
    count = len(features)
    gram = np.empty((count, count))

    def fill(start: int) -> None:
        block = slice(start, start + _BLOCK)
        gram[block, start:] = (x[block] @ x[start:].T).numpy()
        gram[start:, block] = gram[block, start:].T

    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(fill, range(0, count, _BLOCK)))
    return gram


def fit_linear_svm(
    features: np.ndarray, labels: np.ndarray, C: float = 0.1
) -> LinearSVM:
    """Fit ``SVC(kernel="linear", C=C)`` to features (M, F), the published evaluation.

    A ValueError if the features are not finite or there is a single class.
    """
    return SVMProblem(features, labels).fit(C)


def held_out_split(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Stratified row numbers (kept, held out), a function of labels and seed.

    Of each class with at least two samples, a fifth is held out, at least one and never
    all. A class of one sample is kept.
    """
    random = generator(SPLIT, seed)
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        count = min(max(1, round(0.2 * len(rows))), len(rows) - 1)
        held[rows[:count]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def choose_C(
    problem: SVMProblem, candidates: Sequence[float], seed: int = 0
) -> tuple[float, dict[float, float]]:
    """The C with the best accuracy on a held-out fifth of the training set.

    Does not use test data. Ties go to the smallest C.

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
    """Result of a linear SVM on an encoder's features; C chosen without test data."""

    C: float
    # A row of each C that was fitted on all rows: its accuracy "held_out" (None if
    # there was a single candidate) and on the "test" rows.
    table: list[dict[str, float | None]]
    matrix: np.ndarray  # test counts at the chosen C: true classes down
    train_size: int
    svm: LinearSVM  # at the chosen C

    @property
    def accuracy(self) -> float:
        """Test accuracy at the chosen C."""
        return float(np.trace(self.matrix) / self.matrix.sum())

    @property
    def class_accuracy(self) -> float:
        """Mean of the accuracies of the classes that occur."""
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
    """Choose C on held-out training data, fit on all training data, test.

    ``train`` and ``test`` are features (M, F) and labels (M,) in [0, num_classes);
    ``test_every_C`` computes the test accuracy of the other candidates too. Errors are
    those of :func:`fit_linear_svm`.
    """
    problem = SVMProblem(*train)
    C, held_out = choose_C(problem, candidates, seed)
    values = sorted(candidates) if test_every_C else [C]
    fitted = {value: problem.fit(value) for value in values}
    table: list[dict[str, float | None]] = [
        {"C": value, "held_out": held_out.get(value), "test": svm.score(*test)}
        for value, svm in fitted.items()
    ]
    matrix = confusion_matrix(test[1], fitted[C].predict(test[0]), num_classes)
    return Judgement(C, table, matrix, len(train[1]), fitted[C])
