"""BatchNorm's statistics, and the gradients through them and the activation."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from models.fused.numba.tasks import LONG, flush, kernel, operation, sum_over_rows
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


@kernel
def _activation_gradient(grad, y, scale, offset, mean, slope, out, sums, start, end):
    part = np.zeros((2, y.shape[1]), y.dtype)
    for i in range(start, end):
        for c in range(y.shape[1]):
            v, dz = y[i, c], grad[i, c]
            dz = dz if v * scale[c] + offset[c] > 0 else dz * slope
            out[i, c] = dz * scale[c]
            part[0, c] += dz
            part[1, c] += dz * (v - mean[c])
        flush(part, sums, i, start, end)


@operation
def activation_gradient(
    grad: np.ndarray, y: np.ndarray, affine: np.ndarray, slope: float
) -> tuple[np.ndarray, np.ndarray]:
    """Back through LeakyReLU(z), z = scale y + offset, with constant statistics.

    Args:
        grad, y: (R, C).
        affine: as of :func:`batch_affine`.
        slope: of the LeakyReLU.

    Returns:
        the gradient of y (R, C); the sums over the rows of dz and dz (y - mean), (2, C)
        float64.
    """
    out = np.empty_like(y)
    arrays = (grad, y, *affine[:3], y.dtype.type(slope), out)
    return out, sum_over_rows(
        _activation_gradient, arrays, [0, len(y)], LONG, y.shape[1]
    )


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
