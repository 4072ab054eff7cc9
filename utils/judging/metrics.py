"""Confusion matrices and IoU: counts are added over ranks, rates computed last."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets import PARTS_PER_CATEGORY
from utils.parallel import distributed

# Parts are numbered consecutively.
CATEGORY_OF_PART = np.repeat(np.arange(16), PARTS_PER_CATEGORY)  # (50,)


def confusion_matrix(
    target: np.ndarray, predicted: np.ndarray, num_classes: int
) -> np.ndarray:
    """Counts (num_classes, num_classes): rows true classes, columns predictions.

    Args:
        target, predicted: (M,) integers in [0, num_classes).
    """
    flat = np.bincount(target * num_classes + predicted, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


def confusion_counts(target: Tensor, logits: Tensor) -> Tensor:
    """:func:`confusion_matrix` of a training batch, without waiting for a GPU.

    Args:
        target: (b,) classes.
        logits: (b, C).

    Returns:
        (C * C,) float64, on the inputs' device.
    """
    classes = logits.shape[1]
    cells = target * classes + logits.argmax(dim=1)
    ones = torch.ones_like(cells, dtype=torch.float64)
    return ones.new_zeros(classes**2).index_add_(0, cells, ones)


def write_confusion(path: Path, matrix: np.ndarray, classes: Sequence[str]) -> None:
    """A CSV table of :func:`confusion_matrix`, with the classes' names."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["true\\predicted", *classes])
        table.writerows([name, *row] for name, row in zip(classes, matrix, strict=True))


def smallest_class(labels: np.ndarray, class_names: Sequence[str]) -> tuple[str, int]:
    """The name and size of the smallest class that occurs in ``labels`` (M,)."""
    present, counts = np.unique(labels, return_counts=True)
    least = int(counts.argmin())
    return class_names[present[least]], int(counts[least])


def mean_class_accuracy(matrix: np.ndarray) -> float:
    """Balanced accuracy: mean of the accuracies of the classes that occur."""
    count = matrix.sum(axis=1)
    present = count > 0
    return float(np.mean(np.diag(matrix)[present] / count[present]))


def accuracies(split: str, matrix: np.ndarray) -> dict[str, float]:
    """Overall and balanced accuracy of a confusion matrix, named after the split."""
    return {
        f"{split}_accuracy": float(np.trace(matrix) / matrix.sum()),
        f"{split}_class_accuracy": mean_class_accuracy(matrix),
    }


def shape_iou(
    pred: Tensor | np.ndarray,
    target: Tensor | np.ndarray,
    category: Tensor | np.ndarray,
) -> Tensor:
    """Part IoU of each shape: the mean over the parts of its category.

    The IoU of a part is ``|predicted and true| / |predicted or true|`` in points, and 1
    if neither has the part. A point predicted as a part of another category belongs to
    none of its shape's parts. Does not synchronise with a GPU.

    Args:
        pred, target: (M, N) parts, numbered 0 to 49 over all categories.
        category: (M,) integers in [0, 16).

    Returns:
        (M,) float64, on the inputs' device.
    """
    pred, target, category = map(torch.as_tensor, (pred, target, category))
    parts = len(CATEGORY_OF_PART)

    def points_of_each_part(chosen: Tensor, counted: Tensor) -> Tensor:
        counts = counted.new_zeros((len(chosen), parts))
        return counts.scatter_add_(1, chosen.long(), counted)  # (M, 50)

    everywhere = torch.ones_like(target, dtype=torch.float64)
    intersection = points_of_each_part(target, (pred == target).double())
    predicted, true = (points_of_each_part(x, everywhere) for x in (pred, target))
    union = predicted + true - intersection
    iou = torch.where(union > 0, intersection / union.clamp(min=1), 1.0)
    owners = torch.from_numpy(CATEGORY_OF_PART).to(category.device, non_blocking=True)
    owned = owners == category[:, None]  # (M, 50)
    return (iou * owned).sum(dim=1) / owned.sum(dim=1)


def part_figures(
    predicted: np.ndarray,
    target: np.ndarray,
    category: np.ndarray,
    class_names: Sequence[str],
) -> tuple[dict[str, float], dict[str, float]]:
    """Figures of a test split of which each rank has a share.

    IoUs of shapes are gathered and counts of points added: the figures do not depend on
    the number of ranks. Arrays are as of :func:`shape_iou`, this rank's; M may be 0.

    Returns:
        ``test_miou`` over the shapes, ``test_class_miou`` over the categories that
        occur, ``test_accuracy`` over the points, ``test_class_accuracy`` over the parts
        that occur; and the mean IoU of each category that occurs.
    """
    parts = len(CATEGORY_OF_PART)
    matrix = confusion_matrix(target.ravel(), predicted.ravel(), parts)
    matrix = distributed.gather_array(matrix[None]).sum(axis=0)
    local_iou = shape_iou(predicted, target, category).numpy()
    iou, category = map(distributed.gather_array, (local_iou, category))
    by_category = {
        class_names[c]: float(iou[category == c].mean()) for c in np.unique(category)
    }
    values = {
        "test_miou": float(iou.mean()),
        "test_class_miou": float(np.mean(list(by_category.values()))),
        **accuracies("test", matrix),
    }
    return values, by_category
