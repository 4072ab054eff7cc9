"""EdgeConv, the layer of DGCNN (Wang et al., TOG 2019, equations 7 and 8)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.knn import knn

SLOPE = 0.2  # of every LeakyReLU


def edge_features(x: Tensor, idx: Tensor) -> Tensor:
    """Edge features ``[x_j - x_i, x_i]`` for point i and its neighbours j.

    Args:
        x: (B, C, N) features.
        idx: (B, N, K) neighbours of each point, as :func:`models.knn.knn` gives them.

    Returns:
        (B, 2C, N, K)
    """
    batch, channels, points = x.shape
    first = torch.arange(batch, device=x.device).view(-1, 1, 1) * points
    rows = x.transpose(1, 2).reshape(batch * points, channels)
    neighbours = rows.index_select(0, (idx + first).flatten())
    neighbours = neighbours.view(*idx.shape, channels).permute(0, 3, 1, 2)
    centre = x.unsqueeze(3).expand_as(neighbours)  # (B, C, N, K)
    return torch.cat([neighbours - centre, centre], dim=1)


def edge_layer(in_channels: int, out_channels: int) -> nn.Sequential:
    """A 1x1 convolution on edges without bias, BatchNorm over all edges, LeakyReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.LeakyReLU(SLOPE),
    )


def edge_conv(x: Tensor, k: int, *layers: nn.Sequential) -> Tensor:
    """EdgeConv: the layers on every edge, then the maximum over the K neighbours.

    The graph is built from ``x`` itself, so it is dynamic when layers are stacked.

    Args:
        x: (B, C, N) features.
        k: neighbours a point in the kNN graph.
        layers: one or more :func:`edge_layer`, the first with 2C input channels.

    Returns:
        (B, C', N) with C' the last layer's output channels.

    Raises:
        ValueError: if N < k or ``x`` is not (B, C, N).
    """
    edges = edge_features(x, knn(x, k))
    for layer in layers:
        edges = layer(edges)  # (B, C', N, K)
    return edges.max(dim=3).values
