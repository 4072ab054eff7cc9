"""Exact k nearest neighbours: the kNN graph that EdgeConv is computed on."""

from __future__ import annotations

import torch
from torch import Tensor


def knn(x: Tensor, k: int) -> Tensor:
    """Indices of the k nearest neighbours of every point, the point itself included.

    Squared Euclidean distances in feature space (DGCNN section 3.1), in float32 or
    float64 whatever autocast says: in bfloat16 neighbours would be decided by rounding.

    Args:
        x: (B, C, N) features.
        k: neighbours a point, 1 <= k <= N.

    Returns:
        (B, N, k) int64, nearest first.

    Raises:
        ValueError: if ``x`` has another shape or fewer than k points.
    """
    if x.dim() != 3:
        raise ValueError(f"knn expects (B, C, N), got shape {tuple(x.shape)}")
    if not 1 <= k <= x.shape[2]:
        raise ValueError(
            f"a graph of {k} neighbours needs 1 <= k <= N, the cloud has "
            f"N = {x.shape[2]} points (--k, --num_points)"
        )
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        x = x.detach()
        if x.dtype != torch.float64:
            x = x.float()
        # One cloud at a time: B matrices of N x N at once would be most of the memory.
        return torch.stack([_knn_one(cloud, k) for cloud in x])


def _knn_one(x: Tensor, k: int) -> Tensor:
    square = (x * x).sum(0)  # (N,)
    # |x_i - x_j|^2 without the term |x_i|^2, which is the same for every j.
    distance = torch.addmm(square[None], x.T, x, alpha=-2)  # (N, N)
    return distance.topk(k, dim=1, largest=False).indices
