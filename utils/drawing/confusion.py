"""The figure of a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from utils.drawing.clouds import DPI


def confusion_figure(
    matrix: np.ndarray, class_names: Sequence[str], title: str = ""
) -> Figure:
    """Counts in cells, each coloured by its share of its row, the true class.

    Beside a class's name stands its accuracy, or a dash if it has no sample.

    Args:
        matrix: (C, C) counts, rows true classes and columns predictions.
        class_names: C names.
        title: above the figure.

    Raises:
        ValueError: if there are not C names.
    """
    classes = len(class_names)
    if matrix.shape != (classes, classes):
        raise ValueError(f"a matrix {matrix.shape} does not fit {classes} class names")
    cell = float(np.clip(6.0 / classes, 0.25, 0.5))  # inches
    letter = min(9.0, 30 * cell)  # points
    edge = cell * classes
    figure = Figure((edge + 2.2, edge + 2.0), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    count = matrix.sum(axis=1)
    share = matrix / np.maximum(count, 1)[:, None]
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(matrix), strict=True):
        colour = "white" if share[row, column] > 0.55 else "0.15"
        number = axes.text(column, row, str(matrix[row, column]), color=colour)
        number.set(ha="center", va="center", fontsize=letter)
    rows = [
        f"{name}  {share[i, i]:.0%}" if count[i] else f"{name}  –"
        for i, name in enumerate(class_names)
    ]
    axes.set_xticks(range(classes), class_names, fontsize=letter, rotation=90)
    axes.set_yticks(range(classes), rows, fontsize=letter)
    axes.set_xlabel("predicted", color="0.35")
    axes.set_ylabel("true class and its accuracy", color="0.35")
    edges = np.arange(classes + 1) - 0.5
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.grid(which="minor", color="0.9", linewidth=0.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=11, pad=10)
    return figure
