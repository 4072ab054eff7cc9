"""Parts of a training loop: precision, optimiser, schedule, batches, device transfer.

The loops themselves are in the scripts.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from utils.parallel import distributed
from utils.run import signals
from utils.run.logger import progress

DEFAULT_LR = {"adam": 1e-3, "sgd": 0.1}


class Precision:
    """``--precision``: dtype of the parameters, autocast, and fp16's loss scaling.

    bf16 and fp16 keep float32 parameters; ``autocast()`` is the context of forward pass
    and loss. ``scaler`` scales fp16's loss and skips steps that overflow; otherwise it
    is disabled: ``scaler.scale(loss)`` is the loss and ``scaler.step`` the step.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.dtype = torch.float64 if name == "fp64" else torch.float32
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(name)
        enabled = half is not None
        self.autocast = partial(torch.autocast, device.type, half, enabled)


def build_optimizer(
    parameters: Iterable[nn.Parameter], args: argparse.Namespace
) -> torch.optim.Optimizer:
    """Adam or SGD with ``args.lr``, ``args.weight_decay`` and ``args.momentum``."""
    trained = [p for p in parameters if p.requires_grad]
    # fused: one pass over memory updates all numbers.
    options = {"lr": args.lr, "weight_decay": args.weight_decay, "fused": True}
    made: torch.optim.Optimizer
    if args.optimizer == "sgd":
        made = torch.optim.SGD(trained, momentum=args.momentum, **options)
    else:
        made = torch.optim.Adam(trained, **options)
    made.register_load_state_dict_post_hook(_lay_out_as_parameters)
    return made


def _lay_out_as_parameters(optimizer: torch.optim.Optimizer) -> None:
    # Fused kernels pair numbers by address, not by index: a state saved in another
    # memory format would silently be applied to the wrong weights.
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter).copy_(value)


def cosine(start: float, epoch: int, epochs: int, end: float = 0.0) -> float:
    """Learning rate of an epoch: half a cosine from ``start`` towards ``end``."""
    return end + (start - end) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def scheduled(scheduler: str, start: float, epoch: int, epochs: int) -> float:
    """Learning rate of an epoch by part segmentation's ``--scheduler``.

    ``cos`` decays to 1e-3 by half a cosine, ``step`` halves every 20 epochs but not
    below 1e-5. Neither rises: a start below its end stays constant.
    """
    if scheduler == "cos":
        return cosine(start, epoch, epochs, min(start, 1e-3))
    return max(start * 0.5 ** (epoch // 20), min(start, 1e-5))


class TimedLoader(DataLoader):
    """A DataLoader that adds up the seconds its consumer waited for batches."""

    waited = 0.0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        start = time.perf_counter()
        for batch in super().__iter__():
            self.waited += time.perf_counter() - start
            yield batch
            start = time.perf_counter()


def data_loader(
    dataset: Dataset,
    sampler: Sampler,
    num_workers: int,
    device: torch.device,
    collate: Callable[[list], Any] | None = None,
) -> TimedLoader:
    """This rank's batches, loaded by ``num_workers`` processes, pinned for a GPU.

    ``collate`` makes a batch of samples; None: PyTorch's.
    """
    return TimedLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
        worker_init_fn=signals.ignore_signals,
        persistent_workers=num_workers > 0,
    )


def map_tensors(function: Callable[[Tensor], Any], batch: Any) -> Any:
    """Apply a function to each tensor in nested tuples, keeping their structure."""
    if isinstance(batch, Tensor):
        return function(batch)
    mapped = [map_tensors(function, part) for part in batch]
    return type(batch)(*mapped) if hasattr(batch, "_fields") else mapped


def to_device(batch: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Move the tensors of nested tuples, floating-point ones to ``dtype`` as well."""

    def moved(x: Tensor) -> Tensor:
        kind = dtype if x.is_floating_point() else x.dtype
        return x.to(device, kind, non_blocking=True)

    return map_tensors(moved, batch)


def evaluation_batches(
    count: int, batch_size: int, name: str = "test", unit: str = "cloud"
) -> Iterator[slice]:
    """This rank's samples of an evaluation in batches, behind a progress bar.

    Args:
        count: samples of this rank, 0 or more; other ranks may have more or fewer.
        batch_size: samples of a batch over all ranks, at least one each.
        name, unit: of the bar.

    Raises:
        Interrupted: on all ranks, before the next batch, if one received a signal.
    """
    local_size = max(1, batch_size // distributed.world_size())
    with progress(total=count, desc=name, unit=unit) as bar:
        # Every rank takes part as often as the one with the most batches.
        batches = distributed.all_reduce_max(math.ceil(count / local_size))
        for first in range(0, local_size * batches, local_size):
            if signal := distributed.all_reduce_max(signals.received()):
                raise signals.Interrupted(signal, "in an evaluation")
            if first < count:
                batch = slice(first, min(first + local_size, count))
                yield batch
                bar.update(batch.stop - first)
