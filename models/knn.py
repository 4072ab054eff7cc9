"""Exact k nearest neighbours: the kNN graph that EdgeConv is computed on."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

# Distances computed at a time: about a cache's size on the CPU, 1 GiB on a GPU.
_BLOCK = {"cpu": 2**22, "cuda": 2**28}


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Switch off autocast and TF32, for numbers that nearly cancel."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@torch.no_grad()
def knn(x: Tensor, k: int) -> Tensor:
    """Indices of the k nearest neighbours of every point, the point itself included.

    Squared Euclidean distances in feature space (DGCNN section 3.1), in float32 or
    float64 also under autocast and TF32, whose rounding would change the neighbours.
    Ties go to the smaller index.

    Args:
        x: (B, C, N) features.
        k: neighbours of each point, 1 <= k <= N.

    Returns:
        (B, N, k) int64, nearest first.

    Raises:
        ValueError: if ``x`` has another shape or fewer than k points.
    """
    if x.dim() != 3:
        raise ValueError(f"knn expects (B, C, N), got shape {tuple(x.shape)}")
    batch, _, points = x.shape
    if not 1 <= k <= points:
        raise ValueError(
            f"a graph of {k} neighbours needs 1 <= k <= N, the cloud has "
            f"N = {points} points (--k, --num_points)"
        )
    if exporting():
        # Sizes and values are unknown, so no blocks, and equal distances are left to
        # `topk`: ONNX's takes the smaller index too, PyTorch's any. Not `distances`:
        # PyTorch 2.6 has no ONNX for baddbmm.
        products = x.transpose(1, 2) @ x  # (B, N, N)
        square = (x * x).sum(1, keepdim=True)
        return (square - 2 * products).topk(k, dim=2, largest=False).indices
    limit = _BLOCK.get(x.device.type, _BLOCK["cuda"])
    if x.dtype != torch.float64:
        x = x.float()
    with full_precision(x.device):
        blocks = [
            nearest(distances(rows, clouds), k)
            for clouds in x.split(max(1, limit // points**2))
            for rows in clouds.split(max(1, limit // points), dim=2)
        ]
    return torch.cat([block.flatten(0, 1) for block in blocks]).view(batch, points, k)


def exporting() -> bool:
    """Whether ``torch.export`` is recording the operations of a network."""
    compiler = torch.compiler  # PyTorch 2.6 has no word for export alone
    return getattr(compiler, "is_exporting", compiler.is_compiling)()


def distances(rows: Tensor, clouds: Tensor) -> Tensor:
    """|x_i - x_j|² - |x_i|²: the last term is the same for all neighbours of a point.

    Args:
        rows: (B, C, M) points i.
        clouds: (B, C, N) points j.

    Returns:
        (B, M, N)
    """
    square = (clouds * clouds).sum(1, keepdim=True)  # (B, 1, N)
    return torch.baddbmm(square, rows.transpose(1, 2), clouds, alpha=-2)


def nearest(distance: Tensor, k: int) -> Tensor:
    """(B, M, N) -> (B, M, k) columns of the smallest; ties go to the first."""
    points = distance.shape[2]
    values, idx = distance.topk(min(k + 1, points), dim=2, largest=False)
    if points > k:
        # topk does not say which of several equal distances it keeps at the end.
        tied = values[..., k] == values[..., k - 1]
        values, idx = values[..., :k], idx[..., :k]
        if tied.any():
            tied_rows, last = distance[tied], values[tied][:, -1:]
            nearer, equal = tied_rows < last, tied_rows == last
            room = k - nearer.sum(1, keepdim=True)
            chosen = nearer | (equal & (equal.cumsum(1) <= room))
            tied_idx = chosen.nonzero()[:, 1].view(-1, k)
            idx[tied], values[tied] = tied_idx, tied_rows.gather(1, tied_idx)
    # By distance, then by index: two stable sorts, the second key first.
    order = idx.argsort(dim=2)
    values = values.gather(2, order)
    return idx.gather(2, order).gather(2, values.argsort(dim=2, stable=True))
