"""What all kernels share: the tiles of a program, how it is compiled and launched."""

import functools
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl

# Rows and channels of a tile; tiles, one after the other, that share a partial sum.
ROWS, COLS, TILES = tl.constexpr(16), tl.constexpr(64), tl.constexpr(8)


# Numbers of rows and values change with every batch of merged points. Triton would
# compile a kernel again, in mid-run, where one is a multiple of 16 for the first time.
kernel = functools.partial(triton.jit, do_not_specialize=["rows", "count"])


def launch(kernel: Any, programs: tuple[int, ...], *args: Any, **options: Any) -> None:
    """Run a kernel; multiply-add may round once, whatever Triton's default is."""
    kernel[programs](*args, **options, enable_fp_fusion=True)


@kernel
def _write_one(out):
    tl.store(out, 1)


@functools.cache
def launch_error(device: torch.device) -> str:
    """Why no kernel can be launched on a device, in a line; empty if one can.

    At its first launch Triton compiles a stub in C, for which it needs a C compiler and
    Python's headers. Container images often lack them.
    """
    out = torch.zeros(1, device=device)
    try:
        with torch.cuda.device_of(out):
            launch(_write_one, (1,), out)
        return "" if out.item() == 1 else "a kernel did not write its result"
    except Exception as error:  # whatever compiler, linker and driver raise
        reason = " ".join(str(error).split())[:300]
        return (
            f"{reason or type(error).__name__}; gcc and Python's headers are needed "
            "(Debian: apt-get install gcc python3-dev)"
        )


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


@kernel
def load_channels(vector, c, channels):
    """The channels c of a vector (C,), as a row (1, COLS)."""
    return tl.load(vector + c, c < channels, 0.0)[None, :]


@kernel
def store_sums(sums, first, second, program, c, channels):
    """Two partial sums of a program to ``sums`` (programs, 2, C)."""
    at = program * 2 * channels + c
    tl.store(sums + at, first, c < channels)
    tl.store(sums + at + channels, second, c < channels)
