"""The kernels' kNN graph against sorting, and its reverse adjacency."""

from __future__ import annotations

import importlib
import itertools

import numpy as np
import pytest
import torch

from models.fused.batch import RaggedBatch
from tests.models.conftest import load_kernels
from tests.models.reference import neighbours, random_clouds


def ragged(sizes: list[int], counts: np.ndarray) -> RaggedBatch:
    offsets = torch.tensor([0, *itertools.accumulate(sizes)])
    points = max(*sizes, int(counts.sum()) // len(sizes))
    return RaggedBatch(
        offsets, torch.from_numpy(counts), points, bool(counts.max() > 1)
    )


@pytest.fixture
def knn(kernels):
    def found(x: torch.Tensor, sizes: list[int], k: int, counts=None) -> np.ndarray:
        counts = np.ones(len(x), np.float32) if counts is None else counts
        result = kernels.knn(x, ragged(sizes, counts), k)
        assert result.dtype == torch.int32 and result.shape == (len(x), k)
        return result.numpy()

    return found


def knn_by(name: str, x: torch.Tensor, k: int) -> np.ndarray:
    """The neighbours in one cloud, by one package of kernels."""
    batch = ragged([len(x)], np.ones(len(x), np.float32))
    return load_kernels(name).knn(x, batch, k).numpy()


def by_sorting(x: np.ndarray, k: int) -> np.ndarray:
    """All squared distances of a cloud, sorted; of equal ones the smaller index."""
    distance = ((x[:, None] - x[None]) ** 2).sum(axis=2)
    return np.stack([np.lexsort((np.arange(len(x)), row))[:k] for row in distance])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("points", "k", "channels"), [(1, 1, 5), (9, 9, 3), (66, 17, 34), (40, 5, 3)]
)
def test_the_nearest_in_order(points, k, channels, dtype, knn):
    clouds = random_clouds(2, points, channels=channels).to(dtype)
    rows = clouds.transpose(1, 2).reshape(-1, channels).contiguous()
    actual = knn(rows, [points, points], k).reshape(2, points, k)
    actual -= np.array([0, points])[:, None, None]
    assert np.array_equal(actual, neighbours(clouds, k).numpy())


@pytest.mark.parametrize(
    ("points", "k", "name"),
    # 130 neighbours are more than registers hold on a GPU.
    [(257, 40, "numba"), (700, 100, "numba"), (131, 130, "triton")],
)
def test_many_points_or_neighbours(points, k, name):
    x = random_clouds(1, points, channels=5)[0].T.float().contiguous()
    assert np.array_equal(knn_by(name, x, k), by_sorting(x.double().numpy(), k))


@pytest.mark.parametrize("places", [1, 2, 30])
def test_many_equal_points(places):
    x = np.random.default_rng(3).integers(0, places, 600)
    x = np.stack([x, x % 7, -x, x, x], axis=1).astype(np.float32)
    actual = knn_by("numba", torch.from_numpy(x), 20)
    assert np.array_equal(actual, by_sorting(x, 20))


@pytest.mark.slow
def test_more_candidates_than_a_list_holds(knn):
    x = np.arange(40, dtype=np.float32)[:, None] // np.array([36, 40], np.float32)
    assert np.array_equal(knn(torch.from_numpy(x), [40], 5), by_sorting(x, 5))


def test_a_point_with_nan_hides_no_other(knn):
    x = random_clouds(1, 80, channels=5)[0].T.float().contiguous()
    expected = by_sorting(x[1:].numpy(), 15) + 1
    x[0] = float("nan")
    assert np.array_equal(knn(x, [80], 15)[1:], expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_of_equally_far_points_the_smaller_index_comes_first(dtype, knn):
    # Points of a grid: coordinates and distances are exact.
    grid = np.stack(np.meshgrid(np.arange(6), np.arange(5)), axis=-1).reshape(-1, 2)
    x = np.concatenate([grid, grid[::3]]).astype(dtype)
    assert np.array_equal(knn(torch.from_numpy(x), [len(x)], 11), by_sorting(x, 11))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clouds_of_different_sizes(dtype, knn):
    sizes, k = [30, 7, 70], 6
    x = np.random.default_rng(0).normal(size=(sum(sizes), 4)).astype(dtype)
    actual, start = knn(torch.from_numpy(x), sizes, k), 0
    for size in sizes:
        own = slice(start, start + size)
        assert np.array_equal(actual[own] - start, by_sorting(x[own], k))
        start += size


@pytest.mark.parametrize(
    ("sizes", "counts", "k"),
    [([12], {0: 3, 4: 2}, 14), ([6, 3], {6: 4}, 5), ([1], {0: 20}, 5)],
)
def test_merged_points_take_as_many_places(sizes, counts, k, knn):
    """Also where a cloud has fewer rows than neighbours."""
    x = np.random.default_rng(1).normal(size=(sum(sizes), 3)).astype(np.float32)
    weight = np.ones(len(x), np.float32)
    weight[list(counts)] = list(counts.values())
    start = sum(sizes[:-1])
    actual = knn(torch.from_numpy(x), sizes, k, weight)[start:]
    order = by_sorting(x[start:], sizes[-1]) + start
    for row, names in zip(actual, order, strict=True):
        every = [name for name in names for _ in range(int(weight[name]))]
        assert row.tolist() == every[:k]


def test_distances_that_are_not_finite_give_rows_of_the_cloud(knn):
    x = random_clouds(1, 40)[0].T.float().contiguous()
    x[25] = float("nan")
    actual = knn(x, [20, 20], 5)
    assert np.array_equal(actual[:20], by_sorting(x[:20].numpy(), 5))
    assert ((actual[20:] >= 20) & (actual[20:] < 40)).all()


@pytest.mark.parametrize("name", ["numba", "triton"])
def test_reverse_adjacency(name):
    load_kernels(name)
    graph = importlib.import_module(f"models.fused.{name}.graph")
    random = np.random.default_rng(2)
    idx = random.integers(0, 20, (20, 5)).astype(np.int32)
    counts = random.integers(1, 4, 20).astype(np.float64)
    given = (idx, counts)
    if name == "triton":
        given = map(torch.from_numpy, given)
    degree, begin, source = graph.reverse_adjacency(*given)
    for j in range(20):
        ends_here = [i for i in range(20) for target in idx[i] if target == j]
        assert source[begin[j] : begin[j + 1]].tolist() == ends_here
        assert degree[j] == sum(counts[i] for i in ends_here)
