"""How kernels are compiled and run: in tasks, on as many threads as PyTorch uses.

Compiled kernels are cached on disk, in ``__pycache__`` beside the source or in
``NUMBA_CACHE_DIR``.

Kernels double-buffer a running maximum: they read one row and write the other. Updating
one row in place leaves most entries as they are, which LLVM compiles to masked stores,
and those are slow on AMD's processors. They copy rows in loops: with ``x[:] = y`` Numba
compiles the formatting of an error message too, and takes a third longer.
"""

import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import torch

from models.fused.batch import Graph, RaggedBatch

# Fused multiply-add is allowed, since it rounds once less; reordering sums is not.
kernel: Callable[[Callable[..., Any]], Callable[..., Any]] = numba.njit(
    nogil=True, cache=True, fastmath={"contract", "nsz"}, error_model="numpy"
)

ROWS = 128  # of a task in the forward pass
LONG = 512  # rows of a task that does little with each
FLUSH = 32  # rows summed in the data's precision before the sum is added in float64
CHANNELS = 64  # per backward task: a cloud's slice of them fits in the cache

_workers: ThreadPoolExecutor | None = None
_local = threading.local()


def _arrays(x: Any) -> Any:
    if isinstance(x, torch.Tensor):
        return x.detach().contiguous().numpy()
    if isinstance(x, tuple):
        return tuple(map(_arrays, x))
    if isinstance(x, Graph | RaggedBatch):
        fields = dataclasses.fields(x)
        return type(x)(*(_arrays(getattr(x, field.name)) for field in fields))
    return x


def _tensors(x: Any) -> Any:
    if isinstance(x, np.ndarray):
        return torch.from_numpy(x)
    return tuple(map(_tensors, x)) if isinstance(x, tuple) else x


def operation(function: Callable) -> Callable:
    """Decorate a function of arrays, to be called with tensors that share memory."""

    @functools.wraps(function)
    def called(*args: Any) -> Any:
        return _tensors(function(*map(_arrays, args)))

    return called


def _forget_workers() -> None:
    global _workers
    _workers = None  # threads do not survive a fork


os.register_at_fork(after_in_child=_forget_workers)


def _start_workers(threads: int) -> ThreadPoolExecutor:
    """Threads in each of which PyTorch's operations use that one thread alone."""
    barrier = threading.Barrier(threads)
    workers = ThreadPoolExecutor(threads)

    def prepare() -> None:
        torch.get_num_threads()  # initialises this thread, which resets the number
        torch.set_num_threads(1)
        barrier.wait()

    for done in [workers.submit(prepare) for _ in range(threads)]:
        done.result()
    torch.set_num_threads(threads)
    return workers


def run_tasks(task: Callable, arguments: Iterable[tuple]) -> None:
    """Call ``task(*args)`` for each of ``arguments`` on PyTorch's number of threads."""
    global _workers
    arguments = list(arguments)
    threads = torch.get_num_threads()
    if threads == 1 or len(arguments) == 1:
        for args in arguments:
            task(*args)
        return
    if _workers is None or _workers._max_workers != threads:
        _workers = _start_workers(threads)
    queue = iter(arguments)

    def work() -> None:
        for args in queue:
            task(*args)

    # A future for each task would cost as much as a small task itself.
    for done in [_workers.submit(work) for _ in range(threads)]:
        done.result()


def row_tasks(
    offsets: np.ndarray | torch.Tensor | list[int], rows: int = ROWS
) -> list[tuple[int, int, int]]:
    """(cloud, start, end) of at most ``rows`` rows each."""
    return [
        (cloud, start, min(start + rows, end))
        for cloud, (begin, end) in enumerate(pairwise(map(int, offsets)))
        for start in range(begin, end, rows)
    ]


@kernel
def flush(part, sums, row, start, end):
    """Add ``part`` (2, C) to the float64 sums every FLUSH rows and after the last."""
    if (row - start) % FLUSH == FLUSH - 1 or row == end - 1:
        for c in range(part.shape[1]):
            sums[0, c] += part[0, c]
            sums[1, c] += part[1, c]
        part[:] = 0


def sum_over_rows(
    kernel: Callable,
    arrays: tuple,
    offsets: np.ndarray | torch.Tensor | list[int],
    rows: int,
    channels: int,
) -> np.ndarray:
    """Run ``kernel(*arrays, sums, start, end)`` on all rows; the total sums (2, C)."""
    tasks = row_tasks(offsets, rows)
    sums = np.zeros((len(tasks), 2, channels))
    calls = [(*arrays, part, *task[1:]) for part, task in zip(sums, tasks, strict=True)]
    run_tasks(kernel, calls)
    return sums.sum(axis=0)


def scratch(dtype: torch.dtype, rows: int, columns: int) -> torch.Tensor:
    """An uninitialised (rows, columns), valid until this thread's next call.

    One buffer is reused: new memory would be cleared by the system each time.
    """
    size, buffer = rows * columns, getattr(_local, "buffer", None)
    if buffer is None or buffer.dtype != dtype or buffer.numel() < size:
        buffer = _local.buffer = torch.empty(size, dtype=dtype)
    return buffer[:size].view(rows, columns)
