"""Figures: what they say, in which colour and where, not every pixel."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from utils.drawing import figures


def drawn(figure: Figure) -> FigureCanvasAgg:
    """The figure, drawn: places of its texts are known afterwards."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas


def covered(texts: list, canvas: FigureCanvasAgg) -> list[tuple[str, str]]:
    """Pairs of texts that cover each other."""
    boxes = [(t.get_text(), t.get_window_extent(canvas.get_renderer())) for t in texts]
    return [
        (a, b)
        for (a, one), (b, other) in itertools.combinations(boxes, 2)
        if one.overlaps(other)
    ]


def test_a_confusion_matrix_has_counts_names_and_shares_in_their_places() -> None:
    matrix = np.array([[3, 1, 0], [0, 0, 0], [2, 0, 6]])
    figure = figures.confusion_figure(matrix, ["ant", "bee", "cat"], "a title")
    (axes,) = figure.axes
    assert axes.get_title() == "a title"
    for axis, said in ((axes.xaxis, "predicted"), (axes.yaxis, "true class")):
        assert [t.get_text() for t in axis.get_ticklabels()] == ["ant", "bee", "cat"]
        assert axis.get_label_text() == said
    counts = {
        tuple(map(round, t.get_position())): t.get_text()
        for t in axes.texts
        if t.get_text().isdigit()
    }
    # (column, row): a prediction and a truth
    assert counts == {(0, 0): "3", (1, 0): "1", (0, 2): "2", (2, 2): "6"}
    (image,) = axes.images
    shares = [[0.75, 0.25, 0], [0, 0, 0], [0.25, 0, 0.75]]
    assert np.allclose(image.get_array(), shares)
    (right,) = axes.child_axes
    assert [t.get_text() for t in right.get_yticklabels()] == ["75%", "–", "75%"]


@pytest.mark.parametrize("classes", [10, 40])
def test_a_confusion_matrix_stays_readable(classes: int) -> None:
    matrix = 100 * np.eye(classes, dtype=int)
    matrix[:3] = 100
    names = [f"a_long_name_{i}" for i in range(classes)]
    figure = figures.confusion_figure(matrix, names, "title")
    canvas = drawn(figure)
    (axes,) = figure.axes
    assert max(figure.get_size_inches()) < 14
    texts = [*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels()]
    assert min(t.get_fontsize() for t in texts) >= 6.5
    assert covered(axes.texts, canvas) == []
    assert covered(axes.get_xticklabels(), canvas) == []
    assert covered(axes.get_yticklabels(), canvas) == []


def test_a_confusion_matrix_without_its_names_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 3\) does not fit 2 class names"):
        figures.confusion_figure(np.eye(3, dtype=int), ["a", "b"])


def test_colours_of_classes_differ() -> None:
    colours = figures.class_colours(40)
    assert colours.shape == (40, 3)
    assert colours.min() >= 0
    assert colours.max() <= 1
    apart = np.abs(colours[:, None] - colours[None]).max(axis=2) + np.eye(40)
    assert apart.min() > 0.05


def test_maps_have_a_colour_and_a_name_a_class_at_its_middle() -> None:
    random = np.random.default_rng(0)
    labels = np.array([4] * 30 + [2] * 30)
    places = random.normal(size=(60, 2)) + np.where(labels == 4, 0, 30)[:, None]
    names = [f"class {i}" for i in range(7)]
    figure = figures.map_figure(
        {"left": places, "right": -places}, labels, names, "all"
    )
    drawn(figure)
    assert [axes.get_title() for axes in figure.axes] == ["left", "right"]
    for axes in figure.axes:
        (dots,) = axes.collections
        colours, shown = dots.get_facecolors(), np.asarray(dots.get_offsets())
        assert len(np.unique(colours[labels == 4], axis=0)) == 1
        assert len(np.unique(colours, axis=0)) == 2
        texts = {text.get_text(): text for text in axes.texts}
        assert set(texts) == {"class 2", "class 4"}
        for label in (2, 4):
            own = shown[labels == label]
            place = np.array(texts[f"class {label}"].get_position())
            middle = np.median(own, axis=0)
            assert np.linalg.norm(place - middle) < 25  # points, of a panel of 400
            hue = np.array(to_rgb(texts[f"class {label}"].get_color()))
            assert np.allclose(hue, 0.62 * colours[labels == label][0, :3])
    left, right = (
        np.asarray(axes.collections[0].get_offsets()) for axes in figure.axes
    )
    assert np.allclose(left - left.mean(axis=0), right.mean(axis=0) - right, atol=0.1)


def test_forty_names_do_not_cover_each_other() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(40), 5)
    mixed = random.normal(size=(200, 2))  # all medoids near one place
    names = [f"a_long_name_{i}" for i in range(40)]
    figure = figures.map_figure({"": mixed}, labels, names)
    canvas = drawn(figure)
    (axes,) = figure.axes
    assert len(axes.texts) == 40
    assert covered(axes.texts, canvas) == []
    inside = axes.get_window_extent()
    for text in axes.texts:
        box = text.get_window_extent(canvas.get_renderer())
        assert inside.x0 <= box.x0 < box.x1 <= inside.x1
        assert inside.y0 <= box.y0 < box.y1 <= inside.y1


@pytest.mark.parametrize(("height", "share"), [(1, 0.5), (7, 0.7), (30, 1.0)])
def test_flat_maps_have_low_panels(height: float, share: float) -> None:
    places = np.random.default_rng(0).random((50, 2)) * (1, 0.05)
    places[:2] = (0, 0), (1, 0.1 * height)
    tall = places * (1, 0.1)
    labels = np.zeros(50, int)
    figure = figures.map_figure({"a": tall, "b": places}, labels, ["class"])
    drawn(figure)
    for axes in figure.axes:
        box = axes.get_window_extent()
        assert box.height / box.width == pytest.approx(share)
        (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
        assert (y1 - y0) / (x1 - x0) == pytest.approx(share)  # nothing is squeezed
        shown = np.asarray(axes.collections[0].get_offsets())
        assert (shown > (x0, y0)).all()
        assert (shown < (x1, y1)).all()


def test_a_map_of_other_clouds_is_refused() -> None:
    with pytest.raises(ValueError, match="left: 4 places, 3 labels"):
        figures.map_figure({"left": np.zeros((4, 2))}, np.zeros(3, int), ["a"])


def test_boxes_go_to_the_nearest_free_place() -> None:
    centres = np.array([[20.0, 20], [80, 80], [81, 80], [99, 10]])
    moved = figures.separate(centres, np.full((4, 2), (10.0, 6.0)), np.array((100, 90)))
    assert np.allclose(moved[:2], centres[:2])  # nothing was in their way
    assert moved[2, 0] == 81
    assert 6 <= abs(moved[2, 1] - 80) <= 11  # up or down, where it is nearer
    assert np.allclose(moved[3], (95, 10))  # inside the square
