"""Maps and neighbours, against loops written from their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from utils.drawing import feature_space


def test_neighbours_are_those_of_a_naive_loop() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(40, 6)).astype(np.float32)
    features[7] = 3 * features[2]  # the same direction: the earlier row comes first
    queries = random.normal(size=(9, 6)).astype(np.float32)
    queries[0] = 0.1 * features[2]
    rows, cosine = feature_space.nearest(queries, features, 5)
    assert rows[0, :2].tolist() == [2, 7]
    for q, query in enumerate(queries.astype(float)):
        found = []
        for i, feature in enumerate(features.astype(float)):
            dot = sum(a * b for a, b in zip(query, feature, strict=True))
            found.append((dot / math.hypot(*query) / math.hypot(*feature), i))
        found.sort(key=lambda pair: (-round(pair[0], 9), pair[1]))
        assert rows[q].tolist() == [i for _, i in found[:5]]
        assert np.allclose(cosine[q], [value for value, _ in found[:5]], atol=1e-9)


def test_of_equals_the_earlier_are_nearer() -> None:
    rows, _ = feature_space.nearest(np.ones((2, 4)), np.ones((300, 4)), 6)
    assert (rows == np.arange(6)).all()


def test_neighbours_of_nothing_and_of_too_few_are_refused() -> None:
    features = np.eye(3)
    zero = feature_space.nearest(np.zeros((1, 3)), features, 3)
    assert (zero[1] == 0).all()  # no direction, no warning, no nan
    for count in (0, 4):
        with pytest.raises(ValueError, match=f"{count} neighbours asked of 3"):
            feature_space.nearest(features, features, count)


def test_the_share_counts_every_neighbour_of_every_query() -> None:
    labels = np.array([0, 0, 1, 2])
    rows = np.array([[0, 1], [0, 2], [3, 2]])
    share = feature_space.same_class_share(np.array([0, 1, 0]), labels, rows)
    assert share == 3 / 6


def test_classes_take_turns_in_a_draw() -> None:
    labels = np.repeat([4, 1, 7], [50, 3, 1])
    rows = feature_space.spread_rows(labels, 3, seed=0)
    assert sorted(labels[rows]) == [1, 4, 7]
    longer = feature_space.spread_rows(labels, 9, seed=0)
    assert longer[:3].tolist() == rows.tolist()
    assert sorted(labels[longer]) == [1, 1, 1, 4, 4, 4, 4, 4, 7]
    everything = feature_space.spread_rows(labels, 1000, seed=0)
    assert sorted(everything) == list(range(54))
    draws = {tuple(feature_space.spread_rows(labels, 9, seed)) for seed in range(8)}
    assert len(draws) == 8
    assert tuple(longer) in draws


def test_a_map_keeps_groups_of_directions_together() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 20)
    centres = 4 * np.eye(3, 16)
    features = centres[labels] + 0.3 * random.normal(size=(60, 16))
    # Lengths that a Euclidean map would be a map of.
    features *= np.exp(random.normal(scale=2, size=(60, 1)))
    places = feature_space.plane_map(features, seed=0)
    assert places.shape == (60, 2)
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (labels[apart.argmin(axis=1)] == labels).all()


def test_a_map_is_seeded() -> None:
    # Wide noise, where the search for principal components depends on its start.
    features = np.random.default_rng(0).normal(size=(300, 600))
    first, again = (feature_space.plane_map(features, seed=0) for _ in range(2))
    assert np.array_equal(first, again)


def test_a_map_of_few_clouds_lowers_the_perplexity() -> None:
    features = np.random.default_rng(0).normal(size=(5, 8))
    assert np.isfinite(feature_space.plane_map(features[:4], seed=0)).all()
    assert np.isfinite(feature_space.plane_map(features, seed=0)).all()
    with pytest.raises(ValueError, match="at least 4 features, got 3"):
        feature_space.plane_map(features[:3], seed=0)
    features[2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        feature_space.plane_map(features, seed=0)
