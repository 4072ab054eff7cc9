"""The grid of clouds and images, and clouds coloured by part on it."""

import itertools
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from mpl_toolkits.mplot3d import proj3d

from datasets.shapenet_part import CATEGORIES, FIRST_PART, PARTS_PER_CATEGORY
from utils.drawing import clouds
from utils.drawing.clouds import INK, Cell, cloud_grid


def assert_readable(figure: Figure, texts: Iterable[Text]) -> None:
    """Draw the figure: no text covers another or leaves the page."""
    FigureCanvasAgg(figure).draw()
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts if t.get_text()]
    for (a, one), (b, other) in itertools.combinations(boxes, 2):
        assert not one.overlaps(other), (a, b)
    width, height = figure.bbox.size
    for name, box in boxes:
        assert 0 <= box.x0 < box.x1 <= width and 0 <= box.y0 < box.y1 <= height, name


def test_every_cell_is_in_its_place_with_its_text_and_colours() -> None:
    random = np.random.default_rng(0)
    points = random.normal(size=(3, 30, 3))
    image = random.integers(0, 255, (8, 8, 3), np.uint8)
    reds = np.tile((1.0, 0, 0), (30, 1))
    rows = [
        [Cell(points[0], "ant\n30 points"), Cell(points[1], "bee\nfar", reds)],
        [Cell(points[2], "cat", frame=(0, 1, 0)), Cell(image, "seen"), Cell(image)],
    ]
    figure = cloud_grid(rows, "a title")
    assert figure.get_suptitle() == "a title"
    assert_readable(figure, [axes.title for axes in figure.axes])
    cells = [cell for row in rows for cell in row]
    for axes, cell in zip(figure.axes, cells, strict=True):
        assert axes.get_title() == cell.text
        if cell.shown is image:
            assert np.array_equal(axes.images[0].get_array(), image)
            continue
        (cloud,) = axes.collections
        assert np.allclose(np.transpose(cloud._offsets3d), cell.shown)
        colours = cloud.get_facecolors()[:, :3]
        assert np.allclose(colours, reds if cell.colours is reds else INK)
        assert axes.patch.get_edgecolor()[3] == (cell.frame is not None)
    assert to_rgb(figure.axes[2].patch.get_edgecolor()) == (0, 1, 0)
    places = [axes.get_position() for axes in figure.axes]
    assert places[0].x0 == pytest.approx(places[2].x0) and places[0].y0 > places[2].y1
    assert places[4].x0 > places[3].x1  # the first row has nothing there


def test_a_cloud_is_upright_and_comes_towards_the_viewer() -> None:
    points = np.array([[0.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]])
    (axes,) = (figure := cloud_grid([[Cell(points)]])).axes
    figure.canvas.draw()
    x, y, depth = proj3d.proj_transform(*points.T, axes.get_proj())
    assert x[1] == pytest.approx(x[0]) and y[1] > y[0]
    assert x[3] > x[0] > x[2]  # seen from the front and the right
    assert (depth[1:] < depth[0]).all() or (depth[1:] > depth[0]).all()


def test_parts_of_a_category_differ_and_foreign_ones_are_grey() -> None:
    parts_of = zip(FIRST_PART, PARTS_PER_CATEGORY, strict=True)
    for category, (first, count) in enumerate(parts_of):
        colours = clouds.part_colours(np.arange(50), category)
        assert len({tuple(c) for c in colours[first : first + count].tolist()}) == count
        others = np.delete(colours, range(first, first + count), axis=0)
        assert (others == clouds.FOREIGN).all()


def test_the_sheet_shows_truth_beside_prediction(tmp_path: Path, monkeypatch) -> None:
    noted = Mock(side_effect=cloud_grid)
    monkeypatch.setattr(clouds, "cloud_grid", noted)
    test = SimpleNamespace(
        class_names=list(CATEGORIES),
        start=0,
        points=np.random.default_rng(0).normal(size=(3, 20, 3)).astype(np.float32),
        labels=np.array([4, 0, 4]),
        parts=np.array([[12] * 20, [0] * 20, [13] * 20]),
    )
    predicted = np.array([[12] * 10 + [13] * 10, [0] * 20, [40] * 20])
    clouds.save_part_examples(tmp_path, test, predicted, 2)
    assert (tmp_path / "contact_sheet.png").read_bytes().startswith(b"\x89PNG")
    noted.assert_called_once()
    (planes, chairs), _ = noted.call_args.args
    assert [cell.text for cell in (*planes, *chairs)] == [
        *("airplane #1\ntrue", "predicted\nIoU 100%"),
        *("chair #0\ntrue", "predicted\nIoU 62%"),
        *("chair #2\ntrue", "predicted\nIoU 75%"),
    ]
    for cells, rows in ((planes, [1]), (chairs, [0, 2])):
        for i, row in enumerate(rows):
            for cell, own in zip(cells[2 * i :], (test.parts, predicted), strict=False):
                assert np.array_equal(cell.shown, test.points[row])
                colours = clouds.part_colours(own[row], test.labels[row]) / 255
                assert np.array_equal(cell.colours, colours)
    assert (chairs[1].colours * 255 == clouds.PALETTE[[0] * 10 + [1] * 10]).all()


def test_only_empty_folders_are_written_to(tmp_path: Path) -> None:
    clouds.check_empty(tmp_path / "new", "--flag")
    clouds.check_empty(tmp_path, "--flag")
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(ValueError, match=r"--flag .* is not an empty folder"):
            clouds.check_empty(path, "--flag")
