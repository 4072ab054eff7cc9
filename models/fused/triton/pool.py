"""BatchNorm, LeakyReLU and the poolings over the points of each cloud.

``y`` may be in half precision, as autocast leaves it; all else is in the precision of
the BatchNorm's parameters. Slopes are compile-time constants: as an argument a Python
float is rounded to float32, also in kernels of float64.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.fused.batch import RaggedBatch
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


@kernel
def _column_sums(y, shift, counts, sums, rows, channels):
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)
    shift_c = load_channels(shift, c, channels)
    first, second = tl.zeros((COLS,), tl.float64), tl.zeros((COLS,), tl.float64)
    for tile in range(TILES):
        i = (tl.program_id(0).to(tl.int64) * TILES + tile) * ROWS + tl.arange(0, ROWS)
        mask = (i < rows)[:, None] & (c < channels)[None, :]
        value = tl.load(y + i[:, None] * channels + c[None, :], mask, 0.0)
        d = value.to(shift_c.dtype) - shift_c
        w = tl.load(counts + i, i < rows, 0.0)[:, None]
        first += tl.sum(w * d, axis=0).to(tl.float64)
        second += tl.sum(w * d * d, axis=0).to(tl.float64)
    store_sums(sums, first, second, tl.program_id(0), c, channels)


@operation
def column_sums(y: Tensor, shift: Tensor, batch: RaggedBatch) -> Tensor:
    """As :func:`models.fused.numba.pool.column_sums`."""
    programs = grid(*y.shape)
    sums = y.new_zeros(programs[0], 2, y.shape[1], dtype=torch.float64)
    launch(_column_sums, programs, y, shift, batch.counts, sums, *y.shape)
    return sums.sum(dim=0)


@kernel
def _pool(
    y, scale, offset, mean, sign, counts, first, argmax, slopes, C, SLOPE: tl.constexpr
):
    cloud = tl.program_id(0)
    start, end = tl.load(first + cloud), tl.load(first + cloud + 1)
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)
    factor, shift = load_channels(scale, c, C), load_channels(offset, c, C)
    mean_c, s = load_channels(mean, c, C), load_channels(sign, c, C)
    best = tl.full((ROWS, COLS), float("-inf"), factor.dtype)
    arg = tl.zeros((ROWS, COLS), tl.int64) + end
    total, moment = tl.zeros((COLS,), tl.float64), tl.zeros((COLS,), tl.float64)
    for origin in range(start, end, ROWS):
        i = origin + tl.arange(0, ROWS)
        mask = (i < end)[:, None] & (c < C)[None, :]
        value = tl.load(y + i[:, None] * C + c[None, :], mask, 0.0)
        value = value.to(factor.dtype)
        better = mask & (value * s > best)
        best = tl.where(better, value * s, best)
        arg = tl.where(better, i[:, None], arg)
        w = tl.load(counts + i, i < end, 0.0)[:, None]
        slope = tl.where(value * factor + shift > 0, w, w * SLOPE)
        total += tl.sum(slope, axis=0).to(tl.float64)
        moment += tl.sum(slope * (value - mean_c), axis=0).to(tl.float64)
    # Of equal rows the first.
    greatest = tl.max(best, axis=0)[None, :]
    row = tl.min(tl.where(best == greatest, arg, end), axis=0)
    row = tl.where(row < end, row, start)
    tl.store(argmax + cloud * C + c, row, c < C)
    store_sums(slopes, total, moment, cloud, c, C)


@operation
def pool(
    y: Tensor,
    affine: Tensor,
    sign: Tensor,
    slope: float,
    batch: RaggedBatch,
) -> tuple[Tensor, Tensor]:
    """As :func:`models.fused.numba.pool.pool`."""
    clouds, channels = len(batch.offsets) - 1, y.shape[1]
    argmax = y.new_empty(clouds, channels, dtype=torch.int64)
    slopes = y.new_empty(clouds, 2, channels, dtype=torch.float64)
    programs = (clouds, triton.cdiv(channels, COLS.value))
    arrays = (y, *affine[:3], sign, batch.counts, batch.offsets, argmax, slopes)
    launch(_pool, programs, *arrays, channels, SLOPE=slope)
    return argmax, slopes.transpose(0, 1)


@kernel
def _pool_gradient(
    share, y, scale, offset, alpha, beta, counts, first, out, C, SLOPE: tl.constexpr
):
    cloud = tl.program_id(1)
    end = tl.load(first + cloud + 1)
    i = tl.load(first + cloud) + tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(2) * COLS + tl.arange(0, COLS)
    mask = (i < end)[:, None] & (c < C)[None, :]
    at = i[:, None] * C + c[None, :]
    factor, shift = load_channels(scale, c, C), load_channels(offset, c, C)
    alpha_c, beta_c = load_channels(alpha, c, C), load_channels(beta, c, C)
    g = load_channels(share + cloud * C, c, C) * factor
    value = tl.load(y + at, mask, 0.0).to(factor.dtype)
    g = tl.where(value * factor + shift > 0, g, g * SLOPE)
    w = tl.load(counts + i, i < end, 0.0)[:, None]
    grad_y = w * (g + (alpha_c * value + beta_c))
    tl.store(out + at, grad_y.to(out.dtype.element_ty), mask)


@operation
def pool_gradient(
    share: Tensor,
    y: Tensor,
    affine: Tensor,
    alpha: Tensor,
    beta: Tensor,
    slope: float,
    batch: RaggedBatch,
) -> Tensor:
    """As :func:`models.fused.numba.pool.pool_gradient`."""
    out, (clouds, channels) = torch.zeros_like(y), share.shape  # 0 for padding
    tiles = triton.cdiv(batch.cloud_size, ROWS.value)
    arrays = (share, y, *affine[:2], alpha, beta, batch.counts, batch.offsets, out)
    programs = (tiles, clouds, triton.cdiv(channels, COLS.value))
    launch(_pool_gradient, programs, *arrays, channels, SLOPE=slope)
    return out
