"""EdgeConv with two layers on the edges, a part of the edges at a time.

Written in PyTorch's own operations: with the first layer factored, most of the work is
products of matrices. Memory is bounded by the part, whose edges are computed again
backwards.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from models.fused.rows import Graph

EDGES = 2**18  # of a part, at most


def _parts(graph: Graph) -> Iterator[slice]:
    rows, count = graph.idx.shape
    step = max(1, EDGES // count)
    return (slice(start, start + step) for start in range(0, rows, step))


def two_layer_extremes(
    a: Tensor,
    b: Tensor,
    graph: Graph,
    affine: tuple[Tensor, ...],
    second: Tensor,
    sign: Tensor,
    shift: Tensor,
    slope: float,
    stats: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`models.fused.numba.two_layers.two_layer_extremes`."""
    scale, offset, _ = affine
    y = a.new_empty(len(a), len(second))
    arg = torch.empty_like(y, dtype=torch.int32)
    sums = a.new_zeros(2, len(second), dtype=torch.float64)
    for part in _parts(graph):
        pre = a[graph.idx[part]] + b[part, None]  # (m, K, C)
        edges = F.leaky_relu(torch.addcmul(offset, pre, scale), slope) @ second.T
        place = (edges * sign).argmax(dim=1)  # (m, C'), of equal ones the first
        arg[part] = place.int()
        y[part] = edges.gather(1, place[:, None])[:, 0]
        if stats:
            d, w = edges - shift, graph.rows.weight[part, None, None]
            sums[0] += (w * d).sum(dim=(0, 1), dtype=torch.float64)
            sums[1] += (w * d * d).sum(dim=(0, 1), dtype=torch.float64)
    return y, arg, sums


def two_layer_gradients(
    grad: Tensor,
    arg: Tensor,
    a: Tensor,
    b: Tensor,
    graph: Graph,
    affine: tuple[Tensor, ...],
    second: Tensor,
    terms: tuple[Tensor, Tensor],
    slope: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As :func:`models.fused.numba.two_layers.two_layer_gradients`."""
    (scale, offset, mean), (alpha, beta) = affine, terms
    ga, gb = torch.zeros_like(a), torch.empty_like(b)
    of_second = torch.zeros_like(second, dtype=torch.float64)
    sums = a.new_zeros(2, a.shape[1], dtype=torch.float64)
    for part in _parts(graph):
        names = graph.idx[part]
        pre = a[names] + b[part, None]  # (m, K, C)
        z = torch.addcmul(offset, pre, scale)
        hidden = F.leaky_relu(z, slope)
        w = graph.rows.weight[part, None, None]
        of_edges = w * torch.addcmul(beta, hidden @ second.T, alpha)  # (m, K, C')
        of_edges.scatter_add_(1, arg[part, None].long(), grad[part, None])
        of_second += of_edges.flatten(0, 1).T @ hidden.flatten(0, 1)
        back = of_edges @ second
        dz = torch.where(z > 0, back, back * slope)
        sums[0] += dz.sum(dim=(0, 1), dtype=torch.float64)
        sums[1] += (dz * (pre - mean)).sum(dim=(0, 1), dtype=torch.float64)
        back = dz * scale
        gb[part] = back.sum(dim=1)
        ga.index_add_(0, names.flatten(), back.flatten(0, 1))
    return ga, gb, of_second.to(a.dtype), sums
