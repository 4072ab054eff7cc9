"""EdgeConv with one layer on the edges."""

import torch
import torch.nn.functional as F
import triton.language as tl
from torch import Tensor

from models.fused.batch import Graph
from models.fused.triton.graph import reverse_adjacency
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
def _edge_extremes(
    a,
    b,
    idx,
    sign,
    shift,
    counts,
    y,
    argmax,
    total,
    sums,
    rows,
    channels,
    K: tl.constexpr,
    STATS: tl.constexpr,
):
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)
    s, shift_c = load_channels(sign, c, channels), load_channels(shift, c, channels)
    first, second = tl.zeros((COLS,), tl.float64), tl.zeros((COLS,), tl.float64)
    for tile in range(TILES):
        i = (tl.program_id(0).to(tl.int64) * TILES + tile) * ROWS + tl.arange(0, ROWS)
        mask = (i < rows)[:, None] & (c < channels)[None, :]
        at = i[:, None] * channels + c[None, :]
        b_i = tl.load(b + at, mask, 0.0)
        j = tl.load(idx + i * K, i < rows, 0)
        v = tl.load(a + j[:, None].to(tl.int64) * channels + c[None, :], mask, 0.0)
        nearest, best = v, v * s
        arg = tl.zeros((ROWS, COLS), tl.int32) + j[:, None]
        t = v + (b_i - shift_c)
        added, squares = v, t * t
        for k in range(1, K):
            j = tl.load(idx + i * K + k, i < rows, 0)
            v = tl.load(a + j[:, None].to(tl.int64) * channels + c[None, :], mask, 0.0)
            better = v * s > best
            best = tl.where(better, v * s, best)
            arg = tl.where(better, j[:, None], arg)
            if STATS:
                t = v + (b_i - shift_c)
                added += v
                squares += t * t
        # Multiplying by the sign twice is exact. Where it is 0 all edges tie.
        tl.store(y + at, tl.where(s == 0, nearest, best * s) + b_i, mask)
        tl.store(argmax + at, arg, mask)
        if STATS:
            tl.store(total + at, added, mask)
            w = tl.load(counts + i, i < rows, 0.0)[:, None]
            first += tl.sum(w * (added + K * (b_i - shift_c)), axis=0).to(tl.float64)
            second += tl.sum(w * squares, axis=0).to(tl.float64)
    if STATS:
        store_sums(sums, first, second, tl.program_id(0), c, channels)


@operation
def edge_extremes(
    a: Tensor, b: Tensor, graph: Graph, sign: Tensor, shift: Tensor, stats: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As :func:`models.fused.numba.edges.edge_extremes`."""
    (rows, channels), neighbours = a.shape, graph.idx.shape[1]
    y, argmax = torch.empty_like(a), torch.empty_like(a, dtype=torch.int32)
    total, programs = torch.empty_like(a) if stats else a[:0], grid(rows, channels)
    sums = a.new_zeros(programs[0], 2, channels, dtype=torch.float64)
    arrays = (a, b, graph.idx, sign, shift, graph.batch.counts, y, argmax, total, sums)
    constants = {"K": neighbours, "STATS": stats}
    launch(_edge_extremes, programs, *arrays, rows, channels, **constants)
    return y, argmax, total, sums.sum(dim=0)


def edge_maximum(
    a: Tensor, b: Tensor, graph: Graph, offset: Tensor, slope: float
) -> Tensor:
    """As :func:`models.fused.numba.edges.edge_maximum`."""
    sign, shift = torch.ones_like(offset), torch.zeros_like(offset)
    y, *_ = edge_extremes(a, b, graph, sign, shift, False)
    return F.leaky_relu_(y + offset, slope)


@kernel
def _edge_gradients(
    grad_a,
    grad_b,
    argmax,
    a,
    b,
    counts,
    total,
    degree,
    begin,
    source,
    alpha,
    beta,
    out,
    rows,
    channels,
    k,
    ARGMAX: tl.constexpr,
):
    j = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)
    row_mask, channel_mask = j < rows, c < channels
    mask = row_mask[:, None] & channel_mask[None, :]
    at = j[:, None] * channels + c[None, :]
    edge, end = tl.load(begin + j, row_mask, 0), tl.load(begin + j + 1, row_mask, 0)
    share = tl.zeros((ROWS, COLS), a.dtype.element_ty)
    grad_max, previous = share, tl.full((ROWS,), -1, tl.int32)
    for n in range(tl.max(end - edge, axis=0)):
        more = edge + n < end
        i = tl.load(source + edge + n, more, 0)
        w = tl.load(counts + i, more, 0.0)[:, None]
        at_i = i[:, None].to(tl.int64) * channels + c[None, :]
        edge_mask = more[:, None] & channel_mask[None, :]
        share += w * tl.load(b + at_i, edge_mask, 0.0)
        if ARGMAX:
            # Edges from one i are adjacent; its maximum is counted once.
            edge_mask = edge_mask & (i != previous)[:, None]
            chosen = edge_mask & (tl.load(argmax + at_i, edge_mask, -1) == j[:, None])
            grad_max += tl.load(grad_b + at_i, chosen, 0.0)
            previous = i
    d = tl.load(degree + j, row_mask, 0.0)[:, None]
    w = tl.load(counts + j, row_mask, 0.0)[:, None]
    alpha_c, beta_c = (
        load_channels(alpha, c, channels),
        load_channels(beta, c, channels),
    )
    old, value = tl.load(grad_a + at, mask, 0.0) + grad_max, tl.load(a + at, mask, 0.0)
    tl.store(grad_a + at, old + alpha_c * (d * value + share) + d * beta_c, mask)
    old, value = tl.load(grad_b + at, mask, 0.0), tl.load(b + at, mask, 0.0)
    edges = tl.load(total + at, mask, 0.0) + k * value
    tl.store(out + at, old + w * (alpha_c * edges + k * beta_c), mask)


@operation
def edge_gradients(
    grad_a: Tensor,
    grad_b: Tensor,
    argmax: Tensor | None,
    a: Tensor,
    b: Tensor,
    graph: Graph,
    total: Tensor,
    alpha: Tensor,
    beta: Tensor,
) -> tuple[Tensor, Tensor]:
    """As :func:`models.fused.numba.edges.edge_gradients`.

    Every row adds up its incoming edges in ascending order. Atomic additions would add
    them in another order each time.
    """
    (rows, channels), counts = a.shape, graph.batch.counts
    out = torch.empty_like(grad_b)  # other programs still read grad_b
    names = graph.idx if argmax is None else argmax  # a pointer is needed anyway
    launch(
        _edge_gradients,
        grid(rows, channels, tiles=1),
        *(grad_a, grad_b, names, a, b, counts, total),
        *(*reverse_adjacency(graph.idx, counts), alpha, beta, out),
        *(rows, channels, graph.idx.shape[1]),
        ARGMAX=argmax is not None,
    )
    return grad_a, out
