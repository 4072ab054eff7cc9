"""A batch of clouds in the fused form; the algebra is in :mod:`models.fused`."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.fused.batch import (
    Graph,
    Layout,
    RaggedBatch,
    distinct_points,
    kernels_for,
)
from models.fused.functions import (
    EdgeConv,
    Linear,
    NormActivation,
    PointLayer,
    Pool,
    Transform,
    TwoLayerEdgeConv,
)
from models.knn import full_precision


class FusedClouds:
    """:class:`models.edgeconv.PlainClouds` on (R, C), with duplicate points merged.

    Under autocast edges stay in the dtype of the parameters, since a and b nearly
    cancel. The layer before pooling follows autocast on a GPU, and not on a CPU.

    Args:
        points: (B, 3, N) on a device for which there are kernels.
        k: neighbours of each point.
        distinct: merge copies of a cloud's first point. Synchronises with a GPU once,
            for the number of rows, unless the layout is given.
        layout: of these points, on the same device, from :func:`distinct_points`.

    Raises:
        ValueError: if the layout is of another number of clouds.
    """

    def __init__(
        self,
        points: Tensor,
        k: int,
        distinct: bool = True,
        layout: Layout | None = None,
    ) -> None:
        size, _, cloud_size = points.shape
        self.k = k
        self._kernels = kernels_for(points.device)
        self.points = points.transpose(1, 2).reshape(-1, 3)  # (B N, 3)
        total, has_layout = len(self.points), layout is not None
        if layout is None and distinct:
            layout = distinct_points(points)
        if layout is None:
            offsets = torch.arange(0, total + 1, cloud_size, device=points.device)
            counts = points.new_ones(total)
        elif len(layout.offsets) == size + 1:
            offsets, counts = layout.offsets, layout.counts.to(points.dtype)
            self.points = self.points.index_select(0, layout.rows)  # (R, 3)
        else:
            clouds = len(layout.offsets) - 1
            raise ValueError(f"{size} clouds, but a layout of {clouds}")
        # Padding hides the number of distinct points from the host.
        merged = has_layout or len(self.points) < total
        self.batch = RaggedBatch(offsets, counts, cloud_size, merged)

    def transform(self, matrices: Tensor) -> Tensor:
        # Padding, whose gradient is 0, gets the last cloud's matrix.
        ends = F.pad(self.batch.offsets[:-1], (0, 1), value=len(self.points))
        with full_precision(self.points.device):
            return Transform.apply(self.points, matrices.to(self.points), ends.diff())

    def edge_conv(self, x: Tensor, *layers: nn.Sequential) -> Tensor:
        with full_precision(x.device):
            with torch.no_grad():
                idx = self._kernels.knn(x.detach().contiguous(), self.batch, self.k)
            graph = Graph(idx, self.batch)
            norm, *others = (NormActivation(layer, self._kernels) for layer in layers)
            weight = _matrix(layers[0])
            if not (others or norm.training or torch.is_grad_enabled()):
                norm.set_statistics()
                scale, offset, *_ = norm.affine
                a, b = self._ends(x, weight * scale[:, None])
                return self._kernels.edge_maximum(a, b, graph, offset, norm.slope)
            first = (*self._ends(x, weight), *norm.parameters)
            if not others:
                return EdgeConv.apply(*first, norm, graph)
            second = (_matrix(layers[1]), *others[0].parameters)
            return TwoLayerEdgeConv.apply(*first, *second, norm, *others, graph)

    def _ends(self, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """a and b (R, C') of x (R, C) and the weight (C', 2C) of [x_j - x_i, x_i]."""
        neighbour, centre = weight.split(x.shape[1], dim=1)
        a = Linear.apply(x, neighbour, self._kernels)
        return a, Linear.apply(x, centre - neighbour, self._kernels)

    def point_layer(self, x: Tensor, layer: nn.Sequential) -> Tensor:
        norm = NormActivation(layer, self._kernels)
        y = Linear.apply(x, _matrix(layer), self._kernels)
        return PointLayer.apply(y, *norm.parameters, norm, self.batch)

    def join(self, *features: Tensor) -> Tensor:
        return torch.cat(features, dim=1)

    def per_point(self, x: Tensor) -> Tensor:
        return x.unflatten(0, (-1, self.batch.cloud_size)).transpose(1, 2)

    def pool(self, x: Tensor, layer: nn.Sequential) -> tuple[Tensor, Tensor]:
        norm, weight = NormActivation(layer, self._kernels), _matrix(layer)
        # The CPU's kernels have no half precision.
        on_cpu = not x.is_cuda
        y = Linear.apply(x, weight, self._kernels) if on_cpu else F.linear(x, weight)
        return Pool.apply(y, *norm.parameters, norm, self.batch)


def _matrix(layer: nn.Sequential) -> Tensor:
    """The weight of the layer's 1x1 convolution, (C', C)."""
    weight = layer[0].weight
    assert isinstance(weight, Tensor)
    return weight.flatten(1)
