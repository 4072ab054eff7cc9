"""Nearest neighbours, against a loop from their definition, and their figure."""

from __future__ import annotations

import math

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from tests.utils.drawing.overlaps import assert_readable
from utils.drawing.clouds import project
from utils.drawing.neighbours import (
    OTHER,
    SAME,
    nearest,
    neighbour_figure,
    same_class_share,
)


def test_neighbours_are_those_of_a_naive_loop() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(40, 6)).astype(np.float32)
    features[7] = 3 * features[2]  # the same direction: the lower row comes first
    queries = random.normal(size=(9, 6)).astype(np.float32)
    queries[0] = 0.1 * features[2]
    rows, cosine = nearest(queries, features, 5)
    assert rows[0, :2].tolist() == [2, 7]
    for q, query in enumerate(queries.astype(float)):
        found = []
        for i, feature in enumerate(features.astype(float)):
            dot = sum(a * b for a, b in zip(query, feature, strict=True))
            found.append((dot / math.hypot(*query) / math.hypot(*feature), i))
        found.sort(key=lambda pair: -round(pair[0], 9))
        assert rows[q].tolist() == [i for _, i in found[:5]]
        assert np.allclose(cosine[q], [value for value, _ in found[:5]], atol=1e-9)


def test_the_lower_of_equal_rows_is_nearer_and_zeros_are_allowed() -> None:
    features = np.eye(2)[np.random.default_rng(0).integers(2, size=3000)]
    rows, _ = nearest(np.eye(2), features, 9)
    for query, found in enumerate(rows):
        assert found.tolist() == np.flatnonzero(features[:, query])[:9].tolist()
    assert (nearest(np.zeros((1, 2)), features, 3)[1] == 0).all()  # no nan
    for count in (0, 4):
        with pytest.raises(ValueError, match=f"{count} neighbours requested from 3"):
            nearest(features[:3], features[:3], count)


def test_the_share_counts_every_neighbour_of_every_query() -> None:
    rows = np.array([[0, 1], [0, 2], [3, 2]])
    share = same_class_share(np.array([0, 1, 0]), np.array([0, 0, 1, 2]), rows)
    assert share == 3 / 6


def test_neighbours_are_framed_and_named_by_their_class() -> None:
    random = np.random.default_rng(0)
    query, found = random.normal(size=(2, 30, 3)), random.normal(size=(2, 3, 30, 3))
    labels = np.array([[0, 1, 0], [2, 0, 1]])
    cosine = np.array([[0.9, 0.8, 0.7], [0.6, 0.5, 0.4]])
    names = ["ant", "bee", "cat"]
    figure = neighbour_figure(
        query, np.array([0, 1]), found, labels, cosine, names, "a title"
    )
    assert figure.get_suptitle() == "a title"
    cells = np.array(figure.axes).reshape(2, 4)
    assert [[axes.get_title() for axes in row] for row in cells] == [
        ["ant", "ant", "bee", "ant"],
        ["bee", "cat", "ant", "bee"],
    ]
    right = [[True, False, True], [False, False, True]]
    for q, row in enumerate(cells):
        assert row[0].get_xlabel() == "query"
        for axes, points in zip(row, (query[q], *found[q]), strict=True):
            (cloud,) = axes.collections
            assert np.allclose(cloud.get_offsets(), project(points)[0])
        for n, axes in enumerate(row[1:]):
            frame = to_rgb(axes.spines["left"].get_edgecolor()[:3])
            assert axes.spines["left"].get_visible()
            assert np.allclose(frame, SAME if right[q][n] else OTHER)
            assert axes.get_xlabel() == f"cosine {cosine[q, n]:.3f}"
    assert_readable(figure, [t for a in figure.axes for t in (a.title, a.xaxis.label)])
