"""Compile every Triton kernel for a GPU that need not be there: no test by itself.

    python -m tests.models.fused.compile_for 80        # compute capability 8.0

The wrappers are called on tensors of the CPU with a driver that launches nothing, so
that the kernels meet the types and constants of real launches. Prints a line for each:
registers of a thread and bytes that spilled out of them.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

from models.fused import triton as cuda
from models.fused.rows import Graph, Rows

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
ROWS, CHANNELS, POINTS = 273, 64, 150


class Absent:
    """The parts of a driver that compiling asks."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def resources(cubin: bytes) -> dict[str, int]:
    """What the machine code needs, by cuobjdump."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(
            [TOOLS / "cuobjdump", "-res-usage", file.name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    return {name: int(number) for name, number in re.findall(r"(\w+):(\d+)", text)}


def compile_instead_of_launching() -> None:
    launch = JITFunction.run

    def run(self: JITFunction, *args: Any, grid: Any, warmup: bool, **options: Any):
        kernel = launch(self, *args, grid=grid, warmup=True, **options)
        needs = resources(kernel.asm["cubin"])
        dtypes = {a.dtype for a in args if isinstance(a, torch.Tensor)}
        floats = sorted(str(d)[6:] for d in dtypes if d.is_floating_point)
        print(
            f"{self.__name__} {' '.join(floats)}: {needs['REG']} registers, "
            f"{needs['LOCAL'] + needs['STACK']} bytes spilled",
            flush=True,
        )
        return kernel

    JITFunction.run = run


def launch_all(dtype: torch.dtype, half: torch.dtype) -> None:
    """Every operation once; ``half`` is what autocast leaves before pooling."""
    first = torch.tensor([0, 150, 183, ROWS])
    rows = Rows(first, torch.ones(ROWS, dtype=dtype), POINTS, False)
    a, channel = torch.zeros(ROWS, CHANNELS, dtype=dtype), torch.zeros(CHANNELS)
    channel = channel.to(dtype)
    affine, terms = (channel,) * 3, (channel,) * 2
    if dtype == torch.float32:
        for width, k in ((3, 15), (64, 15), (64, 20), (64, 40)):
            cuda.knn(a[:, :width].contiguous(), rows, k)
    graph = Graph(torch.zeros(ROWS, 15, dtype=torch.int32), rows)
    for stats in (True, False):
        cuda.edge_extremes(a, a, graph, channel, channel, stats)
    cuda.edge_slopes(a, a, affine, 0.2, rows)
    cuda.to_extremes(a, torch.zeros_like(a, dtype=torch.int32), rows)
    cuda.add_statistics(a, a, a, a, graph, a, terms)
    for kind in {dtype, half}:
        y, share = a.to(kind), torch.zeros(3, CHANNELS, dtype=dtype)
        cuda.column_sums(y, channel, rows)
        cuda.pool(y, channel, channel, channel, 0.2, rows)
        cuda.pool_sums(share, y, affine, 0.2, rows)
        cuda.pool_gradient(share, y, affine, terms, 0.2, rows)


if __name__ == "__main__":
    driver.set_active(Absent(int(sys.argv[1])))
    compile_instead_of_launching()
    launch_all(torch.float32, torch.bfloat16)
    launch_all(torch.float64, torch.float64)
