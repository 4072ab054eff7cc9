"""EdgeConv with one layer on the edges."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from models.fused.rows import Graph, Rows
from models.fused.triton.graph import reverse_edges

ROWS, COLS = 16, 64  # rows and channels that a program holds at a time
TILES = 8  # of rows, one after another: one partial sum for them all
TILE = {"ROWS": ROWS, "COLS": COLS}


def grid(rows: int, channels: int, tiles: int = TILES) -> tuple[int, int]:
    """Programs over rows, ``tiles`` times ROWS each, and over channels."""
    return triton.cdiv(rows, ROWS * tiles), triton.cdiv(channels, COLS)


@triton.jit
def _edge_extremes(
    a,
    b,
    idx,
    sign,
    shift,
    weight,
    y,
    arg,
    total,
    partial,
    rows,
    channels,
    K: tl.constexpr,
    STATS: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    TILES: tl.constexpr,
):
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)
    inside = c < channels
    s = tl.load(sign + c, inside, 0.0)[None, :]
    middle = tl.load(shift + c, inside, 0.0)[None, :]
    first, second = tl.zeros((COLS,), tl.float64), tl.zeros((COLS,), tl.float64)
    for tile in range(TILES):
        i = (tl.program_id(0).to(tl.int64) * TILES + tile) * ROWS + tl.arange(0, ROWS)
        there = i < rows
        mask = there[:, None] & inside[None, :]
        at = i[:, None] * channels + c[None, :]
        own = tl.load(b + at, mask, 0.0)
        j = tl.load(idx + i * K, there, 0)
        v = tl.load(a + j[:, None].to(tl.int64) * channels + c[None, :], mask, 0.0)
        nearest, best = v, v * s
        who = tl.zeros((ROWS, COLS), tl.int32) + j[:, None]
        t = v + (own - middle)
        added, squares = v, t * t
        for k in range(1, K):
            j = tl.load(idx + i * K + k, there, 0)
            v = tl.load(a + j[:, None].to(tl.int64) * channels + c[None, :], mask, 0.0)
            better = v * s > best
            best = tl.where(better, v * s, best)
            who = tl.where(better, j[:, None], who)
            if STATS:
                t = v + (own - middle)
                added += v
                squares += t * t
        # The sign undoes itself exactly; where it is 0 all edges tie.
        tl.store(y + at, tl.where(s == 0, nearest, best * s) + own, mask)
        tl.store(arg + at, who, mask)
        if STATS:
            tl.store(total + at, added, mask)
            w = tl.load(weight + i, there, 0.0)[:, None]
            first += tl.sum(w * (added + K * (own - middle)), axis=0).to(tl.float64)
            second += tl.sum(w * squares, axis=0).to(tl.float64)
    if STATS:
        at = tl.program_id(0) * 2 * channels + c
        tl.store(partial + at, first, inside)
        tl.store(partial + at + channels, second, inside)


def edge_extremes(
    a: Tensor, b: Tensor, graph: Graph, sign: Tensor, shift: Tensor, stats: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As :func:`models.fused.numba.edges.edge_extremes`."""
    (rows, channels), count = a.shape, graph.idx.shape[1]
    y, arg = torch.empty_like(a), torch.empty_like(a, dtype=torch.int32)
    total = torch.empty_like(a) if stats else a[:0]
    programs = grid(rows, channels)
    partial = a.new_zeros(programs[0], 2, channels, dtype=torch.float64)
    _edge_extremes[programs](
        *(a.contiguous(), b.contiguous(), graph.idx, sign, shift, graph.rows.weight),
        *(y, arg, total, partial, rows, channels),
        K=count,
        STATS=stats,
        TILES=TILES,
        **TILE,
    )
    return y, arg, total, partial.sum(dim=0)


def edge_maximum(
    a: Tensor, b: Tensor, graph: Graph, offset: Tensor, slope: float
) -> Tensor:
    """As :func:`models.fused.numba.edges.edge_maximum`."""
    sign, shift = torch.ones_like(offset), torch.zeros_like(offset)
    y, *_ = edge_extremes(a, b, graph, sign, shift, stats=False)
    return F.leaky_relu_(y + offset, slope)


@triton.jit
def _edge_slopes(
    grad,
    y,
    scale,
    offset,
    mean,
    slope,
    out,
    partial,
    rows,
    channels,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    TILES: tl.constexpr,
):
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)
    inside = c < channels
    factor = tl.load(scale + c, inside, 0.0)[None, :]
    shift = tl.load(offset + c, inside, 0.0)[None, :]
    middle = tl.load(mean + c, inside, 0.0)[None, :]
    first, second = tl.zeros((COLS,), tl.float64), tl.zeros((COLS,), tl.float64)
    for tile in range(TILES):
        i = (tl.program_id(0).to(tl.int64) * TILES + tile) * ROWS + tl.arange(0, ROWS)
        mask = (i < rows)[:, None] & inside[None, :]
        at = i[:, None] * channels + c[None, :]
        value, g = tl.load(y + at, mask, 0.0), tl.load(grad + at, mask, 0.0)
        g = tl.where(value * factor + shift > 0, g, (g * slope).to(g.dtype))
        tl.store(out + at, g * factor, mask)
        first += tl.sum(g, axis=0).to(tl.float64)
        second += tl.sum(g * (value - middle), axis=0).to(tl.float64)
    at = tl.program_id(0) * 2 * channels + c
    tl.store(partial + at, first, inside)
    tl.store(partial + at + channels, second, inside)


def edge_slopes(
    grad: Tensor, y: Tensor, affine: tuple[Tensor, ...], slope: float, rows: Rows
) -> tuple[Tensor, Tensor]:
    """As :func:`models.fused.numba.edges.edge_slopes`."""
    out, programs = torch.empty_like(y), grid(*y.shape)
    partial = y.new_zeros(programs[0], 2, y.shape[1], dtype=torch.float64)
    _edge_slopes[programs](
        *(grad, y, *affine, slope, out, partial, *y.shape), TILES=TILES, **TILE
    )
    return out, partial.sum(dim=0)


@triton.jit
def _add_statistics(
    a,
    b,
    weight,
    total,
    degree,
    begin,
    source,
    alpha,
    beta,
    ga,
    gb,
    rows,
    channels,
    count,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    j = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)
    there, inside = j < rows, c < channels
    mask = there[:, None] & inside[None, :]
    at = j[:, None] * channels + c[None, :]
    edge, end = tl.load(begin + j, there, 0), tl.load(begin + j + 1, there, 0)
    share = tl.zeros((ROWS, COLS), a.dtype.element_ty)
    for n in range(tl.max(end - edge, axis=0)):
        more = edge + n < end
        i = tl.load(source + edge + n, more, 0)
        w = tl.load(weight + i, more, 0.0)[:, None]
        value = tl.load(
            b + i[:, None].to(tl.int64) * channels + c[None, :],
            more[:, None] & inside[None, :],
            0.0,
        )
        share += w * value
    d = tl.load(degree + j, there, 0.0)[:, None]
    w = tl.load(weight + j, there, 0.0)[:, None]
    slope = tl.load(alpha + c, inside, 0.0)[None, :]
    level = tl.load(beta + c, inside, 0.0)[None, :]
    own = tl.load(a + at, mask, 0.0)
    value = tl.load(ga + at, mask, 0.0)
    tl.store(ga + at, value + slope * (d * own + share) + d * level, mask)
    own, there_sum = tl.load(b + at, mask, 0.0), tl.load(total + at, mask, 0.0)
    value = tl.load(gb + at, mask, 0.0)
    edges = slope * (there_sum + count * own) + count * level
    tl.store(gb + at, value + w * edges, mask)


def add_statistics(
    ga: Tensor,
    gb: Tensor,
    a: Tensor,
    b: Tensor,
    graph: Graph,
    total: Tensor,
    terms: tuple[Tensor, Tensor],
) -> None:
    """As :func:`models.fused.numba.edges.add_statistics`."""
    weight = graph.rows.weight
    _add_statistics[grid(len(a), a.shape[1], tiles=1)](
        *(a.contiguous(), b.contiguous(), weight, total),
        *(*reverse_edges(graph.idx, weight), *terms, ga, gb),
        *(*a.shape, graph.idx.shape[1]),
        **TILE,
    )


@triton.jit
def _to_extremes(grad, arg, ga, rows, channels, ROWS: tl.constexpr, COLS: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)
    mask = (i < rows)[:, None] & (c < channels)[None, :]
    at = i[:, None] * channels + c[None, :]
    j = tl.load(arg + at, mask, 0).to(tl.int64)
    value = tl.load(grad + at, mask, 0.0)
    tl.atomic_add(ga + j * channels + c[None, :], value, mask, sem="relaxed")


def to_extremes(grad: Tensor, arg: Tensor, rows: Rows) -> Tensor:
    """As :func:`models.fused.numba.edges.to_extremes`."""
    ga = torch.zeros_like(grad)
    size = (len(grad), grad.shape[1])
    _to_extremes[grid(*size, tiles=1)](grad, arg, ga, *size, **TILE)
    return ga
