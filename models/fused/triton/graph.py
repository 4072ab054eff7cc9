"""The exact kNN graph, and its reverse adjacency."""

from __future__ import annotations

import itertools

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.fused.batch import RaggedBatch
from models.fused.triton.tiles import operation
from models.knn import distances, nearest

COLS = 64  # candidates at a time
LONGEST = 128  # neighbours, at most, that a program keeps in registers


@triton.jit
def _ordered(x):
    """Bits of a float32 -> an integer with the same order; its own inverse."""
    return x ^ ((x >> 31) & 0x7FFFFFFF)


@triton.jit
def _knn(
    x,
    square,
    offsets,
    out,
    channels,
    k,
    PLACES: tl.constexpr,  # a power of 2, at least k
    FEW: tl.constexpr,  # channels, too few for a tile: one by one
    DEPTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Rows of one cloud against all of its rows, a tile of distances at a time.

    Each row takes the smallest distance out of the tile while it is below the k-th
    smallest so far. An entry of the list has the bits of the distance in its upper and
    the row in its lower half, so that of equal distances the smaller row is nearer.
    """
    start = tl.load(offsets + tl.program_id(1))
    end = tl.load(offsets + tl.program_id(1) + 1)
    row = start + tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    if start + tl.program_id(0) * ROWS >= end:
        return
    inf = float("inf")
    nowhere = tl.full((ROWS, PLACES), 0x7F800000, tl.int64) << 32  # at infinity
    slot = tl.arange(0, PLACES)[None, :]
    # Places beyond k are nearer than everything, so they are never replaced.
    near = tl.where(slot < k, nowhere + slot, tl.full((1, 1), -1, tl.int64) << 63)
    worst = tl.full((ROWS,), inf, tl.float32)
    for origin in range(start, end, COLS):
        column = origin + tl.arange(0, COLS)
        product = tl.zeros((ROWS, COLS), tl.float32)
        if FEW:
            for c in range(channels):
                p = tl.load(x + row * channels + c, row < end, 0.0)
                q = tl.load(x + column * channels + c, column < end, 0.0)
                product += p[:, None] * q[None, :]
        else:
            for c0 in range(0, channels, DEPTH):
                c = c0 + tl.arange(0, DEPTH)
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
        d = tl.load(square + column, column < end, inf)[None, :] - 2 * product
        d = tl.where(d < worst[:, None], d, inf)  # a NaN as well
        least, at = tl.min(d, axis=1, return_indices=True)
        while tl.min(least, axis=0) < inf:
            bits = _ordered((least + 0.0).to(tl.int32, bitcast=True))  # no -0
            key = (bits.to(tl.int64) << 32) | (origin + at).to(tl.int64)
            farthest = tl.max(near, axis=1)
            given = (near == farthest[:, None]) & (least < inf)[:, None]
            near = tl.where(given, key[:, None], near)
            bits = _ordered((tl.max(near, axis=1) >> 32).to(tl.int32))
            worst = bits.to(tl.float32, bitcast=True)
            d = tl.where(tl.arange(0, COLS)[None, :] == at[:, None], inf, d)
            d = tl.where(d < worst[:, None], d, inf)
            least, at = tl.min(d, axis=1, return_indices=True)
    near = tl.sort(near, dim=1)
    # The cloud's first row where distances are not finite or rows are too few.
    name = tl.where((near >> 32) == 0x7F800000, start, near & 0xFFFFFFFF)
    place = slot - (PLACES - k)  # places beyond k were sorted first
    tl.store(
        out + row[:, None] * k + place,
        name.to(tl.int32),
        (row < end)[:, None] & (place >= 0),
    )


@operation
def knn(x: Tensor, batch: RaggedBatch, k: int) -> Tensor:
    """(R, C) -> (R, k) int32, as :func:`models.fused.numba.graph.knn`.

    Distances are in float32, without TF32. Those in float64, and graphs of more than
    128 neighbours, fall back to :mod:`models.knn`, one cloud at a time.
    """
    if x.dtype == torch.float64 or k > LONGEST:
        found = _knn_by_cloud(x, batch, k)
    else:
        found = torch.empty(len(x), k, dtype=torch.int32, device=x.device)
        places = triton.next_power_of_2(k)
        height = 64 if places <= 16 else 32 if places <= 64 else 16
        grid = (triton.cdiv(batch.cloud_size, height), len(batch.offsets) - 1)
        few, square = x.shape[1] < 16, (x * x).sum(1)
        _knn[grid](
            *(x, square, batch.offsets, found, x.shape[1], k),
            PLACES=places,
            FEW=few,
            DEPTH=16 if few else 32,
            ROWS=height,
            num_warps=8 if height == 64 else 4,
            COLS=COLS,
        )
    if not batch.merged:
        return found
    # A row that stands for several points takes as many places.
    ends = batch.counts.int()[found].cumsum(1)  # (R, k)
    slots = torch.arange(k, device=x.device).expand_as(ends).contiguous()
    places = torch.searchsorted(ends, slots, right=True).clamp_(max=k - 1)
    return found.gather(1, places)


def _knn_by_cloud(x: Tensor, batch: RaggedBatch, k: int) -> Tensor:
    found = x.new_empty(len(x), k, dtype=torch.int32)
    for start, end in itertools.pairwise(batch.offsets.tolist()):
        cloud = x[None, start:end].transpose(1, 2)  # (1, C, n)
        names = nearest(distances(cloud, cloud), min(k, end - start))[0] + start
        found[start:end] = start
        found[start:end, : names.shape[1]] = names
    return found


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
