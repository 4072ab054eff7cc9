"""The operations of the fused form, once for every kind of device.

Both packages have the same functions, on tensors: :mod:`models.fused.numba` by Numba,
:mod:`models.fused.triton` by Triton. :mod:`models.fused.clouds` explains the algebra.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """How the rows (R, C) of all clouds stand below each other.

    Attributes:
        first: (B + 1,) int64, the first row of every cloud, and the end.
        weight: (R,) how many equal points a row stands for, in the features' dtype.
        points: of every cloud: the sum of its rows' weights.
        repeated: whether any row stands for more than one.
    """

    first: Tensor
    weight: Tensor
    points: int
    repeated: bool


@dataclass(frozen=True)
class Graph:
    """A kNN graph on rows: ``idx`` (R, K) int32, rows of the same cloud."""

    idx: Tensor
    rows: Rows

    @property
    def edges(self) -> int:
        """Number of edges, those of copies included."""
        clouds = len(self.rows.first) - 1
        return clouds * self.rows.points * self.idx.shape[1]


def obstacle(device: torch.device) -> str:
    """Why there are no kernels for a device; empty where there are."""
    needed = {"cpu": ("numba", "Numba"), "cuda": ("triton", "Triton")}
    if device.type not in needed:
        return f"there are no fused kernels for {device.type}"
    module, name = needed[device.type]
    if importlib.util.find_spec(module) is None:
        return f"{name} is not installed"
    if device.type == "cuda" and torch.version.hip is None:
        major, minor = torch.cuda.get_device_capability(device)
        if major < 8:  # what Triton compiles for
            return f"Triton needs compute capability 8.0, this GPU has {major}.{minor}"
    return ""


def operations(device: torch.device) -> ModuleType:
    """The package for a device; imported here, since Numba and Triton are optional."""
    makers = {"cpu": "numba", "cuda": "triton"}
    return importlib.import_module(f"models.fused.{makers[device.type]}")
