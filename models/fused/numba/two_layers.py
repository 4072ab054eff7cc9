"""EdgeConv with two layers on the edges, a few thousand edges at a time.

Blocks of PyTorch operations, as on a GPU, were slower on a CPU than Numba: 1.5 times
as fast as the plain form, these kernels 4.7 times, in
``python -m benchmarks.run --only "dgcnn_seg step, 2 x 2048, K=40, random"``.
"""

import numpy as np
import torch

from models.fused.batch import Graph
from models.fused.numba.tasks import kernel, operation, row_tasks, run_tasks, scratch

EDGES = 4096  # of a block, at most


@kernel
def _first_layer(a, b, idx, scale, offset, slope, hidden, start, end):
    neighbours, channels = idx.shape[1], a.shape[1]
    for i in range(start, end):
        for k in range(neighbours):
            j, row = idx[i, k], (i - start) * neighbours + k
            for c in range(channels):
                z = (a[j, c] + b[i, c]) * scale[c] + offset[c]
                hidden[row, c] = z if z > 0 else z * slope


def _both_layers(a, b, idx, affine, slope, matrix, start, end):
    """The rows' edges after each layer, valid until this thread's next call."""
    size, (outputs, channels) = (end - start) * idx.shape[1], matrix.shape
    buffer = scratch(matrix.dtype, size, channels + outputs).view(-1)
    hidden = buffer[: size * channels].view(size, -1)
    edges = buffer[size * channels :].view(size, -1)
    _first_layer(a, b, idx, *affine[:2], slope, hidden.numpy(), start, end)
    torch.mm(hidden, matrix.T, out=edges)
    return hidden, edges


@kernel
def _reduce_edges(edges, k, sign, shift, counts, stats, y, argmax, sums, start, end):
    channels = edges.shape[1]
    best, arg = np.empty((2, channels), edges.dtype), np.empty((2, channels), np.int32)
    part = np.empty((2, channels), edges.dtype)
    for i in range(start, end):
        row, last = (i - start) * k, (k - 1) % 2
        for c in range(channels):
            best[0, c], arg[0, c] = edges[row, c] * sign[c], 0
        for n in range(1, k):
            slot, old, new = np.int32(n), (n - 1) % 2, n % 2
            for c in range(channels):
                u, m = edges[row + n, c] * sign[c], best[old, c]
                before = arg[old, c]
                best[new, c] = u if u > m else m
                arg[new, c] = slot if u > m else before
        for c in range(channels):
            y[i, c] = best[last, c] * sign[c] if sign[c] != 0 else edges[row, c]
            argmax[i, c] = arg[last, c]
        if stats:  # a row's in the data's precision, those of all rows in float64
            part[:] = 0
            for n in range(k):
                for c in range(channels):
                    d = edges[row + n, c] - shift[c]
                    part[0, c] += d
                    part[1, c] += d * d
            w = counts[i]
            for c in range(channels):
                sums[0, c] += w * part[0, c]
                sums[1, c] += w * part[1, c]


@operation
def two_layer_extremes(
    a: np.ndarray,
    b: np.ndarray,
    graph: Graph,
    affine: np.ndarray,
    slope: float,
    matrix: np.ndarray,
    sign: np.ndarray,
    shift: np.ndarray,
    stats: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The largest or smallest edge y = W act(BN(a_j + b_i)) of every row i and channel.

    Args:
        a, b, graph: as of :func:`models.fused.numba.edges.edge_extremes`.
        affine: (4, C) of :func:`models.fused.numba.norm.batch_affine`, the first
            BatchNorm's.
        slope: of the LeakyReLU.
        matrix: W (C', C).
        sign, shift, stats: as there, for the second BatchNorm (C',).

    Returns:
        y (R, C'); its number k among the row's edges, the argmax; sums as of
        :func:`models.fused.numba.edges.edge_extremes`.
    """
    idx, batch = graph.idx, graph.batch
    neighbours, channels = idx.shape[1], len(matrix)
    y = np.empty((len(a), channels), a.dtype)
    argmax = np.empty((len(a), channels), np.int32)
    tasks = row_tasks(batch.bounds, max(1, EDGES // neighbours))
    sums = np.zeros((len(tasks), 2, channels))
    slope, second = a.dtype.type(slope), torch.from_numpy(matrix)

    def task(n: int, start: int, end: int) -> None:
        _, edges = _both_layers(a, b, idx, affine, slope, second, start, end)
        inputs = (edges.numpy(), neighbours, sign, shift, batch.counts, stats)
        _reduce_edges(*inputs, y, argmax, sums[n], start, end)

    run_tasks(task, [(n, start, end) for n, (_, start, end) in enumerate(tasks)])
    return y, argmax, sums.sum(axis=0)


@kernel
def _second_gradient(edges, grad, argmax, alpha, beta, counts, k, start, end):
    for i in range(start, end):
        row, w = (i - start) * k, counts[i]
        for edge in range(row, row + k):
            for o in range(len(alpha)):
                edges[edge, o] = w * (alpha[o] * edges[edge, o] + beta[o])
        for o in range(len(alpha)):
            edges[row + argmax[i, o], o] += grad[i, o]


@kernel
def _first_gradient(
    grad_hidden, a, b, idx, scale, offset, mean, slope, grad_a, grad_b, sums, start, end
):
    neighbours, channels = idx.shape[1], a.shape[1]
    part, act = np.empty((2, channels), a.dtype), np.empty(channels, a.dtype)
    for i in range(start, end):
        part[:] = 0
        for k in range(neighbours):
            j, row = np.uint32(idx[i, k]), (i - start) * neighbours + k
            for c in range(channels):
                g, z = grad_hidden[row, c], (a[j, c] + b[i, c]) * scale[c] + offset[c]
                act[c] = g if z > 0 else g * slope
            for c in range(channels):
                part[0, c] += act[c]
                part[1, c] += act[c] * (a[j, c] + b[i, c] - mean[c])
            for c in range(channels):
                grad_a[j, c] += act[c] * scale[c]
        for c in range(channels):
            grad_b[i, c] = part[0, c] * scale[c]
            sums[0, c] += part[0, c]
            sums[1, c] += part[1, c]


@operation
def two_layer_gradients(
    grad: np.ndarray,
    argmax: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    graph: Graph,
    affine: np.ndarray,
    slope: float,
    matrix: np.ndarray,
    alpha: np.ndarray,
    beta: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Back through :func:`two_layer_extremes`, whose edges are recomputed.

    An edge of the second layer has the gradient alpha y + beta through the statistics,
    and ``grad`` where it is the extreme.

    Args:
        grad: (R, C') gradient of the extreme edges.
        argmax: the second result of :func:`two_layer_extremes`.
        a, b, graph, affine, slope, matrix: its arguments.
        alpha, beta: (C',).

    Returns:
        the gradients of a and b, but for the first BatchNorm's statistics (R, C); of W
        (C', C); the sums of dz and dz (y - mean) over the first layer's edges (2, C).
    """
    idx, bounds, counts = graph.idx, graph.batch.bounds, graph.batch.counts
    neighbours, (outputs, channels) = idx.shape[1], matrix.shape
    slope, second = a.dtype.type(slope), torch.from_numpy(matrix)
    grad_a, grad_b = np.zeros_like(a), np.empty_like(b)
    clouds = len(bounds) - 1
    sums = np.zeros((clouds, 2, channels))
    grad_matrix = torch.zeros(clouds, outputs, channels, dtype=torch.float64)

    def task(cloud: int) -> None:  # one for each cloud, since edges end anywhere in it
        cloud_bounds = bounds[cloud : cloud + 2]
        for _, start, end in row_tasks(cloud_bounds, max(1, EDGES // neighbours)):
            hidden, edges = _both_layers(a, b, idx, affine, slope, second, start, end)
            terms = (alpha, beta, counts, neighbours)
            _second_gradient(edges.numpy(), grad, argmax, *terms, start, end)
            grad_matrix[cloud] += edges.T @ hidden
            grad_hidden = torch.mm(edges, second, out=hidden)
            inputs = (grad_hidden.numpy(), a, b, idx, *affine[:3], slope)
            _first_gradient(*inputs, grad_a, grad_b, sums[cloud], start, end)

    run_tasks(task, [(cloud,) for cloud in range(clouds)])
    return grad_a, grad_b, grad_matrix.sum(dim=0).to(second.dtype).numpy(), sums.sum(0)
