"""The grid of clouds and images."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from mpl_toolkits.mplot3d import proj3d

from tests.utils.drawing.overlaps import assert_readable
from utils.drawing.clouds import INK, Cell, cloud_grid


def test_every_cell_is_in_its_place_with_its_text_and_colours() -> None:
    random = np.random.default_rng(0)
    clouds = random.normal(size=(3, 30, 3))
    image = random.integers(0, 255, (8, 8, 3), np.uint8)
    reds = np.tile((1.0, 0, 0), (30, 1))
    rows = [
        [Cell(clouds[0], "ant\n30 points"), Cell(clouds[1], "bee\nfar", reds)],
        [Cell(clouds[2], "cat", frame=(0, 1, 0)), Cell(image, "seen"), Cell(image)],
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
