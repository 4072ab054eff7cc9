"""EdgeConv, the layer of DGCNN (Wang et al., TOG 2019, equations 7 and 8).

The encoders see their batch through :func:`open_clouds`, in one of two forms that give
the same numbers: the plain one here is the definition, the one in :mod:`models.fused`
is what runs where it can.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from models.fused.rows import obstacle
from models.knn import knn

if TYPE_CHECKING:
    from models.fused.clouds import FusedClouds

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


class PlainClouds:
    """A batch of clouds (B, C, N), each operation as it is defined.

    Args:
        points: (B, 3, N).
        k: neighbours a point in every kNN graph.
    """

    def __init__(self, points: Tensor, k: int) -> None:
        self.points, self.k = points, k

    def transform(self, matrices: Tensor) -> Tensor:
        """Points as rows times their cloud's matrix (B, 3, 3) -> (B, 3, N)."""
        return (self.points.transpose(1, 2) @ matrices).transpose(1, 2)

    def edge_conv(self, x: Tensor, *layers: nn.Sequential) -> Tensor:
        """(B, C, N) -> (B, C', N), see :func:`edge_conv`."""
        return edge_conv(x, self.k, *layers)

    def join(self, *features: Tensor) -> Tensor:
        """Features beside each other."""
        return torch.cat(features, dim=1)

    def of_points(self, x: Tensor) -> Tensor:
        """(B, C, N), as it is."""
        return x

    def pool(self, x: Tensor, layer: nn.Sequential) -> tuple[Tensor, Tensor]:
        """A point layer, then maximum and mean over the points: (B, C') each."""
        x = layer(x)
        return x.amax(dim=2), x.mean(dim=2)


def chosen_form(form: str, device: torch.device) -> tuple[str, str]:
    """Which form ``--edgeconv`` means on a device, and why, for the log.

    Args:
        form: ``fused``, ``plain``, or ``auto``: the fused one where it can run.
        device: of the points.

    Raises:
        ValueError: if the fused form is asked for where it cannot run.
    """
    if form == "plain":
        return "plain", "as asked for"
    why_not = obstacle(device)
    if not why_not:
        makers = {"cpu": "Numba", "cuda": "Triton"}
        return "fused", f"kernels by {makers[device.type]}, compiled on first use"
    if form == "fused":
        raise ValueError(f"--edgeconv fused: {why_not}; use --edgeconv auto")
    return "plain", why_not


def open_clouds(
    points: Tensor, k: int, form: str = "auto", distinct: bool = True
) -> PlainClouds | FusedClouds:
    """The batch, ready for the layers.

    Args:
        points: (B, 3, N).
        k: neighbours a point in every kNN graph.
        form: as of :func:`chosen_form`.
        distinct: whether the fused form may compute copies of a cloud's first point
            once: not where results of single points are wanted.
    """
    if chosen_form(form, points.device)[0] == "plain":
        return PlainClouds(points, k)
    from models.fused.clouds import FusedClouds

    return FusedClouds(points, k, distinct)
