"""Counts first, rates last: metrics that are exact whatever the number of ranks."""

from __future__ import annotations

import numpy as np


def confusion_matrix(
    target: np.ndarray, predicted: np.ndarray, num_classes: int
) -> np.ndarray:
    """Counts (num_classes, num_classes): rows are true classes, columns predictions.

    Args:
        target, predicted: (M,) integers in [0, num_classes).
    """
    flat = np.bincount(target * num_classes + predicted, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


def mean_class_accuracy(matrix: np.ndarray) -> float:
    """The mean over the classes that occur of the share of rows that are right."""
    count = matrix.sum(axis=1)
    present = count > 0
    return float(np.mean(np.diag(matrix)[present] / count[present]))
