"""Two-dimensional maps of features (t-SNE), coloured by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patheffects import withStroke
from matplotlib.textpath import TextPath

from utils.drawing.clouds import DPI
from utils.drawing.neighbours import unit_rows
from utils.parallel.seed import SAMPLE, generator

_PANEL = 5.6  # inches: the edge of a map
_GAP = 0.15  # inches between maps
_LABEL = 8.0  # points: the font size of class names


def spread_rows(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """A random sample of rows, equally many of every class that has enough.

    Classes take turns in a random order: a sample smaller than the number of classes
    has different classes, and a larger sample begins with a smaller one.

    Args:
        labels: (M,) classes.
        count: size of the sample; all M rows if it is larger.
        seed: the sample is a function of it and the labels.

    Returns:
        (min(count, M),) distinct row numbers.
    """
    random = generator(SAMPLE, seed)
    turn, place = np.empty(len(labels), np.int64), np.empty(len(labels), np.int64)
    for order, label in enumerate(random.permutation(np.unique(labels))):
        rows = random.permutation(np.flatnonzero(labels == label))
        turn[rows], place[rows] = np.arange(len(rows)), order
    return np.lexsort((place, turn))[:count]


def plane_map(features: np.ndarray, seed: int, perplexity: float = 30.0) -> np.ndarray:
    """t-SNE (van der Maaten and Hinton, 2008) of features scaled to length 1.

    Neighbourhoods are meaningful; the size of a cluster and the distance between two
    clusters are not.

    Args:
        features: (M, F), finite.
        seed: of the PCA that initialises the map.
        perplexity: the effective number of neighbours; at most a third of the others.

    Returns:
        (M, 2) float32.

    Raises:
        ValueError: for fewer than four rows, or features that are not finite.
    """
    from sklearn.manifold import TSNE  # slow to import

    if len(features) < 4:
        raise ValueError(f"a map needs at least 4 features, got {len(features)}")
    perplexity = min(perplexity, (len(features) - 1) / 3)
    tsne = TSNE(init="pca", perplexity=perplexity, random_state=seed)
    return tsne.fit_transform(unit_rows(features)).astype(np.float32)


def class_colours(count: int) -> np.ndarray:
    """RGB (count, 3) in [0, 1]: hues around the circle, three brightnesses in turn."""
    order = np.arange(count)
    hue = (order / max(count, 1) + 0.57) % 1
    value = np.array([0.85, 0.6, 0.75])[order % 3]
    return hsv_to_rgb(np.stack([hue, np.full(count, 0.75), value], axis=1))


def map_figure(
    maps: Mapping[str, np.ndarray],
    labels: np.ndarray,
    class_names: Sequence[str],
    title: str = "",
) -> Figure:
    """Maps of the same clouds side by side.

    The name of a class stands above the cloud at its centre. Where names would overlap
    it is moved, and a line leads to that cloud.

    Args:
        maps: (M, 2) coordinates by the heading of the panel.
        labels: (M,) classes, indices into ``class_names``.
        class_names: of all classes, including those without a cloud.
        title: above the figure.

    Raises:
        ValueError: if a map has another number of rows than there are labels.
    """
    present, index = np.unique(labels, return_inverse=True)
    colours = class_colours(len(present))
    names = [class_names[label] for label in present]
    size = float(np.clip(9000 / max(len(labels), 1), 7, 36))
    width, height = len(maps) * (_PANEL + _GAP) + _GAP, _PANEL + 0.75
    figure = Figure((width, height), dpi=DPI, facecolor="white")
    figure.suptitle(title, fontsize=12)
    for column, (heading, places) in enumerate(maps.items()):
        if len(places) != len(labels):
            raise ValueError(f"{heading}: {len(places)} places, {len(labels)} labels")
        left = _GAP + column * (_PANEL + _GAP)
        box = (left / width, 0.1 / height, _PANEL / width, _PANEL / height)
        axes = figure.add_axes(box, xticks=[], yticks=[], facecolor="0.985")
        axes.spines[:].set_color("0.85")
        axes.set_title(heading, fontsize=10, color="0.35", pad=4)
        # One unit is a point of the page, in which the width of names is measured.
        edge = 72 * _PANEL
        middle = (places.max(axis=0) + places.min(axis=0)) / 2
        span = max(float(np.ptp(places, axis=0).max()), 1e-9)
        page = edge / 2 + 0.9 * edge * (places - middle) / span  # (M, 2)
        axes.set(xlim=(0, edge), ylim=(0, edge))
        axes.scatter(*page.T, s=size, c=colours[index], alpha=0.75, linewidths=0)
        centres = [_centre(page[index == i]) for i in range(len(present))]
        _draw_names(axes, np.array(centres), names, colours, edge)
    return figure


def _centre(places: np.ndarray) -> np.ndarray:
    """The row (2,) of (M, 2) that is nearest to the median of all rows."""
    apart = np.linalg.norm(places - np.median(places, axis=0), axis=1)
    return places[apart.argmin()]


def _draw_names(
    axes: Axes,
    anchors: np.ndarray,
    names: Sequence[str],
    colours: np.ndarray,
    edge: float,
) -> None:
    """Names above their anchors (L, 2), or nearby; all in points of the page."""
    bold = FontProperties(weight="bold", size=_LABEL)
    widths = [TextPath((0, 0), name, prop=bold).get_extents().width for name in names]
    sizes = np.array([(width + 5, 1.35 * _LABEL) for width in widths])
    wishes = anchors + np.array((0, 1.1 * _LABEL))  # leaves the cloud visible
    centres = separate(wishes, sizes, edge)
    moved = (np.abs(centres - wishes) > 0.6 * sizes).any(axis=1)
    for i, name in enumerate(names):
        if moved[i]:
            axes.plot(*np.stack([anchors[i], centres[i]]).T, color=colours[i], lw=0.7)
        text = axes.text(*centres[i], name, fontproperties=bold)
        text.set(ha="center", va="center_baseline", color=tuple(0.7 * colours[i]))
        text.set_path_effects([withStroke(linewidth=2.0, foreground="white")])


def separate(wishes: np.ndarray, sizes: np.ndarray, edge: float) -> np.ndarray:
    """Place boxes one after another, each at the free place nearest to its wish.

    Args:
        wishes, sizes: (L, 2) centres and extents of the boxes.
        edge: of the square, from the origin, that the boxes are kept in.

    Returns:
        (L, 2) centres; boxes overlap only if there is no room.
    """
    steps = np.arange(-edge, edge, 5.0)
    away = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    away -= away[np.abs(away).sum(axis=1).argmin()]
    away = away[np.argsort(np.linalg.norm(away, axis=1), kind="stable")]
    placed = np.empty_like(wishes)
    for i, (wish, size) in enumerate(zip(wishes, sizes, strict=True)):
        tried = np.clip(wish + away, size / 2, edge - size / 2)  # (T, 2)
        apart = np.abs(tried[:, None] - placed[:i])  # (T, i, 2)
        free = (apart >= (sizes[:i] + size) / 2 - 1e-9).any(axis=2).all(axis=1)
        placed[i] = tried[free.argmax()]  # the first, its wish, if none is free
    return placed
