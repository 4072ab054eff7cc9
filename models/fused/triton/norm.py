"""BatchNorm's statistics and the gradient through them: one launch for each step.

In PyTorch's operations they are some 60 launches for each layer and direction, of a few
microseconds each, for vectors of a few hundred numbers.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from models.fused.triton.tiles import (
    COLS,
    ROWS,
    TILES,
    grid,
    kernel,
    launch,
    load_channels,
    operation,
    store_sums,
)
from utils.parallel.batchnorm import gather_statistics, running_statistics


@kernel
def _pack(sums, shift, out, count, C):
    c = tl.program_id(0) * COLS + tl.arange(0, COLS)
    n = tl.zeros((COLS,), tl.float64) + count
    first = tl.load(sums + c, c < C, 0.0) / n
    second = tl.load(sums + C + c, c < C, 0.0) / n
    mean = tl.load(shift + c, c < C, 0.0).to(tl.float64) + first
    tl.store(out + c, n, c < 1)
    tl.store(out + 1 + c, mean, c < C)
    tl.store(out + 1 + C + c, second - first * first, c < C)


@kernel
def _combine(
    parts,
    weight,
    bias,
    running_mean,
    running_var,
    affine,
    total,
    world,
    C,
    EPS: tl.constexpr,
    MOMENTUM: tl.constexpr,
):
    c = tl.program_id(0) * COLS + tl.arange(0, COLS)
    width, mask = 2 * C + 1, c < C
    n, mean = tl.zeros((COLS,), tl.float64), tl.zeros((COLS,), tl.float64)
    for r in range(world):
        count = tl.load(parts + r * width)
        n += count
        mean += count * tl.load(parts + r * width + 1 + c, mask, 0.0)
    mean = mean / n
    var = tl.zeros((COLS,), tl.float64)
    for r in range(world):
        delta = tl.load(parts + r * width + 1 + c, mask, 0.0) - mean
        rank_var = tl.load(parts + r * width + 1 + C + c, mask, 0.0)
        var += tl.load(parts + r * width) * (rank_var + delta * delta)
    var = var / n
    dtype = affine.dtype.element_ty
    old = tl.load(running_mean + c, mask, 0.0)
    tl.store(running_mean + c, old + MOMENTUM * (mean.to(dtype) - old), mask)
    old = tl.load(running_var + c, mask, 0.0)
    unbiased = (var * (n / (n - 1))).to(dtype)
    tl.store(running_var + c, old + MOMENTUM * (unbiased - old), mask)
    inverse = 1 / tl.sqrt(var + EPS)
    scale = tl.load(weight + c, mask, 0.0).to(tl.float64) * inverse
    offset = tl.load(bias + c, mask, 0.0).to(tl.float64) - mean * scale
    tl.store(affine + c, scale.to(dtype), mask)
    tl.store(affine + C + c, offset.to(dtype), mask)
    tl.store(affine + 2 * C + c, mean.to(dtype), mask)
    tl.store(affine + 3 * C + c, inverse.to(dtype), mask)
    tl.store(total + c, n, c < 1)


def batch_affine(
    norm: _BatchNorm, sums: Tensor, shift: Tensor, count: int, over_ranks: bool
) -> tuple[Tensor, Tensor]:
    """As :func:`models.fused.numba.norm.batch_affine`."""
    return _batch_affine(
        *(sums, shift, norm.weight, norm.bias, *running_statistics(norm)),
        *(count, over_ranks, norm.eps, norm.momentum, norm.num_batches_tracked),
    )


@operation
def _batch_affine(
    sums, shift, weight, bias, mean, var, count, over_ranks, eps, momentum, batches
) -> tuple[Tensor, Tensor]:
    channels = len(shift)
    programs = (triton.cdiv(channels, COLS.value),)
    packed = sums.new_empty(2 * channels + 1)
    launch(_pack, programs, sums, shift, packed, count, channels)
    parts = gather_statistics(packed) if over_ranks else packed[None]  # (W, 2C + 1)
    affine, total = weight.new_empty(4, channels), sums.new_empty(1)
    launch(
        _combine,
        programs,
        *(parts, weight, bias, mean, var, affine, total, len(parts), channels),
        EPS=eps,
        MOMENTUM=momentum,
    )
    batches.add_(1)
    return affine, total[0]


@kernel
def _activation_gradient(
    grad, y, affine, out, sums, rows, channels, SLOPE: tl.constexpr
):
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)
    factor = load_channels(affine, c, channels)
    shift = load_channels(affine + channels, c, channels)
    mean = load_channels(affine + 2 * channels, c, channels)
    first, second = tl.zeros((COLS,), tl.float64), tl.zeros((COLS,), tl.float64)
    for tile in range(TILES):
        i = (tl.program_id(0).to(tl.int64) * TILES + tile) * ROWS + tl.arange(0, ROWS)
        mask = (i < rows)[:, None] & (c < channels)[None, :]
        at = i[:, None] * channels + c[None, :]
        dz, value = tl.load(grad + at, mask, 0.0), tl.load(y + at, mask, 0.0)
        dz = tl.where(value * factor + shift > 0, dz, dz * SLOPE)
        first += tl.sum(dz, axis=0).to(tl.float64)
        second += tl.sum(dz * (value - mean), axis=0).to(tl.float64)
        tl.store(out + at, dz * factor, mask)
    store_sums(sums, first, second, tl.program_id(0), c, channels)


@operation
def activation_gradient(
    grad: Tensor, y: Tensor, affine: Tensor, slope: float
) -> tuple[Tensor, Tensor]:
    """As :func:`models.fused.numba.norm.activation_gradient`."""
    programs, out = grid(*y.shape), torch.empty_like(y)
    sums = y.new_empty(programs[0], 2, y.shape[1], dtype=torch.float64)
    arrays = (grad, y, affine, out, sums, *y.shape)
    launch(_activation_gradient, programs, *arrays, SLOPE=slope)
    return out, sums.sum(dim=0)


@kernel
def _statistics_gradient(sums, total, affine, count, out, C):
    c = tl.program_id(0) * COLS + tl.arange(0, COLS)
    mask = c < C
    dtype = out.dtype.element_ty
    n = tl.load(count)
    scale = tl.load(affine + c, mask, 0.0).to(tl.float64)
    mean = tl.load(affine + 2 * C + c, mask, 0.0).to(tl.float64)
    inverse = tl.load(affine + 3 * C + c, mask, 0.0).to(tl.float64)
    alpha = -scale * inverse * inverse * tl.load(total + C + c, mask, 0.0) / n
    beta = -scale * tl.load(total + c, mask, 0.0) / n - alpha * mean
    grad_weight = tl.load(sums + C + c, mask, 0.0) * inverse
    tl.store(out + c, grad_weight.to(dtype), mask)
    tl.store(out + C + c, tl.load(sums + c, mask, 0.0).to(dtype), mask)
    tl.store(out + 2 * C + c, alpha.to(dtype), mask)
    tl.store(out + 3 * C + c, beta.to(dtype), mask)


@operation
def statistics_gradient(
    sums: Tensor, total: Tensor, affine: Tensor, count: Tensor
) -> tuple[Tensor, ...]:
    """As :func:`models.fused.numba.norm.statistics_gradient`."""
    channels, out = affine.shape[1], torch.empty_like(affine)
    programs = (triton.cdiv(channels, COLS.value),)
    launch(_statistics_gradient, programs, sums, total, affine, count, out, channels)
    return tuple(out)
