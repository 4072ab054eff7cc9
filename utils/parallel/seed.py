"""Random numbers as a pure function of what they are for.

A generator is named by integers such as ``(seed, epoch, sample index)``; it does not
depend on the worker, the rank, or anything drawn before. That is what lets a run give
the same numbers on any number of processes and after a resume: any world size sees the
same global batches.
"""

from __future__ import annotations

import numpy as np
import torch

# One number per purpose, so that two purposes never share a stream.
ORDER, POINTS, PICTURE, SHAPE, SPLIT, EPISODE, SAMPLE = range(7)


def generator(purpose: int, *key: int) -> np.random.Generator:
    """A NumPy generator that is a function of ``(purpose, *key)`` alone.

    Args:
        purpose: one of this module's constants (``ORDER``, ``POINTS``, ...).
        key: integers in [0, 2**64), e.g. ``seed, epoch, index``.

    Raises:
        ValueError: if a number is negative.
    """
    if min(key, default=0) < 0:
        raise ValueError(f"seeds and indices are >= 0, got {key}")
    # Two 32-bit words a number and the count in front: SeedSequence alone would give
    # (1,) and (1, 0), or 2**32 and (0, 1), the same stream. An array of words, which it
    # need not convert one by one.
    words = np.array((purpose | len(key) << 32, *key), "<u8").view("<u4")
    sequence = np.random.SeedSequence(words)
    return np.random.Generator(np.random.Philox(sequence))


def seed_torch(seed: int) -> None:
    """Seed the global generators that initialise the weights (CPU and every GPU)."""
    torch.manual_seed(seed)
