"""What all kernels share: the tiles that a program works on, and how it is launched."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl

# Rows and channels of a tile; tiles, one after the other, that share a partial sum.
ROWS, COLS, TILES = tl.constexpr(16), tl.constexpr(64), tl.constexpr(8)


def operation(function: Callable) -> Callable:
    """Decorate a function that launches kernels, which see no strides and no device.

    Its tensors are made contiguous, and it runs on the GPU of the first one.
    """

    def contiguous(x: Any) -> Any:
        if isinstance(x, torch.Tensor):
            return x.contiguous()
        return tuple(map(contiguous, x)) if isinstance(x, tuple) else x

    @functools.wraps(function)
    def called(*args: Any) -> Any:
        with torch.cuda.device_of(args[0]):
            return function(*map(contiguous, args))

    return called


def grid(rows: int, channels: int, tiles: int = TILES.value) -> tuple[int, int]:
    """Programs for all rows, ``tiles`` tiles each, and for all channels."""
    return triton.cdiv(rows, ROWS.value * tiles), triton.cdiv(channels, COLS.value)


@triton.jit
def load_channels(vector, c, channels):
    """The channels c of a vector (C,), as a row (1, COLS)."""
    return tl.load(vector + c, c < channels, 0.0)[None, :]


@triton.jit
def store_sums(sums, first, second, program, c, channels):
    """Two partial sums of a program to ``sums`` (programs, 2, C)."""
    at = program * 2 * channels + c
    tl.store(sums + at, first, c < channels)
    tl.store(sums + at + channels, second, c < channels)
