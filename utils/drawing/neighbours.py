"""Nearest neighbours in feature space, and a figure of them.

Features are compared by their cosine, which ignores an encoder's scale.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from utils.drawing.clouds import draw_cloud, grid

# Frames of neighbours of the query's class, and of another class. The colours can be
# told apart by people who are colour-blind (Okabe and Ito).
SAME, OTHER = (0 / 255, 158 / 255, 115 / 255), (213 / 255, 94 / 255, 0 / 255)


def unit_rows(features: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, in float64; a row of zeros stays zero."""
    rows = features.astype(np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def nearest(
    queries: np.ndarray, features: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of ``features`` with the largest cosine to each query.

    Args:
        queries: (Q, F).
        features: (M, F) of other samples: a query is not excluded.
        count: rows for each query.

    Returns:
        (Q, count) row numbers, the nearest first and the lower of equals first, and
        their cosines (Q, count).

    Raises:
        ValueError: unless 1 <= count <= M.
    """
    if not 1 <= count <= len(features):
        raise ValueError(f"{count} neighbours requested from {len(features)} samples")
    cosine = unit_rows(queries) @ unit_rows(features).T
    rows = np.argsort(-cosine, axis=1, kind="stable")[:, :count]
    return rows, np.take_along_axis(cosine, rows, axis=1)


def same_class_share(
    query_labels: np.ndarray, labels: np.ndarray, rows: np.ndarray
) -> float:
    """The share of the rows (Q, K) of ``labels`` with the class (Q,) of their query."""
    return float(np.mean(labels[rows] == query_labels[:, None]))


def neighbour_figure(
    query_points: np.ndarray,
    query_labels: np.ndarray,
    found_points: np.ndarray,
    found_labels: np.ndarray,
    similarity: np.ndarray,
    class_names: Sequence[str],
    title: str = "",
) -> Figure:
    """A row for each query: its cloud, then its neighbours, the nearest first.

    A neighbour's frame is ``SAME`` if it has the query's class, otherwise ``OTHER``.

    Args:
        query_points, query_labels: (Q, N, 3), y up, and (Q,).
        found_points, found_labels: (Q, K, N, 3) and (Q, K).
        similarity: (Q, K) cosines.
        class_names: indexed by the labels.
        title: above the figure.
    """
    queries, found = found_labels.shape
    figure, cells = grid(queries, found + 1, title, pitch=1.3)
    for q, (first, *others) in enumerate(cells):
        draw_cloud(first, query_points[q])
        first.set_title(class_names[query_labels[q]], fontsize=8.5, weight="bold")
        first.set_xlabel("query", fontsize=7.5, color="0.4")
        for n, axes in enumerate(others):
            label = found_labels[q, n]
            colour = SAME if label == query_labels[q] else OTHER
            draw_cloud(axes, found_points[q, n], frame=colour)
            axes.set_title(class_names[label], fontsize=8.5, color=colour)
            text = f"cosine {similarity[q, n]:.3f}"
            axes.set_xlabel(text, fontsize=7.5, color="0.4")
    return figure
