"""Figures of clouds: where points are drawn, and in which colour."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.utils.drawing.overlaps import assert_readable
from utils.drawing.clouds import draw_cloud, project, training_figure


def test_a_cloud_is_upright_and_its_far_points_are_paler() -> None:
    points = np.array([[0.0, 0, 3], [0, 2, 0], [0, 0, 0]])
    flat, order, fade = project(points)
    assert order.tolist() == [2, 1, 0]  # z comes towards the viewer
    assert flat[1, 1] > flat[0, 1]
    assert flat[1, 0] == pytest.approx(flat[0, 0])
    assert fade[2] == 0 < fade[0] <= 0.45
    assert np.abs(flat).max() == pytest.approx(0.5)
    axes = Figure().add_subplot()
    colours = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    draw_cloud(axes, points, colours)
    (cloud,) = axes.collections
    assert np.allclose(cloud.get_offsets(), flat)
    shown = cloud.get_facecolors()[:, :3]
    assert np.allclose(shown, 1 - (1 - colours[order]) * (1 - fade[:, None]))


def test_training_shapes_are_drawn_in_their_places() -> None:
    random = np.random.default_rng(0)
    stored = list(random.normal(size=(2, 30, 3)))
    views = [(cloud + 1, 2 * cloud) for cloud in stored]
    views[1][0][10:] = views[1][0][0]  # dropped points are copies of the first
    images = list(random.integers(0, 255, (2, 8, 8, 3), np.uint8))
    rendered = [list(random.integers(0, 255, (3, 9, 9, 3), np.uint8)) for _ in "ab"]
    figure = training_figure(["ant", "bee"], stored, views, images, rendered)
    cells = np.array(figure.axes).reshape(2, 7)
    full = "30 of 30 points"
    below = [[axes.get_xlabel() for axes in row[:3]] for row in cells]
    assert below == [["ant", full, full], ["bee", "10 of 30 points", full]]
    for row, own in zip(cells, zip(stored, views, strict=True), strict=True):
        for axes, points in zip(row, (own[0], *own[1]), strict=False):
            (cloud,) = axes.collections
            assert np.allclose(cloud.get_offsets(), project(points)[0])
    for row, image, others in zip(cells, images, rendered, strict=True):
        for axes, pixels in zip(row[3:], (image, *others), strict=True):
            (shown,) = axes.images
            assert np.array_equal(shown.get_array(), pixels)
    texts = [t for a in figure.axes for t in (a.title, a.xaxis.label)]
    assert_readable(figure, texts)
