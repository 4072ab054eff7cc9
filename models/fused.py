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
stored. Of equal edges, and where the weight is 0, the nearest neighbour takes it.

**Two layers on edges** (part segmentation). The second layer's edges are computed a few
thousand at a time, reduced to their extremes and sums, and computed again backwards.

**Pooling** after the last convolution is the same with points for edges.

**Distinct points.** The augmentation replaces random points by copies of a cloud's
first. Copies stay equal through every layer, so they are computed once and counted: in
neighbour lists, in BatchNorm's sums and in the mean over the points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from models.edgeconv import SLOPE
from models.kernels.cpu import edges, pool, two_layers
from models.kernels.cpu.graph import knn
from utils import distributed


@dataclass(frozen=True)
class Graph:
    """A kNN graph on rows."""

    idx: np.ndarray  # (R, K) int32
    first: np.ndarray  # (B + 1,) first row of each cloud, and the end
    weight: np.ndarray  # (R,) copies of each row, in the dtype of the features

    @property
    def edges(self) -> float:
        """Number of edges, those of copies included."""
        return float(self.weight.sum()) * self.idx.shape[1]


_full_precision = torch.autocast("cpu", enabled=False)  # as a decorator


class FusedClouds:
    """A batch of clouds of which the layers see distinct points, as rows (R, C).

    The interface is that of :class:`models.edgeconv.PlainClouds`. Under autocast the
    numbers stay in the dtype of the parameters: a and b nearly cancel.

    Args:
        points: (B, 3, N) on the CPU, float32 or float64.
        k: neighbours a point.
        distinct: compute copies of a cloud's first point once.
    """

    def __init__(self, points: Tensor, k: int, distinct: bool = True) -> None:
        batch, _, count = points.shape
        self.k = k
        rows = points.transpose(1, 2)  # (B, N, 3)
        self._shape = (batch, count)
        lengths = np.full(batch, count)
        self._copies = None
        copied = (points == points[:, :, :1]).all(dim=1)  # (B, N)
        copied[:, 0] = False
        if distinct and copied.any():
            kept = ~copied
            lengths = kept.sum(dim=1).numpy()
            self.points = rows[kept]  # (R, 3)
        else:
            self.points = rows.reshape(-1, 3)
        self.first = np.concatenate([[0], np.cumsum(lengths)])
        weight = np.ones(len(self.points))
        if lengths.min() < count:
            weight[self.first[:-1]] += count - lengths
            self._copies = weight.astype(np.int64)
        self._weight = weight.astype(points.new_empty(0).numpy().dtype)

    @_full_precision
    def transform(self, matrices: Tensor) -> Tensor:
        """Points as rows times their cloud's matrix (B, 3, 3) -> (R, 3)."""
        cloud = torch.from_numpy(
            np.repeat(np.arange(self._shape[0]), np.diff(self.first))
        )
        return torch.bmm(self.points[:, None], matrices.to(self.points)[cloud])[:, 0]

    @_full_precision
    def edge_conv(self, x: Tensor, *layers: nn.Sequential) -> Tensor:
        """(R, C) -> (R, C'), see :func:`models.edgeconv.edge_conv`."""
        with torch.no_grad():
            idx = knn(x.detach().contiguous(), self.first, self._copies, self.k)
        graph = Graph(idx, self.first, self._weight)
        conv, batchnorm, _ = layers[0]
        weight = conv.weight.flatten(1)  # (C', 2C), of [x_j - x_i, x_i]
        there, centre = weight.split(x.shape[1], dim=1)
        a, b = x @ there.T, x @ (centre - there).T
        own = (a, b, batchnorm.weight, batchnorm.bias)
        if len(layers) == 1:
            return _EdgeConv.apply(*own, batchnorm, graph)
        conv2, batchnorm2, _ = layers[1]
        return _TwoLayerEdgeConv.apply(
            *(*own, conv2.weight.flatten(1), batchnorm2.weight, batchnorm2.bias),
            *((batchnorm, batchnorm2), graph),
        )

    def join(self, *features: Tensor) -> Tensor:
        """Features beside each other."""
        return torch.cat(features, dim=1)

    def of_points(self, x: Tensor) -> Tensor:
        """(R, C) -> (B, C, N), where all points are rows."""
        return x.view(*self._shape, -1).transpose(1, 2)

    @_full_precision
    def pool(self, x: Tensor, layer: nn.Sequential) -> tuple[Tensor, Tensor]:
        """A point layer, then maximum and mean over the points: (B, C') each."""
        conv, batchnorm, _ = layer
        y = x @ conv.weight.flatten(1).T
        return _Pool.apply(
            y, batchnorm.weight, batchnorm.bias, batchnorm, self.first, self._weight
        )


class _Mode:
    """How a BatchNorm was used; ``count`` is of the values a channel over all ranks."""

    def __init__(self, batchnorm: _BatchNorm) -> None:
        self.training = batchnorm.training
        self.synchronised = distributed.is_synchronised(batchnorm)
        self.count: Tensor | None = None


def _statistics(
    batchnorm: _BatchNorm, sums: np.ndarray, shift: Tensor, count: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and biased variance (float64) from sums around a shift."""
    first, second = torch.from_numpy(sums / count)
    count, mean, var = distributed.combine_statistics(
        *(int(count), shift.double() + first, second - first * first),
        over_ranks=distributed.is_synchronised(batchnorm),
    )
    distributed.update_running_statistics(batchnorm, count, mean, var)
    return count, mean, var


def _affine(
    batchnorm: _BatchNorm, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """BatchNorm as y scale + offset; with the mean and 1 / deviation, in y's dtype."""
    inverse = (var.double() + batchnorm.eps).rsqrt()
    scale = weight.double() * inverse
    offset = bias.double() - mean.double() * scale
    return tuple(x.to(weight.dtype) for x in (scale, offset, mean, inverse))


def _through_statistics(
    sums: np.ndarray, affine: Sequence[Tensor], mode: _Mode
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of weight and bias, and alpha and beta of the statistics' gradient.

    With x̂ = (y - mean) / deviation, every one of the n values y of a channel has
    -scale (sum(dz) + x̂ sum(dz x̂)) / n = alpha y + beta.
    """
    scale, _, mean, inverse = (x.double() for x in affine)
    both = torch.from_numpy(sums)  # of dz, and of dz (y - mean)
    bias, weight = both[0], both[1] * inverse
    alpha = beta = torch.zeros_like(scale)
    if mode.training:
        if mode.synchronised:
            both = distributed.all_reduce_sum(both.clone())
        alpha = -scale * inverse**2 * both[1] / mode.count
        beta = -scale * both[0] / mode.count - alpha * mean
    return tuple(x.to(affine[0].dtype) for x in (weight, bias, alpha, beta))


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [x.detach().numpy() for x in tensors]


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
    ) -> Tensor:
        ctx.mode = _Mode(batchnorm)
        shift = a.mean(dim=0) + b.mean(dim=0)
        y, arg, total, sums = edges.edge_extremes(
            *_arrays(a, b),
            graph.idx,
            *_arrays(weight.sign(), shift),
            *(graph.weight, graph.first, ctx.mode.training),
        )
        mean, var = batchnorm.running_mean, batchnorm.running_var
        if ctx.mode.training:
            ctx.mode.count, mean, var = _statistics(batchnorm, sums, shift, graph.edges)
        affine = _affine(batchnorm, weight, bias, mean, var)
        ctx.graph = graph
        y = torch.from_numpy(y)
        ctx.save_for_backward(
            a, b, y, torch.from_numpy(arg), torch.from_numpy(total), *affine
        )
        return F.leaky_relu_(torch.addcmul(affine[1], y, affine[0]), SLOPE)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, b, y, arg, total, scale, offset, mean, inverse = ctx.saved_tensors
        graph = ctx.graph
        own, sums = edges.edge_slopes(
            *_arrays(grad.contiguous(), y, scale, offset, mean), SLOPE, graph.first
        )
        weight, bias, alpha, beta = _through_statistics(
            sums, (scale, offset, mean, inverse), ctx.mode
        )
        ga, gb = edges.to_extremes(own, *_arrays(arg), graph.first), own
        if ctx.mode.training:
            edges.add_statistics(
                *(ga, gb, *_arrays(a, b), graph.idx, *_arrays(total), graph.weight),
                *(tuple(_arrays(alpha, beta)), graph.first),
            )
        return *map(torch.from_numpy, (ga, gb)), weight, bias, None, None


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
    ) -> Tensor:
        ctx.graph, ctx.first, ctx.second = graph, *map(_Mode, batchnorms)
        arrays = (*_arrays(a, b), graph.idx)
        mean, var = batchnorms[0].running_mean, batchnorms[0].running_var
        total = a[:0]
        if ctx.first.training:
            shift = a.mean(dim=0) + b.mean(dim=0)
            # The sums are what is wanted here, the extremes of this layer are not.
            _, _, total, sums = edges.edge_extremes(
                *(*arrays, *_arrays(weight1.sign(), shift)),
                *(graph.weight, graph.first, True),
            )
            total = torch.from_numpy(total)
            ctx.first.count, mean, var = _statistics(
                batchnorms[0], sums, shift, graph.edges
            )
        affine1 = _affine(batchnorms[0], weight1, bias1, mean, var)
        second = second.contiguous()
        # Near the mean of the second layer's edges: its value at the first one's mean.
        shift = F.leaky_relu(affine1[2] * affine1[0] + affine1[1], SLOPE) @ second.T
        y, arg, sums = two_layers.two_layer_extremes(
            *(*arrays, tuple(_arrays(*affine1[:2]))),
            *(*_arrays(second, weight2.sign(), shift), graph.weight, SLOPE),
            *(graph.first, ctx.second.training),
        )
        mean, var = batchnorms[1].running_mean, batchnorms[1].running_var
        if ctx.second.training:
            ctx.second.count, mean, var = _statistics(
                batchnorms[1], sums, shift, graph.edges
            )
        affine2 = _affine(batchnorms[1], weight2, bias2, mean, var)
        y = torch.from_numpy(y)
        ctx.save_for_backward(
            a, b, total, second, y, torch.from_numpy(arg), *affine1, *affine2
        )
        return F.leaky_relu_(torch.addcmul(affine2[1], y, affine2[0]), SLOPE)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, b, total, second, y, arg, *affine = ctx.saved_tensors
        graph, affine1, affine2 = ctx.graph, affine[:4], affine[4:]
        own, sums = edges.edge_slopes(
            *_arrays(grad.contiguous(), y, *affine2[:3]), SLOPE, graph.first
        )
        weight2, bias2, *terms = _through_statistics(sums, affine2, ctx.second)
        arrays = (*_arrays(a, b), graph.idx)
        ga, gb, of_second, sums = two_layers.two_layer_gradients(
            *(own, *_arrays(arg), *arrays, tuple(_arrays(*affine1[:3]))),
            *(*_arrays(second), tuple(_arrays(*terms)), graph.weight, SLOPE),
            graph.first,
        )
        weight1, bias1, *terms = _through_statistics(sums, affine1, ctx.first)
        if ctx.first.training:
            edges.add_statistics(
                *(ga, gb, *arrays, *_arrays(total), graph.weight),
                *(tuple(_arrays(*terms)), graph.first),
            )
        ga, gb, of_second = map(torch.from_numpy, (ga, gb, of_second))
        return ga, gb, weight1, bias1, of_second, weight2, bias2, None, None


class _Pool(torch.autograd.Function):
    """y (R, C) -> maximum and mean over each cloud's points of act(BN(y)), (B, C)."""

    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        weight: Tensor,
        bias: Tensor,
        batchnorm: _BatchNorm,
        first: np.ndarray,
        copies: np.ndarray,
    ) -> tuple[Tensor, Tensor]:
        ctx.mode = _Mode(batchnorm)
        ctx.first, ctx.copies = first, copies
        mean, var = batchnorm.running_mean, batchnorm.running_var
        if ctx.mode.training:
            shift = y[0].clone()
            sums = pool.column_sums(*_arrays(y, shift), copies, first)
            ctx.mode.count, mean, var = _statistics(
                batchnorm, sums, shift, float(copies.sum())
            )
        affine = _affine(batchnorm, weight, bias, mean, var)
        arg, average = pool.pool(
            *_arrays(y, affine[0], affine[1], weight.sign()), copies, SLOPE, first
        )
        arg = torch.from_numpy(arg).long()
        extreme = y.gather(0, arg)  # (B, C)
        ctx.save_for_backward(y, arg, extreme, *affine)
        z = torch.addcmul(affine[1], extreme, affine[0])
        return F.leaky_relu_(z, SLOPE), torch.from_numpy(average)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, of_greatest: Tensor, of_average: Tensor
    ) -> tuple[Tensor | None, ...]:
        y, arg, extreme, scale, offset, mean, inverse = ctx.saved_tensors
        first, copies = ctx.first, ctx.copies
        points = np.add.reduceat(copies, first[:-1])[:, None]
        share = of_average.numpy() / points
        affine = _arrays(scale, offset)
        sums = pool.pool_sums(
            share, *_arrays(y), *affine, *_arrays(mean), copies, SLOPE, first
        )
        # The maximum's gradient goes to one point of each cloud.
        rises = torch.addcmul(offset, extreme, scale) > 0
        at_extreme = torch.where(rises, of_greatest, of_greatest * SLOPE)
        sums[0] += at_extreme.double().sum(dim=0).numpy()
        sums[1] += (at_extreme * (extreme - mean)).double().sum(dim=0).numpy()
        weight, bias, alpha, beta = _through_statistics(
            sums, (scale, offset, mean, inverse), ctx.mode
        )
        grad = torch.from_numpy(
            pool.pool_gradient(
                *(share, *_arrays(y), *affine, copies, SLOPE),
                *(tuple(_arrays(alpha, beta)), first),
            )
        )
        grad.scatter_add_(0, arg, at_extreme * scale)
        return grad, weight, bias, None, None, None
