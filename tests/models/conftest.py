"""The forms of the point operations: plain, or fused with a package of kernels."""

import functools
import importlib
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.kernel_inputs import moved
from models.edgeconv import PlainClouds
from models.fused.clouds import FusedClouds

Kernels = ModuleType | SimpleNamespace
# Its interpreter is slow. test_kernels is not, and runs each of its kernels.
TRITON = pytest.param("triton", marks=pytest.mark.slow)


@functools.cache
def quicken_interpreter() -> None:
    """Let Triton's interpreter reduce by xor, which its sort does, in NumPy: it takes
    one element at a time, and nine tenths of a test's time."""
    interpreter = importlib.import_module("triton.runtime.interpreter")
    xor = importlib.import_module("triton.language.standard")._xor_combine
    by_element = interpreter.ReduceOps.generic_reduce

    def reduce(self: Any, arguments: tuple) -> Any:
        if self.combine_fn is not xor:
            return by_element(self, arguments)
        (x,) = arguments
        options = {"axis": self.axis, "keepdims": self.keep_dims}
        result = np.bitwise_xor.reduce(x.handle.data, **options)
        return [self.to_tensor(result, x.dtype)]

    interpreter.ReduceOps.generic_reduce = reduce


def load_kernels(name: str) -> Kernels:
    """``numba``, or ``triton``: by its interpreter, or with TEST_ON_GPU on the GPU.

    Tensors are copied there and back; a module, whose buffers change, is moved itself.
    """
    pytest.importorskip(name)
    package = importlib.import_module(f"models.fused.{name}")
    if name == "numba" or not torch.cuda.is_available():
        if name == "triton":
            quicken_interpreter()
        return package

    def run(operation: str, *given: Any) -> Any:
        norms = [x.cuda() for x in given if isinstance(x, nn.Module)]
        there = [x if isinstance(x, nn.Module) else moved(x, "cuda") for x in given]
        result = getattr(package, operation)(*there)
        for norm in norms:
            norm.cpu()
        return moved(result, "cpu")

    operations = {name: functools.partial(run, name) for name in package.__all__}
    return SimpleNamespace(**operations)


def use_kernels(name: str, monkeypatch: pytest.MonkeyPatch) -> Kernels:
    """Let the fused form use a package of kernels, in tasks that are small."""
    package = load_kernels(name)
    monkeypatch.setattr("models.fused.clouds.kernels_for", lambda device: package)
    limits = [("two_layers", "EDGES", 50)]
    if name == "numba":
        limits += [("edges", "ROWS", 36), ("edges", "LONG", 36), ("pool", "LONG", 36)]
    for module, limit, value in limits:  # several tasks also for small clouds
        kernels = importlib.import_module(f"models.fused.{name}.{module}")
        monkeypatch.setattr(kernels, limit, value)
    return package


@pytest.fixture(params=["numba", TRITON])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Kernels:
    """Each package of kernels; the fused form uses it as well."""
    return use_kernels(request.param, monkeypatch)


@pytest.fixture(params=["plain", "numba", TRITON])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type:
    """Each form of the point operations, the fused one with each package."""
    if request.param == "plain":
        return PlainClouds
    use_kernels(request.param, monkeypatch)
    return FusedClouds


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """``torch.set_num_threads``, undone after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


class Record(TorchDispatchMode):
    """What ``note`` says of each operation, forward and backward, unless None.

    Args:
        note: called with the operation's name and its positional arguments.
    """

    def __init__(self, note: Callable[[str, tuple], object]) -> None:
        super().__init__()
        self.note, self.seen = note, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        noted = self.note(func.overloadpacket.__name__, args)
        self.seen += [noted] if noted is not None else []
        return func(*args, **(kwargs or {}))
