"""k-nearest-neighbour votes against a loop in float64."""

import math

import numpy as np
import pytest

from utils.judging import knn


def nearest(query, rows, k: int) -> list[tuple[float, int]]:
    """Cosine and number of the k rows most like the query."""
    similarities = []
    for i, row in enumerate(rows):
        dot = sum(float(a) * float(b) for a, b in zip(query, row, strict=True))
        similarities.append((dot / math.hypot(*query) / math.hypot(*row), i))
    return sorted(similarities, reverse=True)[:k]


def slow_predict(train, labels, test, k: int) -> list[int]:
    """The same by the equation, one test row after the other."""
    predicted = []
    for row in test:
        votes = dict.fromkeys(range(int(max(labels)) + 1), 0.0)
        for cosine, i in nearest(row, train, k):
            votes[int(labels[i])] += math.exp(cosine / 0.07)
        predicted.append(max(votes, key=lambda c: (votes[c], -c)))
    return predicted


def test_predictions_are_those_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn, "_BLOCK", 16)  # several blocks, the last not full
    random = np.random.default_rng(0)
    labels = random.choice([1, 2, 5], size=60, p=[0.6, 0.2, 0.2])  # 0, 3, 4 absent
    train = random.normal(size=(60, 4)).astype("f4") * random.uniform(1, 9, (60, 1))
    test = random.normal(size=(50, 4)).astype("f4")
    actual = {}
    for k in (1, 7, 99):  # the last is more than there are
        actual[k] = knn.knn_predict(train, labels, test, k).tolist()
        assert actual[k] == slow_predict(train, labels, test, k)
    assert actual[1] != actual[7]


@pytest.mark.parametrize("place", [0, 2])
def test_features_that_are_not_finite_are_refused(place: int) -> None:
    call = [np.eye(3), np.arange(3), np.eye(3)]
    call[place][1, 1] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        knn.knn_predict(*call)
