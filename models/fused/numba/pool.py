"""BatchNorm, LeakyReLU and the poolings over the points of each cloud."""

import numpy as np

from models.fused.batch import RaggedBatch
from models.fused.numba.tasks import (
    LONG,
    flush,
    kernel,
    operation,
    row_tasks,
    run_tasks,
    sum_over_rows,
)


@kernel
def _column_sums(y, shift, counts, sums, start, end):
    channels = y.shape[1]
    part = np.zeros((2, channels), y.dtype)
    for i in range(start, end):
        w = counts[i]
        for c in range(channels):
            d = y[i, c] - shift[c]
            part[0, c] += w * d
            part[1, c] += w * d * d
        flush(part, sums, i, start, end)


@operation
def column_sums(y: np.ndarray, shift: np.ndarray, batch: RaggedBatch) -> np.ndarray:
    """Sums of y - shift and of its square over the points: (2, C) float64."""
    arrays = (y, shift, batch.counts)
    return sum_over_rows(_column_sums, arrays, batch.offsets, LONG, y.shape[1])


@kernel
def _pool(
    y, scale, offset, mean, sign, counts, slope, best, argmax, slopes, start, end
):
    channels = y.shape[1]
    top, arg = np.empty((2, channels), y.dtype), np.empty((2, channels), np.int32)
    act, part = np.empty(channels, y.dtype), np.zeros((2, channels), y.dtype)
    top[start % 2] = -np.inf
    arg[start % 2] = start
    for i in range(start, end):
        w, row, old, new = counts[i], np.int32(i), i % 2, (i + 1) % 2
        for c in range(channels):
            act[c] = w if y[i, c] * scale[c] + offset[c] > 0 else w * slope
        for c in range(channels):
            part[0, c] += act[c]
            part[1, c] += act[c] * (y[i, c] - mean[c])
        for c in range(channels):
            u, m, before = y[i, c] * sign[c], top[old, c], arg[old, c]
            top[new, c] = u if u > m else m
            arg[new, c] = row if u > m else before
        flush(part, slopes, i, start, end)
    for c in range(channels):
        best[c], argmax[c] = top[end % 2, c], arg[end % 2, c]


@operation
def pool(
    y: np.ndarray,
    affine: np.ndarray,
    sign: np.ndarray,
    slope: float,
    batch: RaggedBatch,
) -> tuple[np.ndarray, np.ndarray]:
    """Pooling over each cloud's points of LeakyReLU(y scale + offset).

    Args:
        y: (R, C).
        affine: (4, C) of :func:`models.fused.numba.norm.batch_affine`.
        sign: (C,) of the scale.
        slope: of the LeakyReLU.
        batch: its counts weight the sums.

    Returns:
        the row of the maximum (B, C) int64, ties go to the first; the sums of the
        LeakyReLU's slope at each point, and of slope (y - mean), (2, B, C) float64.
    """
    channels, tasks = y.shape[1], row_tasks(batch.offsets, LONG)
    best = np.empty((len(tasks), channels), y.dtype)
    arg = np.empty((len(tasks), channels), np.int32)
    part = np.zeros((len(tasks), 2, channels))
    arrays = (y, *affine[:3], sign, batch.counts, y.dtype.type(slope))
    run_tasks(
        _pool,
        [
            (*arrays, best[n], arg[n], part[n], start, end)
            for n, (_, start, end) in enumerate(tasks)
        ],
    )
    clouds = len(batch.offsets) - 1
    argmax = np.empty((clouds, channels), np.int64)
    slopes = np.empty((2, clouds, channels))
    task_clouds = np.array([cloud for cloud, _, _ in tasks])
    for cloud in range(clouds):
        rows = np.flatnonzero(task_clouds == cloud)
        winner = rows[best[rows].argmax(axis=0)]  # ties go to the first
        argmax[cloud] = arg[winner, np.arange(channels)]
        slopes[:, cloud] = part[rows].sum(axis=0)
    return argmax, slopes


@kernel
def _pool_gradient(
    share, y, scale, offset, alpha, beta, slope, counts, out, start, end
):
    for i in range(start, end):
        w = counts[i]
        for c in range(y.shape[1]):
            v = y[i, c]
            g = share[c] * scale[c]
            g = g if v * scale[c] + offset[c] > 0 else g * slope
            out[i, c] = w * (g + (alpha[c] * v + beta[c]))


@operation
def pool_gradient(
    share: np.ndarray,
    y: np.ndarray,
    affine: np.ndarray,
    alpha: np.ndarray,
    beta: np.ndarray,
    slope: float,
    batch: RaggedBatch,
) -> np.ndarray:
    """The gradient of y (R, C) through the mean, and alpha y + beta for the statistics.

    Args:
        share: (B, C) gradient of the activation of each of a cloud's points.
        y, affine, slope, batch: as of :func:`pool`.
        alpha, beta: (C,).
    """
    out = np.zeros_like(y)  # of padding
    terms = (*affine[:2], alpha, beta, y.dtype.type(slope))
    arrays = (y, *terms, batch.counts, out)
    tasks = row_tasks(batch.offsets, LONG)
    run_tasks(_pool_gradient, [(share[b], *arrays, s, e) for b, s, e in tasks])
    return out
