"""Figures of features: a confusion matrix, a map of clouds by their features.

Every figure is a plain matplotlib ``Figure``: nothing is shown, written or kept
elsewhere, so that a notebook and a report can use the same functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patheffects import withStroke
from matplotlib.textpath import TextPath

_DPI = 120
_SHARES = LinearSegmentedColormap.from_list(
    "shares", ["#ffffff", "#cfe1f2", "#6aaed6", "#2171b5", "#08306b"]
)
_PANEL = 5.6  # inches, the edge of a map
_LABEL = 8.0  # points, the type of a map's labels


def confusion_figure(
    matrix: np.ndarray, class_names: Sequence[str], title: str = ""
) -> Figure:
    """Counts in cells whose colour is the share of their row, the true class.

    At the right each class's own accuracy, or a dash where it does not occur.

    Args:
        matrix: (C, C) counts, rows true classes and columns predictions.
        class_names: C names.
        title: above the figure.

    Raises:
        ValueError: if the names do not fit the matrix.
    """
    classes = len(class_names)
    if matrix.shape != (classes, classes):
        raise ValueError(f"a matrix {matrix.shape} does not fit {classes} class names")
    cell = float(np.clip(6.0 / classes, 0.25, 0.5))  # inches
    letter = min(9.0, 72 * cell * 0.42)  # points, of counts; names are a little larger
    edge = cell * classes
    figure = Figure((edge + 2.6, edge + 2.3), dpi=_DPI, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.12)
    axes = figure.add_subplot()
    count = matrix.sum(axis=1)
    share = matrix / np.maximum(count, 1)[:, None]
    axes.imshow(share, cmap=_SHARES, vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(matrix), strict=True):
        axes.text(
            *(column, row, str(matrix[row, column])),
            ha="center",
            va="center",
            fontsize=letter,
            color="white" if share[row, column] > 0.55 else "0.15",
        )
    ticks = range(classes)
    larger = min(letter + 0.8, 9.0)
    axes.set_xticks(ticks, class_names, fontsize=larger, rotation=90)
    axes.set_yticks(ticks, class_names, fontsize=larger)
    axes.set_xlabel("predicted", color="0.35")
    axes.set_ylabel("true class", color="0.35")
    right = axes.secondary_yaxis("right")
    own = [f"{share[i, i]:.0%}" if count[i] else "–" for i in ticks]
    right.set_yticks(ticks, own, fontsize=larger, color="0.35")
    axes.text(classes - 0.4, -0.7, "accuracy", fontsize=larger, color="0.35")
    axes.set_xticks(np.arange(classes + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(classes + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="0.9", linewidth=0.5)
    for ticked in (axes, right):
        ticked.tick_params(which="both", length=0)
        ticked.spines[:].set_visible(False)
    axes.set_title(title, fontsize=11, pad=10)
    return figure


def class_colours(count: int) -> np.ndarray:
    """RGB (count, 3) in [0, 1]: hues around the circle, of three lightnesses in turn.

    They are equal steps in OKLCH (Ottosson, 2020), where equal steps look equal.
    """
    hue = 2 * np.pi * (np.arange(count) / max(count, 1) + 0.07)
    light = np.array([0.64, 0.50, 0.74])[np.arange(count) % 3]
    a, b = 0.15 * np.cos(hue), 0.15 * np.sin(hue)
    to_cones = np.array(
        [
            *((1, 0.3963377774, 0.2158037573), (1, -0.1055613458, -0.0638541728)),
            (1, -0.0894841775, -1.2914855480),
        ]
    )
    to_rgb = np.array(
        [
            (4.0767416621, -3.3077115913, 0.2309699292),
            (-1.2684380046, 2.6097574011, -0.3413193965),
            (-0.0041960863, -0.7034186147, 1.7076147010),
        ]
    )
    linear = (np.stack([light, a, b], axis=1) @ to_cones.T) ** 3 @ to_rgb.T
    linear = np.clip(linear, 0, 1)
    low = linear <= 0.0031308
    return np.where(low, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def map_figure(
    maps: Mapping[str, np.ndarray],
    labels: np.ndarray,
    class_names: Sequence[str],
    title: str = "",
) -> Figure:
    """Maps of the same clouds side by side, coloured by class.

    The name of a class stands above the cloud that is nearest to all others of it, or
    aside, with a line to it, where names would cover each other.

    Args:
        maps: (M, 2) places by the heading of the panel.
        labels: (M,) classes, numbers of ``class_names``.
        class_names: of all classes, those that do not occur included.
        title: above the figure.

    Raises:
        ValueError: if a map has another number of rows than there are labels.
    """
    present = np.unique(labels)
    colours = class_colours(len(present))
    # As high as wide, or as low as all maps allow.
    extents = [np.ptp(places, axis=0) for places in maps.values()]
    low = max((y / max(x, y, 1e-9) for x, y in extents), default=1.0)
    panel = np.array((_PANEL, _PANEL * np.clip(low, 0.5, 1.0)))
    height, width = panel[1] + 0.75, (_PANEL + 0.15) * len(maps) + 0.15
    figure = Figure((width, height), dpi=_DPI, facecolor="white")
    figure.text(0.5, 1 - 0.17 / height, title, ha="center", va="top", fontsize=12)
    size = float(np.clip(9000 / max(len(labels), 1), 7, 36))
    for column, (heading, places) in enumerate(maps.items()):
        if len(places) != len(labels):
            raise ValueError(f"{heading}: {len(places)} places, {len(labels)} labels")
        left = 0.15 + column * (_PANEL + 0.15)
        box = (left / width, 0.1 / height, _PANEL / width, panel[1] / height)
        axes = figure.add_axes(box, xticks=[], yticks=[], facecolor="0.985")
        axes.spines[:].set_color("0.85")
        axes.set_title(heading, fontsize=10, color="0.35", pad=4)
        # Points of the page from the lower left corner, as type is measured.
        span = max(float(np.ptp(places, axis=0).max()), 1e-9)
        middle = (places.max(axis=0) + places.min(axis=0)) / 2
        page = 72 * (panel / 2 + 0.90 * _PANEL * (places - middle) / span)  # (M, 2)
        axes.set(xlim=(0, 72 * panel[0]), ylim=(0, 72 * panel[1]))
        shade = colours[np.searchsorted(present, labels)]
        x, y = page.T
        axes.scatter(x, y, s=size, c=shade, alpha=0.75, linewidths=0)
        medoids = [_medoid(page[labels == label]) for label in present]
        names = [class_names[label] for label in present]
        _label_places(axes, np.array(medoids), names, colours, 72 * panel)
    return figure


def _medoid(places: np.ndarray) -> np.ndarray:
    """The place (2,) of (M, 2) with the least sum of distances to the others."""
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    return places[apart.sum(axis=1).argmin()]


def _label_places(
    axes: Axes,
    anchors: np.ndarray,
    names: Sequence[str],
    colours: np.ndarray,
    edges: np.ndarray,
) -> None:
    """Names above their anchors (L, 2), or near by; axes in points, of these edges."""
    bold = FontProperties(weight="bold", size=_LABEL)
    widths = [TextPath((0, 0), name, prop=bold).get_extents().width for name in names]
    sizes = np.array([(width + 5, 1.35 * _LABEL) for width in widths])
    above = anchors + np.array((0, 1.1 * _LABEL))  # the cloud itself stays to be seen
    centres = separate(above, sizes, edges)
    halo = [withStroke(linewidth=2.0, foreground="white")]
    for name, anchor, wish, centre, size, colour in zip(
        names, anchors, above, centres, sizes, colours, strict=True
    ):
        if (np.abs(centre - wish) > 0.6 * size).any():
            axes.plot(*zip(anchor, centre, strict=True), color=0.75 * colour, lw=0.7)
        axes.text(
            *(centre[0], centre[1], name),
            ha="center",
            va="center_baseline",
            fontproperties=bold,
            color=tuple(0.62 * colour),
            path_effects=halo,
        )


def separate(centres: np.ndarray, sizes: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Boxes one after the other, each at the free place that is nearest to its own.

    Args:
        centres, sizes: (L, 2) of the boxes, where they would be and their extent.
        edges: (2,) of the rectangle from the origin that they are kept in.

    Returns:
        (L, 2) centres; none covers another, unless there is no room.
    """
    reach = max(edges) // 5
    steps = 5.0 * np.arange(-reach, reach + 1)
    away = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    away = away[np.argsort(np.linalg.norm(away, axis=1), kind="stable")]
    placed = np.empty_like(centres)
    for i, (centre, size) in enumerate(zip(centres, sizes, strict=True)):
        tried = np.clip(centre + away, size / 2, edges - size / 2)  # (T, 2)
        apart = np.abs(tried[:, None] - placed[:i])  # (T, i, 2)
        free = (apart >= (sizes[:i] + size) / 2 - 1e-9).any(axis=2).all(axis=1)
        placed[i] = tried[free.argmax()]  # the first, its own, if none is free
    return placed
