"""Few-shot episodes on frozen features: N ways, m shots, one linear SVM each."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from utils.judging.metrics import smallest_class
from utils.parallel.seed import EPISODE, generator
from utils.run.logger import progress

PUBLISHED_SETTINGS = ((5, 10), (5, 20), (10, 10), (10, 20))  # ways, shots


@dataclass(frozen=True)
class FewShotResult:
    """Accuracies of the episodes of one setting, and means on copies of the queries."""

    accuracies: tuple[float, ...]
    copies: dict[str, float] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        return float(np.mean(self.accuracies))

    @property
    def deviation(self) -> float:
        """Population standard deviation over the episodes, as published."""
        return float(np.std(self.accuracies))

    @property
    def interval(self) -> float | None:
        """Half-width of the mean's 95 % interval, 1.96 sample deviations / √n; None for
        a single episode."""
        runs = len(self.accuracies)
        if runs < 2:
            return None
        return 1.96 * float(np.std(self.accuracies, ddof=1)) / math.sqrt(runs)


def check_classes(
    labels: np.ndarray, names: Sequence[str], k_way: int, m_shot: int, n_query: int
) -> None:
    """Raise a ValueError for settings for which the data set is too small."""
    ways, needed = len(np.unique(labels)), m_shot + n_query
    if ways < k_way:
        problem = f"the data set has {ways} classes with samples"
        raise ValueError(f"--k_way {k_way}: {problem}")
    name, count = smallest_class(labels, names)
    if count < needed:
        raise ValueError(
            f"class '{name}' has {count} samples, an episode needs --m_shot {m_shot} + "
            f"--n_query {n_query} = {needed} of every class: lower one of them"
        )


def draw_episode(
    labels: np.ndarray, k_way: int, m_shot: int, n_query: int, seed: int, run: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of an episode: a function of labels, setting, seed and run alone.

    Args:
        labels: (M,) classes, each with at least m_shot + n_query rows.

    Returns:
        support (k_way * m_shot,) and query (k_way * n_query,), disjoint.
    """
    random = generator(EPISODE, seed, k_way, m_shot, n_query, run)
    classes = random.choice(np.unique(labels), k_way, replace=False)
    support, query = [], []
    for label in classes:
        rows = np.flatnonzero(labels == label)
        rows = random.choice(rows, m_shot + n_query, replace=False)
        support.append(rows[:m_shot])
        query.append(rows[m_shot:])
    return np.concatenate(support), np.concatenate(query)


class SupportSVM:
    """The published few-shot classifier: a linear SVM (C = 1) on standardised rows.

    Fitted to the support's features (M, F), whose mean and deviation standardise all
    others. The SVM gets a Gram matrix in float64, which BLAS computes faster; its
    predictions are those of ``SVC(kernel="linear")``.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray) -> None:
        rows = features.astype(np.float64)
        self._scaler = StandardScaler().fit(rows)
        self._rows = self._scaler.transform(rows)
        gram = self._rows @ self._rows.T
        self._svm = SVC(kernel="precomputed", C=1.0).fit(gram, labels)

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Labels (Q,) of other features (Q, F)."""
        rows = self._scaler.transform(features.astype(np.float64))
        return self._svm.predict(rows @ self._rows.T)


def evaluate_episodes(
    features: np.ndarray,
    labels: np.ndarray,
    k_way: int,
    m_shot: int,
    n_query: int = 20,
    n_runs: int = 50,
    seed: int = 1,
    copies: Mapping[str, np.ndarray] | None = None,
) -> FewShotResult:
    """Query accuracy of a :class:`SupportSVM` on features (M, F), per episode.

    Args:
        k_way, m_shot, n_query: classes, and samples per class to fit and to classify.
        copies: by kind, features (M, F) of corrupted copies of the same clouds: their
            queries are classified, too.
    """
    copies = copies or {}
    scores = []
    bar = progress(range(n_runs), desc=f"{k_way} ways {m_shot} shots", unit="episode")
    for run in bar:
        support, query = draw_episode(labels, k_way, m_shot, n_query, seed, run)
        svm = SupportSVM(features[support], labels[support])
        queries = (x[query] for x in (features, *copies.values()))
        scores.append([np.mean(svm.predict(x) == labels[query]) for x in queries])
    accuracies, *corrupted = np.transpose(scores)
    means = {kind: float(np.mean(x)) for kind, x in zip(copies, corrupted, strict=True)}
    return FewShotResult(tuple(accuracies.tolist()), means)
