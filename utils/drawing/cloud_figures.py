"""Figures of clouds: one cloud on axes, a query and its neighbours, training shapes.

As in :mod:`utils.drawing.figures`, nothing is shown, written or kept elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

# Of neighbours: of the query's class or not (Okabe and Ito, told apart by all eyes).
SAME, OTHER = (0 / 255, 158 / 255, 115 / 255), (213 / 255, 94 / 255, 0 / 255)
_INK = (0.17, 0.27, 0.42)  # clouds without classes of their own
_DPI = 120

_AZIMUTH, _ELEVATION = np.radians(40.0), np.radians(25.0)
_CELL = 1.4  # inches, a cloud of the neighbours' figure; the unit of the next two
_PITCH = 1.32  # of its rows: a cloud and two lines
_GAP = 0.25  # between the query and its neighbours


def point_size(num_points: int) -> float:
    """Area of a marker, in points², for clouds of so many points an inch or so wide."""
    return min(1.6 * (2048 / num_points) ** 0.5, 6.0)


def project(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (N, 3), y up, seen from the front, right and above, without perspective.

    Returns:
        (N, 2) in [-0.42, 0.42] with y down, farthest first; the order of the points
        that this is; how much of its colour each loses to distance, in [0, 0.45].
    """
    x, y, z = (points - (points.max(axis=0) + points.min(axis=0)) / 2).T
    right = np.cos(_AZIMUTH) * x - np.sin(_AZIMUTH) * z
    forth = np.sin(_AZIMUTH) * x + np.cos(_AZIMUTH) * z
    up = np.cos(_ELEVATION) * y - np.sin(_ELEVATION) * forth
    near = np.sin(_ELEVATION) * y + np.cos(_ELEVATION) * forth
    order = np.argsort(near, kind="stable")
    flat = np.stack([right, -up], axis=1)[order]
    flat -= (flat.max(axis=0) + flat.min(axis=0)) / 2
    extent = max(float(np.abs(flat).max()), 1e-9)
    depth = near[order]
    fade = 0.45 * (depth[-1] - depth) / max(float(depth[-1] - depth[0]), 1e-9)
    return 0.42 / extent * flat, order, fade


def draw_cloud(
    axes: Axes,
    points: np.ndarray,
    colours: np.ndarray | tuple[float, float, float],
    centre: tuple[float, float],
    size: float,
) -> None:
    """A cloud 0.84 units wide or high, on axes of equal units whose y points down.

    Args:
        axes: to draw on.
        points: (N, 3), y up.
        colours: RGB in [0, 1], (N, 3), or (3,) for all points.
        centre: of the cloud.
        size: see :func:`point_size`.
    """
    flat, order, fade = project(points)
    shown = np.broadcast_to(colours, (len(points), 3))[order]
    shown = shown + (1 - shown) * fade[:, None]
    x, y = (flat + np.array(centre)).T
    axes.scatter(x, y, s=size, c=shown, linewidths=0)


def neighbour_figure(
    query_points: np.ndarray,
    query_labels: np.ndarray,
    found_points: np.ndarray,
    found_labels: np.ndarray,
    similarity: np.ndarray,
    class_names: Sequence[str],
    title: str = "",
) -> Figure:
    """A row a query: its cloud, then the clouds found for it, the nearest first.

    Framed in ``SAME`` where the class is the query's, in ``OTHER`` where it is not.

    Args:
        query_points, query_labels: (Q, N, 3), y up, and (Q,).
        found_points, found_labels: (Q, K, N, 3) and (Q, K).
        similarity: (Q, K) cosines.
        class_names: that the labels are numbers of.
        title: above the figure.
    """
    queries, found = found_labels.shape
    width, height = found + 1 + _GAP + 0.1, queries * _PITCH + 0.62
    figure = Figure((_CELL * width, _CELL * height), dpi=_DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    axes.text(width / 2, 0.2, title, ha="center", va="center", fontsize=12)
    axes.text(0.55, 0.48, "query", ha="center", fontsize=9, color="0.35")
    centre = 1.05 + _GAP + found / 2
    axes.text(centre, 0.48, "nearest first", ha="center", fontsize=9, color="0.35")
    size = point_size(query_points.shape[1])
    for q in range(queries):
        top = 0.56 + q * _PITCH
        name = class_names[query_labels[q]]
        _card(axes, (0.05, top), query_points[q], _INK, (name, ""), size)
        for n in range(found):
            colour = SAME if found_labels[q, n] == query_labels[q] else OTHER
            lines = (class_names[found_labels[q, n]], f"cosine {similarity[q, n]:.3f}")
            corner = (1.05 + _GAP + n, top)
            _card(axes, corner, found_points[q, n], colour, lines, size)
    return figure


def training_figure(
    names: Sequence[str],
    stored: Sequence[np.ndarray],
    views: Sequence[tuple[np.ndarray, np.ndarray]],
    pictures: Sequence[np.ndarray],
    renderings: Sequence[Sequence[np.ndarray]],
) -> Figure:
    """A row a shape: its cloud, what pre-training is shown of it, its rendered views.

    Every cloud is fitted to its cell, so that its scale and its place are not seen;
    below an augmented one stands how many of its points are distinct.

    Args:
        names: of the S shapes.
        stored: (N, 3) each, y up.
        views: two augmented clouds (N, 3) of each shape.
        pictures: (H, W, 3) in [0, 1] each, as the picture encoder gets them.
        renderings: (H, W, 3 or 4) uint8, the same number of each shape; the picture's
            own view first.
    """
    shapes, columns = len(names), 4 + len(renderings[0])
    pitch, gap = 1.14, 0.16
    width, height = columns + 2 * gap + 0.1, 0.34 + shapes * pitch
    figure = Figure((_CELL * width, _CELL * height), dpi=_DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    # The stored cloud, what is trained on, and the renderings stand apart.
    lefts = [0.05 + i + gap * ((i > 0) + (i > 3)) for i in range(columns)]
    middle = {"ha": "center", "va": "center"}
    heads = ("stored cloud", "first view", "second view", "picture")
    for left, head in zip(lefts, heads, strict=False):
        axes.text(left + 0.5, 0.18, head, **middle, fontsize=9, color="0.35")
    across = (lefts[4] + lefts[-1] + 1) / 2
    head = "as rendered, and other views"
    axes.text(across, 0.18, head, **middle, fontsize=9, color="0.35")
    for row, name in enumerate(names):
        top = 0.3 + row * pitch
        clouds = (stored[row], *views[row])
        for left, points in zip(lefts, clouds, strict=False):
            box = Rectangle((left + 0.03, top), 0.94, 0.94, facecolor="0.975")
            axes.add_patch(box)
            place = (left + 0.5, top + 0.47)
            draw_cloud(axes, points, _INK, place, point_size(len(points)))
        count = f"of {len(stored[row])} points"
        kept = [f"{len(np.unique(view, axis=0))} {count}" for view in views[row]]
        for left, text in zip(lefts, (name, *kept), strict=False):
            axes.text(
                *(left + 0.5, top + 1.03, text), **middle, fontsize=7.5, color="0.3"
            )
        shown = (pictures[row], *renderings[row])
        for left, picture in zip(lefts[3:], shown, strict=True):
            box = (left + 0.03, left + 0.97, top + 0.94, top)
            axes.imshow(picture, extent=box, interpolation="antialiased")
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
    return figure


def _card(
    axes: Axes,
    corner: tuple[float, float],
    points: np.ndarray,
    colour: tuple[float, float, float],
    lines: tuple[str, str],
    size: float,
) -> None:
    """A framed cloud with its name and a second line below it."""
    left, top = corner
    box = Rectangle((left + 0.03, top), 0.94, 0.94, facecolor="0.975")
    box.set(edgecolor=colour, linewidth=1.8)
    axes.add_patch(box)
    draw_cloud(axes, points, _INK, (left + 0.5, top + 0.47), size)
    name = axes.text(left + 0.5, top + 1.04, lines[0], fontsize=8.5, color=colour)
    name.set_fontweight("bold")
    second = axes.text(left + 0.5, top + 1.16, lines[1], fontsize=7, color="0.4")
    for text in (name, second):
        text.set(ha="center", va="center")
