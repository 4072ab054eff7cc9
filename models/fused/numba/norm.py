"""BatchNorm's statistics and the gradient through them, in PyTorch's operations."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from utils.parallel.batchnorm import (
    combine_statistics,
    norm_affine,
    update_running_statistics,
)


def batch_affine(
    norm: _BatchNorm, sums: Tensor, shift: Tensor, count: int, over_ranks: bool
) -> tuple[Tensor, Tensor]:
    """BatchNorm by the global batch's statistics; updates the running ones.

    Args:
        norm: in training, which maps y to scale y + offset.
        sums: (2, C) float64 of y - shift and its square over this rank's values.
        shift: (C,) near the mean of y.
        count: this rank's values of each channel.
        over_ranks: whether other ranks have values as well.

    Returns:
        scale, offset, mean and inverse standard deviation (4, C); the global batch's
        values of each channel, a float64 scalar.
    """
    first, second = sums / count
    total, mean, var = combine_statistics(
        count, shift.double() + first, second - first * first, over_ranks
    )
    update_running_statistics(norm, total, mean, var)
    return norm_affine(norm, mean, var), total


def activation_gradient(
    grad: Tensor, y: Tensor, affine: Tensor, slope: float
) -> tuple[Tensor, Tensor]:
    """Back through LeakyReLU(z), z = scale y + offset, with constant statistics.

    Args:
        grad, y: (R, C).
        affine: as of :func:`batch_affine`.
        slope: of the LeakyReLU.

    Returns:
        the gradient of y (R, C); the sums over the rows of dz and dz (y - mean), (2, C)
        float64.
    """
    scale, offset, mean, _ = affine
    z = torch.addcmul(offset, y, scale)
    dz = torch.ops.aten.leaky_relu_backward(grad.contiguous(), z, slope, False)
    sums = torch.stack([dz.sum(dim=0), (y - mean).mul_(dz).sum(dim=0)])
    return dz.mul_(scale), sums.double()


def statistics_gradient(
    sums: Tensor, total: Tensor, affine: Tensor, count: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of weight and bias, and of y through mean and variance.

    With y' = (y - mean) / deviation, each of the n values y of a channel gets
    -scale (sum(dz) + y' sum(dz y')) / n = alpha y + beta.

    Args:
        sums: (2, C) float64 of dz and of dz (y - mean) over this rank's values.
        total: the same over all ranks' values.
        affine, count: as of :func:`batch_affine`.

    Returns:
        the gradients of weight and bias, alpha, beta, (C,) each.
    """
    scale, _, mean, inverse = affine.double()
    alpha = -scale * inverse**2 * total[1] / count
    beta = -scale * total[0] / count - alpha * mean
    grads = torch.stack([sums[1] * inverse, sums[0], alpha, beta])
    return tuple(grads.to(affine.dtype))
