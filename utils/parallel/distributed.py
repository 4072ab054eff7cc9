"""The process group: start, gather, work of one rank, errors on all ranks, DDP.

With one process nothing is initialised and every function here is the identity, so
``python script.py`` and ``torchrun script.py`` run the same code.
"""

import inspect
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from utils.errors import FailedElsewhere, UsageError, usage_errors
from utils.parallel.machine import keep_freed_memory

# A gloo group for numbers in host memory: nothing here synchronises with a GPU.
_host_group: dist.ProcessGroup | None = None
# Rank 0, while it works alone, sends the others a heartbeat every few seconds.
LONGEST_BEAT_S = 5.0
_beat_s = LONGEST_BEAT_S


@dataclass(frozen=True)
class Process:
    """Rank, world size, device and backend of this process."""

    rank: int
    world_size: int
    device: torch.device
    backend: str  # "none" with one process

    @property
    def shard(self) -> tuple[int, int]:
        """(rank, world size), as data sets take it."""
        return self.rank, self.world_size


def start(timeout_s: float = 600.0) -> Process:
    """Join the process group that torchrun describes in the environment, if any.

    NCCL and ``cuda:<local rank>`` where GPUs are visible, gloo and the CPU elsewhere.
    Does nothing if this process has joined already. On the CPU, memory of freed tensors
    is kept for reuse. A collective that some rank does not join fails after
    ``timeout_s`` seconds.

    Raises:
        UsageError: if more processes were started on this node than it has GPUs, or by
            something else than torchrun.
    """
    global _host_group, _beat_s
    rank = int(os.environ.get("RANK", 0))
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    if world_size > 1 and "LOCAL_RANK" not in os.environ:
        raise UsageError(
            f"RANK and WORLD_SIZE={world_size} are set but LOCAL_RANK is not: start "
            "the processes with torchrun"
        )
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    on_gpu = torch.cuda.is_available()
    if on_gpu:
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
    if world_size == 1:
        return Process(rank, world_size, device, "none")
    backend = "nccl" if on_gpu else "gloo"
    if not dist.is_initialized():
        timeout = timedelta(seconds=timeout_s)
        store, _, _ = next(dist.rendezvous("env://", timeout=timeout))
        # After a restart torchrun's store may still hold the addresses of the previous
        # processes, and connecting to those would hang: use a prefix per attempt.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        dist.init_process_group(
            backend,
            # NCCL's ends the process before the error of the host group is shown.
            timeout=2 * timeout if on_gpu else timeout,
            store=dist.PrefixStore(f"attempt {attempt}", store),
            rank=rank,
            world_size=world_size,
            device_id=device if on_gpu else None,
        )
        group = dist.new_group(backend="gloo", timeout=timeout)
        _host_group = cast(dist.ProcessGroup, group)
        _beat_s = min(LONGEST_BEAT_S, timeout_s / 4)
    return Process(rank, world_size, device, backend)


def stop() -> None:
    """Leave the process group, if there is one."""
    global _host_group
    if dist.is_initialized():
        dist.destroy_process_group()
    _host_group = None


def run(main: Callable[[Any, Process], None], args: Any) -> None:
    """Call a script's ``main(args, process)`` as one rank of the process group."""
    main(args, start(args.dist_timeout))
    stop()


def rank() -> int:
    """Rank of this process, 0 with one process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait for all ranks."""
    if world_size() > 1:
        dist.barrier(group=_host_group)


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum of ``x`` over the ranks, in place; not differentiable."""
    if world_size() > 1:
        dist.all_reduce(x)
    return x


def all_reduce_max(value: int) -> int:
    """The maximum of ``value`` over all ranks, without synchronising with a GPU."""
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
    """All ranks' rows (b, ...), equally many, in order of rank: (b * world size, ...).

    The gradient that comes back to ``x`` is that of the sum of all ranks' losses, not
    of this rank's loss alone.
    """
    return _GatherRows.apply(x) if world_size() > 1 else x


def gather_array(x: np.ndarray) -> np.ndarray:
    """All ranks' rows (m, ...), any m >= 0 on each, on every rank, in order of rank."""
    if world_size() == 1:
        return x
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, x, group=_host_group)
    return np.concatenate(parts)


def run_on_main(work: Callable[[], Any]) -> Any:
    """Rank 0 calls ``work`` and every rank gets its result.

    ``work`` may take any time (an SVM on 9,840 samples takes minutes), and must call no
    collectives; its result is pickled. The other ranks wait while rank 0 sends
    heartbeats; they fail when it has died, or is silent for longer than the timeout.

    Raises:
        FailedElsewhere: on the other ranks, if ``work`` raised on rank 0, where the
            exception itself propagates.
    """
    if world_size() == 1:
        return work()
    outcome: list[Any] = [None, ""]  # the result, the error
    if rank() == 0:
        try:
            with _heartbeat():
                outcome[0] = work()
        except BaseException as error:
            outcome[1] = f"{type(error).__name__}: {error}"
            raise
        finally:
            dist.broadcast_object_list(outcome, 0, group=_host_group)
        return outcome[0]
    while not _broadcast_number(0):
        pass
    dist.broadcast_object_list(outcome, 0, group=_host_group)
    if outcome[1]:
        raise FailedElsewhere(f"rank 0 failed: {outcome[1]}")
    return outcome[0]


@contextmanager
def _heartbeat() -> Iterator[None]:
    """Rank 0 broadcasts 0 every few seconds while inside (heartbeat), 1 at the end."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(_beat_s):
            _broadcast_number(0)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        _broadcast_number(1)


def _broadcast_number(value: int) -> int:
    number = torch.tensor([value])
    dist.broadcast(number, 0, group=_host_group)
    return int(number)


@contextmanager
def fail_together() -> Iterator[None]:
    """If a UsageError or ValueError is raised inside on one rank, all ranks stop.

    A file may be damaged in one rank's share only; the other ranks would block in the
    next collective. No collectives inside.

    Raises:
        UsageError: on the first rank that failed, with its error as the cause.
        FailedElsewhere: on all other ranks.
    """
    failure: UsageError | None = None
    try:
        with usage_errors():
            yield
    except UsageError as error:
        failure = error
    failed = gather_array(np.array([failure is not None]))
    if failed.any():
        if failure is not None and rank() == int(failed.argmax()):
            raise failure
        raise FailedElsewhere(f"rank {int(failed.argmax())} failed") from failure


def data_parallel(module: nn.Module, device: torch.device) -> nn.Module:
    """DistributedDataParallel around ``module`` on ``device``; itself with one process.

    Call :func:`utils.parallel.batchnorm.synchronise_batchnorm` first. Buffers are not
    broadcast: running statistics are those of the global batch, equal on every rank.
    """
    module = module.to(device)
    if world_size() == 1:
        return module
    supported = inspect.signature(DistributedDataParallel).parameters
    newer = "forward_sync_buffers"  # its name in later releases of torch
    options: dict[str, Any] = {
        newer if newer in supported else "broadcast_buffers": False,
        # Views of the buckets that are all-reduced: one copy less in memory.
        "gradient_as_bucket_view": True,
        "device_ids": [device.index] if device.type == "cuda" else None,
    }
    return DistributedDataParallel(module, **options)


def unwrap(module: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel, or the module itself."""
    return module.module if isinstance(module, DistributedDataParallel) else module
