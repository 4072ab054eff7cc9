"""Products of matrices by NumPy's BLAS.

``python -m benchmarks.run --only product`` compares it with PyTorch's own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.fused.numba.tasks import run_tasks

_libraries = ThreadpoolController()


def product(a: Tensor, b: Tensor) -> Tensor:
    """(M, K) by (K, N), on as many threads as PyTorch uses; not differentiable."""
    out = a.new_empty(len(a), b.shape[1])
    left, right, result = (x.detach().numpy() for x in (a, b, out))

    def task(start: int, end: int) -> None:
        np.matmul(left[start:end], right, out=result[start:end])

    # Rows side by side, each on one thread: those that the library has of its own spin
    # for a while after a product, and the kernels would share the cores with them.
    # Each task packs all of b for itself: no more tasks than threads.
    rows = max(1, -(-len(a) // torch.get_num_threads()))
    starts = range(0, len(a), rows)
    with _libraries.limit(limits=1, user_api="blas"):
        run_tasks(task, [(start, min(start + rows, len(a))) for start in starts])
    return out


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight.T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor]:
        x, weight = ctx.saved_tensors
        of_x = product(grad, weight) if ctx.needs_input_grad[0] else None
        return of_x, product(grad.T, x)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """Rows (R, C) by a weight (C', C): (R, C')."""
    return _Linear.apply(x, weight)
