"""The training step's arithmetic: precision, optimiser, learning rate, divergence."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
DEFAULT_LR = {"adam": 1e-3, "sgd": 0.1}


class DivergenceError(Exception):
    """A loss or a weight is no longer a finite number."""

    def __init__(self, step: int, what: str, args: argparse.Namespace) -> None:
        super().__init__(
            f"{what} is not finite at step {step}, or was so since the last check "
            f"(every {args.print_freq} steps). Nothing was written since. Look at "
            f"metrics.jsonl, then try a lower --lr (now {args.lr:g})"
            + ("" if args.precision in ("fp32", "fp64") else " or --precision fp32")
        )


def all_finite(parameters: Iterable[nn.Parameter]) -> bool:
    """Whether every number of the parameters is finite."""
    return bool(torch.stack([p.detach().isfinite().all() for p in parameters]).all())


class Precision:
    """``--precision``: the dtype of parameters, autocast, and fp16's loss scaling.

    Args:
        name: ``fp32``, ``fp64``, ``bf16`` or ``fp16``; the last two keep float32
            parameters and use autocast.
        device: where the model is.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.device = device
        self.dtype = torch.float64 if name == "fp64" else torch.float32
        self._autocast = _AUTOCAST.get(name)
        self._scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")

    def autocast(self) -> AbstractContextManager:
        """The context in which the model and the loss are computed."""
        return torch.autocast(
            self.device.type, dtype=self._autocast, enabled=self._autocast is not None
        )

    def backward_and_step(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Gradients and one update; fp16 scales the loss and skips overflown steps."""
        self._scaler.scale(loss).backward()
        self._scaler.step(optimizer)
        self._scaler.update()

    def state_dict(self) -> dict[str, Any]:
        return self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._scaler.load_state_dict(state)


def build_optimizer(
    parameters: Iterable[nn.Parameter], args: argparse.Namespace
) -> torch.optim.Optimizer:
    """Adam or SGD with ``args.lr``, ``args.weight_decay`` and ``args.momentum``."""
    if args.optimizer == "sgd":
        return torch.optim.SGD(
            parameters,
            args.lr,
            momentum=args.momentum,
            weight_decay=args.weight_decay,
        )
    return torch.optim.Adam(parameters, args.lr, weight_decay=args.weight_decay)


def cosine(start: float, epoch: int, epochs: int, end: float = 0.0) -> float:
    """The learning rate of an epoch: half a cosine from ``start`` towards ``end``."""
    return end + (start - end) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def scheduled(scheduler: str, start: float, epoch: int, epochs: int) -> float:
    """The learning rate of an epoch by ``--scheduler`` of part segmentation.

    ``cos`` goes to 1e-3 by half a cosine, ``step`` halves every 20 epochs but not below
    1e-5. Neither rises: a start below its end stays where it is.
    """
    if scheduler == "cos":
        return cosine(start, epoch, epochs, min(start, 1e-3))
    if scheduler == "step":
        return max(start * 0.5 ** (epoch // 20), min(start, 1e-5))
    raise ValueError(f"--scheduler is cos or step, got {scheduler!r}")
