"""EdgeConv, the layer of DGCNN (Wang et al., TOG 2019, equations 7 and 8).

Encoders work on a batch made by :func:`cloud_batch`. It has two forms with equal
methods and results: :class:`PlainClouds` here is the definition,
:class:`models.fused.clouds.FusedClouds` the fast form, used where it can run.
"""

import torch
from torch import Tensor, nn

from models.fused.batch import Layout, missing_kernels
from models.fused.clouds import FusedClouds
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
    offsets = torch.arange(batch, device=x.device).view(-1, 1, 1) * points
    rows = x.transpose(1, 2).reshape(batch * points, channels)
    neighbours = rows.index_select(0, (idx + offsets).flatten())
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


class PlainClouds:
    """A batch of point clouds and the operations of the encoders on it, by definition.

    Features of points are (B, C, N), and (R, C) in the fused form, which has the same
    methods. Layers are a 1x1 convolution, BatchNorm and an activation.
    """

    def __init__(self, points: Tensor, k: int) -> None:
        self.points, self.k = points, k

    def transform(self, matrices: Tensor) -> Tensor:
        """The points, as row vectors, times their cloud's matrix (B, 3, 3)."""
        return (self.points.transpose(1, 2) @ matrices).transpose(1, 2)

    def edge_conv(self, x: Tensor, *layers: nn.Sequential) -> Tensor:
        """EdgeConv: the layers on every edge, then the maximum over the K neighbours.

        The graph is built from ``x`` itself, so each layer of a network has its own.

        Args:
            x: (B, C, N) features.
            layers: one or more :func:`edge_layer`, the first with 2C input channels.

        Returns:
            (B, C', N) with C' the last layer's output channels.
        """
        edges = edge_features(x, knn(x, self.k))
        for layer in layers:
            edges = layer(edges)  # (B, C', N, K)
        return edges.max(dim=3).values

    def point_layer(self, x: Tensor, layer: nn.Sequential) -> Tensor:
        """The layer on every point."""
        return layer(x)

    def join(self, *features: Tensor) -> Tensor:
        """Concatenate channels."""
        return torch.cat(features, dim=1)

    def per_point(self, x: Tensor) -> Tensor:
        """Features of points as (B, C, N); duplicate points must not be merged."""
        return x

    def pool(self, x: Tensor, layer: nn.Sequential) -> tuple[Tensor, Tensor]:
        """A point layer, then maximum and mean over the points: (B, C') each."""
        x = layer(x)
        return x.amax(dim=2), x.mean(dim=2)


Clouds = PlainClouds | FusedClouds


def chosen_form(form: str, device: torch.device) -> tuple[str, str]:
    """The form that ``--edgeconv`` selects on a device, and why, for the log.

    Args:
        form: ``fused``, ``plain``, or ``auto``: the fused form where it can run.
        device: of the points.

    Raises:
        ValueError: if the fused form is asked for where it cannot run.
    """
    if form == "plain":
        return "plain", "as --edgeconv says"
    problem = missing_kernels(device)
    if not problem:
        compiler = {"cpu": "Numba", "cuda": "Triton"}[device.type]
        return "fused", f"kernels by {compiler}, compiled on first use"
    if form == "fused":
        raise ValueError(f"--edgeconv fused: {problem}; use --edgeconv auto")
    return "plain", problem


def cloud_batch(
    points: Tensor,
    k: int,
    form: str = "auto",
    distinct: bool = True,
    layout: Layout | None = None,
) -> Clouds:
    """The batch in the chosen form.

    Args:
        points: (B, 3, N).
        k: neighbours of each point in every kNN graph.
        form: as of :func:`chosen_form`.
        distinct: whether the fused form may merge duplicate points; False where every
            point needs an output of its own.
        layout: the distinct points, if they are known; the plain form needs none.
    """
    if chosen_form(form, points.device)[0] == "plain":
        return PlainClouds(points, k)
    return FusedClouds(points, k, distinct, layout)
