"""EdgeConv with one layer on the edges."""

from __future__ import annotations

import numpy as np

from models.fused.numba.graph import reverse_edges
from models.fused.numba.tasks import (
    FLUSH,
    LONG,
    channel_tasks,
    kernel,
    operation,
    row_tasks,
    run_tasks,
)
from models.fused.rows import Graph, Rows


@kernel
def _edge_extremes(
    a, b, idx, sign, shift, weight, stats, y, arg, total, sums, start, end
):
    count, channels = idx.shape[1], a.shape[1]
    best, who = np.empty((2, channels), a.dtype), np.empty((2, channels), np.int32)
    own, square = np.empty(channels, a.dtype), np.empty(channels, a.dtype)
    part, edges = np.zeros((2, channels), a.dtype), a.dtype.type(count)
    for i in range(start, end):
        first = idx[i, 0]
        for c in range(channels):
            v = a[first, c]
            t = v + (b[i, c] - shift[c])
            best[0, c], who[0, c], own[c], square[c] = v * sign[c], first, v, t * t
        for k in range(1, count):
            j, old, new = idx[i, k], (k - 1) % 2, k % 2
            for c in range(channels):
                u, m, before = a[j, c] * sign[c], best[old, c], who[old, c]
                best[new, c] = u if u > m else m
                who[new, c] = j if u > m else before
            if stats:
                for c in range(channels):
                    v = a[j, c]
                    t = v + (b[i, c] - shift[c])
                    own[c] += v
                    square[c] += t * t
        last = (count - 1) % 2
        for c in range(channels):
            # The sign undoes itself exactly; where it is 0 all edges tie.
            v = best[last, c] * sign[c] if sign[c] != 0 else a[first, c]
            y[i, c], arg[i, c] = v + b[i, c], who[last, c]
        if stats:
            w = weight[i]
            for c in range(channels):
                total[i, c] = own[c]
                part[0, c] += w * (own[c] + edges * (b[i, c] - shift[c]))
                part[1, c] += w * square[c]
            if (i - start) % FLUSH == FLUSH - 1 or i == end - 1:
                for c in range(channels):
                    sums[0, c] += part[0, c]
                    sums[1, c] += part[1, c]
                part[:] = 0


@operation
def edge_extremes(
    a: np.ndarray,
    b: np.ndarray,
    graph: Graph,
    sign: np.ndarray,
    shift: np.ndarray,
    stats: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The extreme edge y_ij = a_j + b_i of every row i and channel.

    Args:
        a, b: (R, C).
        graph: the rows j of each row i.
        sign: (C,) 1 for the maximum, -1 for the minimum, 0 for the first edge.
        shift: (C,) near the mean of the edges.
        stats: whether the sums are wanted.

    Returns:
        y (R, C); the rows j that they come from; the sum of a_j over each row's edges
        (R, C); sums of y - shift and of its square over all edges (2, C), float64.
    """
    y, arg = np.empty_like(a), np.empty(a.shape, np.int32)
    total = np.empty_like(a) if stats else a[:0]
    tasks = row_tasks(graph.rows.first)
    sums = np.zeros((len(tasks), 2, a.shape[1]))
    arrays = (a, b, graph.idx, sign, shift, graph.rows.weight, stats, y, arg, total)
    run_tasks(
        _edge_extremes,
        [(*arrays, sums[n], start, end) for n, (_, start, end) in enumerate(tasks)],
    )
    return y, arg, total, sums.sum(axis=0)


@kernel
def _edge_maximum(a, b, idx, offset, slope, out, start, end):
    count, channels = idx.shape[1], a.shape[1]
    best = np.empty((2, channels), a.dtype)
    for i in range(start, end):
        best[0] = a[idx[i, 0]]
        now, k = 0, 1
        # Three at a time: the extreme so far is read and written a third as often.
        while k + 2 < count:
            p, q, r = idx[i, k], idx[i, k + 1], idx[i, k + 2]
            for c in range(channels):
                u, v = a[p, c], a[q, c]
                w, m = a[r, c], best[now, c]
                u = u if u > v else v
                w = w if w > m else m
                best[1 - now, c] = u if u > w else w
            now, k = 1 - now, k + 3
        while k < count:
            j = idx[i, k]
            for c in range(channels):
                u, m = a[j, c], best[now, c]
                best[1 - now, c] = u if u > m else m
            now, k = 1 - now, k + 1
        for c in range(channels):
            z = best[now, c] + (b[i, c] + offset[c])
            out[i, c] = z if z > 0 else z * slope


@operation
def edge_maximum(
    a: np.ndarray, b: np.ndarray, graph: Graph, offset: np.ndarray, slope: float
) -> np.ndarray:
    """The maximum of LeakyReLU(a_j + b_i + offset) over the edges of every row i.

    What is left where nothing is trained: BatchNorm's scale is in a and b already.

    Args:
        a, b, graph: as of :func:`edge_extremes`.
        offset: (C,).
        slope: of the LeakyReLU.

    Returns:
        (R, C)
    """
    out = np.empty_like(a)
    arrays = (a, b, graph.idx, offset, a.dtype.type(slope), out)
    tasks = row_tasks(graph.rows.first)
    run_tasks(_edge_maximum, [(*arrays, start, end) for _, start, end in tasks])
    return out


@kernel
def _edge_slopes(grad, y, scale, offset, mean, slope, out, sums, start, end):
    channels = y.shape[1]
    act, part = np.empty(channels, y.dtype), np.zeros((2, channels), y.dtype)
    for i in range(start, end):
        for c in range(channels):
            g = grad[i, c]
            act[c] = g if y[i, c] * scale[c] + offset[c] > 0 else g * slope
        for c in range(channels):
            out[i, c] = act[c] * scale[c]
        for c in range(channels):
            part[0, c] += act[c]
            part[1, c] += act[c] * (y[i, c] - mean[c])
        if (i - start) % FLUSH == FLUSH - 1 or i == end - 1:
            for c in range(channels):
                sums[0, c] += part[0, c]
                sums[1, c] += part[1, c]
            part[:] = 0


@operation
def edge_slopes(
    grad: np.ndarray,
    y: np.ndarray,
    affine: tuple[np.ndarray, np.ndarray, np.ndarray],
    slope: float,
    rows: Rows,
) -> tuple[np.ndarray, np.ndarray]:
    """Back through LeakyReLU and the affine part of BatchNorm, z = y scale + offset.

    Args:
        grad, y: (R, C) gradient of the activation, and the extreme edges.
        affine: scale, offset and mean (C,) of the BatchNorm.
        slope: of the LeakyReLU.
        rows: of all clouds.

    Returns:
        the gradient of y with the statistics held constant (R, C); sums of dz and of
        dz (y - mean) over the rows (2, C), float64.
    """
    out, tasks = np.empty_like(y), row_tasks(rows.first, LONG)
    sums = np.zeros((len(tasks), 2, y.shape[1]))
    arrays = (grad, y, *affine, y.dtype.type(slope), out)
    run_tasks(
        _edge_slopes,
        [(*arrays, sums[n], start, end) for n, (_, start, end) in enumerate(tasks)],
    )
    return out, sums.sum(axis=0)


@kernel
def _add_statistics(
    a, b, weight, total, degree, begin, source, count, alpha, beta, ga, gb, start, end
):
    channels, own = a.shape[1], a.dtype.type(count)  # an integer would make it float64
    share = np.empty(channels, a.dtype)
    for j in range(start, end):
        share[:] = 0
        for edge in range(begin[j], begin[j + 1]):
            i = source[edge]
            w = weight[i]
            for c in range(channels):
                share[c] += w * b[i, c]
        d, w = degree[j], weight[j]
        for c in range(channels):
            ga[j, c] += alpha[c] * (d * a[j, c] + share[c]) + d * beta[c]
        for c in range(channels):
            edges = alpha[c] * (total[j, c] + own * b[j, c]) + own * beta[c]
            gb[j, c] += w * edges


@operation
def add_statistics(
    ga: np.ndarray,
    gb: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    graph: Graph,
    total: np.ndarray,
    terms: tuple[np.ndarray, np.ndarray],
) -> None:
    """Add to the gradients of a and b that every edge y has alpha y + beta.

    Args:
        ga, gb: (R, C), changed in place.
        a, b, graph: as of :func:`edge_extremes`.
        total: its third result.
        terms: alpha and beta (C,), from BatchNorm's mean and variance.
    """
    idx, weight = graph.idx, graph.rows.weight
    arrays = (a, b, weight, total, *reverse_edges(idx, weight), idx.shape[1])
    tasks = [
        (*arrays, *terms, ga, gb, s, e) for _, s, e in row_tasks(graph.rows.first, LONG)
    ]
    run_tasks(_add_statistics, tasks)


@kernel
def _to_extremes(grad, arg, ga, start, end, c0, c1):
    for i in range(start, end):
        for c in range(c0, c1):
            # Unsigned: a row that might be negative takes twice the time.
            ga[np.uint32(arg[i, c]), np.uint64(c)] += grad[i, c]


@operation
def to_extremes(grad: np.ndarray, arg: np.ndarray, rows: Rows) -> np.ndarray:
    """The gradient of a: ``grad`` (R, C), added up at the rows ``arg`` (R, C)."""
    ga, tasks = np.zeros_like(grad), channel_tasks(rows.first, grad.shape[1])
    run_tasks(_to_extremes, [(grad, arg, ga, *task) for task in tasks])
    return ga
