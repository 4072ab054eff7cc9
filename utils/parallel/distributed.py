"""The process group: start, gather with gradient, work of one rank, DDP.

With one process nothing is initialised and every function here is the identity, so
``python script.py`` and ``torchrun script.py`` run the same code.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from utils.parallel.memory import keep_freed_memory
from utils.run.cli import FailedElsewhere, UsageError

# Rank 0 may work alone for as long as it likes (an SVM on 9,840 samples takes minutes)
# while the others wait in `run_on_main`; a dead rank 0 still ends them at once, because
# gloo notices the closed connection.
_PATIENCE = timedelta(days=7)
_patient_group: dist.ProcessGroup | None = None
# For numbers that are not on a GPU, with the timeout of the run.
_host_group: dist.ProcessGroup | None = None


@dataclass(frozen=True)
class Process:
    """This process's place among all processes of the run, and its device."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device
    backend: str  # "none" with one process


def start(timeout_s: float = 600.0) -> Process:
    """Join the process group that torchrun describes in the environment, if any.

    NCCL and ``cuda:<local rank>`` where GPUs are visible, gloo and the CPU elsewhere.
    A process that has joined already stays as it is. On the CPU the process keeps the
    memory of tensors that are freed.

    Args:
        timeout_s: seconds after which a collective that not every rank joined fails.

    Raises:
        UsageError: if more processes were started on this node than it has GPUs, or by
            something else than torchrun.
    """
    global _patient_group, _host_group
    rank = int(os.environ.get("RANK", 0))
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    if world_size > 1 and "LOCAL_RANK" not in os.environ:
        raise UsageError(
            f"RANK and WORLD_SIZE={world_size} are set but LOCAL_RANK is not: start "
            "the processes with torchrun"
        )
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if torch.cuda.is_available():
        gpus = torch.cuda.device_count()
        if local_rank >= gpus:
            raise UsageError(
                f"local rank {local_rank} has no GPU: {gpus} visible on this node. "
                f"Start at most {gpus} processes a node (torchrun --nproc_per_node), "
                "or set CUDA_VISIBLE_DEVICES='' to run on the CPU."
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
        keep_freed_memory()
    backend = "none"
    if world_size > 1:
        backend = "nccl" if device.type == "cuda" else "gloo"
    if world_size > 1 and not dist.is_initialized():
        timeout = timedelta(seconds=timeout_s)
        store, _, _ = next(dist.rendezvous("env://", timeout=timeout))
        # After a restart torchrun's store may still hold the addresses of the processes
        # before it, and whoever connects to those waits for ever.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        dist.init_process_group(
            backend,
            timeout=timeout,
            store=dist.PrefixStore(f"attempt {attempt}", store),
            rank=rank,
            world_size=world_size,
            device_id=device if backend == "nccl" else None,
        )
        _patient_group = _gloo_group(_PATIENCE)
        if backend == "nccl":
            _host_group = _gloo_group(timeout)
    return Process(rank, world_size, local_rank, device, backend)


def _gloo_group(timeout: timedelta) -> dist.ProcessGroup:
    # All ranks are in it; a rank that is not would get a number instead.
    return cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=timeout))


def stop() -> None:
    """Leave the process group; nothing happens with one process."""
    global _patient_group, _host_group
    if dist.is_initialized():
        dist.destroy_process_group()
    _patient_group = _host_group = None


def rank() -> int:
    """Rank of this process, 0 with one process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum of ``x`` over the ranks, in place; not differentiable."""
    if world_size() > 1:
        dist.all_reduce(x)
    return x


def highest(value: int) -> int:
    """The greatest ``value`` of all ranks, without waiting for a GPU."""
    if world_size() == 1:
        return value
    x = torch.tensor([value])
    dist.all_reduce(x, dist.ReduceOp.MAX, group=_host_group)
    return int(x)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = x.shape[0]
        parts = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor]:
        # Every rank's loss depends on this rank's rows: their gradients add up.
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        first = rank() * ctx.rows
        return (grad[first : first + ctx.rows],)


def gather_rows(x: Tensor) -> Tensor:
    """All ranks' rows, in order of rank, with gradient.

    Args:
        x: (b, ...), the same shape on every rank.

    Returns:
        (b * world size, ...). The gradient of the sum of all ranks' losses with
        respect to ``x`` comes back, not only that of the own loss.
    """
    return _GatherRows.apply(x) if world_size() > 1 else x


def gather_array(x: np.ndarray) -> np.ndarray:
    """All ranks' rows on every rank, in order of rank; row counts may differ.

    Args:
        x: (m, ...), any m >= 0, the other dimensions the same on every rank.
    """
    if world_size() == 1:
        return x
    counts = torch.zeros(world_size(), dtype=torch.int64)
    counts[rank()] = len(x)
    dist.all_reduce(counts, group=_patient_group)
    longest = int(counts.max())
    padded = np.zeros((longest, *x.shape[1:]), x.dtype)
    padded[: len(x)] = x
    mine = torch.from_numpy(padded)
    parts = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(parts, mine, group=_patient_group)
    kept = zip(parts, counts.tolist(), strict=True)
    return np.concatenate([part.numpy()[:count] for part, count in kept])


def run_on_main(work: Callable[[], Any]) -> Any:
    """Rank 0 calls ``work`` and every rank gets its (JSON-able) result.

    The other ranks wait for as long as it takes, without a collective's timeout.

    Raises:
        FailedElsewhere: on the other ranks, if ``work`` raised on rank 0, where the
            exception itself goes on.
    """
    if world_size() == 1:
        return work()
    if rank() != 0:
        answer = _broadcast_json(None)
        if "error" in answer:
            raise FailedElsewhere(f"rank 0 failed: {answer['error']}")
        return answer["result"]
    try:
        result = work()
    except BaseException as error:
        _broadcast_json({"error": f"{type(error).__name__}: {error}"})
        raise
    return _broadcast_json({"result": result})["result"]


def run_everywhere(work: Callable[[], Any], *expected: type[Exception]) -> Any:
    """Every rank calls ``work``; where one fails all do, and one error is raised.

    A file may be damaged in one rank's share alone. Without this the other ranks would
    wait for it in the next collective.

    Args:
        work: reads data, checks flags; no collectives inside.
        expected: exception classes to exchange, beside :class:`UsageError`; any other
            goes on at once.

    Returns:
        What ``work`` returned on this rank.

    Raises:
        UsageError: on the first rank that failed, with its error's message.
        FailedElsewhere: on all others.
    """
    result, text = None, ""
    exchanged: tuple[type[Exception], ...] = (UsageError, *expected)
    try:
        result = work()
    except exchanged as error:
        text = str(error)
    failed = gather_array(np.array([bool(text)]))
    if failed.any():
        if rank() == int(failed.argmax()):
            raise UsageError(text)
        raise FailedElsewhere(f"rank {int(failed.argmax())} failed")
    return result


def _broadcast_json(value: Any) -> Any:
    data = json.dumps(value).encode() if rank() == 0 else b""
    size = torch.tensor([len(data)])
    dist.broadcast(size, 0, group=_patient_group)
    text = torch.zeros(int(size), dtype=torch.uint8)
    if rank() == 0:
        text.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    dist.broadcast(text, 0, group=_patient_group)
    return json.loads(text.numpy().tobytes())


def data_parallel(module: nn.Module, device: torch.device) -> nn.Module:
    """DistributedDataParallel around ``module`` on ``device``; itself with one process.

    Call :func:`utils.parallel.batchnorm.synchronise_batchnorm` first. Buffers are not
    broadcast: running statistics are those of the global batch, equal on every rank.
    """
    module = module.to(device)
    if world_size() == 1:
        return module
    ids = [device.index] if device.type == "cuda" else None
    known = inspect.signature(DistributedDataParallel).parameters
    newer = "forward_sync_buffers"  # what later releases of torch call it
    option = newer if newer in known else "broadcast_buffers"
    # Gradients lie in the buffers that are sent: a copy of all of them less in memory.
    options: dict[str, Any] = {option: False, "gradient_as_bucket_view": True}
    return DistributedDataParallel(module, device_ids=ids, **options)


def unwrap(module: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel, or the module itself."""
    return module.module if isinstance(module, DistributedDataParallel) else module
