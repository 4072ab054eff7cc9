"""The kNN graph on rows against sorting, and the same graph read backwards."""

from __future__ import annotations

import importlib
import itertools

import numpy as np
import pytest
import torch

from models.fused.rows import Rows
from tests.models.conftest import triton_kernels
from tests.models.reference import neighbours, random_clouds


def rows_of(first: np.ndarray, weight: np.ndarray) -> Rows:
    points = max(np.diff(first).max(), int(weight.sum()) // (len(first) - 1))
    tensors = map(torch.from_numpy, (first, weight))
    return Rows(*tensors, points, len(weight) < weight.sum())


@pytest.fixture
def knn(kernels):
    def found(x, first, weight, k):
        weight = np.ones(len(x), np.float32) if weight is None else weight
        rows = rows_of(first, weight)
        result = kernels.knn(x, rows, k)
        assert result.dtype == torch.int32 and result.shape == (len(x), k)
        return result.numpy()

    return found


def by_sorting(x: np.ndarray, k: int) -> np.ndarray:
    """All squared distances of a cloud, sorted; of equal ones the smaller index."""
    distance = ((x[:, None] - x[None]) ** 2).sum(axis=2)
    return np.stack([np.lexsort((np.arange(len(x)), row))[:k] for row in distance])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("points", "k", "channels"),
    [(1, 1, 5), (9, 9, 5), (40, 3, 33), (65, 17, 70), (130, 15, 20)],
)
def test_the_nearest_in_their_order(points, k, channels, dtype, knn):
    clouds = random_clouds(2, points, channels=channels).to(dtype)
    rows = clouds.transpose(1, 2).reshape(-1, channels).contiguous()
    first = np.array([0, points, 2 * points])
    found = knn(rows, first, None, k).reshape(2, points, k) - first[:2, None, None]
    assert np.array_equal(found, neighbours(clouds, k).numpy())


@pytest.mark.parametrize(("points", "k"), [(255, 15), (257, 40), (700, 100)])
def test_many_points(points, k):
    knn = importlib.import_module("models.fused.numba").knn
    clouds = random_clouds(1, points, channels=5).float()
    rows = rows_of(np.array([0, points]), np.ones(points))
    found = knn(clouds[0].T.contiguous(), rows, k)
    assert torch.equal(found.long(), neighbours(clouds, k)[0])


@pytest.mark.parametrize("places", [1, 2, 30])
def test_many_equal_points(places):
    knn = importlib.import_module("models.fused.numba").knn
    x = np.random.default_rng(3).integers(0, places, 600)
    x = np.stack([x, x % 7, -x, x, x], axis=1).astype(np.float32)
    found = knn(torch.from_numpy(x), rows_of(np.array([0, 600]), np.ones(600)), 20)
    assert np.array_equal(found.numpy(), by_sorting(x, 20))


def test_a_point_that_is_not_finite_hides_no_other():
    knn = importlib.import_module("models.fused.numba").knn
    x = random_clouds(1, 700, channels=5)[0].T.float().contiguous()
    rows = rows_of(np.array([0, 700]), np.ones(700))
    expected = by_sorting(x[1:].numpy(), 15) + 1
    x[0] = float("nan")
    assert np.array_equal(knn(x, rows, 15)[1:].numpy(), expected)


def test_more_neighbours_than_registers_hold():
    knn = triton_kernels().knn
    clouds = random_clouds(2, 150, channels=5).float()
    rows = rows_of(np.array([0, 150, 300]), np.ones(300))
    found = knn(clouds.transpose(1, 2).reshape(300, 5), rows, 130).view(2, 150, 130)
    expected = neighbours(clouds, 130) + torch.tensor([0, 150])[:, None, None]
    assert torch.equal(found.long(), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_of_equally_far_points_the_smaller_index_comes_first(dtype, knn):
    # Corners and centre of squares on a grid: coordinates and distances are exact.
    grid = np.stack(np.meshgrid(np.arange(9), np.arange(7)), axis=-1).reshape(-1, 2)
    x = np.concatenate([grid, grid[::3]]).astype(dtype)
    found = knn(torch.from_numpy(x), np.array([0, len(x)]), None, 11)
    assert np.array_equal(found, by_sorting(x, 11))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clouds_of_different_sizes(dtype, knn):
    sizes, k = (30, 7, 150), 6
    first = np.concatenate([[0], np.cumsum(sizes)])
    x = np.random.default_rng(0).normal(size=(sum(sizes), 4)).astype(dtype)
    found = knn(torch.from_numpy(x), first, None, k)
    for start, end in itertools.pairwise(first):
        assert np.array_equal(found[start:end] - start, by_sorting(x[start:end], k))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_copies_take_as_many_places(dtype, knn):
    x = np.random.default_rng(1).normal(size=(12, 3)).astype(dtype)
    copies = np.ones(12, dtype)
    copies[[0, 4]] = 3, 2
    found = knn(torch.from_numpy(x), np.array([0, 12]), copies, 14)
    order = by_sorting(x, 12)
    for row, names in zip(found, order, strict=True):
        everyone = [name for name in names for _ in range(int(copies[name]))]
        assert row.tolist() == everyone[:14]


def test_fewer_rows_than_neighbours_in_the_second_cloud(knn):
    x = np.random.default_rng(1).normal(size=(9, 3)).astype(np.float32)
    weight = np.ones(9, np.float32)
    weight[6] = 4  # the second cloud: 6, 7, 8
    found = knn(torch.from_numpy(x), np.array([0, 6, 9]), weight, 5)
    order = by_sorting(x[6:], 3) + 6
    for row, names in zip(found[6:], order, strict=True):
        everyone = [name for name in names for _ in range(int(weight[name]))]
        assert row.tolist() == everyone[:5]


def test_a_cloud_of_copies_alone(knn):
    x, copies = torch.zeros(1, 3), np.array([20.0], np.float32)
    assert knn(x, np.array([0, 1]), copies, 5).tolist() == [[0] * 5]


def test_distances_that_are_not_finite_give_rows_of_the_cloud(knn):
    x = random_clouds(1, 40)[0].T.float().contiguous()
    x[25] = float("nan")
    found = knn(x, np.array([0, 20, 40]), None, 5)
    expected = by_sorting(x[:20].numpy(), 5)
    assert np.array_equal(found[:20], expected)
    assert ((found[20:] >= 20) & (found[20:] < 40)).all()


@pytest.mark.parametrize("form", ["numba", "triton"])
def test_edges_read_backwards(form):
    if form == "triton":
        triton_kernels()
    graph = importlib.import_module(f"models.fused.{form}.graph")
    random = np.random.default_rng(2)
    idx = random.integers(0, 20, (20, 5)).astype(np.int32)
    weight = random.integers(1, 4, 20).astype(np.float64)
    given = (idx, weight)
    if form == "triton":
        given = map(torch.from_numpy, given)
    degree, begin, source = graph.reverse_edges(*given)
    for j in range(20):
        ends_here = [i for i in range(20) for target in idx[i] if target == j]
        assert source[begin[j] : begin[j + 1]].tolist() == ends_here
        assert degree[j] == sum(weight[i] for i in ends_here)
