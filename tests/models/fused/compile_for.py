"""Compile every Triton kernel for a GPU that need not be there: no test by itself.

    python -m tests.models.fused.compile_for 80        # compute capability 8.0

The wrappers are called on tensors of the CPU with a driver that launches nothing, so
that the kernels meet the types and constants of real launches. Prints a line for each:
registers of a thread, bytes spilled out of them, and uses of float32 in Triton's
intermediate representation.
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
from models.fused.batch import Graph, RaggedBatch

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
        single = len(re.findall(r"\bf32\b", kernel.asm["ttir"]))
        print(
            f"{self.__name__} {' '.join(floats)}: {needs['REG']} registers, "
            f"{needs['LOCAL'] + needs['STACK']} bytes spilled, {single} times f32",
            flush=True,
        )
        return kernel

    JITFunction.run = run


def launch_all(dtype: torch.dtype, half: torch.dtype) -> None:
    """Every operation once; ``half`` is what autocast leaves before pooling."""
    offsets = torch.tensor([0, 150, 183, ROWS])
    batch = RaggedBatch(offsets, torch.ones(ROWS, dtype=dtype), POINTS, False)
    a, channel = torch.zeros(ROWS, CHANNELS, dtype=dtype), torch.zeros(CHANNELS)
    channel = channel.to(dtype)
    if dtype == torch.float32:
        for width, k in ((3, 15), (64, 20), (64, 40)):
            cuda.knn(a[:, :width].contiguous(), batch, k)
    norm = torch.nn.BatchNorm1d(CHANNELS).to(dtype)
    sums = torch.zeros(2, CHANNELS, dtype=torch.float64)
    affine, count = cuda.batch_affine(norm, sums, channel, 9, False)
    cuda.activation_gradient(a, a, affine, 0.2)
    cuda.statistics_gradient(sums, sums, affine, count)
    graph = Graph(torch.zeros(ROWS, 15, dtype=torch.int32), batch)
    for stats in (True, False):
        cuda.edge_extremes(a, a, graph, channel, channel, stats)
    for argmax in (None, torch.zeros(ROWS, CHANNELS, dtype=torch.int32)):
        cuda.edge_gradients(a, a, argmax, a, a, graph, a, channel, channel)
    for kind in {dtype, half}:
        y, share = a.to(kind), torch.zeros(3, CHANNELS, dtype=dtype)
        cuda.column_sums(y, channel, batch)
        cuda.pool(y, affine, channel, 0.2, batch)
        cuda.pool_gradient(share, y, affine, channel, channel, 0.2, batch)


if __name__ == "__main__":
    driver.set_active(Absent(int(sys.argv[1])))
    compile_instead_of_launching()
    launch_all(torch.float32, torch.bfloat16)
    launch_all(torch.float64, torch.float64)
