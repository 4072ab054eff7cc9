"""Maps of features: the sample, t-SNE, and what the figure says, in which colour."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from tests.utils.drawing.overlaps import assert_readable
from utils.drawing.maps import (
    class_colours,
    map_figure,
    plane_map,
    separate,
    spread_rows,
)


def test_classes_take_turns_in_a_sample() -> None:
    labels = np.repeat([4, 1, 7], [50, 3, 1])
    rows = spread_rows(labels, 3, seed=0)
    assert sorted(labels[rows]) == [1, 4, 7]
    longer = spread_rows(labels, 9, seed=0)
    assert longer[:3].tolist() == rows.tolist()
    assert sorted(labels[longer]) == [1, 1, 1, 4, 4, 4, 4, 4, 7]
    assert sorted(spread_rows(labels, 1000, seed=0)) == list(range(54))
    draws = {tuple(spread_rows(labels, 9, seed)) for seed in range(8)}
    assert len(draws) == 8
    assert tuple(longer) in draws


def test_a_map_keeps_groups_of_directions_together() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 20)
    features = 4 * np.eye(3, 16)[labels] + 0.3 * random.normal(size=(60, 16))
    # Lengths, which a map of Euclidean distances would show.
    features *= np.exp(random.normal(scale=2, size=(60, 1)))
    places = plane_map(features, seed=0)
    assert places.shape == (60, 2)
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (labels[apart.argmin(axis=1)] == labels).all()


def test_a_map_is_seeded_and_takes_few_features() -> None:
    # Wide noise, where PCA depends on its random start.
    features = np.random.default_rng(0).normal(size=(300, 600))
    first, again = (plane_map(features, seed=0) for _ in range(2))
    assert np.array_equal(first, again)
    assert np.isfinite(plane_map(features[:4], seed=0)).all()  # a lower perplexity
    with pytest.raises(ValueError, match="at least 4 features, got 3"):
        plane_map(features[:3], seed=0)
    features[2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        plane_map(features[:5], seed=0)


def test_colours_of_classes_differ() -> None:
    colours = class_colours(40)
    assert 0 <= colours.min() < colours.max() <= 1
    apart = np.abs(colours[:, None] - colours[None]).max(axis=2) + np.eye(40)
    assert apart.min() > 0.05


def test_a_class_has_one_colour_and_its_name_at_its_centre() -> None:
    random = np.random.default_rng(0)
    labels = np.array([4] * 30 + [2] * 30)
    places = random.normal(size=(60, 2)) + np.where(labels == 4, 0, 30)[:, None]
    names = [f"class {i}" for i in range(7)]
    figure = map_figure({"left": places, "right": -places}, labels, names, "all")
    assert figure.get_suptitle() == "all"
    assert [axes.get_title() for axes in figure.axes] == ["left", "right"]
    for axes in figure.axes:
        (dots,) = axes.collections
        colours, shown = dots.get_facecolors(), np.asarray(dots.get_offsets())
        assert len(np.unique(colours[labels == 4], axis=0)) == 1
        assert len(np.unique(colours, axis=0)) == 2
        texts = {text.get_text(): text for text in axes.texts}
        assert set(texts) == {"class 2", "class 4"}
        for label in (2, 4):
            text = texts[f"class {label}"]
            middle = np.median(shown[labels == label], axis=0)
            assert np.linalg.norm(text.get_position() - middle) < 25  # of 400 points
            hue = np.array(to_rgb(text.get_color()))
            assert np.allclose(hue, 0.7 * colours[labels == label][0, :3])
    left, right = (np.asarray(a.collections[0].get_offsets()) for a in figure.axes)
    assert np.allclose(left - left.mean(axis=0), right.mean(axis=0) - right, atol=0.1)
    with pytest.raises(ValueError, match="left: 60 places, 3 labels"):
        map_figure({"left": places}, labels[:3], names)


def test_boxes_go_to_the_nearest_free_place() -> None:
    wishes = np.array([[20.0, 20], [80, 80], [81, 80], [99, 10]])
    moved = separate(wishes, np.full((4, 2), (10.0, 6.0)), 100.0)
    assert np.allclose(moved[:2], wishes[:2])  # nothing was in their way
    assert moved[2, 0] == 81
    assert 6 <= abs(moved[2, 1] - 80) <= 11  # up or down, which is nearer
    assert np.allclose(moved[3], (95, 10))  # inside the square


def test_forty_names_do_not_cover_each_other() -> None:
    mixed = np.random.default_rng(0).normal(size=(200, 2))  # all centres near one place
    names = [f"a_long_name_{i}" for i in range(40)]
    (axes,) = map_figure({"": mixed}, np.repeat(np.arange(40), 5), names).axes
    assert len(axes.texts) == 40
    assert_readable(axes.figure, axes.texts)
