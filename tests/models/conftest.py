"""Both packages of kernels, on tensors of the CPU."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from models.fused.rows import Graph, Rows


def _moved(x: Any, device: str) -> Any:
    if isinstance(x, Tensor):
        return x.to(device)
    if isinstance(x, tuple):
        return tuple(_moved(one, device) for one in x)
    if isinstance(x, Graph | Rows):
        return type(x)(*(_moved(one, device) for one in vars(x).values()))
    return x


def _on_gpu(package: ModuleType) -> SimpleNamespace:
    """The compiled kernels for tensors of the CPU: copied there and back."""

    def run(name: str, *given: Any) -> Any:
        there = _moved(given, "cuda")
        result = getattr(package, name)(*there)
        if name == "add_statistics":  # changes its first two arguments
            for old, new in zip(given[:2], there[:2], strict=True):
                old.copy_(new)
        return _moved(result, "cpu")

    operations = {name: functools.partial(run, name) for name in package.__all__}
    return SimpleNamespace(__name__=package.__name__, **operations)


def triton_kernels() -> ModuleType | SimpleNamespace:
    """The Triton kernels: compiled where there is a GPU, else by its interpreter."""
    pytest.importorskip("triton")
    package = importlib.import_module("models.fused.triton")
    return _on_gpu(package) if torch.cuda.is_available() else package


@pytest.fixture(params=["numba", "triton"])
def kernels(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> ModuleType | SimpleNamespace:
    """A package of kernels, which the fused form uses as well."""
    if request.param == "numba":
        package = importlib.import_module("models.fused.numba")
    else:
        package = triton_kernels()
    monkeypatch.setattr("models.fused.clouds.operations", lambda device: package)
    return package
