"""Clouds coloured by part, as PLY files and as a contact sheet."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import numpy as np
from matplotlib.figure import Figure
from plyfile import PlyData, PlyElement

from utils.drawing.clouds import draw_cloud, grid
from utils.errors import UsageError
from utils.judging.metrics import CATEGORY_OF_PART, PARTS_PER_CATEGORY, shape_iou
from utils.parallel import distributed

# A colour for each part of a category (Okabe and Ito: told apart by people who are
# colour-blind), and one for points that were given a part of another category.
PALETTE = np.array(
    [
        *((0, 114, 178), (230, 159, 0), (0, 158, 115)),
        *((204, 121, 167), (86, 180, 233), (213, 94, 0)),
    ],
    np.uint8,
)
FOREIGN = np.array((60, 60, 60), np.uint8)


class LabelledParts(Protocol):
    """This rank's rows of a test split."""

    class_names: list[str]
    start: int  # row of the complete split that this rank's row 0 is
    points: np.ndarray  # (M, N, 3)
    labels: np.ndarray  # (M,) categories
    parts: np.ndarray  # (M, N)


def part_colours(parts: np.ndarray, category: int) -> np.ndarray:
    """RGB (N, 3) uint8 for the parts (N,) of a shape of the category."""
    own = CATEGORY_OF_PART[parts] == category
    first = sum(PARTS_PER_CATEGORY[:category])
    index = np.where(own, parts.astype(np.int64) - first, 0)
    return np.where(own[:, None], PALETTE[index], FOREIGN)


def check_empty(folder: str | Path, flag: str) -> None:
    """Refuse a folder with files in it, or one that cannot be written.

    Raises:
        ValueError: naming the flag.
    """
    path = Path(folder)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"{flag} {folder} is not an empty folder: name another")
    nearest = path.resolve()
    while not nearest.exists():
        nearest = nearest.parent
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise ValueError(f"{flag} {folder}: {nearest} is not a folder you can write to")


def save_part_examples(
    folder: str | Path, test: LabelledParts, predicted: np.ndarray, count: int
) -> None:
    """Rank 0 writes the first ``count`` shapes of each category of the whole split.

    Args:
        folder: see :func:`save_part_predictions`.
        test: this rank's shapes.
        predicted: (M, N) their predicted parts.
        count: shapes of each category.

    Raises:
        UsageError: if the folder cannot be written.
    """
    category = distributed.gather_array(test.labels)
    firsts = [np.flatnonzero(category == c)[:count] for c in np.unique(category)]
    rows = np.sort(np.concatenate(firsts))
    own = rows[(rows >= test.start) & (rows < test.start + len(predicted))]
    clouds = [
        distributed.gather_array(x[own - test.start])
        for x in (test.points, test.parts, predicted)
    ]

    def write() -> None:
        try:
            save_part_predictions(
                Path(folder), test.class_names, rows, category[rows], *clouds
            )
        except OSError as error:
            raise UsageError(f"{folder} cannot be written: {error}") from error

    distributed.run_on_main(write)


def save_part_predictions(
    folder: Path,
    class_names: list[str],
    rows: np.ndarray,
    category: np.ndarray,
    points: np.ndarray,
    target: np.ndarray,
    predicted: np.ndarray,
) -> None:
    """Write ``<category>_<row>_{truth,predicted}.ply`` and ``contact_sheet.png``.

    Args:
        folder: created if it is missing.
        class_names: names of the categories.
        rows: (M,) row of each shape in the split.
        category: (M,) integers in [0, 16).
        points: (M, N, 3) float32.
        target, predicted: (M, N) parts, numbered 0 to 49 over all categories.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for i, row in enumerate(rows):
        name = f"{class_names[category[i]]}_{row:04d}"
        for kind, parts in (("truth", target[i]), ("predicted", predicted[i])):
            path = folder / f"{name}_{kind}.ply"
            write_part_cloud(path, points[i], parts, category[i])
    sheet = part_sheet(class_names, rows, category, points, target, predicted)
    sheet.savefig(folder / "contact_sheet.png")


def write_part_cloud(
    path: Path, points: np.ndarray, parts: np.ndarray, category: int
) -> None:
    """A binary PLY file: x, y, z, red, green, blue and part of every point.

    Args:
        path: of the file.
        points: (N, 3) float32.
        parts: (N,) numbered 0 to 49 over all categories.
        category: of the shape.
    """
    red, green, blue = part_colours(parts, category).T
    columns = dict(zip("xyz", points.T, strict=True))
    columns |= {"red": red, "green": green, "blue": blue, "part": parts}
    types = [(name, "f4" if name in "xyz" else "u1") for name in columns]
    vertices = np.empty(len(points), types)
    for name, values in columns.items():
        vertices[name] = values
    PlyData([PlyElement.describe(vertices, "vertex")]).write(str(path))


def part_sheet(
    class_names: list[str],
    rows: np.ndarray,
    category: np.ndarray,
    points: np.ndarray,
    target: np.ndarray,
    predicted: np.ndarray,
) -> Figure:
    """A row for each category: every shape with its true and its predicted parts.

    Arguments as of :func:`save_part_predictions`.
    """
    iou = shape_iou(predicted.astype(np.int64), target, category).numpy()
    present, counts = np.unique(category, return_counts=True)
    title = "dark grey: a part of another category"
    figure, cells = grid(len(present), 2 * counts.max(), title)
    for c, axes in zip(present, cells, strict=True):
        pairs = axes.reshape(-1, 2)
        for i, pair in zip(np.flatnonzero(category == c), pairs, strict=False):
            for place, parts in zip(pair, (target[i], predicted[i]), strict=True):
                draw_cloud(place, points[i], part_colours(parts, c) / 255)
            truth = f"{class_names[c]} #{rows[i]}"
            for place, text in zip(pair, (truth, f"IoU {iou[i]:.0%}"), strict=True):
                place.set_xlabel(text, fontsize=7.5, color="0.3")
    for axes in cells.ravel():
        axes.set_visible(axes.has_data())
    for axes, text in zip(cells[0], counts.max() * ["true", "predicted"], strict=True):
        axes.set_title(text, fontsize=8, color="0.35")
    return figure
