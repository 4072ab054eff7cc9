"""The exact kNN graph, and its reverse adjacency."""

import itertools

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.fused.batch import RaggedBatch
from models.fused.triton.tiles import kernel, launch, operation
from models.knn import distances, nearest

LONGEST = 128  # neighbours, at most, that a program keeps in registers


@kernel
def _ordered(x):
    """Bits of a float32 -> an integer with the same order; its own inverse."""
    return x ^ ((x >> 31) & 0x7FFFFFFF)


@kernel
def _distances(
    x,
    square,
    row,
    column,
    end,
    channels,
    DEPTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """|x_j|² - 2 x_i.x_j of rows i and columns j, infinite beyond the cloud's end."""
    product = tl.zeros((ROWS, COLS), tl.float32)
    for first in range(0, channels, DEPTH):
        c = first + tl.arange(0, DEPTH)
        p = tl.load(
            x + row[:, None] * channels + c[None, :],
            (row < end)[:, None] & (c < channels)[None, :],
            0.0,
        )
        q = tl.load(
            x + column[None, :] * channels + c[:, None],
            (column < end)[None, :] & (c < channels)[:, None],
            0.0,
        )
        product = tl.dot(p, q, product, input_precision="ieee")
    return tl.load(square + column, column < end, float("inf"))[None, :] - 2 * product


@kernel
def _keys(distance, column):
    """int64 that order by distance, then by column; infinite and NaN ones come last."""
    finite = tl.where(distance < float("inf"), distance, float("inf"))
    bits = _ordered((finite + 0.0).to(tl.int32, bitcast=True))  # no -0
    return (bits.to(tl.int64) << 32) | column.to(tl.int64)[None, :]


@kernel
def _knn(
    x,
    square,
    offsets,
    listed,
    out,
    channels,
    k,
    PLACES: tl.constexpr,  # a power of 2, at least k
    DEPTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Rows of one cloud against all of its rows, a tile of distances at a time.

    Column j is in group j modulo COLS. The k-th smallest of the groups' minima is an
    upper bound of the k-th distance. A second pass lists the few columns within it. If
    a row has more of them than fit, the program's rows scan all columns once more and
    keep the nearest by sorting.
    """
    start = tl.load(offsets + tl.program_id(1))
    end = tl.load(offsets + tl.program_id(1) + 1)
    row = start + tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    if start + tl.program_id(0) * ROWS >= end:
        return
    inf = float("inf")
    minima = tl.full((ROWS, COLS), inf, tl.float32)
    for origin in range(start, end, COLS):
        column = origin + tl.arange(0, COLS)
        d = _distances(x, square, row, column, end, channels, DEPTH, ROWS, COLS)
        minima = tl.where(d < minima, d, minima)  # a NaN is not
    for _ in range(k - 1):
        _, group = tl.min(minima, axis=1, return_indices=True)
        minima = tl.where(tl.arange(0, COLS)[None, :] == group[:, None], inf, minima)
    bound = tl.min(minima, axis=1)

    number = tl.zeros((ROWS,), tl.int32)  # of columns within the bound
    for origin in range(start, end, COLS):
        column = origin + tl.arange(0, COLS)
        d = _distances(x, square, row, column, end, channels, DEPTH, ROWS, COLS)
        within = (d <= bound[:, None]) & (d < inf)
        place = number[:, None] + tl.cumsum(within.to(tl.int32), axis=1) - 1
        at = listed + row[:, None] * PLACES + place
        mask = within & (place < PLACES) & (row < end)[:, None]
        tl.store(at, _keys(d, column), mask)
        number += tl.sum(within.to(tl.int32), axis=1)
    tl.debug_barrier()  # what other threads listed is read below

    slot = tl.arange(0, PLACES)[None, :]
    missing = tl.full((1, 1), 0x7F800000, tl.int64) << 32  # at infinity
    keys = tl.zeros((ROWS, PLACES), tl.int64) + missing
    number = tl.where(row < end, number, 0)
    if tl.max(number, axis=0) <= PLACES:
        valid = slot < number[:, None]
        keys = tl.load(listed + row[:, None] * PLACES + slot, valid, 0)
        keys = tl.sort(tl.where(valid, keys, missing), dim=1)
    else:
        half = tl.arange(0, 2)[None, :, None]
        for origin in range(start, end, PLACES):
            column = origin + tl.arange(0, PLACES)
            d = _distances(x, square, row, column, end, channels, DEPTH, ROWS, PLACES)
            merged = tl.join(keys, _keys(d, column))
            merged = tl.sort(tl.reshape(merged, (ROWS, 2 * PLACES)), dim=1)
            merged = tl.reshape(merged, (ROWS, 2, PLACES))
            keys = tl.sum(tl.where(half == 0, merged, 0), axis=1)
    # The cloud's first row where distances are not finite or rows are too few.
    idx = tl.where((keys >> 32) >= 0x7F800000, start, keys & 0xFFFFFFFF)
    tl.store(
        out + row[:, None] * k + slot,
        idx.to(tl.int32),
        (row < end)[:, None] & (slot < k),
    )


@operation
def knn(x: Tensor, batch: RaggedBatch, k: int) -> Tensor:
    """(R, C) -> (R, k) int32, as :func:`models.fused.numba.graph.knn`.

    Distances are in float32, without TF32. Those in float64, and graphs of more than
    128 neighbours, fall back to :mod:`models.knn`, one cloud at a time.
    """
    if x.dtype == torch.float64 or k > LONGEST:
        idx = _knn_by_cloud(x, batch, k)
    else:
        idx = _self_edges(len(x), k, x.device)
        # With this number of groups k to 1.2 k columns are within the bound.
        groups = max(64, triton.next_power_of_2(4 * k))
        places = max(32, triton.next_power_of_2(k + k // 2))
        rows = max(16, 4096 // groups)  # of a program
        listed = torch.empty(len(x), places, dtype=torch.int64, device=x.device)
        launch(
            _knn,
            (triton.cdiv(batch.cloud_size, rows), len(batch.offsets) - 1),
            *(x, (x * x).sum(1), batch.offsets, listed, idx, x.shape[1], k),
            PLACES=places,
            DEPTH=16 if x.shape[1] <= 16 else 32,
            ROWS=rows,
            num_warps=8,
            COLS=groups,
        )
    if not batch.merged:
        return idx
    # A row that stands for several points takes as many places.
    ends = batch.counts.int()[idx].cumsum(1)  # (R, k)
    slots = torch.arange(k, device=x.device).expand_as(ends).contiguous()
    places = torch.searchsorted(ends, slots, right=True).clamp_(max=k - 1)
    return idx.gather(1, places)


def _self_edges(rows: int, k: int, device: torch.device) -> Tensor:
    """(R, k) where all edges of a row end at itself, as those of padding do."""
    indices = torch.arange(rows, dtype=torch.int32, device=device)
    return indices[:, None].repeat(1, k)


def _knn_by_cloud(x: Tensor, batch: RaggedBatch, k: int) -> Tensor:
    result = _self_edges(len(x), k, x.device)
    for start, end in itertools.pairwise(batch.offsets.tolist()):
        cloud = x[None, start:end].transpose(1, 2)  # (1, C, n)
        idx = nearest(distances(cloud, cloud), min(k, end - start))[0] + start
        result[start:end] = start
        result[start:end, : idx.shape[1]] = idx
    return result


def reverse_adjacency(idx: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`models.fused.numba.graph.reverse_adjacency`."""
    rows, neighbours = idx.shape
    targets = idx.flatten()
    degree = torch.zeros_like(counts).index_add_(
        0, targets, counts.repeat_interleave(neighbours, output_size=rows * neighbours)
    )
    targets, order = targets.sort(stable=True)
    ends = torch.arange(rows + 1, device=idx.device, dtype=idx.dtype)
    begin = torch.searchsorted(targets, ends)
    source = torch.div(order, neighbours, rounding_mode="floor").int()
    return degree, begin, source
