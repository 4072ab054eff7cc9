"""Figures of results: clouds, a confusion matrix, a map of features, neighbours.

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
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.textpath import TextPath

# Of neighbours: of the query's class or not (Okabe and Ito, told apart by all eyes).
SAME, OTHER = (0 / 255, 158 / 255, 115 / 255), (213 / 255, 94 / 255, 0 / 255)
_INK = (0.17, 0.27, 0.42)  # clouds without classes of their own
_DPI = 120

_AZIMUTH, _ELEVATION = np.radians(40.0), np.radians(25.0)
_SHARES = LinearSegmentedColormap.from_list(
    "shares", ["#ffffff", "#cfe1f2", "#6aaed6", "#2171b5", "#08306b"]
)
_PANEL = 5.6  # inches, the edge of a map
_LABEL = 8.0  # points, the type of a map's labels
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
    figure = Figure((edge + 2.6, edge + 2.2), dpi=_DPI, layout="constrained")
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
    height, width = _PANEL + 0.75, (_PANEL + 0.15) * len(maps) + 0.15
    figure = Figure((width, height), dpi=_DPI, facecolor="white")
    figure.text(0.5, 1 - 0.17 / height, title, ha="center", va="top", fontsize=12)
    size = float(np.clip(9000 / max(len(labels), 1), 7, 36))
    for column, (heading, places) in enumerate(maps.items()):
        if len(places) != len(labels):
            raise ValueError(f"{heading}: {len(places)} places, {len(labels)} labels")
        left = 0.15 + column * (_PANEL + 0.15)
        box = (left / width, 0.1 / height, _PANEL / width, _PANEL / height)
        axes = figure.add_axes(box, xticks=[], yticks=[], facecolor="0.985")
        axes.spines[:].set_color("0.85")
        axes.set_title(heading, fontsize=10, color="0.35", pad=4)
        # Points of the page from the lower left corner, as type is measured.
        span = max(float(np.ptp(places, axis=0).max()), 1e-9)
        middle = (places.max(axis=0) + places.min(axis=0)) / 2
        page = 72 * _PANEL * (0.5 + 0.90 * (places - middle) / span)  # (M, 2)
        axes.set(xlim=(0, 72 * _PANEL), ylim=(0, 72 * _PANEL))
        shade = colours[np.searchsorted(present, labels)]
        x, y = page.T
        axes.scatter(x, y, s=size, c=shade, alpha=0.75, linewidths=0)
        medoids = [_medoid(page[labels == label]) for label in present]
        names = [class_names[label] for label in present]
        _label_places(axes, np.array(medoids), names, colours)
    return figure


def _medoid(places: np.ndarray) -> np.ndarray:
    """The place (2,) of (M, 2) with the least sum of distances to the others."""
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    return places[apart.sum(axis=1).argmin()]


def _label_places(
    axes: Axes, anchors: np.ndarray, names: Sequence[str], colours: np.ndarray
) -> None:
    """Names above their anchors (L, 2), or near by; axes in points, square."""
    bold = FontProperties(weight="bold", size=_LABEL)
    widths = [TextPath((0, 0), name, prop=bold).get_extents().width for name in names]
    sizes = np.array([(width + 5, 1.35 * _LABEL) for width in widths])
    above = anchors + np.array((0, 1.1 * _LABEL))  # the cloud itself stays to be seen
    centres = separate(above, sizes, 72 * _PANEL)
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


def separate(centres: np.ndarray, sizes: np.ndarray, edge: float) -> np.ndarray:
    """Boxes one after the other, each at the free place that is nearest to its own.

    Args:
        centres, sizes: (L, 2) of the boxes, where they would be and their extent.
        edge: of the square from the origin that they are kept in.

    Returns:
        (L, 2) centres; none covers another, unless there is no room.
    """
    steps = 5.0 * np.arange(-(edge // 5), edge // 5 + 1)
    away = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    away = away[np.argsort(np.linalg.norm(away, axis=1), kind="stable")]
    placed = np.empty_like(centres)
    for i, (centre, size) in enumerate(zip(centres, sizes, strict=True)):
        tried = np.clip(centre + away, size / 2, edge - size / 2)  # (T, 2)
        apart = np.abs(tried[:, None] - placed[:i])  # (T, i, 2)
        free = (apart >= (sizes[:i] + size) / 2 - 1e-9).any(axis=2).all(axis=1)
        placed[i] = tried[free.argmax()]  # the first, its own, if none is free
    return placed


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
