"""The exact kNN graph, and the same graph read backwards."""

from __future__ import annotations

import numpy as np
import torch

from models.kernels import Rows
from models.kernels.cpu.tasks import ROWS, kernel, row_tasks, run_tasks, scratch

DISTANCES = 2**19  # of a task: a product of so many stays in the cache


@kernel
def _kth_least(values, k):
    """The k-th smallest value, infinity where there are fewer."""
    # Comparing all with all is SIMD's; sorting would be a branch a value.
    for i in range(len(values)):
        v, less, equal = values[i], np.int32(0), np.int32(0)
        for j in range(len(values)):
            less += np.int32(values[j] < v)
            equal += np.int32(values[j] == v)
        if less < k <= less + equal:
            return v
    return values.dtype.type(np.inf)


@kernel
def _lessen(least, values):
    # Indices that are sums, which might be negative, would keep this from SIMD.
    for i in range(len(least)):
        least[i] = values[i] if values[i] < least[i] else least[i]


@kernel
def _measure(product, square, distance, least):
    two = product.dtype.type(2)
    for i in range(len(product)):
        d = square[i] - two * product[i]
        distance[i] = d
        least[i] = d if d < least[i] else least[i]


@kernel
def _products_of_points(points, axes, product):
    x, y, z = axes[0], axes[1], axes[2]
    for i in range(len(points)):
        a, b, c = points[i, 0], points[i, 1], points[i, 2]
        for j in range(product.shape[1]):
            product[i, j] = a * x[j] + b * y[j] + c * z[j]


@kernel
def _select(product, square, origin, k, coarse, who):
    """The k nearest of every row, from products x_i . x_j (m, n) and |x_j|^2 (n,).

    Distances are squared and less |x_i|^2, which is the same for a row's candidates.
    Candidates are dealt to groups; the k-th of the groups' least distances is at least
    the k-th distance, and all but a few candidates are beyond it.
    """
    count, fine = product.shape[1], 4 * coarse
    distance = np.empty(count, product.dtype)
    least, coarser = np.empty(fine, product.dtype), np.empty(coarse, product.dtype)
    sorted_ = np.empty(k, product.dtype)
    groups, near = np.empty(fine + 1, np.int64), np.empty(count + 1, np.int64)
    for i in range(len(product)):
        least[:] = np.inf
        for start in range(0, count, fine):
            part = slice(start, min(start + fine, count))
            _measure(product[i, part], square[part], distance[part], least)
        coarser[:] = least[:coarse]
        for start in range(coarse, fine, coarse):
            _lessen(coarser, least[start : start + coarse])
        bound = _kth_least(coarser, k)
        # What passes is written at the end of a list that grows by 0 or 1: branches
        # that nobody can predict would cost more.
        found = 0
        for group in range(fine):
            groups[found] = group
            found += least[group] <= bound
        candidates = 0
        for g in range(found):
            j = groups[g]
            while j < count:
                near[candidates] = j
                candidates += distance[j] <= bound
                j += fine
        names, kept = who[i], 0
        names[:] = origin  # stays where distances are not finite
        for c in range(candidates):
            j = near[c]
            d = distance[j]
            if kept < k:
                place = kept
                kept += 1
            elif d < sorted_[k - 1] or (
                d == sorted_[k - 1] and origin + j < names[k - 1]
            ):
                place = k - 1
            else:
                continue
            while place > 0 and (
                sorted_[place - 1] > d
                or (sorted_[place - 1] == d and names[place - 1] > origin + j)
            ):
                sorted_[place] = sorted_[place - 1]
                names[place] = names[place - 1]
                place -= 1
            sorted_[place] = d
            names[place] = origin + j


def knn(x: torch.Tensor, rows: Rows, k: int) -> torch.Tensor:
    """(R, C) -> (R, k) int32 rows of the k nearest, nearest first, of equal the first.

    A row that stands for several points fills as many of the k places, as long as there
    are any.
    """
    result = np.empty((len(x), k), np.int32)
    first, squares = rows.first.numpy(), (x * x).sum(1).numpy()

    def task(cloud: int, start: int, end: int) -> None:
        origin, stop = first[cloud], first[cloud + 1]
        width = min(k, stop - origin)  # copies fill the other places
        product = scratch(x.dtype, end - start, stop - origin)
        if x.shape[1] == 3:  # too few for BLAS to do it well
            axes = x[origin:stop].T.contiguous()
            _products_of_points(x[start:end].numpy(), axes.numpy(), product.numpy())
        else:
            torch.mm(x[start:end], x[origin:stop].T, out=product)
        # So many groups that few of the nearest share one.
        coarse = 64 * (1 + width // 20)
        square = squares[origin:stop]
        _select(product.numpy(), square, origin, width, coarse, result[start:end])

    at_once = min(max(ROWS, DISTANCES // rows.points), 4 * ROWS)
    run_tasks(task, row_tasks(first, at_once))
    if rows.repeated:
        _repeat_copies(result, rows.weight.numpy(), first)
    return torch.from_numpy(result)


@kernel
def _repeat_copies(names, weight, first):
    k = names.shape[1]
    old = np.empty(k, names.dtype)
    for cloud in range(len(first) - 1):
        width = min(k, first[cloud + 1] - first[cloud])
        for i in range(first[cloud], first[cloud + 1]):
            old[:width] = names[i, :width]
            place = 0
            for slot in range(width):
                for _ in range(int(weight[old[slot]])):
                    if place < k:
                        names[i, place] = old[slot]
                        place += 1


@kernel
def reverse_edges(idx, weight):
    """Edges by the row that they end at.

    Returns:
        degree (R,): edges that end at each row, an edge counting as its row's copies;
        begin (R + 1,) and source (R K,): rows whose edges end at j are
        ``source[begin[j] : begin[j + 1]]``, in ascending order.
    """
    rows, count = idx.shape
    degree, begin = np.zeros(rows, weight.dtype), np.zeros(rows + 1, np.int64)
    for i in range(rows):
        for k in range(count):
            degree[idx[i, k]] += weight[i]
            begin[idx[i, k] + 1] += 1
    for j in range(rows):
        begin[j + 1] += begin[j]
    place, source = begin[:-1].copy(), np.empty(rows * count, np.int32)
    for i in range(rows):
        for k in range(count):
            j = idx[i, k]
            source[place[j]] = i
            place[j] += 1
    return degree, begin, source
