"""The exact fused form of the encoders' point operations.

**EdgeConv.** Split the convolution's weight into [W1 | W2]. The edge from point i to a
neighbour j gives W1 (x_j - x_i) + W2 x_i = a_j + b_i with a = W1 x, b = (W2 - W1) x, so
the convolution needs N columns instead of N K. BatchNorm is increasing in it where its
weight is positive and decreasing where that is negative, LeakyReLU is increasing:

    max_j act(BN(a_j + b_i)) = act(BN(b_i + max_j a_j))     (or min_j)

one edge a point and channel. The statistics over all edges need sums of a_j + b_i and
of its square, accumulated around a shift. Backwards the extreme takes the gradient;
mean and variance give every edge alpha (a_j + b_i) + beta, which adds up to the number
of edges that end at a point and one sum over them. Nothing of the size of all edges is
stored. Of equal edges, and where the weight is 0, the nearest neighbour takes it. In
eval mode without gradients BatchNorm's scale goes into a and b: a maximum is left.

**Two layers on edges** (part segmentation). The second layer's edges are computed a few
thousand at a time, reduced to their extremes and sums, and computed again backwards.

**Pooling** after the last convolution is the same with points for edges.

**Distinct points.** The augmentation replaces random points by copies of a cloud's
first. Copies stay equal through every layer, so they are computed once and counted: in
neighbour lists, in BatchNorm's sums and in the mean over the points.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from models.edgeconv import SLOPE
from models.fused.rows import Graph, Rows, operations
from utils.parallel import distributed
from utils.parallel.batchnorm import (
    combine_statistics,
    is_synchronised,
    kept_statistics,
    update_running_statistics,
)


class FusedClouds:
    """A batch of clouds of which the layers see distinct points, as rows (R, C).

    The interface is that of :class:`models.edgeconv.PlainClouds`. Under autocast the
    edges stay in the dtype of the parameters: a and b nearly cancel. The layer before
    pooling follows autocast on a GPU, and not on a CPU.

    Args:
        points: (B, 3, N) on a device for which there are kernels.
        k: neighbours a point.
        distinct: compute copies of a cloud's first point once. On a GPU the host waits
            for it once, to learn how many rows there are.
    """

    def __init__(self, points: Tensor, k: int, distinct: bool = True) -> None:
        batch, _, count = points.shape
        self.k = k
        self._shape = (batch, count)
        self._kernels = operations(points.device)
        rows = points.transpose(1, 2)  # (B, N, 3)
        lengths = torch.full((batch,), count, device=points.device)
        self.points = rows.reshape(-1, 3)
        if distinct:
            kept = (points != points[:, :, :1]).any(dim=1)  # (B, N)
            kept[:, 0] = True
            lengths = kept.sum(dim=1)
            self.points = rows[kept]  # (R, 3)
        first = F.pad(lengths.cumsum(0), (1, 0))
        weight = points.new_ones(len(self.points))
        weight[first[:-1]] += (count - lengths).to(weight.dtype)
        repeated = len(self.points) < batch * count
        self.rows = Rows(first, weight, count, repeated)

    def _full_precision(self) -> torch.autocast:
        return torch.autocast(self.points.device.type, enabled=False)

    def transform(self, matrices: Tensor) -> Tensor:
        """Points as rows times their cloud's matrix (B, 3, 3) -> (R, 3)."""
        lengths = self.rows.first.diff()
        with self._full_precision():
            matrices = matrices.to(self.points).repeat_interleave(
                lengths, dim=0, output_size=len(self.points)
            )
            return torch.bmm(self.points[:, None], matrices)[:, 0]

    def edge_conv(self, x: Tensor, *layers: nn.Sequential) -> Tensor:
        """(R, C) -> (R, C'), see :func:`models.edgeconv.edge_conv`."""
        with self._full_precision():
            with torch.no_grad():
                idx = self._kernels.knn(x.detach().contiguous(), self.rows, self.k)
            graph = Graph(idx, self.rows)
            weight, batchnorm = _parts(layers[0])
            trained = batchnorm.training or torch.is_grad_enabled()
            if len(layers) == 1 and not trained:
                kept = kept_statistics(batchnorm)
                scale, offset, *_ = _affine(batchnorm, *kept)
                a, b = self._ends(x, weight * scale[:, None])
                return self._kernels.edge_maximum(a, b, graph, offset, SLOPE)
            a, b = self._ends(x, weight)
            own = (a, b, batchnorm.weight, batchnorm.bias)
            if len(layers) == 1:
                return _EdgeConv.apply(*own, batchnorm, graph, self._kernels)
            weight2, batchnorm2 = _parts(layers[1])
            own2 = (weight2, batchnorm2.weight, batchnorm2.bias)
            pair = (batchnorm, batchnorm2)
            return _TwoLayerEdgeConv.apply(*own, *own2, pair, graph, self._kernels)

    def _ends(self, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """a and b (R, C') of x (R, C) and the weight (C', 2C) of [x_j - x_i, x_i]."""
        there, centre = weight.split(x.shape[1], dim=1)
        return self._kernels.linear(x, there), self._kernels.linear(x, centre - there)

    def join(self, *features: Tensor) -> Tensor:
        """Features beside each other."""
        return torch.cat(features, dim=1)

    def of_points(self, x: Tensor) -> Tensor:
        """(R, C) -> (B, C, N), where all points are rows."""
        return x.view(*self._shape, -1).transpose(1, 2)

    def pool(self, x: Tensor, layer: nn.Sequential) -> tuple[Tensor, Tensor]:
        """A point layer, then maximum and mean over the points: (B, C') each."""
        weight, batchnorm = _parts(layer)
        own = (batchnorm.weight, batchnorm.bias, batchnorm, self.rows, self._kernels)
        return _Pool.apply(self._kernels.linear(x, weight), *own)


def _parts(layer: nn.Sequential) -> tuple[Tensor, _BatchNorm]:
    """The convolution's weight as a matrix (C', C), and the BatchNorm behind it."""
    conv, batchnorm, _ = layer
    return cast(nn.Conv2d, conv).weight.flatten(1), cast(_BatchNorm, batchnorm)


class _Mode:
    """How a BatchNorm was used; ``count`` is of the values a channel over all ranks."""

    count: Tensor  # in training alone

    def __init__(self, batchnorm: _BatchNorm) -> None:
        self.training = batchnorm.training
        self.synchronised = is_synchronised(batchnorm)


def _statistics(
    batchnorm: _BatchNorm, sums: Tensor, shift: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and biased variance (float64) from sums around a shift."""
    first, second = sums / count
    total, mean, var = combine_statistics(
        *(count, shift.double() + first, second - first * first),
        over_ranks=is_synchronised(batchnorm),
    )
    update_running_statistics(batchnorm, total, mean, var)
    return total, mean, var


def _affine(
    batchnorm: _BatchNorm, mean: Tensor, var: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """BatchNorm as y scale + offset; with the mean and 1 / deviation, in y's dtype."""
    inverse = (var.double() + batchnorm.eps).rsqrt()
    scale = batchnorm.weight.double() * inverse
    offset = batchnorm.bias.double() - mean.double() * scale
    kind = batchnorm.weight.dtype
    return scale.to(kind), offset.to(kind), mean.to(kind), inverse.to(kind)


def _through_statistics(
    sums: Tensor, affine: Sequence[Tensor], mode: _Mode
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of weight and bias, and alpha and beta of the statistics' gradient.

    With x̂ = (y - mean) / deviation, every one of the n values y of a channel has
    -scale (sum(dz) + x̂ sum(dz x̂)) / n = alpha y + beta.

    Args:
        sums: of dz, and of dz (y - mean); (2, C) float64.
        affine: as of :func:`_affine`.
        mode: of the BatchNorm.
    """
    scale, _, mean, inverse = (x.double() for x in affine)
    bias, weight = sums[0], sums[1] * inverse
    alpha = beta = torch.zeros_like(scale)
    if mode.training:
        if mode.synchronised:
            sums = distributed.all_reduce_sum(sums.clone())
        alpha = -scale * inverse**2 * sums[1] / mode.count
        beta = -scale * sums[0] / mode.count - alpha * mean
    kind = affine[0].dtype
    return weight.to(kind), bias.to(kind), alpha.to(kind), beta.to(kind)


class _EdgeConv(torch.autograd.Function):
    """a, b (R, C) -> max over each row's edges of act(BN(a_j + b_i)), (R, C)."""

    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        weight: Tensor,
        bias: Tensor,
        batchnorm: _BatchNorm,
        graph: Graph,
        kernels: ModuleType,
    ) -> Tensor:
        ctx.graph, ctx.kernels, ctx.mode = graph, kernels, _Mode(batchnorm)
        shift = a.mean(dim=0) + b.mean(dim=0)
        y, arg, total, sums = kernels.edge_extremes(
            a, b, graph, weight.sign(), shift, ctx.mode.training
        )
        mean, var = kept_statistics(batchnorm)
        if ctx.mode.training:
            ctx.mode.count, mean, var = _statistics(batchnorm, sums, shift, graph.edges)
        affine = _affine(batchnorm, mean, var)
        ctx.save_for_backward(a, b, y, arg, total, *affine)
        return F.leaky_relu_(torch.addcmul(affine[1], y, affine[0]), SLOPE)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, b, y, arg, total, *affine = ctx.saved_tensors
        graph, kernels = ctx.graph, ctx.kernels
        gb, sums = kernels.edge_slopes(
            grad.contiguous(), y, tuple(affine[:3]), SLOPE, graph.rows
        )
        weight, bias, *terms = _through_statistics(sums, affine, ctx.mode)
        ga = kernels.to_extremes(gb, arg, graph.rows)
        if ctx.mode.training:
            kernels.add_statistics(ga, gb, a, b, graph, total, tuple(terms))
        return ga, gb, weight, bias, None, None, None


class _TwoLayerEdgeConv(torch.autograd.Function):
    """a, b (R, C) -> max over each row's edges of act(BN(W act(BN(a_j + b_i))))."""

    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        weight1: Tensor,
        bias1: Tensor,
        second: Tensor,
        weight2: Tensor,
        bias2: Tensor,
        batchnorms: tuple[_BatchNorm, _BatchNorm],
        graph: Graph,
        kernels: ModuleType,
    ) -> Tensor:
        ctx.graph, ctx.kernels = graph, kernels
        ctx.first, ctx.second = map(_Mode, batchnorms)
        mean, var = kept_statistics(batchnorms[0])
        total = a[:0]
        if ctx.first.training:
            shift = a.mean(dim=0) + b.mean(dim=0)
            # The sums are what is wanted here, the extremes of this layer are not.
            _, _, total, sums = kernels.edge_extremes(
                a, b, graph, weight1.sign(), shift, True
            )
            ctx.first.count, mean, var = _statistics(
                batchnorms[0], sums, shift, graph.edges
            )
        affine1 = _affine(batchnorms[0], mean, var)
        second = second.contiguous()
        # Near the mean of the second layer's edges: its value at the first one's mean.
        shift = F.leaky_relu(affine1[2] * affine1[0] + affine1[1], SLOPE) @ second.T
        y, arg, sums = kernels.two_layer_extremes(
            *(a, b, graph, affine1[:3], second),
            *(weight2.sign(), shift, SLOPE, ctx.second.training),
        )
        mean, var = kept_statistics(batchnorms[1])
        if ctx.second.training:
            ctx.second.count, mean, var = _statistics(
                batchnorms[1], sums, shift, graph.edges
            )
        affine2 = _affine(batchnorms[1], mean, var)
        ctx.save_for_backward(a, b, total, second, y, arg, *affine1, *affine2)
        return F.leaky_relu_(torch.addcmul(affine2[1], y, affine2[0]), SLOPE)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, b, total, second, y, arg, *affine = ctx.saved_tensors
        graph, kernels = ctx.graph, ctx.kernels
        affine1, affine2 = tuple(affine[:4]), tuple(affine[4:])
        own, sums = kernels.edge_slopes(
            grad.contiguous(), y, affine2[:3], SLOPE, graph.rows
        )
        weight2, bias2, *terms = _through_statistics(sums, affine2, ctx.second)
        ga, gb, of_second, sums = kernels.two_layer_gradients(
            own, arg, a, b, graph, affine1[:3], second, tuple(terms), SLOPE
        )
        weight1, bias1, *terms = _through_statistics(sums, affine1, ctx.first)
        if ctx.first.training:
            kernels.add_statistics(ga, gb, a, b, graph, total, tuple(terms))
        return ga, gb, weight1, bias1, of_second, weight2, bias2, None, None, None


class _Pool(torch.autograd.Function):
    """y (R, C) -> maximum and mean over each cloud's points of act(BN(y)), (B, C)."""

    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        weight: Tensor,
        bias: Tensor,
        batchnorm: _BatchNorm,
        rows: Rows,
        kernels: ModuleType,
    ) -> tuple[Tensor, Tensor]:
        ctx.rows, ctx.kernels, ctx.mode = rows, kernels, _Mode(batchnorm)
        mean, var = kept_statistics(batchnorm)
        if ctx.mode.training:
            shift = y[0].to(weight.dtype)
            sums = kernels.column_sums(y, shift, rows)
            points = (len(rows.first) - 1) * rows.points
            ctx.mode.count, mean, var = _statistics(batchnorm, sums, shift, points)
        affine = _affine(batchnorm, mean, var)
        arg, average = kernels.pool(y, affine[0], affine[1], weight.sign(), SLOPE, rows)
        extreme = y.gather(0, arg).to(weight.dtype)  # (B, C)
        ctx.save_for_backward(y, arg, extreme, *affine)
        z = torch.addcmul(affine[1], extreme, affine[0])
        return F.leaky_relu_(z, SLOPE), average

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, of_greatest: Tensor, of_average: Tensor
    ) -> tuple[Tensor | None, ...]:
        y, arg, extreme, *affine = ctx.saved_tensors
        rows, kernels = ctx.rows, ctx.kernels
        scale, offset, mean, _ = affine
        share = of_average / rows.points
        sums = kernels.pool_sums(share, y, tuple(affine[:3]), SLOPE, rows)
        # The maximum's gradient goes to one point of each cloud.
        rises = torch.addcmul(offset, extreme, scale) > 0
        at_extreme = torch.where(rises, of_greatest, of_greatest * SLOPE)
        sums[0] += at_extreme.double().sum(dim=0)
        sums[1] += (at_extreme * (extreme - mean)).double().sum(dim=0)
        weight, bias, *terms = _through_statistics(sums, affine, ctx.mode)
        grad = kernels.pool_gradient(
            share, y, tuple(affine[:2]), tuple(terms), SLOPE, rows
        )
        grad.scatter_add_(0, arg, (at_extreme * scale).to(grad.dtype))
        return grad, weight, bias, None, None, None
