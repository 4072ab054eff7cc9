"""Clouds coloured by part, as PLY files and as a contact sheet."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from plyfile import PlyData, PlyElement

from utils.drawing.cloud_figures import draw_cloud, point_size
from utils.errors import UsageError
from utils.judging.metrics import CATEGORY_OF_PART, PARTS_PER_CATEGORY, shape_iou
from utils.parallel import distributed

# A colour for every part of a category (Okabe and Ito, told apart by all eyes), and one
# for points that were given a part of another category.
PALETTE = np.array(
    [
        *((0, 114, 178), (230, 159, 0), (0, 158, 115)),
        *((204, 121, 167), (86, 180, 233), (213, 94, 0)),
    ],
    np.uint8,
)
FOREIGN = np.array((60, 60, 60), np.uint8)

_ROWS = 8  # of the contact sheet; further categories go beside them
_INCHES = 1.4  # a cloud's cell, whose edge is the unit below
_PITCH = 1.16  # of the rows: a cloud and its caption


def part_colours(parts: np.ndarray, category: int) -> np.ndarray:
    """RGB (N, 3) uint8 of parts (N,) of a shape of the category."""
    own = CATEGORY_OF_PART[parts] == category
    first = sum(PARTS_PER_CATEGORY[:category])
    index = np.where(own, parts.astype(np.int64) - first, 0)
    return np.where(own[:, None], PALETTE[index], FOREIGN)


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
    fields = [(axis, "f4") for axis in "xyz"]
    fields += [(colour, "u1") for colour in ("red", "green", "blue")]
    vertices = np.empty(len(points), [*fields, ("part", "u1")])
    for axis, values in zip("xyz", points.T, strict=True):
        vertices[axis] = values
    colours = part_colours(parts, category).T
    for name, values in zip(("red", "green", "blue"), colours, strict=True):
        vertices[name] = values
    vertices["part"] = parts
    PlyData([PlyElement.describe(vertices, "vertex")]).write(str(path))


class LabelledParts(Protocol):
    """A test split of which every rank has its own rows."""

    class_names: list[str]
    start: int  # row of the whole split that row 0 is
    points: np.ndarray  # (M, N, 3)
    labels: np.ndarray  # (M,) categories
    parts: np.ndarray  # (M, N)


def check_empty(folder: str | Path, flag: str) -> None:
    """Refuse a folder that new files would be mixed with, or that cannot be written.

    Raises:
        ValueError: naming the flag, if it is no folder, not empty, or not writable.
    """
    path = Path(folder)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"{flag} {folder} is not an empty folder")
    nearest = path.resolve()
    while not nearest.exists():
        nearest = nearest.parent
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise ValueError(f"{flag} {folder}: {nearest} is not a folder to write to")


def save_part_examples(
    folder: str | Path, test: LabelledParts, predicted: np.ndarray, count: int
) -> None:
    """Rank 0 writes the first ``count`` shapes of each category of the whole split.

    Args:
        folder: see :func:`save_part_predictions`.
        test: this rank's shapes.
        predicted: (M, N) their predicted parts.
        count: shapes of a category.

    Raises:
        UsageError: if the folder cannot be written.
    """
    category = distributed.gather_array(test.labels)
    firsts = [np.flatnonzero(category == c)[:count] for c in np.unique(category)]
    rows = np.sort(np.concatenate(firsts))
    mine = rows[(rows >= test.start) & (rows < test.start + len(predicted))]
    clouds = [
        distributed.gather_array(x[mine - test.start])
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
    """``<category>_<row>_{truth,predicted}.ply`` of M shapes, ``contact_sheet.png``.

    Args:
        folder: is made where it is missing.
        class_names: names of the categories.
        rows: (M,) row of each shape among those that were read.
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
    sheet.savefig(folder / "contact_sheet.png", dpi=130)


def part_sheet(
    class_names: list[str],
    rows: np.ndarray,
    category: np.ndarray,
    points: np.ndarray,
    target: np.ndarray,
    predicted: np.ndarray,
) -> Figure:
    """A row a category: every shape as it is labelled, and as it was predicted.

    Arguments as of :func:`save_part_predictions`.
    """
    iou = shape_iou(predicted.astype(np.int64), target, category).numpy()
    present = np.unique(category)
    blocks = [present[i : i + _ROWS] for i in range(0, len(present), _ROWS)]
    pairs = [max(int((category == c).sum()) for c in block) for block in blocks]
    # Cells wide: the name, then truth and prediction in turn.
    lefts = np.cumsum([0.0, *(2 * count + 0.9 for count in pairs)])
    width, height = lefts[-1], len(blocks[0]) * _PITCH
    figure = Figure((_INCHES * width, _INCHES * (height + 0.5)), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height + 0.2, -0.3), aspect="equal")
    axes.axis("off")
    note = "dark grey: a part of another category"
    size = point_size(points.shape[1])
    axes.text(0.08, height + 0.08, note, fontsize=8, color="0.35", va="center")
    for order, c in enumerate(present):
        left, top = lefts[order // _ROWS], order % _ROWS * _PITCH
        axes.text(
            *(left + 0.08, top + 0.5, class_names[c]),
            fontsize=9,
            weight="bold",
            va="center",
        )
        for column, i in enumerate(np.flatnonzero(category == c)):
            x = left + 0.9 + 2 * column
            if top == 0:
                _heading(axes, x)
            axes.fill_between((x, x + 1.94), top, top + _PITCH - 0.06, color="0.965")
            for shift, parts in ((0.0, target[i]), (0.94, predicted[i])):
                colours = part_colours(parts, c) / 255
                centre = (x + shift + 0.5, top + 0.48)
                draw_cloud(axes, points[i], colours, centre, size)
            axes.text(
                *(x + 0.97, top + 1.02, f"#{rows[i]}  IoU {iou[i]:.0%}"),
                fontsize=6.5,
                color="0.3",
                ha="center",
            )
    return figure


def _heading(axes: Axes, x: float) -> None:
    for shift, name in ((0.5, "ground truth"), (1.44, "predicted")):
        axes.text(x + shift, -0.1, name, fontsize=8, color="0.35", ha="center")
