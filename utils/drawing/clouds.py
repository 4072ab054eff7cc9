"""Clouds and images in a grid: the one layout of all figures that show shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = (0.17, 0.27, 0.42)  # clouds that are not coloured by class or part


class Cell(NamedTuple):
    """A cloud or an image, with a text above it."""

    shown: np.ndarray  # points (N, 3), y up, or an image (H, W, 3) uint8
    text: str = ""  # of one line or several
    colours: Any = INK  # RGB in [0, 1] of a cloud: (N, 3), or (3,) for all points
    frame: tuple[float, float, float] | None = None  # colour, of the text as well


def cloud_grid(rows: Sequence[Sequence[Cell]], title: str = "") -> Figure:
    """A row of the figure for each row of cells; rows may have different lengths."""
    columns = max(map(len, rows))
    lines = max(cell.text.count("\n") + 1 for row in rows for cell in row)
    size = (1.4 * columns, (1.3 + 0.17 * lines) * len(rows) + 0.5)
    figure = Figure(size, dpi=120, facecolor="white", layout="constrained")
    figure.suptitle(title, fontsize=11)
    grid = figure.add_gridspec(len(rows), columns)
    for i, row in enumerate(rows):
        for j, cell in enumerate(row):
            if cell.shown.ndim == 2:
                axes = figure.add_subplot(grid[i, j], projection="3d")
                draw_cloud(axes, cell)
            else:
                axes = figure.add_subplot(grid[i, j])
                axes.imshow(cell.shown, interpolation="antialiased")
                axes.set_axis_off()
            axes.set_title(cell.text, fontsize=8, color=cell.frame or "0.25", pad=3)
    return figure


def draw_cloud(axes: Axes, cell: Cell) -> None:
    """Draw a cloud on 3D axes and fit it to them: from the front, right and above."""
    points = cell.shown
    colours = np.broadcast_to(cell.colours, points.shape)
    size = min(1.6 * (2048 / len(points)) ** 0.5, 6.0)
    axes.scatter(*points.T, s=size, c=colours, linewidths=0)
    axes.set_proj_type("ortho")
    axes.view_init(elev=25, azim=40, vertical_axis="y")
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.patch.set(facecolor="0.975", edgecolor=cell.frame, linewidth=1.8)
