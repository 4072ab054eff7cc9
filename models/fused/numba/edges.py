"""EdgeConv with one layer on the edges."""

from itertools import pairwise

import numpy as np

from models.fused.batch import Graph
from models.fused.numba.graph import reverse_adjacency
from models.fused.numba.tasks import (
    CHANNELS,
    LONG,
    ROWS,
    flush,
    kernel,
    operation,
    row_tasks,
    run_tasks,
    sum_over_rows,
)


@kernel
def _edge_extremes(
    a, b, idx, sign, shift, counts, stats, y, argmax, total, sums, start, end
):
    neighbours, channels = idx.shape[1], a.shape[1]
    best, arg = np.empty((2, channels), a.dtype), np.empty((2, channels), np.int32)
    acc, square = np.empty(channels, a.dtype), np.empty(channels, a.dtype)
    part, centre = np.zeros((2, channels), a.dtype), np.empty(channels, a.dtype)
    edges, odd = a.dtype.type(neighbours), a.dtype.type(neighbours % 2)
    for i in range(start, end):
        first, old, new = idx[i, 0], 0, 1
        for c in range(channels):
            v = a[first, c]
            centre[c] = b[i, c] - shift[c]
            t = v + centre[c]
            best[0, c], arg[0, c] = v * sign[c], first
            acc[c], square[c] = odd * v, odd * (t * t)
        # Two at a time, to read and write a row's maximum and sums half as often; the
        # first alone if their number is odd.
        for k in range(neighbours % 2, neighbours, 2):
            p, q = idx[i, k], idx[i, k + 1]
            for c in range(channels):
                u, m, before = a[p, c] * sign[c], best[old, c], arg[old, c]
                arg_m = p if u > m else before
                m = u if u > m else m
                v = a[q, c] * sign[c]
                best[new, c] = v if v > m else m
                arg[new, c] = q if v > m else arg_m
            if stats:
                for c in range(channels):
                    u, v = a[p, c], a[q, c]
                    s, t = u + centre[c], v + centre[c]
                    acc[c] = acc[c] + u + v
                    square[c] = square[c] + s * s + t * t
            old, new = new, old
        for c in range(channels):
            # Multiplying by the sign twice is exact. Where it is 0 all edges tie.
            v = best[old, c] * sign[c] if sign[c] != 0 else a[first, c]
            y[i, c], argmax[i, c] = v + b[i, c], arg[old, c]
        if stats:
            w = counts[i]
            for c in range(channels):
                total[i, c] = acc[c]
                part[0, c] += w * (acc[c] + edges * (b[i, c] - shift[c]))
                part[1, c] += w * square[c]
            flush(part, sums, i, start, end)


@operation
def edge_extremes(
    a: np.ndarray,
    b: np.ndarray,
    graph: Graph,
    sign: np.ndarray,
    shift: np.ndarray,
    stats: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The largest or smallest edge y_ij = a_j + b_i of every row i and channel.

    Args:
        a, b: (R, C).
        graph: the neighbours j of each row i.
        sign: (C,) 1 for the maximum, -1 for the minimum, 0 for the first edge.
        shift: (C,) near the mean of the edges.
        stats: whether to compute the sums.

    Returns:
        y (R, C); its j, the argmax; the sum of a_j over each row's edges (R, C); the
        sums of y - shift and of its square over all edges (2, C), float64.
    """
    y, argmax = np.empty_like(a), np.empty(a.shape, np.int32)
    total, batch = np.empty_like(a) if stats else a[:0], graph.batch
    arrays = (a, b, graph.idx, sign, shift, batch.counts, stats, y, argmax, total)
    sums = sum_over_rows(_edge_extremes, arrays, batch.bounds, ROWS, a.shape[1])
    return y, argmax, total, sums


@kernel
def _edge_maximum(a, b, idx, offset, slope, out, start, end):
    neighbours, channels = idx.shape[1], a.shape[1]
    best = np.empty((2, channels), a.dtype)
    for i in range(start, end):
        for c in range(channels):
            best[0, c] = a[idx[i, 0], c]
        old, new = 0, 1
        # Three at a time, to read and write the running maximum a third as often; the
        # last one again where fewer are left.
        for k in range(1, neighbours, 3):
            p, q = idx[i, k], idx[i, min(k + 1, neighbours - 1)]
            r = idx[i, min(k + 2, neighbours - 1)]
            for c in range(channels):
                u, v = a[p, c], a[q, c]
                w, m = a[r, c], best[old, c]
                u = u if u > v else v
                w = w if w > m else m
                best[new, c] = u if u > w else w
            old, new = new, old
        for c in range(channels):
            z = best[old, c] + (b[i, c] + offset[c])
            out[i, c] = z if z > 0 else z * slope


@operation
def edge_maximum(
    a: np.ndarray, b: np.ndarray, graph: Graph, offset: np.ndarray, slope: float
) -> np.ndarray:
    """The maximum of LeakyReLU(a_j + b_i + offset) over the edges of every row i.

    For eval mode without gradients, with BatchNorm's scale multiplied into a and b.

    Args:
        a, b, graph: as of :func:`edge_extremes`.
        offset: (C,).
        slope: of the LeakyReLU.

    Returns:
        (R, C)
    """
    out = np.empty_like(a)
    arrays = (a, b, graph.idx, offset, a.dtype.type(slope), out)
    tasks = row_tasks(graph.batch.bounds)
    run_tasks(_edge_maximum, [(*arrays, start, end) for _, start, end in tasks])
    return out


@kernel
def _scatter_to_argmax(grad, argmax, grad_a, start, end, c0, c1):
    for i in range(start, end):
        for c in range(c0, c1):
            # Unsigned: code for negative indices would double the time.
            grad_a[np.uint32(argmax[i, c]), np.uint64(c)] += grad[i, c]


@kernel
def _add_statistics_gradient(
    a, b, counts, total, degree, begin, source, k, alpha, beta, grad_a, grad_b, s, e
):
    channels, edges = a.shape[1], a.dtype.type(k)  # an integer would make it float64
    share = np.empty(channels, a.dtype)
    for j in range(s, e):
        share[:] = 0
        for edge in range(begin[j], begin[j + 1]):
            i = source[edge]
            w = counts[i]
            for c in range(channels):
                share[c] += w * b[i, c]
        d, w = degree[j], counts[j]
        for c in range(channels):
            grad_a[j, c] += alpha[c] * (d * a[j, c] + share[c]) + d * beta[c]
        for c in range(channels):
            grad = alpha[c] * (total[j, c] + edges * b[j, c]) + edges * beta[c]
            grad_b[j, c] += w * grad


@operation
def edge_gradients(
    grad_a: np.ndarray,
    grad_b: np.ndarray,
    argmax: np.ndarray | None,
    a: np.ndarray,
    b: np.ndarray,
    graph: Graph,
    total: np.ndarray,
    alpha: np.ndarray,
    beta: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Sum the gradients of all edges at their ends.

    Every edge has the gradient alpha y + beta through BatchNorm's statistics.

    Args:
        grad_a, grad_b: (R, C) gradients of a and b so far; their memory is reused.
        argmax: (R, C) the row at which the edge with the gradient ``grad_b`` ends, or
            None if ``grad_a`` contains it.
        a, b, graph: as of :func:`edge_extremes`.
        total: its third result.
        alpha, beta: (C,).

    Returns:
        the gradients of a and b, (R, C).
    """
    batch, channels = graph.batch, a.shape[1]
    if argmax is not None:
        slices = [
            (grad_b, argmax, grad_a, start, end, c, min(c + CHANNELS, channels))
            for start, end in pairwise(batch.bounds)
            for c in range(0, channels, CHANNELS)
        ]
        run_tasks(_scatter_to_argmax, slices)
    reverse = reverse_adjacency(graph.idx, batch.counts)
    arrays = (a, b, batch.counts, total, *reverse, graph.idx.shape[1], alpha, beta)
    run_tasks(
        _add_statistics_gradient,
        [
            (*arrays, grad_a, grad_b, start, end)
            for _, start, end in row_tasks(batch.bounds, LONG)
        ],
    )
    return grad_a, grad_b
