"""BatchNorm with the statistics of the global batch."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from utils.parallel.distributed import world_size


def synchronise_batchnorm(module: nn.Module) -> nn.Module:
    """Give every BatchNorm the statistics of the global batch.

    Only its class changes: names, tensors and settings stay as they are.
    """
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.__class__ = GlobalBatchNorm
    return module


def is_synchronised(batchnorm: _BatchNorm) -> bool:
    """Whether its training statistics are all-reduced over several ranks."""
    return isinstance(batchnorm, GlobalBatchNorm) and world_size() > 1


def gather_statistics(packed: Tensor) -> Tensor:
    """(L,) of every rank -> (W, L), in order of rank; not differentiable."""
    parts = [torch.empty_like(packed) for _ in range(world_size())]
    dist.all_gather(parts, packed)
    return torch.stack(parts)


def combine_statistics(
    count: int, mean: Tensor, var: Tensor, over_ranks: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and biased variance over all ranks from those of each rank.

    Args:
        count: values of each channel on this rank; may be 0.
        mean, var: (C,) of this rank.
        over_ranks: False to use this rank alone.

    Returns:
        float64 tensors, the count a scalar.

    Raises:
        ValueError: if there is one value, which has no variance.
    """
    local_count = torch.full((1,), count, device=mean.device)
    packed = torch.cat([local_count.double(), mean.double(), var.double()])
    parts = gather_statistics(packed) if over_ranks else packed[None]
    counts, means, variances = parts.split([1, len(mean), len(mean)], dim=1)
    total = counts.sum()
    if count < 2 and total < 2:  # reading the total synchronises with the GPU
        raise ValueError(
            "BatchNorm needs more than one value of each channel in training: "
            "the global batch has one; raise --batch_size"
        )
    mean = (counts * means).sum(0) / total
    return total, mean, (counts * (variances + (means - mean) ** 2)).sum(0) / total


def running_statistics(batchnorm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Running mean and variance (C,), for eval mode."""
    mean, var = batchnorm.running_mean, batchnorm.running_var
    assert mean is not None and var is not None  # BatchNorm tracks them here
    return mean, var


def norm_affine(batchnorm: _BatchNorm, mean: Tensor, var: Tensor) -> Tensor:
    """BatchNorm by given statistics (C,), which maps y to scale y + offset.

    Returns:
        scale, offset, mean and inverse standard deviation, (4, C).
    """
    inverse = (var.double() + batchnorm.eps).rsqrt()
    scale = batchnorm.weight.double() * inverse
    offset = batchnorm.bias.double() - mean.double() * scale
    affine = torch.stack([scale, offset, mean.double(), inverse])
    return affine.to(batchnorm.weight.dtype)


@torch.no_grad()
def update_running_statistics(
    batchnorm: _BatchNorm, count: Tensor, mean: Tensor, var: Tensor
) -> None:
    """Update the running mean and variance by those of :func:`combine_statistics`."""
    batches, momentum = batchnorm.num_batches_tracked, batchnorm.momentum
    assert batches is not None and momentum is not None  # BatchNorm tracks them here
    batches.add_(1)
    unbiased = var * (count / (count - 1))
    for stat, new in zip(running_statistics(batchnorm), (mean, unbiased), strict=True):
        stat.lerp_(new.to(stat.dtype), momentum)


class GlobalBatchNorm(_BatchNorm):
    """BatchNorm with the statistics of the global batch, on any device.

    Input (b, C, ...) on every rank, any b (on a GPU b >= 1); output of the same shape.
    Equals ``nn.BatchNorm`` of all ranks' inputs concatenated, also in its running
    statistics (unbiased variance). Needs weight, bias and a momentum.

    ``nn.SyncBatchNorm`` does not run on the CPU. On GPUs it checks for ranks without
    rows, which synchronises with the GPU in every layer: 53 times in a ResNet-50's
    forward pass. This one never does.

    Raises:
        ValueError: in training, if the global batch has one value of each channel.
    """

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions (b, C), got {x.dim()}")

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(x)  # nn.BatchNorm itself, which is faster
        self._check_input_dim(x)
        if x.is_cuda:
            assert self.num_batches_tracked is not None  # BatchNorm tracks them here
            self.num_batches_tracked.add_(1)
            running = (self.running_mean, self.running_var, self.momentum)
            return _OnGPU.apply(x, self.weight, self.bias, *running, self.eps)
        y, mean, var, count = _OnCPU.apply(x, self.weight, self.bias, self.eps)
        update_running_statistics(self, count, mean, var)
        return y


class _OnGPU(torch.autograd.Function):
    """PyTorch's kernels for SyncBatchNorm, which read half precision as it is."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
    ) -> Tensor:
        x = _dense(x)
        channels = x.shape[1]
        stats = torch.batch_norm_stats(x, eps)  # mean, inverse standard deviation
        count = stats[0].new_full((1,), x.numel() // channels)
        parts = gather_statistics(torch.cat([*stats, count]))
        means, inverses, counts = parts.split([channels, channels, 1], dim=1)
        counts = counts.flatten().to(running_mean.dtype)
        mean, inverse = torch.batch_norm_gather_stats_with_counts(
            x, means, inverses, running_mean, running_var, momentum, eps, counts
        )
        ctx.save_for_backward(x, weight, mean, inverse, counts.int())
        return torch.batch_norm_elemt(x, weight, bias, mean, inverse, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse, counts = ctx.saved_tensors
        grad = _dense(grad)
        *sums, grad_weight, grad_bias = torch.batch_norm_backward_reduce(
            grad, x, mean, inverse, weight, True, True, True
        )
        total = torch.cat(sums)
        dist.all_reduce(total)
        first, second = total.chunk(2)
        weight = weight.to(mean.dtype)
        grad_x = torch.batch_norm_backward_elemt(
            grad, x, mean, inverse, weight, first, second, counts
        )
        return grad_x, grad_weight, grad_bias, None, None, None, None


def _dense(x: Tensor) -> Tensor:
    """``x`` in one of the two memory formats that the kernels take."""
    channels_last = x.is_contiguous(memory_format=torch.channels_last)
    return x if channels_last else x.contiguous()


class _OnCPU(torch.autograd.Function):
    """Statistics by float64 sums; PyTorch's BatchNorm with given ones."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        upcast = x if x.dtype == torch.float64 else x.float()
        var = mean = upcast.new_zeros(x.shape[1])  # without rows PyTorch returns NaN
        if upcast.numel() > 0:
            # Biased; four times as fast as torch.var_mean on the CPU.
            mean, var = torch.batch_norm_update_stats(upcast, None, None, 0.0)
        count, mean, var = combine_statistics(x.numel() // x.shape[1], mean, var)
        mean_x, var_x = mean.to(upcast.dtype), var.to(upcast.dtype)
        y = F.batch_norm(upcast, mean_x, var_x, weight, bias, eps=eps)
        ctx.save_for_backward(x, weight, mean_x, var_x, count)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, var, count)
        return y.to(x.dtype), mean, var, count

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, mean, var, count = ctx.saved_tensors
        upcast, grad = x.to(mean.dtype), grad.to(mean.dtype)
        # With the statistics held constant, in one pass over memory ...
        grad_x = grad
        grad_weight, grad_bias = torch.zeros_like(mean), torch.zeros_like(mean)
        if upcast.numel() > 0:
            grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
                *(grad, upcast, weight, mean, var, None, None, False, ctx.eps),
                [True, True, True],
            )
        # ... then through the statistics, which depend on every rank's input:
        # -w s (sum(g) + x_hat sum(g x_hat)) / n with x_hat = (x - mean) s.
        sums = torch.cat([grad_bias.double(), grad_weight.double()])
        dist.all_reduce(sums)
        mean_grad, mean_grad_x = (sums / count).to(mean.dtype).chunk(2)
        inv_std = (var + ctx.eps).rsqrt()
        slope = -weight * inv_std**2 * mean_grad_x
        offset = -weight * inv_std * mean_grad - slope * mean
        shape = [1, -1, *[1] * (x.dim() - 2)]
        slope, offset = slope.view(shape), offset.view(shape)
        grad_x = torch.addcmul(grad_x, upcast, slope).add_(offset)
        return grad_x.to(x.dtype), grad_weight, grad_bias, None
