"""BatchNorm, LeakyReLU and the poolings over the points of each cloud.

``y`` may be in half precision, as autocast leaves it; all else is in that of the
BatchNorm's parameters.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.fused.rows import Rows
from models.fused.triton.edges import COLS, ROWS, TILE, TILES, grid


@triton.jit
def _column_sums(
    y,
    shift,
    weight,
    partial,
    rows,
    channels,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    TILES: tl.constexpr,
):
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)
    inside = c < channels
    middle = tl.load(shift + c, inside, 0.0)[None, :]
    first, second = tl.zeros((COLS,), tl.float64), tl.zeros((COLS,), tl.float64)
    for tile in range(TILES):
        i = (tl.program_id(0).to(tl.int64) * TILES + tile) * ROWS + tl.arange(0, ROWS)
        there = i < rows
        mask = there[:, None] & inside[None, :]
        value = tl.load(y + i[:, None] * channels + c[None, :], mask, 0.0)
        d = value.to(middle.dtype) - middle
        w = tl.load(weight + i, there, 0.0)[:, None]
        first += tl.sum(w * d, axis=0).to(tl.float64)
        second += tl.sum(w * d * d, axis=0).to(tl.float64)
    at = tl.program_id(0) * 2 * channels + c
    tl.store(partial + at, first, inside)
    tl.store(partial + at + channels, second, inside)


def column_sums(y: Tensor, shift: Tensor, rows: Rows) -> Tensor:
    """As :func:`models.fused.numba.pool.column_sums`."""
    programs = grid(*y.shape)
    partial = y.new_zeros(programs[0], 2, y.shape[1], dtype=torch.float64)
    _column_sums[programs](
        *(y, shift, rows.weight, partial, *y.shape), TILES=TILES, **TILE
    )
    return partial.sum(dim=0)


@triton.jit
def _pool(
    y,
    scale,
    offset,
    sign,
    weight,
    first,
    slope,
    points,
    arg,
    mean,
    channels,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    start = tl.load(first + tl.program_id(0))
    end = tl.load(first + tl.program_id(0) + 1)
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)
    inside = c < channels
    factor = tl.load(scale + c, inside, 0.0)[None, :]
    shift = tl.load(offset + c, inside, 0.0)[None, :]
    s = tl.load(sign + c, inside, 0.0)[None, :]
    best = tl.full((ROWS, COLS), float("-inf"), factor.dtype)
    who = tl.zeros((ROWS, COLS), tl.int64) + start
    total = tl.zeros((COLS,), tl.float64)
    for origin in range(start, end, ROWS):
        i = origin + tl.arange(0, ROWS)
        there = i < end
        mask = there[:, None] & inside[None, :]
        value = tl.load(y + i[:, None] * channels + c[None, :], mask, 0.0)
        value = value.to(factor.dtype)
        z = value * factor + shift
        z = tl.where(z > 0, z, (z * slope).to(z.dtype))
        w = tl.load(weight + i, there, 0.0)[:, None]
        total += tl.sum(w * z, axis=0).to(tl.float64)
        better = (value * s > best) & there[:, None]
        best = tl.where(better, value * s, best)
        who = tl.where(better, i[:, None], who)
    # Of equal rows the first.
    greatest = tl.max(best, axis=0)[None, :]
    found = tl.min(tl.where(best == greatest, who, end), axis=0)
    at = tl.program_id(0) * channels + c
    tl.store(arg + at, tl.where(found < end, found, start), inside)
    tl.store(mean + at, (total / points).to(factor.dtype), inside)


def pool(
    y: Tensor, scale: Tensor, offset: Tensor, sign: Tensor, slope: float, rows: Rows
) -> tuple[Tensor, Tensor]:
    """As :func:`models.fused.numba.pool.pool`."""
    clouds, channels = len(rows.first) - 1, y.shape[1]
    arg = y.new_empty(clouds, channels, dtype=torch.int64)
    mean = scale.new_empty(clouds, channels)
    _pool[clouds, triton.cdiv(channels, COLS)](
        *(y, scale, offset, sign, rows.weight, rows.first, slope, rows.points),
        *(arg, mean, channels),
        **TILE,
    )
    return arg, mean


@triton.jit
def _pool_sums(
    share,
    y,
    scale,
    offset,
    mean,
    weight,
    first,
    slope,
    partial,
    channels,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    cloud = tl.program_id(0)
    start, end = tl.load(first + cloud), tl.load(first + cloud + 1)
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)
    inside = c < channels
    factor = tl.load(scale + c, inside, 0.0)[None, :]
    shift = tl.load(offset + c, inside, 0.0)[None, :]
    middle = tl.load(mean + c, inside, 0.0)[None, :]
    g = tl.load(share + cloud * channels + c, inside, 0.0)[None, :]
    one, two = tl.zeros((COLS,), tl.float64), tl.zeros((COLS,), tl.float64)
    for origin in range(start, end, ROWS):
        i = origin + tl.arange(0, ROWS)
        there = i < end
        mask = there[:, None] & inside[None, :]
        value = tl.load(y + i[:, None] * channels + c[None, :], mask, 0.0)
        value = value.to(factor.dtype)
        w = tl.load(weight + i, there, 0.0)[:, None]
        dz = tl.where(value * factor + shift > 0, w * g, (w * g * slope).to(g.dtype))
        one += tl.sum(dz, axis=0).to(tl.float64)
        two += tl.sum(dz * (value - middle), axis=0).to(tl.float64)
    at = cloud * 2 * channels + c
    tl.store(partial + at, one, inside)
    tl.store(partial + at + channels, two, inside)


def pool_sums(
    share: Tensor, y: Tensor, affine: tuple[Tensor, ...], slope: float, rows: Rows
) -> Tensor:
    """As :func:`models.fused.numba.pool.pool_sums`."""
    clouds, channels = share.shape
    partial = y.new_zeros(clouds, 2, channels, dtype=torch.float64)
    _pool_sums[clouds, triton.cdiv(channels, COLS)](
        *(share.contiguous(), y, *affine, rows.weight, rows.first, slope),
        *(partial, channels),
        **TILE,
    )
    return partial.sum(dim=0)


@triton.jit
def _pool_gradient(
    share,
    y,
    scale,
    offset,
    alpha,
    beta,
    weight,
    first,
    slope,
    out,
    channels,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    cloud = tl.program_id(1)
    end = tl.load(first + cloud + 1)
    i = tl.load(first + cloud) + tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(2) * COLS + tl.arange(0, COLS)
    there, inside = i < end, c < channels
    mask = there[:, None] & inside[None, :]
    at = i[:, None] * channels + c[None, :]
    factor = tl.load(scale + c, inside, 0.0)[None, :]
    shift = tl.load(offset + c, inside, 0.0)[None, :]
    slant = tl.load(alpha + c, inside, 0.0)[None, :]
    level = tl.load(beta + c, inside, 0.0)[None, :]
    g = tl.load(share + cloud * channels + c, inside, 0.0)[None, :] * factor
    value = tl.load(y + at, mask, 0.0).to(factor.dtype)
    g = tl.where(value * factor + shift > 0, g, (g * slope).to(g.dtype))
    w = tl.load(weight + i, there, 0.0)[:, None]
    found = w * (g + (slant * value + level))
    tl.store(out + at, found.to(out.dtype.element_ty), mask)


def pool_gradient(
    share: Tensor,
    y: Tensor,
    affine: tuple[Tensor, ...],
    terms: tuple[Tensor, Tensor],
    slope: float,
    rows: Rows,
) -> Tensor:
    """As :func:`models.fused.numba.pool.pool_gradient`."""
    out, (clouds, channels) = torch.empty_like(y), share.shape
    programs = (triton.cdiv(rows.points, ROWS), clouds, triton.cdiv(channels, COLS))
    _pool_gradient[programs](
        *(share.contiguous(), y, *affine[:2], *terms, rows.weight, rows.first),
        *(slope, out, channels),
        **TILE,
    )
    return out
