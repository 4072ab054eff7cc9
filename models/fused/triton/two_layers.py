"""EdgeConv with two layers on the edges, a block of edges at a time.

Written in PyTorch's operations: with the first layer split into a and b, most of the
work is matrix products. Blocks bound the memory; their edges are recomputed in the
backward pass.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from models.fused.batch import Graph

EDGES = 2**18  # of a block, at most


def _blocks(graph: Graph) -> Iterator[slice]:
    rows, neighbours = graph.idx.shape
    step = max(1, EDGES // neighbours)
    return (slice(start, start + step) for start in range(0, rows, step))


def two_layer_extremes(
    a: Tensor,
    b: Tensor,
    graph: Graph,
    affine: Tensor,
    slope: float,
    matrix: Tensor,
    sign: Tensor,
    shift: Tensor,
    stats: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`models.fused.numba.two_layers.two_layer_extremes`."""
    scale, offset, *_ = affine
    y = a.new_empty(len(a), len(matrix))
    argmax = torch.empty_like(y, dtype=torch.int32)
    sums = a.new_zeros(2, len(matrix), dtype=torch.float64)
    for block in _blocks(graph):
        pre = a[graph.idx[block]] + b[block, None]  # (m, K, C)
        edges = F.leaky_relu(torch.addcmul(offset, pre, scale), slope) @ matrix.T
        position = (edges * sign).argmax(dim=1)  # (m, C'), the first of equal ones
        argmax[block] = position.int()
        y[block] = edges.gather(1, position[:, None])[:, 0]
        if stats:
            d, w = edges - shift, graph.batch.counts[block, None, None]
            sums[0] += (w * d).sum(dim=(0, 1), dtype=torch.float64)
            sums[1] += (w * d * d).sum(dim=(0, 1), dtype=torch.float64)
    return y, argmax, sums


def two_layer_gradients(
    grad: Tensor,
    argmax: Tensor,
    a: Tensor,
    b: Tensor,
    graph: Graph,
    affine: Tensor,
    slope: float,
    matrix: Tensor,
    alpha: Tensor,
    beta: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As :func:`models.fused.numba.two_layers.two_layer_gradients`."""
    scale, offset, mean, _ = affine
    grad_a, grad_b = torch.zeros_like(a), torch.empty_like(b)
    grad_matrix = torch.zeros_like(matrix, dtype=torch.float64)
    sums = a.new_zeros(2, a.shape[1], dtype=torch.float64)
    for block in _blocks(graph):
        neighbours = graph.idx[block]
        pre = a[neighbours] + b[block, None]  # (m, K, C)
        z = torch.addcmul(offset, pre, scale)
        hidden = F.leaky_relu(z, slope)
        w = graph.batch.counts[block, None, None]
        grad_edges = w * torch.addcmul(beta, hidden @ matrix.T, alpha)  # (m, K, C')
        grad_edges.scatter_add_(1, argmax[block, None].long(), grad[block, None])
        grad_matrix += grad_edges.flatten(0, 1).T @ hidden.flatten(0, 1)
        grad_hidden = grad_edges @ matrix
        dz = torch.where(z > 0, grad_hidden, grad_hidden * slope)
        sums[0] += dz.sum(dim=(0, 1), dtype=torch.float64)
        sums[1] += (dz * (pre - mean)).sum(dim=(0, 1), dtype=torch.float64)
        grad_pre = dz * scale
        grad_b[block] = grad_pre.sum(dim=1)
        # Sorted on a GPU, and so added in the same order each time; index_add_ is not.
        edges = grad_pre.flatten(0, 1)
        grad_a.index_put_((neighbours.flatten().long(),), edges, accumulate=True)
    return grad_a, grad_b, grad_matrix.to(a.dtype), sums
