"""Figures of clouds: one cloud on axes, and training shapes with their views."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

DPI = 120
CELL = 1.4  # inches: the edge of a cloud in a figure of many
INK = (0.17, 0.27, 0.42)  # clouds that are not coloured by class or part

_AZIMUTH, _ELEVATION = np.radians(40.0), np.radians(25.0)


def project(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Orthographic view of points (N, 3), y up, from the front, right and above.

    Returns:
        (N, 2) coordinates in [-0.5, 0.5], the farthest point first; the indices of the
        points in this order; how much each is faded by its distance, in [0, 0.45].
    """
    x, y, z = (points - (points.max(axis=0) + points.min(axis=0)) / 2).T
    right = np.cos(_AZIMUTH) * x - np.sin(_AZIMUTH) * z
    front = np.sin(_AZIMUTH) * x + np.cos(_AZIMUTH) * z
    up = np.cos(_ELEVATION) * y - np.sin(_ELEVATION) * front
    near = np.sin(_ELEVATION) * y + np.cos(_ELEVATION) * front
    order = np.argsort(near, kind="stable")
    flat = np.stack([right, up], axis=1)[order]
    flat -= (flat.max(axis=0) + flat.min(axis=0)) / 2
    flat *= 0.5 / max(float(np.abs(flat).max()), 1e-9)
    depth = near[order[-1]] - near[order]
    return flat, order, 0.45 * depth / max(float(depth[0]), 1e-9)


def draw_cloud(
    axes: Axes,
    points: np.ndarray,
    colours: np.ndarray | tuple[float, float, float] = INK,
    frame: tuple[float, float, float] | None = None,
) -> None:
    """Draw a cloud, fitted to the axes.

    Args:
        axes: are emptied of ticks.
        points: (N, 3), y up.
        colours: RGB in [0, 1], (N, 3), or (3,) for all points.
        frame: colour of the frame; None for no frame.
    """
    flat, order, fade = project(points)
    shown = np.broadcast_to(colours, (len(points), 3))[order]
    shown = shown + (1 - shown) * fade[:, None]
    size = min(1.6 * (2048 / len(points)) ** 0.5, 6.0)
    axes.scatter(*flat.T, s=size, c=shown, linewidths=0)
    axes.set(xticks=[], yticks=[], xlim=(-0.6, 0.6), ylim=(-0.6, 0.6), box_aspect=1)
    axes.set_facecolor("0.975")
    axes.spines[:].set(visible=frame is not None, color=frame, linewidth=1.8)


def grid(
    rows: int, columns: int, title: str = "", pitch: float = 1.15
) -> tuple[Figure, np.ndarray]:
    """A figure of cells for clouds, and its axes (rows, columns).

    Args:
        rows, columns: of cells.
        title: above the figure.
        pitch: height of a row with its texts, in cells.
    """
    size = (CELL * columns, CELL * pitch * rows + 0.5)
    figure = Figure(size, dpi=DPI, facecolor="white", layout="constrained")
    figure.get_layout_engine().set(h_pad=0.05)
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, axes


def training_figure(
    names: Sequence[str],
    stored: Sequence[np.ndarray],
    views: Sequence[tuple[np.ndarray, np.ndarray]],
    images: Sequence[np.ndarray],
    renderings: Sequence[Sequence[np.ndarray]],
) -> Figure:
    """A row for each shape: its cloud, both views, its image, and rendered images.

    Clouds are fitted to their cells, which hides their scale and position. Below an
    augmented cloud stands how many of its points are distinct.

    Args:
        names: of the S shapes.
        stored: (N, 3) each, y up.
        views: two augmented clouds (N, 3) of each shape.
        images: (H, W, 3) uint8 each, augmented.
        renderings: (H, W, 3) uint8, equally many of each shape; the first is the
            rendering that the augmented image was made from.
    """
    figure, cells = grid(len(names), 4 + len(renderings[0]))
    heads = ("stored cloud", "first view", "second view", "augmented", "as rendered")
    for axes, head in zip(cells[0], heads, strict=False):
        axes.set_title(head, fontsize=9, color="0.35")
    for row, axes in enumerate(cells):
        for place, points in zip(axes, (stored[row], *views[row]), strict=False):
            draw_cloud(place, points)
            distinct = f"{len(np.unique(points, axis=0))} of {len(points)} points"
            place.set_xlabel(distinct, fontsize=7.5, color="0.3")
        axes[0].set_xlabel(names[row], fontsize=8.5, color="0.2")
        shown = (images[row], *renderings[row])
        for place, image in zip(axes[3:], shown, strict=True):
            place.imshow(image, interpolation="antialiased")
            place.set_axis_off()
    return figure
