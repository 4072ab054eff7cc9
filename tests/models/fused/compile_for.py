"""Compile every Triton kernel for a GPU that need not be there: no test by itself.

    python -m tests.models.fused.compile_for 80        # compute capability 8.0

The wrappers are called on tensors of the CPU with a driver that launches nothing, so
that the kernels meet the types and constants of real launches. Prints a line for each:
registers of a thread, bytes spilled out of them, and uses of float32 in Triton's
intermediate representation.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

from benchmarks.kernel_inputs import kernel_arguments
from models.fused import triton as cuda

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
ROWS, CHANNELS, NEIGHBOURS = 273, 64, 15


def absent_gpu(capability: int) -> SimpleNamespace:
    """The parts of a driver that compiling asks."""
    return SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", capability, 32),
        get_current_device=lambda: 0,
        get_current_stream=lambda device: 0,
    )


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
    """Every operation; ``half`` is what autocast leaves before pooling."""
    arguments = dict(kernel_arguments(dtype, ROWS, CHANNELS, NEIGHBOURS))
    _, batch, _ = arguments.pop("knn")
    if dtype == torch.float32:
        for width, k in ((3, 15), (64, 20), (64, 40)):
            cuda.knn(torch.zeros(ROWS, width), batch, k)
    for name, given in arguments.items():
        getattr(cuda, name)(*given)
    *given, _ = arguments["edge_extremes"]
    cuda.edge_extremes(*given, False)
    grad_a, grad_b, _, *given = arguments["edge_gradients"]
    cuda.edge_gradients(grad_a, grad_b, None, *given)
    for name in ("column_sums", "pool"):
        y, *given = arguments[name]
        getattr(cuda, name)(y.to(half), *given)
    share, y, *given = arguments["pool_gradient"]
    cuda.pool_gradient(share, y.to(half), *given)


if __name__ == "__main__":
    driver.set_active(absent_gpu(int(sys.argv[1])))
    compile_instead_of_launching()
    launch_all(torch.float32, torch.bfloat16)
    launch_all(torch.float64, torch.float64)
