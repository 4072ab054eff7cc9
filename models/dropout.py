"""Dropout whose masks do not depend on the number of processes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from utils.parallel import distributed


class GlobalBatchDropout(nn.Dropout):
    """Dropout that draws its mask by seed, step and position in the global batch.

    Every rank draws the mask of the global batch and takes its own rows, so that any
    world size drops the same numbers and a resumed run those it would have dropped.
    :func:`set_dropout_step` is called before every training step; a model for which it
    never was has ``nn.Dropout``.

    Input (b, ...), the same b on every rank; output of the same shape.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__(p)
        self.key: tuple[int, ...] | None = None
        self.calls = 0  # since the step began: one module may serve several layers

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0 or self.key is None:
            return super().forward(x)
        words = np.random.SeedSequence((*self.key, self.calls)).generate_state(2)
        self.calls += 1
        generator = torch.Generator(x.device)
        generator.manual_seed(int(words[0]) << 31 ^ int(words[1]))
        first, world = distributed.rank() * len(x), distributed.world_size()
        shape = (len(x) * world, *x.shape[1:])
        draws = torch.rand(shape, generator=generator, device=x.device)
        kept = draws[first : first + len(x)] >= self.p
        return x * kept / (1 - self.p)


def set_dropout_step(model: nn.Module, seed: int, step: int) -> None:
    """Choose the masks of a training step for every dropout of the model."""
    number = 0
    for module in model.modules():
        if isinstance(module, GlobalBatchDropout):
            module.key, module.calls = (seed, step, number), 0
            number += 1
