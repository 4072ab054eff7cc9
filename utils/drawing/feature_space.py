"""Looking at features: a map of them in the plane, and what lies next to what.

Both measure by the cosine, so that the scale of an encoder's features plays no part.
"""

from __future__ import annotations

import numpy as np
from sklearn.manifold import TSNE

from utils.parallel.seed import SAMPLE, generator


def spread_rows(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Row numbers drawn at random, of every class equally many where it has them.

    Classes take turns, in an order that is random too: fewer rows than classes are of
    different classes, and a longer draw begins with a shorter one.

    Args:
        labels: (M,) classes.
        count: how many; all M if there are no more.
        seed: the draw is a function of it and the labels.

    Returns:
        (min(count, M),) distinct row numbers.
    """
    random = generator(SAMPLE, seed)
    turn, place = np.empty(len(labels), np.int64), np.empty(len(labels), np.int64)
    for order, label in enumerate(random.permutation(np.unique(labels))):
        rows = random.permutation(np.flatnonzero(labels == label))
        turn[rows], place[rows] = np.arange(len(rows)), order
    return np.lexsort((place, turn))[:count]


def plane_map(features: np.ndarray, seed: int, perplexity: float = 30.0) -> np.ndarray:
    """A t-SNE map (van der Maaten and Hinton, 2008) of directions of features.

    Distances within a group of neighbours mean something in it; the size of a group
    and the distance between two groups do not.

    Args:
        features: (M, F), finite.
        seed: of the search for the principal components, where the map starts.
        perplexity: neighbours that count, roughly; at most a third of the others.

    Returns:
        (M, 2) float32.

    Raises:
        ValueError: for fewer than four rows, or features that are not finite.
    """
    if len(features) < 4:
        raise ValueError(f"a map needs at least 4 features, got {len(features)}")
    perplexity = min(perplexity, (len(features) - 1) / 3)
    tsne = TSNE(init="pca", perplexity=perplexity, random_state=seed)
    return tsne.fit_transform(_directions(features)).astype(np.float32)


def nearest(
    queries: np.ndarray, features: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of ``features`` with the largest cosine to each query.

    Args:
        queries: (Q, F).
        features: (M, F), other samples than the queries: nothing is left out.
        count: rows for each query.

    Returns:
        (Q, count) row numbers, the nearest first and the earlier of equals first, and
        their cosines (Q, count).

    Raises:
        ValueError: unless 1 <= count <= M.
    """
    if not 1 <= count <= len(features):
        raise ValueError(f"{count} neighbours asked of {len(features)} samples")
    cosine = _directions(queries) @ _directions(features).T
    rows = np.argsort(-cosine, axis=1, kind="stable")[:, :count]
    return rows, np.take_along_axis(cosine, rows, axis=1)


def same_class_share(
    query_labels: np.ndarray, labels: np.ndarray, rows: np.ndarray
) -> float:
    """How many of the rows (Q, K) of ``labels`` have their query's class (Q,)."""
    return float(np.mean(labels[rows] == query_labels[:, None]))


def _directions(features: np.ndarray) -> np.ndarray:
    """Rows at length 1, in float64; a row of zeros stays."""
    rows = features.astype(np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
