"""EdgeConv with two layers on the edges, a few thousand edges at a time."""

from __future__ import annotations

import numpy as np
import torch

from models.fused.numba.tasks import (
    EDGES,
    kernel,
    operation,
    row_tasks,
    run_tasks,
    scratch,
)
from models.fused.rows import Graph


@kernel
def _gather_edges(a, b, idx, scale, offset, slope, hidden, start, end):
    count, channels = idx.shape[1], a.shape[1]
    for i in range(start, end):
        for k in range(count):
            j, row = idx[i, k], (i - start) * count + k
            for c in range(channels):
                z = (a[j, c] + b[i, c]) * scale[c] + offset[c]
                hidden[row, c] = z if z > 0 else z * slope


@kernel
def _reduce_edges(edges, count, sign, shift, weight, stats, y, arg, sums, start, end):
    channels = edges.shape[1]
    best, who = np.empty((2, channels), edges.dtype), np.empty((2, channels), np.int32)
    part = np.empty((2, channels), edges.dtype)
    for i in range(start, end):
        row, last = (i - start) * count, (count - 1) % 2
        for c in range(channels):
            best[0, c], who[0, c] = edges[row, c] * sign[c], 0
        for k in range(1, count):
            slot, old, new = np.int32(k), (k - 1) % 2, k % 2
            for c in range(channels):
                u, m = edges[row + k, c] * sign[c], best[old, c]
                before = who[old, c]
                best[new, c] = u if u > m else m
                who[new, c] = slot if u > m else before
        for c in range(channels):
            y[i, c] = best[last, c] * sign[c] if sign[c] != 0 else edges[row, c]
            arg[i, c] = who[last, c]
        if stats:  # a row's in their own precision, those of all rows in float64
            part[:] = 0
            for k in range(count):
                for c in range(channels):
                    d = edges[row + k, c] - shift[c]
                    part[0, c] += d
                    part[1, c] += d * d
            w = weight[i]
            for c in range(channels):
                sums[0, c] += w * part[0, c]
                sums[1, c] += w * part[1, c]


@operation
def two_layer_extremes(
    a: np.ndarray,
    b: np.ndarray,
    graph: Graph,
    affine: tuple[np.ndarray, ...],
    second: np.ndarray,
    sign: np.ndarray,
    shift: np.ndarray,
    slope: float,
    stats: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The extreme edge y = W act(BN(a_j + b_i)) of every row i and channel.

    Args:
        a, b, graph: as of :func:`models.fused.numba.edges.edge_extremes`.
        affine: scale, offset and mean (C,) of the first BatchNorm.
        second: W (C', C).
        sign, shift, stats: as there, for the second BatchNorm (C',).
        slope: of the LeakyReLU.

    Returns:
        y (R, C'); which of a row's edges it comes from; sums as of
        :func:`models.fused.numba.edges.edge_extremes`.
    """
    idx, rows = graph.idx, graph.rows
    count, channels = idx.shape[1], len(second)
    y = np.empty((len(a), channels), a.dtype)
    arg = np.empty((len(a), channels), np.int32)
    tasks = row_tasks(rows.first, max(1, EDGES // count))
    sums = np.zeros((len(tasks), 2, channels))
    slope, matrix = a.dtype.type(slope), torch.from_numpy(second).T

    def task(n: int, start: int, end: int) -> None:
        size = (end - start) * count
        both = scratch(matrix.dtype, size, a.shape[1] + channels).view(-1)
        hidden = both[: size * a.shape[1]].view(size, -1)
        edges = both[size * a.shape[1] :].view(size, -1)
        _gather_edges(a, b, idx, *affine[:2], slope, hidden.numpy(), start, end)
        torch.mm(hidden, matrix, out=edges)
        out = (y, arg, sums[n], start, end)
        _reduce_edges(edges.numpy(), count, sign, shift, rows.weight, stats, *out)

    run_tasks(task, [(n, start, end) for n, (_, start, end) in enumerate(tasks)])
    return y, arg, sums.sum(axis=0)


@kernel
def _spread(
    grad, arg, second, hidden, back, constant, weight, count, of_second, start, end
):
    channels = hidden.shape[1]
    for i in range(start, end):
        row, w = (i - start) * count, weight[i]
        for k in range(row, row + count):
            for c in range(channels):
                back[k, c] = w * (back[k, c] + constant[c])
        for o in range(len(second)):
            edge, g = row + arg[i, o], grad[i, o]
            for c in range(channels):
                back[edge, c] += g * second[o, c]
            for c in range(channels):
                of_second[o, c] += g * hidden[edge, c]


@kernel
def _through_first(
    back, a, b, idx, scale, offset, mean, slope, ga, gb, sums, start, end
):
    count, channels = idx.shape[1], a.shape[1]
    part, act = np.empty((2, channels), a.dtype), np.empty(channels, a.dtype)
    for i in range(start, end):
        part[:] = 0
        for k in range(count):
            j, row = np.uint32(idx[i, k]), (i - start) * count + k
            for c in range(channels):
                g, z = back[row, c], (a[j, c] + b[i, c]) * scale[c] + offset[c]
                act[c] = g if z > 0 else g * slope
            for c in range(channels):
                part[0, c] += act[c]
                part[1, c] += act[c] * (a[j, c] + b[i, c] - mean[c])
            for c in range(channels):
                ga[j, c] += act[c] * scale[c]
        for c in range(channels):
            gb[i, c] = part[0, c] * scale[c]
            sums[0, c] += part[0, c]
            sums[1, c] += part[1, c]


@operation
def two_layer_gradients(
    grad: np.ndarray,
    arg: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    graph: Graph,
    affine: tuple[np.ndarray, ...],
    second: np.ndarray,
    terms: tuple[np.ndarray, np.ndarray],
    slope: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Back through :func:`two_layer_extremes`, whose edges are computed again.

    The gradient of an edge of the second layer is ``grad`` where it is the extreme, and
    alpha y + beta. With y = W h that is W' diag(alpha) W h + W' beta for h: one product
    with a (C, C) matrix; and for W it takes the moments of h alone.

    Args:
        grad: (R, C') of the extreme edges.
        arg: what :func:`two_layer_extremes` returned.
        a, b, graph, affine, second, slope: its arguments.
        terms: alpha and beta (C',) of the second one's statistics.

    Returns:
        gradients of a and b but for the first BatchNorm's statistics (R, C); of W
        (C', C); sums of dz and dz (y - mean) over the first layer's edges (2, C).
    """
    idx, first, weight = graph.idx, graph.rows.first, graph.rows.weight
    count, channels = idx.shape[1], a.shape[1]
    alpha, beta = (torch.from_numpy(x) for x in terms)
    matrix = torch.from_numpy(second)
    square, constant = matrix.T @ (alpha[:, None] * matrix), (beta @ matrix).numpy()
    slope = a.dtype.type(slope)
    ga, gb = np.zeros_like(a), np.empty_like(b)
    clouds = len(first) - 1
    sums = np.zeros((clouds, 2, channels))
    of_second = np.zeros((clouds, *second.shape))
    moments = torch.zeros(clouds, channels + 1, channels, dtype=torch.float64)

    def task(cloud: int) -> None:  # edges end anywhere in their cloud
        for _, start, end in row_tasks(
            first[cloud : cloud + 2], max(1, EDGES // count)
        ):
            rows = (end - start) * count
            both = scratch(matrix.dtype, 2 * rows, channels)
            hidden, back = both[:rows], both[rows:]
            _gather_edges(a, b, idx, *affine[:2], slope, hidden.numpy(), start, end)
            weighted = hidden
            if graph.rows.repeated:
                w = torch.from_numpy(np.repeat(weight[start:end], count))
                weighted = torch.mul(hidden, w[:, None], out=back)
            moments[cloud, :-1] += weighted.T @ hidden
            moments[cloud, -1] += weighted.sum(dim=0)
            torch.mm(hidden, square, out=back)
            _spread(
                *(grad, arg, second, hidden.numpy(), back.numpy(), constant, weight),
                *(count, of_second[cloud], start, end),
            )
            _through_first(
                *(back.numpy(), a, b, idx, *affine, slope, ga, gb, sums[cloud]),
                *(start, end),
            )

    run_tasks(task, [(cloud,) for cloud in range(clouds)])
    moment = moments.sum(dim=0)
    alpha, beta, matrix = alpha.double(), beta.double(), matrix.double()
    dense = alpha[:, None] * (matrix @ moment[:-1]) + beta[:, None] * moment[-1]
    of_second = (of_second.sum(axis=0) + dense.numpy()).astype(a.dtype)
    return ga, gb, of_second, sums.sum(axis=0)
