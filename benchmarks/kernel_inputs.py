"""Random arguments of every kernel, to compare the packages of kernels."""

import copy
import functools
from typing import Any

import torch
from torch import Tensor, nn

from models.fused.batch import Graph, RaggedBatch


@functools.cache
def kernel_arguments(
    dtype: torch.dtype, rows: int = 300, wide: int = 70, k: int = 5
) -> dict[str, tuple[Any, ...]]:
    """By name, on the CPU: two clouds of the given rows, with k edges per row."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, generator=generator)

    def neighbours(count: int) -> Tensor:
        # No edge twice: rounding would decide which of two equal ones is the extreme.
        return torch.rand(rows, count, generator=generator).argsort(dim=1)[:, :k]

    end = rows * 3 // 5  # of the first cloud
    counts = (1 + integers(3, rows)).to(dtype)
    batch = RaggedBatch(torch.tensor([0, end, rows]), counts, rows, True)
    first = torch.arange(rows)[:, None] < end
    idx = torch.where(first, neighbours(end), end + neighbours(rows - end)).int()
    graph = Graph(idx, batch)
    a, b, y, total = (normal(rows, wide) for _ in range(4))
    shift, alpha, beta = (normal(wide) for _ in range(3))
    affine = torch.stack([normal(wide), shift, beta, normal(wide).exp()])
    sums = torch.stack([normal(wide), normal(wide).exp() + 9]).double()
    matrix, grad = normal(64, wide), normal(rows, 64)
    sign, count = alpha.sign(), torch.tensor(12.0, dtype=torch.float64)
    argmax = idx.gather(1, integers(k, rows, wide))
    terms = (normal(64), normal(64))
    norm = nn.BatchNorm1d(wide, momentum=0.3).to(dtype)
    nn.init.normal_(norm.weight, generator=generator)
    nn.init.normal_(norm.bias, generator=generator)
    two_layer = (a, b, graph, affine, 0.2, matrix)
    return {
        "knn": (normal(rows, 64), batch, 4),
        "product": (a, normal(wide, 9)),
        "edge_extremes": (a, b, graph, sign, shift, True),
        "edge_maximum": (a, b, graph, shift, 0.2),
        "edge_gradients": (y, total, argmax, a, b, graph, total, alpha, beta),
        "column_sums": (y, shift, batch),
        "pool": (y, affine, sign, 0.2, batch),
        "pool_gradient": (normal(2, wide), y, affine, alpha, beta, 0.2, batch),
        "batch_affine": (norm, sums, shift, 12, False),
        "activation_gradient": (a, y, affine, 0.2),
        "statistics_gradient": (sums, 2 * sums, affine, count),
        "two_layer_extremes": (*two_layer, normal(64).sign(), normal(64), True),
        "two_layer_gradients": (grad, integers(k, rows, 64).int(), *two_layer, *terms),
    }


def moved(x: Any, device: torch.device) -> Any:
    """A copy of arguments or results on a device."""
    if isinstance(x, tuple):
        return tuple(moved(item, device) for item in x)
    if isinstance(x, Graph | RaggedBatch):
        return type(x)(*moved(tuple(vars(x).values()), device))
    if isinstance(x, Tensor):
        return x.detach().clone().to(device)
    return copy.deepcopy(x).to(device) if isinstance(x, nn.Module) else x
