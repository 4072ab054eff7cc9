"""BatchNorm, LeakyReLU and the poolings over the points of each cloud."""

from __future__ import annotations

import numpy as np

from models.fused.numba.tasks import (
    FLUSH,
    LONG,
    kernel,
    operation,
    row_tasks,
    run_tasks,
)
from models.fused.rows import Rows


@kernel
def _column_sums(y, shift, weight, sums, start, end):
    channels = y.shape[1]
    part = np.zeros((2, channels), y.dtype)
    for i in range(start, end):
        w = weight[i]
        for c in range(channels):
            d = y[i, c] - shift[c]
            part[0, c] += w * d
            part[1, c] += w * d * d
        if (i - start) % FLUSH == FLUSH - 1 or i == end - 1:
            for c in range(channels):
                sums[0, c] += part[0, c]
                sums[1, c] += part[1, c]
            part[:] = 0


@operation
def column_sums(y: np.ndarray, shift: np.ndarray, rows: Rows) -> np.ndarray:
    """Sums of y - shift and of its square over the points: (2, C) float64."""
    tasks = row_tasks(rows.first, LONG)
    sums = np.zeros((len(tasks), 2, y.shape[1]))
    arrays = (y, shift, rows.weight)
    run_tasks(
        _column_sums,
        [(*arrays, sums[n], start, end) for n, (_, start, end) in enumerate(tasks)],
    )
    return sums.sum(axis=0)


@kernel
def _pool(y, scale, offset, sign, weight, slope, best, who, total, start, end):
    channels = y.shape[1]
    near, name = np.empty((2, channels), y.dtype), np.empty((2, channels), np.int32)
    act, part = np.empty(channels, y.dtype), np.zeros(channels, y.dtype)
    near[start % 2] = -np.inf
    name[start % 2] = start
    for i in range(start, end):
        w, row, old, new = weight[i], np.int32(i), i % 2, (i + 1) % 2
        for c in range(channels):
            z = y[i, c] * scale[c] + offset[c]
            act[c] = z if z > 0 else z * slope
        for c in range(channels):
            part[c] += w * act[c]
        for c in range(channels):
            u, m, before = y[i, c] * sign[c], near[old, c], name[old, c]
            near[new, c] = u if u > m else m
            name[new, c] = row if u > m else before
        if (i - start) % FLUSH == FLUSH - 1 or i == end - 1:
            for c in range(channels):
                total[c] += part[c]
            part[:] = 0
    best[:] = near[end % 2]
    who[:] = name[end % 2]


@operation
def pool(
    y: np.ndarray,
    scale: np.ndarray,
    offset: np.ndarray,
    sign: np.ndarray,
    slope: float,
    rows: Rows,
) -> tuple[np.ndarray, np.ndarray]:
    """The row of the maximum, and the mean, of LeakyReLU(y scale + offset) in a cloud.

    Args:
        y: (R, C).
        scale, offset, sign: (C,), the last that of the scale.
        slope: of the LeakyReLU.
        rows: of all clouds.

    Returns:
        (B, C) each, the first int64; of equal rows the first, where sign is 0 as well.
    """
    first, channels, tasks = rows.first, y.shape[1], row_tasks(rows.first, LONG)
    best = np.empty((len(tasks), channels), y.dtype)
    who = np.empty((len(tasks), channels), np.int32)
    total = np.zeros((len(tasks), channels))
    arrays = (y, scale, offset, sign, rows.weight, y.dtype.type(slope))
    run_tasks(
        _pool,
        [
            (*arrays, best[n], who[n], total[n], start, end)
            for n, (_, start, end) in enumerate(tasks)
        ],
    )
    clouds = len(first) - 1
    arg = np.empty((clouds, channels), np.int64)
    mean = np.empty((clouds, channels), y.dtype)
    of_task = np.array([cloud for cloud, _, _ in tasks])
    for cloud in range(clouds):
        own = np.flatnonzero(of_task == cloud)
        winner = own[best[own].argmax(axis=0)]  # of equal ones the first
        arg[cloud] = who[winner, np.arange(channels)]
        mean[cloud] = total[own].sum(axis=0) / rows.points
    return arg, mean


@kernel
def _pool_sums(share, y, scale, offset, mean, weight, slope, sums, start, end):
    channels = y.shape[1]
    act, part = np.empty(channels, y.dtype), np.zeros((2, channels), y.dtype)
    for i in range(start, end):
        w = weight[i]
        for c in range(channels):
            g = w * share[c]
            act[c] = g if y[i, c] * scale[c] + offset[c] > 0 else g * slope
        for c in range(channels):
            part[0, c] += act[c]
            part[1, c] += act[c] * (y[i, c] - mean[c])
        if (i - start) % FLUSH == FLUSH - 1 or i == end - 1:
            for c in range(channels):
                sums[0, c] += part[0, c]
                sums[1, c] += part[1, c]
            part[:] = 0


@operation
def pool_sums(
    share: np.ndarray,
    y: np.ndarray,
    affine: tuple[np.ndarray, np.ndarray, np.ndarray],
    slope: float,
    rows: Rows,
) -> np.ndarray:
    """Sums over the points of dz and dz (y - mean), of the mean's gradient alone.

    Args:
        share: (B, C) gradient of one point's activation, the same for all of a cloud.
        affine: scale, offset and mean (C,) of the BatchNorm.
        y, slope, rows: :func:`pool`'s.

    Returns:
        (2, C) float64.
    """
    tasks = row_tasks(rows.first, LONG)
    sums = np.zeros((len(tasks), 2, y.shape[1]))
    arrays = (y, *affine, rows.weight, y.dtype.type(slope))
    run_tasks(
        _pool_sums,
        [
            (share[cloud], *arrays, sums[n], start, end)
            for n, (cloud, start, end) in enumerate(tasks)
        ],
    )
    return sums.sum(axis=0)


@kernel
def _pool_gradient(
    share, y, scale, offset, weight, slope, alpha, beta, out, start, end
):
    for i in range(start, end):
        w = weight[i]
        for c in range(y.shape[1]):
            v = y[i, c]
            g = share[c] * scale[c]
            g = g if v * scale[c] + offset[c] > 0 else g * slope
            out[i, c] = w * (g + (alpha[c] * v + beta[c]))


@operation
def pool_gradient(
    share: np.ndarray,
    y: np.ndarray,
    affine: tuple[np.ndarray, np.ndarray],
    terms: tuple[np.ndarray, np.ndarray],
    slope: float,
    rows: Rows,
) -> np.ndarray:
    """The gradient of y (R, C) from the mean, and alpha y + beta from the statistics.

    Arguments as of :func:`pool_sums`; ``terms`` are alpha and beta (C,).
    """
    out = np.empty_like(y)
    arrays = (y, *affine[:2], rows.weight, y.dtype.type(slope), *terms, out)
    tasks = row_tasks(rows.first, LONG)
    run_tasks(_pool_gradient, [(share[b], *arrays, s, e) for b, s, e in tasks])
    return out
