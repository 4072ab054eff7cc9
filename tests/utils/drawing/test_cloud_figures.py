"""Figures of clouds: what they say, in which colour and where, not every pixel."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from tests.utils.drawing.test_figures import covered, drawn
from utils.drawing import cloud_figures


def test_neighbours_are_framed_and_named_by_their_class() -> None:
    random = np.random.default_rng(0)
    query = random.normal(size=(2, 30, 3))
    found = random.normal(size=(2, 3, 30, 3))
    labels = np.array([[0, 1, 0], [2, 0, 1]])
    cosine = np.array([[0.9, 0.8, 0.7], [0.6, 0.5, 0.4]])
    figure = cloud_figures.neighbour_figure(
        *(query, np.array([0, 1]), found, labels, cosine),
        *(["ant", "bee", "cat"], "a title"),
    )
    (axes,) = figure.axes
    frames = [to_rgb(box.get_edgecolor()[:3]) for box in axes.patches]
    asked, (same, other) = frames[0], (cloud_figures.SAME, cloud_figures.OTHER)
    row_1, row_2 = [asked, same, other, same], [asked, other, other, same]
    assert np.allclose(frames, [*row_1, *row_2])
    assert not np.allclose(asked, same)
    assert not np.allclose(asked, other)
    texts = [t.get_text() for t in axes.texts]
    names = [t for t in texts if t in ("ant", "bee", "cat")]
    assert names == ["ant", "ant", "bee", "ant", "bee", "cat", "ant", "bee"]
    assert [t for t in texts if t.startswith("cosine")] == [
        f"cosine {value:.3f}" for value in cosine.ravel()
    ]
    assert texts[0] == "a title"
    clouds = [np.asarray(c.get_offsets()) for c in axes.collections]
    wanted = [query[0], *found[0], query[1], *found[1]]
    for box, cloud, points in zip(axes.patches, clouds, wanted, strict=True):
        extent = np.array((box.get_width(), box.get_height()))
        middle = np.array(box.get_xy()) + extent / 2
        assert np.allclose(cloud - middle, cloud_figures.project(points)[0])
    assert covered(axes.texts, drawn(figure)) == []


def test_a_cloud_is_upright_and_its_far_points_are_paler() -> None:
    points = np.array([[0.0, 0, 3], [0, 2, 0], [0, 0, 0]])
    flat, order, fade = cloud_figures.project(points)
    place = dict(zip(order.tolist(), zip(flat, fade, strict=True), strict=True))
    assert order.tolist() == [2, 1, 0]
    assert place[1][0][1] < place[2][0][1]  # y of the figure points down
    assert place[1][0][0] == pytest.approx(place[2][0][0])
    assert place[0][1] == 0 < place[2][1] <= 0.45  # z comes towards the viewer
    assert np.abs(flat).max() == pytest.approx(0.42)
    axes = Figure().add_subplot()
    colours = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    cloud_figures.draw_cloud(axes, points, colours, (5, 7), 1.0)
    (cloud,) = axes.collections
    assert np.allclose(cloud.get_offsets(), flat + np.array((5, 7)))
    shown = cloud.get_facecolors()[:, :3]
    assert np.allclose(shown, 1 - (1 - colours[order]) * (1 - fade[:, None]))


def test_training_shapes_are_drawn_in_their_places() -> None:
    random = np.random.default_rng(0)
    stored = list(random.normal(size=(2, 30, 3)))
    views = [(cloud + 1, 2 * cloud) for cloud in stored]
    views[1][0][10:] = views[1][0][0]  # dropped points are copies of the first
    pictures = list(random.random((2, 8, 8, 3)))
    renderings = [list(random.integers(0, 255, (3, 9, 9, 3), np.uint8)) for _ in "ab"]
    figure = cloud_figures.training_figure(
        ["ant", "bee"], stored, views, pictures, renderings
    )
    (axes,) = figure.axes
    canvas = drawn(figure)
    texts = [t.get_text() for t in axes.texts]
    assert texts[:5] == [
        *("stored cloud", "first view", "second view", "picture"),
        "as rendered, and other views",
    ]
    whole = "30 of 30 points"
    assert texts[5:] == ["ant", whole, whole, "bee", "10 of 30 points", whole]
    assert covered(axes.texts, canvas) == []
    clouds = [np.asarray(c.get_offsets()) for c in axes.collections]
    wanted = [stored[0], *views[0], stored[1], *views[1]]
    for box, cloud, points in zip(axes.patches, clouds, wanted, strict=True):
        extent = np.array((box.get_width(), box.get_height()))
        middle = np.array(box.get_xy()) + extent / 2
        assert np.allclose(cloud - middle, cloud_figures.project(points)[0])
    shown = [pictures[0], *renderings[0], pictures[1], *renderings[1]]
    tops = []
    for image, picture in zip(axes.images, shown, strict=True):
        assert np.array_equal(image.get_array(), picture)
        left, right, bottom, top = image.get_extent()
        assert top < bottom  # y of the figure points down: upright
        assert right - left == pytest.approx(0.94)
        assert bottom - top == pytest.approx(0.94)
        tops.append(top)
    assert tops[0] == tops[3] < tops[4] == tops[7]
    width, height = figure.get_size_inches()
    (x0, x1), (y1, y0) = axes.get_xlim(), axes.get_ylim()
    assert width / (x1 - x0) == pytest.approx(height / (y1 - y0))  # nothing is squeezed
