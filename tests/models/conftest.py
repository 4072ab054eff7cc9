"""The forms of the point operations: plain, or fused with a package of kernels."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.edgeconv import PlainClouds
from models.fused.batch import Graph, RaggedBatch
from models.fused.clouds import FusedClouds

Kernels = ModuleType | SimpleNamespace


def _moved(x: Any, device: str) -> Any:
    if isinstance(x, Tensor | nn.Module):
        return x.to(device)  # a module itself, a tensor's copy
    if isinstance(x, tuple | list):
        return tuple(_moved(one, device) for one in x)
    if isinstance(x, Graph | RaggedBatch):
        return type(x)(*(_moved(one, device) for one in vars(x).values()))
    return x


def load_kernels(name: str) -> Kernels:
    """``numba``, or ``triton``: by its interpreter, or with TEST_ON_GPU on the GPU.

    Tensors are copied there and back.
    """
    pytest.importorskip(name)
    package = importlib.import_module(f"models.fused.{name}")
    if name == "numba" or not torch.cuda.is_available():
        return package

    def run(operation: str, *given: Any) -> Any:
        result = getattr(package, operation)(*_moved(given, "cuda"))
        _moved([x for x in given if isinstance(x, nn.Module)], "cpu")
        return _moved(result, "cpu")

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


@pytest.fixture(params=["numba", "triton"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Kernels:
    """Each package of kernels; the fused form uses it as well."""
    return use_kernels(request.param, monkeypatch)


@pytest.fixture(params=["plain", "numba", "triton"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type:
    """Each form of the point operations, the fused one with each package."""
    if request.param == "plain":
        return PlainClouds
    use_kernels(request.param, monkeypatch)
    return FusedClouds
