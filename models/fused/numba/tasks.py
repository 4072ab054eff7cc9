"""What all kernels share: how they are compiled, and cut into tasks for threads."""

from __future__ import annotations

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

from models.fused.rows import Graph, Rows

# Multiply and add may be fused, which is more exact; nothing else may be reordered but
# sums over channels that stand beside each other.
#
# Kernels keep the extreme so far in two rows, `old` and `new`, and go from one to the
# other. In one row it would stay as it is in most places, which compilers turn into
# writing under a mask, and that takes AMD's processors several times as long.
_FAST = {"contract", "nsz"}
kernel: Callable[[Callable[..., Any]], Callable[..., Any]] = numba.njit(
    nogil=True, cache=True, fastmath=_FAST, error_model="numpy"
)

ROWS = 128  # of a forward task
LONG = 512  # rows of a task that does little with each
EDGES = 4096  # of a task of two layers, at most
FLUSH = 32  # rows that are summed in their own precision before going to float64
CHANNELS = 64  # of a backward task: a cloud's slice of so many stays in the cache

_workers: ThreadPoolExecutor | None = None


def _arrays(x: Any) -> Any:
    if isinstance(x, torch.Tensor):
        return x.detach().contiguous().numpy()
    if isinstance(x, tuple):
        return tuple(map(_arrays, x))
    if isinstance(x, Graph | Rows):
        fields = dataclasses.fields(x)
        return type(x)(*(_arrays(getattr(x, field.name)) for field in fields))
    return x


def _tensors(x: Any) -> Any:
    if isinstance(x, np.ndarray):
        return torch.from_numpy(x)
    return tuple(map(_tensors, x)) if isinstance(x, tuple) else x


def operation(function: Callable) -> Callable:
    """The function sees arrays, its callers tensors of the same memory."""

    @functools.wraps(function)
    def called(*args: Any) -> Any:
        return _tensors(function(*map(_arrays, args)))

    return called


def _forget_pool() -> None:
    global _workers
    _workers = None  # a forked process has none of its parent's threads


os.register_at_fork(after_in_child=_forget_pool)


def _start_pool(threads: int) -> ThreadPoolExecutor:
    """A pool whose threads leave PyTorch's own threads alone: one task, one thread."""
    together = threading.Barrier(threads)
    pool = ThreadPoolExecutor(threads)

    def prepare() -> None:
        torch.get_num_threads()  # else a later call takes that of the process again
        torch.set_num_threads(1)  # of this thread, and of those started later
        together.wait()

    for done in [pool.submit(prepare) for _ in range(threads)]:
        done.result()
    torch.set_num_threads(threads)
    return pool


def run_tasks(task: Callable, arguments: Iterable[tuple]) -> None:
    """Call ``task(*a)`` for all, on as many threads as PyTorch uses."""
    global _workers
    arguments = list(arguments)
    threads = torch.get_num_threads()
    if threads == 1 or len(arguments) == 1:
        for one in arguments:
            task(*one)
        return
    if _workers is None or _workers._max_workers != threads:
        _workers = _start_pool(threads)
    waiting = iter(arguments)

    def work() -> None:
        for one in waiting:  # shared: each takes the next that nobody has taken
            task(*one)

    # One future a thread: one a task would cost as much as the smaller tasks.
    for done in [_workers.submit(work) for _ in range(threads)]:
        done.result()


_own = threading.local()


def scratch(dtype: torch.dtype, rows: int, columns: int) -> torch.Tensor:
    """An uninitialised (rows, columns) of this thread, until its next call.

    Kept from call to call: the system would hand out new pages every time.
    """
    size = rows * columns
    if getattr(_own, "buffer", None) is None or _own.buffer.dtype != dtype:
        _own.buffer = torch.empty(size, dtype=dtype)
    if _own.buffer.numel() < size:
        _own.buffer = torch.empty(size, dtype=dtype)
    return _own.buffer[:size].view(rows, columns)


def row_tasks(
    first: np.ndarray | torch.Tensor, rows: int = ROWS
) -> list[tuple[int, int, int]]:
    """(cloud, start, end) of at most ``rows`` rows each; ``first`` as of `Rows`."""
    return [
        (cloud, start, min(start + rows, end))
        for cloud, (begin, end) in enumerate(pairwise(first.tolist()))
        for start in range(begin, end, rows)
    ]


def channel_tasks(
    first: np.ndarray | torch.Tensor, channels: int
) -> list[tuple[int, int, int, int]]:
    """(start, end, first channel, last channel + 1) of whole clouds."""
    return [
        (start, end, c, min(c + CHANNELS, channels))
        for start, end in pairwise(first.tolist())
        for c in range(0, channels, CHANNELS)
    ]
