"""How the kernels are called: equal names, strided tensors, the device, tasks.

And the Triton kernels as machine code: the interpreter accepts more than a compiler.
"""

import contextlib
import importlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.kernel_inputs import kernel_arguments, moved
from models.fused.batch import RaggedBatch
from models.fused.numba.tasks import run_tasks
from tests.models.conftest import Kernels, load_kernels

CPU = torch.device("cpu")


def every_operation(kernels: Kernels, strided: bool = False) -> dict[str, Any]:
    """What each kernel returns, for tensors (R, C) of either layout."""

    def laid_out(x: Any) -> Any:
        matrix = isinstance(x, Tensor) and x.dim() == 2
        return x.T.contiguous().T if strided and matrix else x

    result: dict[str, Any] = {}
    arguments = kernel_arguments(torch.float64, rows=30, wide=7)
    for name, given in arguments.items():
        own = [laid_out(moved(x, CPU)) for x in given]
        norms = [x for x in own if isinstance(x, nn.Module)]  # updated as well
        result[name] = getattr(kernels, name)(*own), [[*x.buffers()] for x in norms]
    given = moved(arguments["edge_gradients"], CPU)
    result["in grad_a"] = kernels.edge_gradients(*given[:2], None, *given[3:])
    return result


def test_both_packages_agree_in_any_memory_layout():
    assert {*kernel_arguments(torch.float64)} == {*load_kernels("numba").__all__}
    expected, *others = [
        every_operation(load_kernels(name), strided)
        for name in ("numba", "triton")
        for strided in (False, True)
    ]
    for actual in others:
        torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.skipif(torch.cuda.is_available(), reason="counts the interpreter's runs")
def test_every_launch_is_on_the_device_of_its_tensors(monkeypatch):
    package = load_kernels("triton")
    interpreter = importlib.import_module("triton.runtime.interpreter")
    inside, launches = [], []

    @contextlib.contextmanager
    def device_of(x: Tensor) -> Iterator[None]:
        inside.append(x)
        yield
        inside.pop()

    class Launch(interpreter.GridExecutor):
        def __call__(self, *args, **options):
            launches.append(len(inside) == 1 and isinstance(inside[0], Tensor))
            return super().__call__(*args, **options)

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    monkeypatch.setattr(interpreter, "GridExecutor", Launch)
    every_operation(package)
    batch = RaggedBatch(torch.tensor([0, 6]), torch.ones(6), 6, False)
    package.knn(torch.zeros(6, 3), batch, 2)
    assert len(launches) >= 7 and all(launches)


def test_every_task_runs_once_on_one_of_the_threads(set_threads):
    set_threads(3)
    done, met = [], threading.Barrier(3)

    def task(number: int, waits: bool) -> None:
        if waits:
            met.wait(60)  # three tasks at a time, or never
        done.append((number, threading.get_ident(), torch.get_num_threads()))

    run_tasks(task, [(number, number < 3) for number in range(500)])
    assert sorted(number for number, _, _ in done) == list(range(500))
    assert len({thread for _, thread, _ in done}) == 3
    assert {threads for _, _, threads in done} == {1}


@pytest.mark.parametrize("bad", [0, 49])
def test_the_error_of_a_task_is_raised(bad: int, set_threads):
    set_threads(3)

    def task(number: int) -> None:
        if number == bad:
            raise ValueError(f"task {number}")

    with pytest.raises(ValueError, match=f"task {bad}$"):
        run_tasks(task, [(number,) for number in range(50)])


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["80", "90"])
def test_kernels_compile_without_spilling_and_stay_in_float64(capability, tmp_path):
    pytest.importorskip("triton")
    variables = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.models.fused.compile_for", capability],
        env=variables | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if " registers, " in line]
    assert {line.split()[0] for line in lines} == {
        *("_knn", "_edge_extremes", "_edge_gradients"),
        *("_column_sums", "_pool", "_pool_gradient"),
        *("_pack", "_combine", "_activation_gradient", "_statistics_gradient"),
    }
    assert sum(" float64:" in line for line in lines) > 5
    for line in lines:
        actual = re.findall(r"(\d+) [a-z]", line.split(": ")[1])
        registers, spilled, single = map(int, actual)
        assert registers <= 255
        assert spilled <= 64, line
        if "float32" not in line:  # a slope as an argument would be float32
            assert single == 0, line
