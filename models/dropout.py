"""Dropout with masks that do not depend on the number of processes."""

import numpy as np
import torch
from torch import Tensor, nn

from utils.parallel import distributed


class GlobalBatchDropout(nn.Dropout):
    """Dropout whose mask is a function of seed, step and position in the global batch.

    Every rank draws the mask of the global batch and uses its own rows. Masks are then
    equal for any world size, and after a resume. Call :func:`set_dropout_step` before
    every training step; without it this is ``nn.Dropout``. Masks differ between CPU and
    GPU, and for large tensors may differ between GPU models.

    Input (b, ...), the same b on every rank; output of the same shape.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__(p)
        self.key: tuple[int, ...] | None = None
        self.calls = 0  # in this step: one module may be used by several layers

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
        keep = draws[first : first + len(x)] >= self.p
        return x * keep / (1 - self.p)


def set_dropout_step(model: nn.Module, seed: int, step: int) -> None:
    """Set the seed and step of every dropout of the model before a training step."""
    number = 0
    for module in model.modules():
        if isinstance(module, GlobalBatchDropout):
            module.key, module.calls = (seed, step, number), 0
            number += 1
