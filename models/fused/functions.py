"""The autograd functions of the fused form; the algebra is in :mod:`models.fused`."""

from types import ModuleType
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from models.fused.batch import Graph, RaggedBatch
from models.knn import full_precision
from utils.parallel import distributed
from utils.parallel.batchnorm import is_synchronised, norm_affine, running_statistics


class Linear(torch.autograd.Function):
    """x (R, C), weight (C', C) -> (R, C'), without TF32 forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, kernels: ModuleType) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.kernels = kernels
        with full_precision(x.device):
            return kernels.product(x, weight.T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None]:
        (x, weight), product = ctx.saved_tensors, ctx.kernels.product
        with full_precision(x.device):
            grad_x = product(grad, weight) if ctx.needs_input_grad[0] else None
            return grad_x, product(grad.T, x), None


class Transform(torch.autograd.Function):
    """points (R, 3), as row vectors, times the matrix (B, 3, 3) of their cloud.

    The gradient of the matrices adds each cloud's rows in order; that of
    ``repeat_interleave`` would add them by atomics on a GPU.

    Args:
        lengths: (B,) int64, rows of each cloud.
    """

    @staticmethod
    def forward(ctx: Any, points: Tensor, matrices: Tensor, lengths: Tensor) -> Tensor:
        ctx.save_for_backward(points, lengths)
        per_row = matrices.repeat_interleave(lengths, dim=0, output_size=len(points))
        return torch.bmm(points[:, None], per_row)[:, 0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        points, lengths = ctx.saved_tensors
        products = points[:, :, None] * grad[:, None]  # (R, 3, 3)
        # unsafe: lengths are valid, and checking them would synchronise with the GPU.
        total = torch.segment_reduce(products, "sum", lengths=lengths, unsafe=True)
        return None, total, None


class NormActivation:
    """BatchNorm and (Leaky)ReLU of a layer, act(scale y + offset), in one pass.

    :meth:`set_statistics` comes first and sets ``affine``: scale, offset, mean and
    inverse standard deviation, (4, C).
    """

    def __init__(self, layer: nn.Sequential, kernels: ModuleType) -> None:
        self._norm, self.kernels = cast(_BatchNorm, layer[1]), kernels
        self.slope = getattr(layer[2], "negative_slope", 0.0)  # a ReLU has none
        self.training = self._norm.training
        self.parameters = (self._norm.weight, self._norm.bias)
        self._over_ranks = self.training and is_synchronised(self._norm)

    def set_statistics(
        self, sums: Tensor | None = None, shift: Tensor | None = None, count: int = 0
    ) -> None:
        """Use the batch's statistics in training, the running ones otherwise.

        Args:
            sums: (2, C) float64 of y - shift and its square over this rank's values.
            shift: (C,) near the mean of y.
            count: this rank's values of each channel.
        """
        if self.training:
            self.affine, self._count = self.kernels.batch_affine(
                self._norm, sums, shift, count, self._over_ranks
            )
        else:
            self.affine = norm_affine(self._norm, *running_statistics(self._norm))

    def activate(self, y: Tensor) -> Tensor:
        """act(scale y + offset) of (R, C)."""
        scale, offset, *_ = self.affine
        return F.leaky_relu_(torch.addcmul(offset, y, scale), self.slope)

    def activation_gradient(self, grad: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Back through :meth:`activate`, with the statistics held constant.

        Returns:
            the gradient of y (R, C); the sums over the rows of dz and dz (y - mean)
            that :meth:`statistics_gradient` takes, z being scale y + offset.
        """
        return self.kernels.activation_gradient(grad, y, self.affine, self.slope)

    def statistics_gradient(self, sums: Tensor) -> tuple[Tensor, ...]:
        """Gradients of weight and bias, and of y through mean and variance.

        Each value y of a channel gets alpha y + beta, 0 in eval mode.

        Args:
            sums: (2, C) float64 of dz and of dz (y - mean) over this rank's values.

        Returns:
            the gradients of weight and bias, alpha, beta, (C,) each.
        """
        if not self.training:
            bias, weight = sums.to(self.affine.dtype)
            zero = torch.zeros_like(bias)
            return weight * self.affine[3], bias, zero, zero
        total = distributed.all_reduce_sum(sums.clone()) if self._over_ranks else sums
        return self.kernels.statistics_gradient(sums, total, self.affine, self._count)


class EdgeConv(torch.autograd.Function):
    """a, b (R, C) -> max over each row's edges of act(BN(a_j + b_i)), (R, C)."""

    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        weight: Tensor,
        _bias: Tensor,
        norm: NormActivation,
        graph: Graph,
    ) -> Tensor:
        ctx.norm, ctx.graph = norm, graph
        shift = a.mean(dim=0) + b.mean(dim=0)
        y, argmax, total, sums = norm.kernels.edge_extremes(
            a, b, graph, weight.sign(), shift, norm.training
        )
        norm.set_statistics(sums, shift, graph.edges)
        ctx.save_for_backward(a, b, y, argmax, total)
        return norm.activate(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, b, y, argmax, total = ctx.saved_tensors
        grad_b, sums = ctx.norm.activation_gradient(grad, y)
        weight, bias, *terms = ctx.norm.statistics_gradient(sums)
        if not ctx.norm.training:
            total = torch.zeros_like(a)  # weighted by 0
        grad_a, grad_b = ctx.norm.kernels.edge_gradients(
            torch.zeros_like(a), grad_b, argmax, a, b, ctx.graph, total, *terms
        )
        return grad_a, grad_b, weight, bias, None, None


class TwoLayerEdgeConv(torch.autograd.Function):
    """a, b (R, C) -> max over each row's edges of act(BN(W act(BN(a_j + b_i))))."""

    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        weight1: Tensor,
        _bias1: Tensor,
        matrix: Tensor,
        weight2: Tensor,
        _bias2: Tensor,
        norm1: NormActivation,
        norm2: NormActivation,
        graph: Graph,
    ) -> Tensor:
        ctx.norms, ctx.graph, kernels = (norm1, norm2), graph, norm1.kernels
        total, sums, shift = a[:0], None, None
        if norm1.training:
            shift = a.mean(dim=0) + b.mean(dim=0)
            # Only the sums of the first layer are needed, not its extremes.
            _, _, total, sums = kernels.edge_extremes(
                a, b, graph, weight1.sign(), shift, True
            )
        norm1.set_statistics(sums, shift, graph.edges)
        matrix = matrix.contiguous()
        # Near the mean of the second layer's edges: its value at the first one's mean.
        shift = (norm1.activate(norm1.affine[2:3]) @ matrix.T)[0]
        y, argmax, sums = kernels.two_layer_extremes(
            *(a, b, graph, norm1.affine, norm1.slope, matrix),
            *(weight2.sign(), shift, norm2.training),
        )
        norm2.set_statistics(sums, shift, graph.edges)
        ctx.save_for_backward(a, b, total, matrix, y, argmax)
        return norm2.activate(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, b, total, matrix, y, argmax = ctx.saved_tensors
        (norm1, norm2), graph, kernels = ctx.norms, ctx.graph, ctx.norms[0].kernels
        with full_precision(a.device):
            grad_y, sums = norm2.activation_gradient(grad, y)
            weight2, bias2, *terms = norm2.statistics_gradient(sums)
            grad_a, grad_b, grad_matrix, sums = kernels.two_layer_gradients(
                *(grad_y, argmax, a, b, graph, norm1.affine, norm1.slope, matrix),
                *terms,
            )
            weight1, bias1, *terms = norm1.statistics_gradient(sums)
            if norm1.training:
                grad_a, grad_b = kernels.edge_gradients(
                    grad_a, grad_b, None, a, b, graph, total, *terms
                )
        grad_params = (weight1, bias1, grad_matrix, weight2, bias2)
        return grad_a, grad_b, *grad_params, None, None, None


class PointLayer(torch.autograd.Function):
    """y (R, C) -> act(BN(y)), BatchNorm over all points, duplicates counted."""

    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        weight: Tensor,
        _bias: Tensor,
        norm: NormActivation,
        batch: RaggedBatch,
    ) -> Tensor:
        ctx.norm, ctx.batch = norm, batch
        sums, shift = None, y[0].to(weight.dtype)
        if norm.training:
            sums = norm.kernels.column_sums(y, shift, batch)
        norm.set_statistics(sums, shift, batch.points)
        ctx.save_for_backward(y)
        return norm.activate(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (y,) = ctx.saved_tensors
        # A row's gradient is that of all its duplicates together.
        grad_y, sums = ctx.norm.activation_gradient(grad, y)
        weight, bias, alpha, beta = ctx.norm.statistics_gradient(sums)
        grad_point = torch.addcmul(beta, y, alpha)  # (R, C), of every point
        grad_y.addcmul_(grad_point, ctx.batch.counts[:, None])
        return grad_y, weight, bias, None, None


class Pool(torch.autograd.Function):
    """y (R, C) -> maximum and mean over each cloud's points of act(BN(y)), (B, C)."""

    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        weight: Tensor,
        bias: Tensor,
        norm: NormActivation,
        batch: RaggedBatch,
    ) -> tuple[Tensor, Tensor]:
        ctx.norm, ctx.batch, kernels = norm, batch, norm.kernels
        sums, shift = None, y[0].to(weight.dtype)
        if norm.training:
            sums = kernels.column_sums(y, shift, batch)
        norm.set_statistics(sums, shift, batch.points)
        argmax, slopes = kernels.pool(y, norm.affine, weight.sign(), norm.slope, batch)
        # The activation is slope z with z = scale (y - mean) + bias.
        mean = bias.double() * slopes[0] + norm.affine[0].double() * slopes[1]
        extreme = y.gather(0, argmax).to(weight.dtype)  # (B, C)
        ctx.save_for_backward(y, argmax, extreme, slopes)
        return norm.activate(extreme), (mean / batch.cloud_size).to(weight.dtype)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_max: Tensor, grad_mean: Tensor
    ) -> tuple[Tensor | None, ...]:
        y, argmax, extreme, slopes = ctx.saved_tensors
        share = (grad_mean / ctx.batch.cloud_size).contiguous()  # (B, C), of each point
        grad_extreme, sums = ctx.norm.activation_gradient(grad_max, extreme)
        sums += (share * slopes).sum(dim=1)
        weight, bias, *terms = ctx.norm.statistics_gradient(sums)
        grad = ctx.norm.kernels.pool_gradient(
            share, y, ctx.norm.affine, *terms, ctx.norm.slope, ctx.batch
        )
        grad.scatter_add_(0, argmax, grad_extreme.to(grad.dtype))
        return grad, weight, bias, None, None
