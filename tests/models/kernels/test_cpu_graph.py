"""The kNN graph on rows against sorting, and the same graph read backwards."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from models.kernels import Rows
from models.kernels.cpu import graph
from models.kernels.cpu.graph import reverse_edges
from tests.models.reference import neighbours, random_clouds


def knn(x: torch.Tensor, first: np.ndarray, weight: np.ndarray | None, k: int):
    weight = np.ones(len(x)) if weight is None else weight
    points = int(weight.sum()) // (len(first) - 1)
    rows = Rows(*map(torch.from_numpy, (first, weight)), points, len(x) < weight.sum())
    return graph.knn(x, rows, k).numpy()


def by_sorting(x: np.ndarray, k: int) -> np.ndarray:
    """All squared distances of a cloud, sorted; of equal ones the smaller index."""
    distance = ((x[:, None] - x[None]) ** 2).sum(axis=2)
    return np.stack([np.lexsort((np.arange(len(x)), row))[:k] for row in distance])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("points", "k"), [(1, 1), (9, 9), (40, 3), (255, 15), (257, 40), (700, 100)]
)
def test_the_nearest_in_their_order(points, k, dtype):
    clouds = random_clouds(2, points, channels=5).to(dtype)
    rows = clouds.transpose(1, 2).reshape(-1, 5).contiguous()
    first = np.array([0, points, 2 * points])
    found = knn(rows, first, None, k).reshape(2, points, k) - first[:2, None, None]
    assert np.array_equal(found, neighbours(clouds, k).numpy())


def test_of_equally_far_points_the_smaller_index_comes_first():
    # Corners and centre of squares on a grid: coordinates and distances are exact.
    grid = np.stack(np.meshgrid(np.arange(9), np.arange(7)), axis=-1).reshape(-1, 2)
    x = np.concatenate([grid, grid[::3]]).astype(np.float32)
    found = knn(torch.from_numpy(x), np.array([0, len(x)]), None, 11)
    assert np.array_equal(found, by_sorting(x, 11))


def test_clouds_of_different_sizes():
    sizes, k = (30, 7, 300), 6
    first = np.concatenate([[0], np.cumsum(sizes)])
    x = np.random.default_rng(0).normal(size=(sum(sizes), 4))
    found = knn(torch.from_numpy(x), first, None, k)
    for start, end in itertools.pairwise(first):
        assert np.array_equal(found[start:end] - start, by_sorting(x[start:end], k))


def test_copies_take_as_many_places():
    x = np.random.default_rng(1).normal(size=(12, 3))
    copies = np.ones(12, np.int64)
    copies[[0, 4]] = 3, 2
    found = knn(torch.from_numpy(x), np.array([0, 12]), copies, 14)
    order = by_sorting(x, 12)
    for row, names in zip(found, order, strict=True):
        everyone = [name for name in names for _ in range(copies[name])]
        assert row.tolist() == everyone[:14]


def test_a_cloud_of_copies_alone():
    x = torch.zeros(1, 3)
    assert knn(x, np.array([0, 1]), np.array([20]), 5).tolist() == [[0] * 5]


def test_edges_read_backwards():
    random = np.random.default_rng(2)
    idx = random.integers(0, 20, (20, 5)).astype(np.int32)
    weight = random.integers(1, 4, 20).astype(np.float64)
    degree, begin, source = reverse_edges(idx, weight)
    for j in range(20):
        ends_here = [i for i in range(20) for target in idx[i] if target == j]
        assert source[begin[j] : begin[j + 1]].tolist() == ends_here
        assert degree[j] == sum(weight[i] for i in ends_here)
