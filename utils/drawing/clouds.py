"""Clouds and images in a grid; clouds coloured by part, as PLY files and as a sheet."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import ImageColor
from plyfile import PlyData, PlyElement

from utils.errors import UsageError
from utils.judging.features import Clouds
from utils.judging.metrics import CATEGORY_OF_PART, PARTS_PER_CATEGORY, shape_iou
from utils.parallel import distributed

INK = (0.17, 0.27, 0.42)  # clouds that are not coloured by class or part
# A colour for each part of a category (Okabe and Ito, safe for colour blindness), and
# one for points that were given a part of another category.
_OKABE_ITO = "#0072B2 #E69F00 #009E73 #CC79A7 #56B4E9 #D55E00"
PALETTE = np.array([*map(ImageColor.getrgb, _OKABE_ITO.split())], np.uint8)
FOREIGN = np.array((60, 60, 60), np.uint8)


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


class LabelledParts(Clouds, Protocol):
    """This rank's rows of a test split; the labels are categories."""

    start: int  # row of the complete split that this rank's row 0 is
    parts: np.ndarray  # (M, N)


def part_colours(parts: np.ndarray, category: int) -> np.ndarray:
    """RGB (N, 3) uint8 for the parts (N,) of a shape of the category."""
    in_category = CATEGORY_OF_PART[parts] == category
    first = sum(PARTS_PER_CATEGORY[:category])
    index = np.where(in_category, parts.astype(np.int64) - first, 0)
    return np.where(in_category[:, None], PALETTE[index], FOREIGN)


def check_empty(folder: str | Path, flag: str) -> None:
    """Refuse a folder with files in it, or one that cannot be written.

    Raises:
        ValueError: naming the flag.
    """
    path = Path(folder)
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise ValueError(f"{flag} {folder} is not an empty folder: choose another")
    nearest = path.resolve()
    while not nearest.exists():
        nearest = nearest.parent
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise ValueError(f"{flag} {folder}: {nearest} is not a writable folder")


def save_part_examples(
    folder: str | Path, test: LabelledParts, predicted: np.ndarray, count: int
) -> None:
    """Rank 0 writes the first ``count`` shapes of each category of the whole split.

    Files: ``<category>_<row>_{truth,predicted}.ply`` and ``contact_sheet.png``.
    ``predicted`` (M, N) are the parts of this rank's shapes.

    Raises:
        UsageError: if the folder cannot be written.
    """
    category = distributed.gather_array(test.labels)
    firsts = [np.flatnonzero(category == c)[:count] for c in np.unique(category)]
    rows = np.sort(np.concatenate(firsts))
    local = rows[(rows >= test.start) & (rows < test.start + len(predicted))]
    points, truth, predicted = (
        distributed.gather_array(x[local - test.start])
        for x in (test.points, test.parts, predicted)
    )

    def write() -> None:
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            sheet: dict[int, list[Cell]] = {}  # by category
            iou = shape_iou(predicted.astype(np.int64), truth, category[rows])
            for i, row in enumerate(rows):
                c = category[row]
                name = test.class_names[c]
                cells = sheet.setdefault(c, [])
                for kind, parts, text in (
                    ("truth", truth[i], f"{name} #{row}\ntrue"),
                    ("predicted", predicted[i], f"predicted\nIoU {iou[i]:.0%}"),
                ):
                    path = Path(folder, f"{name}_{row:04d}_{kind}.ply")
                    write_part_cloud(path, points[i], parts, c)
                    cells.append(Cell(points[i], text, part_colours(parts, c) / 255))
            lines = [sheet[c] for c in sorted(sheet)]
            figure = cloud_grid(lines, "dark grey: a part of another category")
            figure.savefig(Path(folder, "contact_sheet.png"))
        except OSError as error:
            raise UsageError(f"{folder} cannot be written: {error}") from error

    distributed.run_on_main(write)


def write_part_cloud(
    path: Path, points: np.ndarray, parts: np.ndarray, category: int
) -> None:
    """A binary PLY file: x, y, z (float32), red, green, blue and part of every point.

    ``points`` (N, 3); ``parts`` (N,) are numbered 0 to 49 over all categories.
    """
    columns = [*points.T, *part_colours(parts, category).T, parts]
    names = "x,y,z,red,green,blue,part"
    formats = "f4,f4,f4,u1,u1,u1,u1"
    vertices = np.rec.fromarrays(columns, names=names, formats=formats)
    PlyData([PlyElement.describe(vertices, "vertex")]).write(str(path))
