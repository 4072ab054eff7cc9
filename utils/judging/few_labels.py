"""Accuracy on a test split when few training clouds of each class have a label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from utils.judging.fewshot import SupportSVM
from utils.parallel.seed import LABELS, generator


def check_labels_per_class(
    labels: np.ndarray, class_names: Sequence[str], counts: Sequence[int]
) -> None:
    """Refuse to draw more labels of a class than it has.

    Raises:
        ValueError: naming the class of ``labels`` (M,) with fewest clouds.
    """
    present, clouds = np.unique(labels, return_counts=True)
    least = int(clouds.argmin())
    if clouds[least] < max(counts, default=0):
        raise ValueError(
            f"--labels_per_class {max(counts)}: class '{class_names[present[least]]}' "
            f"has {clouds[least]} training clouds: ask for at most so many"
        )


def draw_labelled(labels: np.ndarray, count: int, seed: int, draw: int) -> np.ndarray:
    """Rows of ``count`` clouds of every class that occurs in ``labels`` (M,).

    A function of labels, seed and draw that holds the draw's smaller counts.
    """
    random = generator(LABELS, seed, draw)
    rows = [random.permutation(np.flatnonzero(labels == c)) for c in np.unique(labels)]
    return np.concatenate([own[:count] for own in rows])


def few_label_accuracies(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    count: int,
    draws: int,
    seed: int,
) -> list[float]:
    """Test accuracy of :class:`utils.judging.fewshot.SupportSVM`, one of each draw.

    Its C is 1, not chosen: few labels leave none to choose it on.

    Args:
        train, test: features (M, F) and labels (M,).
        count: labelled clouds of each class.
        draws: how many times they are drawn.
        seed: of the draws.
    """
    features, labels = train
    accuracies = []
    for draw in range(draws):
        rows = draw_labelled(labels, count, seed, draw)
        accuracies.append(SupportSVM(features[rows], labels[rows]).score(*test))
    return accuracies
