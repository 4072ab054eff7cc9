"""The kernels' kNN graph against sorting, and its reverse adjacency."""

import functools
import importlib
import itertools

import numpy as np
import pytest
import torch

from models.fused.batch import RaggedBatch
from tests.models.conftest import Kernels, load_kernels
from tests.models.reference import neighbours, random_clouds


def ragged(sizes: list[int], counts: np.ndarray) -> RaggedBatch:
    offsets = torch.tensor([0, *itertools.accumulate(sizes)])
    points = max(*sizes, int(counts.sum()) // len(sizes))
    merged = bool(counts.max() > 1)
    return RaggedBatch(offsets, torch.from_numpy(counts), points, merged)


def found(
    package: Kernels, x: torch.Tensor, sizes: list[int], k: int, counts=None
) -> np.ndarray:
    """The neighbours by a package of kernels, in clouds of the given sizes."""
    counts = np.ones(len(x), np.float32) if counts is None else counts
    result = package.knn(x, ragged(sizes, counts), k)
    assert result.dtype == torch.int32 and result.shape == (len(x), k)
    return result.numpy()


@pytest.fixture
def knn(kernels):
    return functools.partial(found, kernels)


def by_sorting(x: np.ndarray | torch.Tensor, k: int) -> np.ndarray:
    """The nearest points of one cloud (N, C), by the definition."""
    return neighbours(torch.as_tensor(x).T[None], k)[0].numpy()


def random_rows(points: int, channels: int = 5) -> torch.Tensor:
    """(N, C) in float64."""
    return random_clouds(1, points, channels=channels)[0].T.contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("sizes", "k", "channels"),
    [
        *(([1, 1], 1, 5), ([9, 9], 9, 3), ([66, 66], 17, 34)),
        *(([40, 40], 5, 3), ([30, 7, 70], 6, 4)),
    ],
)
def test_the_nearest_in_order(sizes, k, channels, dtype, knn):
    x = random_rows(sum(sizes), channels).to(dtype)
    clouds = zip(itertools.accumulate([0, *sizes]), x.split(sizes), strict=False)
    expected = [start + by_sorting(cloud, k) for start, cloud in clouds]
    assert np.array_equal(knn(x, sizes, k), np.concatenate(expected))


def equal_points(places: int) -> torch.Tensor:
    x = np.random.default_rng(3).integers(0, places, 600)
    return torch.tensor(np.stack([x, x % 7, -x, x, x], axis=1), dtype=torch.float32)


@pytest.mark.parametrize(
    ("name", "x", "k"),
    [
        ("numba", random_rows(257).float(), 40),
        ("numba", random_rows(700).float(), 100),
        ("triton", random_rows(131).float(), 130),  # more than a GPU's registers hold
        *(("numba", equal_points(places), 20) for places in (1, 2, 30)),
    ],
)
def test_many_points_neighbours_or_equal_points(name, x, k):
    actual = found(load_kernels(name), x, [len(x)], k)
    assert np.array_equal(actual, by_sorting(x, k))


@pytest.mark.slow
def test_more_candidates_than_a_list_holds(knn):
    x = np.arange(40, dtype=np.float32)[:, None] // np.array([36, 40], np.float32)
    assert np.array_equal(knn(torch.from_numpy(x), [40], 5), by_sorting(x, 5))


def test_a_point_with_nan_hides_no_other(knn):
    x = random_rows(80).float()
    expected = by_sorting(x[1:], 15) + 1
    x[0] = float("nan")
    assert np.array_equal(knn(x, [80], 15)[1:], expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_of_equally_far_points_the_smaller_index_comes_first(dtype, knn):
    # Points of a grid: coordinates and distances are exact.
    grid = np.stack(np.meshgrid(np.arange(6), np.arange(5)), axis=-1).reshape(-1, 2)
    x = np.concatenate([grid, grid[::3]]).astype(dtype)
    assert np.array_equal(knn(torch.from_numpy(x), [len(x)], 11), by_sorting(x, 11))


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
    x = random_rows(40, 3).float()
    x[25] = float("nan")
    actual = knn(x, [20, 20], 5)
    assert np.array_equal(actual[:20], by_sorting(x[:20], 5))
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
