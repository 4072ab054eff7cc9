"""Ragged batches and their graphs, and the kernels that work on them."""

import importlib
import importlib.util
from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Layout(NamedTuple):
    """The distinct points of a batch of clouds, see :func:`distinct_points`.

    Attributes:
        rows: (R,) int64, index of each distinct point among the B N points.
        offsets: (B + 1,) int64, the first row of each cloud, and the end of the last.
        counts: (R,) multiplicity of each point, 0 for padding after the last cloud.
    """

    rows: Tensor
    offsets: Tensor
    counts: Tensor


def distinct_points(points: Tensor, capacity: int = 0) -> Layout:
    """Merge the copies of each cloud's first point, which random dropout makes.

    Later shapes depend on their number, so this synchronises with the GPU; on the
    batch's copy in host memory it does not.

    Args:
        points: (B, 3, N).
        capacity: number of rows to pad to; a batch that has more is not padded.
    """
    distinct = (points != points[:, :, :1]).any(dim=1)  # (B, N)
    distinct[:, 0] = True
    lengths = distinct.sum(dim=1)
    offsets = F.pad(lengths.cumsum(0), (1, 0))
    rows = distinct.flatten().nonzero()[:, 0]
    counts = points.new_ones(len(rows))
    counts[offsets[:-1]] += (points.shape[2] - lengths).to(counts.dtype)
    padding = (0, max(0, capacity - len(rows)))
    return Layout(F.pad(rows, padding), offsets, F.pad(counts, padding))


@dataclass(frozen=True)
class RaggedBatch:
    """Ragged batch: concatenated points (R, C) and the offset of each cloud.

    Rows after the last cloud are padding. They have finite values, a count of 0, edges
    to themselves, and gradients that are exactly 0.

    Attributes:
        offsets: (B + 1,) int64, the first row of each cloud, and the end of the last.
        counts: (R,) multiplicity of each row's point, in the features' dtype.
        cloud_size: N, points of each cloud: the sum of its counts.
        merged: whether any row is a merged point, of multiplicity above 1.
    """

    offsets: Tensor
    counts: Tensor
    cloud_size: int
    merged: bool

    @property
    def points(self) -> int:
        """B N, number of points with duplicates."""
        return (len(self.offsets) - 1) * self.cloud_size

    @property
    def bounds(self) -> list[int]:
        """The offsets and R, padding as one more cloud. Synchronises with the GPU."""
        return [*self.offsets.tolist(), len(self.counts)]


@dataclass(frozen=True)
class Graph:
    """A kNN graph: ``idx`` (R, K) int32, rows of the same cloud."""

    idx: Tensor
    batch: RaggedBatch

    @property
    def edges(self) -> int:
        """B N K, number of edges with those of duplicates."""
        return self.batch.points * self.idx.shape[1]


def missing_kernels(device: torch.device) -> str:
    """Why there are no fused kernels for a device; empty if there are."""
    needed = {"cpu": ("numba", "Numba"), "cuda": ("triton", "Triton")}
    if device.type not in needed:
        return f"there are no fused kernels for {device.type}"
    module, name = needed[device.type]
    if importlib.util.find_spec(module) is None:
        return f"{name} is not installed"
    if device.type == "cuda" and torch.version.hip is None:
        major, minor = torch.cuda.get_device_capability(device)
        if major < 8:  # the oldest that Triton compiles for
            return f"Triton needs compute capability 8.0, this GPU has {major}.{minor}"
    if device.type == "cuda":
        tiles = importlib.import_module("models.fused.triton.tiles")
        if error := tiles.launch_error(device):
            return f"Triton cannot compile or launch a kernel here: {error}"
    return ""


def kernels_for(device: torch.device) -> ModuleType:
    """The package of kernels for a device, imported late: Triton is optional."""
    packages = {"cpu": "numba", "cuda": "triton"}
    return importlib.import_module(f"models.fused.{packages[device.type]}")
