"""What an encoder's features separate: t-SNE maps, confusions, nearest neighbours."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from utils.drawing.clouds import Cell, cloud_grid
from utils.judging.features import Clouds
from utils.judging.knn import nearest
from utils.parallel.seed import SAMPLE, generator

# Frames of neighbours of the query's class, and of another class: colours that
# colour-blind people can tell apart (Okabe and Ito).
SAME, OTHER = (0 / 255, 158 / 255, 115 / 255), (213 / 255, 94 / 255, 0 / 255)


def spread_rows(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """A random sample of rows, equally many of every class that has enough.

    Classes take turns in a random order: a sample smaller than the number of classes
    has different classes, and a larger sample begins with a smaller one. ``labels``
    (M,) are classes; returns (min(count, M),) distinct row numbers.
    """
    random = generator(SAMPLE, seed)
    turn, tiebreak = np.empty(len(labels), np.int64), np.empty(len(labels), np.int64)
    for order, label in enumerate(random.permutation(np.unique(labels))):
        rows = random.permutation(np.flatnonzero(labels == label))
        turn[rows], tiebreak[rows] = np.arange(len(rows)), order
    return np.lexsort((tiebreak, turn))[:count]


def class_colours(count: int) -> np.ndarray:
    """RGB (count, 3) in [0, 1]: hues around the circle, three brightnesses in turn."""
    order = np.arange(count)
    hue = (order / max(count, 1) + 0.57) % 1
    value = np.array([0.85, 0.6, 0.75])[order % 3]
    return hsv_to_rgb(np.stack([hue, np.full(count, 0.75), value], axis=1))


def plane_map(features: np.ndarray, seed: int) -> np.ndarray:
    """t-SNE (van der Maaten and Hinton, 2008) of features scaled to length 1.

    Neighbourhoods are meaningful; the size of a cluster and the distance between two
    clusters are not. ``features`` (M, F) are finite, M at least 4; ``seed`` is of the
    PCA that initialises the map. Returns (M, 2) float32.
    """
    from sklearn.manifold import TSNE  # slow to import
    from sklearn.preprocessing import normalize

    perplexity = min(30.0, (len(features) - 1) / 3)
    tsne = TSNE(init="pca", perplexity=perplexity, random_state=seed)
    return tsne.fit_transform(normalize(features.astype(np.float64))).astype(np.float32)


def map_figure(
    features: Mapping[str, np.ndarray],
    labels: np.ndarray,
    class_names: Sequence[str],
    count: int,
    seed: int,
    title: str,
) -> Figure:
    """t-SNE maps of the same clouds side by side, coloured by class.

    The number of a class stands at the median of its clouds; a legend names it.
    ``features`` has (M, F) by the heading of the panel; ``labels`` (M,) are indices
    into ``class_names``; ``count`` clouds are shown at most, by :func:`spread_rows`.
    """
    rows = spread_rows(labels, count, seed)
    labels = labels[rows]
    present = np.unique(labels)
    columns = -(-len(present) // 24)  # of the legend
    size = (5.2 * len(features) + 1.5 * columns, 5.8)
    figure = Figure(size, dpi=120, facecolor="white", layout="constrained")
    figure.suptitle(f"{title}: {len(rows)} clouds", fontsize=12)
    grid = figure.subplots(1, len(features), squeeze=False).ravel()
    for axes, (heading, vectors) in zip(grid, features.items(), strict=True):
        places = plane_map(vectors[rows], seed)
        axes.set_title(heading, fontsize=10, color="0.35")
        axes.set(xticks=[], yticks=[], facecolor="0.985", box_aspect=1)
        axes.spines[:].set_color("0.85")
        dots = {"s": np.clip(9000 / len(rows), 7, 36), "alpha": 0.75, "linewidths": 0}
        for label, colour in zip(present, class_colours(len(present)), strict=True):
            members = places[labels == label]
            name = f"{label}  {class_names[label]}"
            axes.scatter(*members.T, color=colour, label=name, **dots)
            number = axes.text(*np.median(members, axis=0), label, color=0.7 * colour)
            number.set(ha="center", va="center", fontsize=9, weight="bold")
            number.set_path_effects([withStroke(linewidth=2.0, foreground="white")])
    handles = grid[0].get_legend_handles_labels()
    legend = {"loc": "outside right upper", "ncols": columns, "fontsize": 8}
    figure.legend(*handles, frameon=False, markerscale=1.2, **legend)
    return figure


def confusion_figure(
    matrix: np.ndarray, class_names: Sequence[str], title: str = ""
) -> Figure:
    """Counts in cells, each coloured by its share of its row, the true class.

    ``matrix`` (C, C) has a row for each true class, beside whose name stands its
    accuracy, or a dash if it has no sample. The title precedes the accuracy of all.
    """
    classes = len(class_names)
    count = matrix.sum(axis=1)
    share = matrix / np.maximum(count, 1)[:, None]
    edge = classes * np.clip(6.0 / classes, 0.25, 0.5)  # inches
    letter = min(9.0, 30 * edge / classes)  # points
    size = (edge + 2.2, edge + 2.0)
    figure = Figure(size, dpi=120, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    axes.pcolormesh(share, cmap="Blues", vmin=0, vmax=1, edgecolors="0.9", lw=0.5)
    axes.invert_yaxis()
    for row, column in zip(*np.nonzero(matrix), strict=True):
        colour = "white" if share[row, column] > 0.55 else "0.15"
        number = axes.text(column + 0.5, row + 0.5, matrix[row, column], color=colour)
        number.set(ha="center", va="center", fontsize=letter)
    rows = [
        f"{name}  " + (f"{rate:.0%}" if samples else "–")
        for name, rate, samples in zip(class_names, np.diag(share), count, strict=True)
    ]
    middles = np.arange(classes) + 0.5
    axes.set_xticks(middles, class_names, fontsize=letter, rotation=90)
    axes.set_yticks(middles, rows, fontsize=letter)
    axes.set_xlabel("predicted", color="0.35")
    axes.set_ylabel("true class and its accuracy", color="0.35")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    accuracy = np.trace(matrix) / matrix.sum()
    axes.set_title(f"{title}accuracy {accuracy:.2%}", fontsize=11, pad=10)
    return figure


def neighbour_figure(
    train: Clouds,
    test: Clouds,
    features: Mapping[str, Sequence[np.ndarray]],
    queries: int,
    count: int,
    seed: int,
    title: str = "",
) -> tuple[Figure, dict[str, float]]:
    """Some test clouds, each with its nearest training clouds by the last encoder.

    Args:
        features: of both splits, by encoder.
        queries: test clouds drawn, by :func:`spread_rows` with ``seed``.
        count: neighbours of each by :func:`utils.judging.knn.nearest`, framed in
            ``SAME`` if they have the class of the test cloud, otherwise in ``OTHER``.

    Returns:
        The figure and, by encoder, the share of neighbours with the class of their test
        cloud, over the whole test split.
    """
    share = {}
    for name, (train_features, test_features) in features.items():
        rows, cosine = nearest(test_features, train_features, count)  # (M, count) each
        same = train.labels[rows] == test.labels[:, None]  # (M, count)
        share[name] = float(same.mean())
    grid = []
    for q in spread_rows(test.labels, queries, seed):
        line = [Cell(test.points[q], f"{test.class_names[test.labels[q]]}\nquery")]
        for row, value, correct in zip(rows[q], cosine[q], same[q], strict=True):
            text = f"{test.class_names[train.labels[row]]}\ncosine {value:.3f}"
            frame = SAME if correct else OTHER
            line.append(Cell(train.points[row], text, frame=frame))
        grid.append(line)
    return cloud_grid(grid, title), share
