"""Nearest neighbours against sorting all distances."""

import pytest
import torch

import models.knn
from models.knn import knn
from tests.models.reference import neighbours, random_clouds


@pytest.mark.parametrize("channels", [1, 3, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_knn_is_brute_force_in_the_same_order(channels, dtype):
    x = random_clouds(3, 26, channels=channels).to(dtype)
    assert torch.equal(knn(x, 7), neighbours(x, 7))


@pytest.mark.parametrize("block", [7, 200, 10**6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_equally_far_points_the_smaller_index_is_nearer(dtype, block, monkeypatch):
    # Whole numbers: every distance is exact, and most are shared by several points.
    monkeypatch.setitem(models.knn._BLOCK, "cpu", block)
    x = torch.randint(0, 4, (3, 3, 60), generator=torch.Generator().manual_seed(0))
    for k in (1, 7, 59, 60):
        assert torch.equal(knn(x.to(dtype), k), neighbours(x, k))


def test_bfloat16_autocast_does_not_change_the_neighbours():
    x = random_clouds(2, 200, channels=8).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = knn(x, 20)
    assert torch.equal(inside, knn(x, 20))


def test_no_gradient_passes_through_the_graph():
    x = random_clouds(1, 10).requires_grad_()
    assert not knn(x, 3).requires_grad


@pytest.mark.parametrize(
    ("shape", "k", "message"),
    [
        ((1, 3, 10), 0, "0 neighbours.*N = 10"),
        ((1, 3, 10), 11, "11 neighbours.*N = 10"),
        ((10, 3), 2, r"\(B, C, N\).*\(10, 3\)"),
    ],
)
def test_too_few_points_and_another_shape_are_refused(shape, k, message):
    with pytest.raises(ValueError, match=message):
        knn(torch.zeros(shape), k)
