"""Maps, confusion matrices and neighbours: what they show, where, in which colour."""

from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from tests.utils.drawing.test_clouds import assert_readable
from tests.utils.judging.test_knn import nearest
from utils.drawing import features
from utils.drawing.features import (
    OTHER,
    SAME,
    class_colours,
    confusion_figure,
    map_figure,
    neighbour_figure,
    plane_map,
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
    assert len(draws) == 8 and tuple(longer) in draws


def test_a_map_keeps_groups_of_directions_together() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 20)
    vectors = 4 * np.eye(3, 16)[labels] + 0.3 * random.normal(size=(60, 16))
    # Lengths, which a map of Euclidean distances would show.
    vectors *= np.exp(random.normal(scale=2, size=(60, 1)))
    places = plane_map(vectors, seed=0)
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (labels[apart.argmin(axis=1)] == labels).all()


def test_a_map_is_seeded_and_takes_few_features() -> None:
    # Wide noise, where PCA depends on its random start.
    vectors = np.random.default_rng(0).normal(size=(300, 600))
    first, again = (plane_map(vectors, seed=0) for _ in range(2))
    assert np.array_equal(first, again)
    assert np.isfinite(plane_map(vectors[:4], seed=0)).all()  # a lower perplexity


def test_a_class_has_one_colour_a_number_at_its_middle_and_a_name(monkeypatch) -> None:
    monkeypatch.setattr(features, "plane_map", lambda vectors, seed: vectors)
    random = np.random.default_rng(0)
    labels = np.array([4] * 30 + [2] * 30)
    places = random.normal(size=(60, 2)) + np.where(labels == 4, 0, 30)[:, None]
    names = [f"class {i}" for i in range(7)]
    both = {"left": places, "right": -places}
    figure = map_figure(both, labels, names, 60, seed=0, title="all")
    assert figure.get_suptitle() == "all: 60 clouds"
    for axes, (heading, shown) in zip(figure.axes, both.items(), strict=True):
        assert axes.get_title() == heading
        colours = class_colours(2)
        for i, label in enumerate((2, 4)):
            dots, number = axes.collections[i], axes.texts[i]
            drawn, own = np.asarray(dots.get_offsets()), shown[labels == label]
            assert np.allclose(sorted(map(tuple, drawn)), sorted(map(tuple, own)))
            assert np.allclose(dots.get_facecolors()[:, :3], colours[i])
            assert number.get_text() == str(label)
            assert np.allclose(number.get_position(), np.median(own, axis=0))
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["2  class 2", "4  class 4"]
    few = map_figure(both, labels, names, 10, seed=0, title="all")
    rows = [len(dots.get_offsets()) for dots in few.axes[0].collections]
    assert rows == [5, 5] and few.get_suptitle() == "all: 10 clouds"


def test_forty_classes_stay_readable_and_differ_in_colour(monkeypatch) -> None:
    monkeypatch.setattr(features, "plane_map", lambda vectors, seed: vectors)
    mixed = np.random.default_rng(0).normal(size=(200, 2))
    names = [f"a_long_name_{i}" for i in range(40)]
    labels = np.repeat(np.arange(40), 5)
    figure = map_figure({"a": mixed, "b": mixed}, labels, names, 200, 0, "title")
    headings = [axes.title for axes in figure.axes]
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 40
    assert_readable(figure, [*legend.get_texts(), *headings, figure._suptitle])
    colours = class_colours(40)
    apart = np.abs(colours[:, None] - colours[None]).max(axis=2) + np.eye(40)
    assert apart.min() > 0.05


def test_counts_names_accuracies_and_shares_are_in_their_places() -> None:
    matrix = np.array([[3, 1, 0], [0, 0, 0], [2, 0, 6]])
    (axes,) = confusion_figure(matrix, ["ant", "bee", "cat"], "a set: ").axes
    assert axes.get_title() == "a set: accuracy 75.00%"
    ticks = [t.get_text() for t in axes.get_xticklabels()]
    assert (axes.get_xlabel(), ticks) == ("predicted", ["ant", "bee", "cat"])
    ticks = [t.get_text().split() for t in axes.get_yticklabels()]
    assert ticks == [["ant", "75%"], ["bee", "–"], ["cat", "75%"]]
    counts = {t.get_position(): t.get_text() for t in axes.texts}
    # (column, row): predicted and true class
    expected = {(0, 0): "3", (1, 0): "1", (0, 2): "2", (2, 2): "6"}
    assert counts == {(x + 0.5, y + 0.5): n for (x, y), n in expected.items()}
    assert axes.yaxis.get_inverted()
    shares = np.array([[0.75, 0.25, 0], [0, 0, 0], [0.25, 0, 0.75]])
    assert np.allclose(axes.collections[0].get_array(), shares)
    with pytest.raises(ValueError):
        confusion_figure(matrix, ["a", "b"])


@pytest.mark.parametrize("classes", [10, 40])
def test_a_confusion_matrix_stays_readable(classes: int) -> None:
    matrix = 100 * np.eye(classes, dtype=int)
    matrix[:3] = 100
    names = [f"a_long_name_{i}" for i in range(classes)]
    figure = confusion_figure(matrix, names, "title")
    (axes,) = figure.axes
    texts = [*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels(), axes.title]
    assert min(t.get_fontsize() for t in texts) >= 6.5
    assert_readable(figure, texts)


def test_neighbours_are_those_of_a_naive_loop_and_framed_by_their_class() -> None:
    random = np.random.default_rng(0)
    names = ["ant", "bee", "cat"]
    train, test = (
        SimpleNamespace(
            points=random.normal(size=(count, 8, 3)),
            labels=random.integers(3, size=count),
            class_names=names,
        )
        for count in (40, 9)
    )
    encoders = {
        name: (random.normal(size=(40, 6)), random.normal(size=(9, 6)))
        for name in ("before", "after")
    }
    # The length of a feature plays no part.
    encoders["before"][0][:] *= np.exp(random.normal(size=(40, 1)))
    figure, shares = neighbour_figure(train, test, encoders, 2, 5, seed=0, title="t")
    for name, (vectors, queries) in encoders.items():
        near = [nearest(query, vectors, 5) for query in queries]
        same = [
            train.labels[i] == label
            for label, neighbours in zip(test.labels, near, strict=True)
            for _, i in neighbours
        ]
        assert shares[name] == pytest.approx(np.mean(same))
    assert list(shares) == list(encoders)
    assert figure.get_suptitle() == "t"
    rows = spread_rows(test.labels, 2, seed=0)
    cells = np.array(figure.axes).reshape(2, 6)
    for q, (first, *others) in zip(rows, cells, strict=True):
        assert first.get_title() == f"{names[test.labels[q]]}\nquery"
        drawn = [np.transpose(a.collections[0]._offsets3d) for a in (first, *others)]
        expected = [test.points[q], *(train.points[i] for _, i in near[q])]
        assert np.allclose(drawn, expected)
        for axes, (cosine, i) in zip(others, near[q], strict=True):
            label = train.labels[i]
            assert axes.get_title() == f"{names[label]}\ncosine {cosine:.3f}"
            frame = to_rgb(axes.patch.get_edgecolor())
            assert np.allclose(frame, SAME if label == test.labels[q] else OTHER)
    assert_readable(figure, [axes.title for axes in figure.axes])
