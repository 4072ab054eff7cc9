"""Every use of ``torch.distributed``: start, gather with gradient, global BatchNorm.

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
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from utils.cli import FailedElsewhere, UsageError
from utils.memory import keep_freed_memory

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
        _patient_group = dist.new_group(backend="gloo", timeout=_PATIENCE)
        if backend == "nccl":
            _host_group = dist.new_group(backend="gloo", timeout=timeout)
    return Process(rank, world_size, local_rank, device, backend)


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
    try:
        result = work()
    except (UsageError, *expected) as error:
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
    """``module`` on ``device`` on every rank, with BatchNorm over the global batch.

    With one process the module itself comes back. Buffers are not broadcast: running
    statistics are computed from the global batch and therefore equal on every rank.
    """
    module = module.to(device)
    if world_size() == 1:
        return module
    module = synchronise_batchnorm(module, device)
    ids = [device.index] if device.type == "cuda" else None
    known = inspect.signature(DistributedDataParallel).parameters
    newer = "forward_sync_buffers"  # what later releases of torch call it
    option = newer if newer in known else "broadcast_buffers"
    # Gradients lie in the buffers that are sent: a copy of all of them less in memory.
    options = {option: False, "gradient_as_bucket_view": True}
    return DistributedDataParallel(module, device_ids=ids, **options)


def unwrap(module: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel, or the module itself."""
    return module.module if isinstance(module, DistributedDataParallel) else module


def synchronise_batchnorm(module: nn.Module, device: torch.device) -> nn.Module:
    """Replace every BatchNorm by one whose statistics are those of the global batch.

    ``torch.nn.SyncBatchNorm`` on GPUs, :class:`GlobalBatchNorm` on the CPU, which
    torch's refuses. Parameters and buffers stay the same tensors, and a BatchNorm
    that is registered under two names stays one module.
    """
    kind = nn.SyncBatchNorm if device.type == "cuda" else GlobalBatchNorm
    twins: dict[_BatchNorm, nn.Module] = {}

    def replaced(old: _BatchNorm) -> nn.Module:
        if old not in twins:
            new = kind(old.num_features, old.eps, old.momentum, old.affine)
            new.weight, new.bias = old.weight, old.bias
            new.running_mean, new.running_var = old.running_mean, old.running_var
            new.num_batches_tracked = old.num_batches_tracked
            new.training = old.training
            twins[old] = new
        return twins[old]

    if isinstance(module, _BatchNorm):
        return replaced(module)
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, _BatchNorm):
                setattr(parent, name, replaced(child))
    return module


def is_synchronised(batchnorm: _BatchNorm) -> bool:
    """Whether its training statistics are those of more than this rank's rows."""
    kinds = (GlobalBatchNorm, nn.SyncBatchNorm)
    return isinstance(batchnorm, kinds) and world_size() > 1


def combine_statistics(
    count: int, mean: Tensor, var: Tensor, over_ranks: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and biased variance of all ranks' rows from those of the own.

    Args:
        count: of this rank's rows; may be 0.
        mean, var: (C,) of them.
        over_ranks: False for the own alone.

    Returns:
        float64 tensors, the count a scalar.

    Raises:
        ValueError: if there is one row, of which no variance can be had.
    """
    own = torch.full((1,), count, device=mean.device)
    packed = torch.cat([own.double(), mean.double(), var.double()])
    parts = [packed]
    if over_ranks:
        parts = [torch.empty_like(packed) for _ in range(world_size())]
        dist.all_gather(parts, packed)
    counts, means, variances = torch.stack(parts).split(
        [1, len(mean), len(mean)], dim=1
    )
    total = counts.sum()
    if count < 2 and total < 2:  # the second question makes the host wait for a GPU
        raise ValueError(
            "BatchNorm needs more than one value a channel in training: "
            "the global batch has one; raise --batch_size"
        )
    mean = (counts * means).sum(0) / total
    return total, mean, (counts * (variances + (means - mean) ** 2)).sum(0) / total


@torch.no_grad()
def update_running_statistics(
    batchnorm: _BatchNorm, count: Tensor, mean: Tensor, var: Tensor
) -> None:
    """What a BatchNorm keeps of a training batch; arguments as they are combined."""
    batchnorm.num_batches_tracked.add_(1)
    unbiased = var * (count / (count - 1))
    for kept, new in (
        (batchnorm.running_mean, mean),
        (batchnorm.running_var, unbiased),
    ):
        kept.lerp_(new.to(kept.dtype), batchnorm.momentum)


class GlobalBatchNorm(_BatchNorm):
    """BatchNorm whose training statistics are those of the global batch (any device).

    Input (b, C, ...) on every rank, any b; output of the same shape. The same numbers
    as ``nn.BatchNorm`` on the concatenation of all ranks' inputs, running statistics
    (unbiased variance) included. With weight, bias and a momentum, as all here have.

    Raises:
        ValueError: in training, if the global batch has one value a channel.
    """

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions (b, C), got {x.dim()}")

    def forward(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        if not self.training or world_size() == 1:
            # With one process this is nn.BatchNorm itself, kept for its speed.
            return super().forward(x)
        y, mean, var, count = _GlobalBatchNorm.apply(
            x, self.weight, self.bias, self.eps
        )
        update_running_statistics(self, count, mean, var)
        return y


class _GlobalBatchNorm(torch.autograd.Function):
    """Statistics are combined in float64 from each rank's count, mean and variance."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        kept = x if x.dtype == torch.float64 else x.float()
        var = mean = kept.new_zeros(x.shape[1])  # without rows, where torch has NaN
        if kept.numel() > 0:
            # The biased variance; four times as fast as torch.var_mean on the CPU.
            mean, var = torch.batch_norm_update_stats(kept, None, None, 0.0)
        count, mean, var = combine_statistics(x.numel() // x.shape[1], mean, var)
        mean_x, var_x = mean.to(kept.dtype), var.to(kept.dtype)
        y = F.batch_norm(kept, mean_x, var_x, weight, bias, eps=eps)
        ctx.save_for_backward(x, weight, mean_x, var_x, count)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, var, count)
        return y.to(x.dtype), mean, var, count

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, mean, var, count = ctx.saved_tensors
        kept, grad = x.to(mean.dtype), grad.to(mean.dtype)
        # As if the statistics were constants, in one pass over memory ...
        grad_x = grad
        grad_weight, grad_bias = torch.zeros_like(mean), torch.zeros_like(mean)
        if kept.numel() > 0:
            grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
                *(grad, kept, weight, mean, var, None, None, False, ctx.eps),
                [True, True, True],
            )
        # ... then the terms through them, which depend on every rank's input:
        # -w s (sum(g) + x_hat sum(g x_hat)) / n with x_hat = (x - mean) s.
        sums = torch.cat([grad_bias.double(), grad_weight.double()])
        dist.all_reduce(sums)
        mean_grad, mean_grad_x = (sums / count).to(mean.dtype).chunk(2)
        inv_std = (var + ctx.eps).rsqrt()
        slope = -weight * inv_std**2 * mean_grad_x
        offset = -weight * inv_std * mean_grad - slope * mean
        shape = [1, -1, *[1] * (x.dim() - 2)]
        grad_x = torch.addcmul(grad_x, kept, slope.view(shape)).add_(offset.view(shape))
        return grad_x.to(x.dtype), grad_weight, grad_bias, None
