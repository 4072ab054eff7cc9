"""The exact kNN graph, and its reverse adjacency."""

from itertools import pairwise

import numpy as np
import torch

from models.fused.batch import RaggedBatch
from models.fused.numba.tasks import ROWS, kernel, row_tasks, run_tasks, scratch

DISTANCES = 2**19  # per task: they fit in the cache
SHORT = 128  # candidates, at most, that are ranked by comparing all pairs


@kernel
def _kth_smallest(values, k, counts):
    """The k-th smallest value, infinity where there are fewer."""
    # Comparing all pairs is vectorised; sorting would branch at every value.
    counts[:] = 0
    for other in values:
        for i in range(len(values)):
            counts[i] += np.int32(other <= values[i])
    smallest = values.dtype.type(np.inf)
    for i in range(len(values)):
        if counts[i] >= k and values[i] < smallest:
            smallest = values[i]
    return smallest


@kernel
def _measure(product, square, distance):
    two = product.dtype.type(2)
    for i in range(len(product)):
        distance[i] = square[i] - two * product[i]


@kernel
def _column_minima(values, minima):
    """The smallest of each column of values (m, n), in a row of the buffer (2, n)."""
    old, new = 0, 1
    minima[0] = np.inf
    for row in range(len(values)):
        for c in range(values.shape[1]):
            u, m = values[row, c], minima[old, c]
            minima[new, c] = u if u < m else m
        old, new = new, old
    return minima[old]


@kernel
def _measure_point(point, axes, square, distance):
    two = point.dtype.type(2)
    a, b, c = two * point[0], two * point[1], two * point[2]
    x, y, z = axes[0], axes[1], axes[2]
    for i in range(len(square)):
        distance[i] = square[i] - (a * x[i] + b * y[i] + c * z[i])


@kernel
def _order(values, columns, origin, idx, ranks):
    """The nearest of a few candidates, by the rank of each."""
    ranks[:] = 0
    for other in range(len(values)):
        d, j = values[other], columns[other]
        for c in range(len(values)):
            nearer, equal = d < values[c], d == values[c]
            ranks[c] += np.int32(nearer | (equal & (j < columns[c])))
    for c in range(len(values)):
        if ranks[c] < len(idx):
            idx[ranks[c]] = origin + columns[c]


@kernel
def _insert(distance, columns, origin, idx, nearest):
    """The nearest of many candidates, kept in order; ties go to the first.

    NumPy's sorts would take longer to compile than all else in `_select`.
    """
    found = 0
    for j in columns:
        d, row = distance[j], origin + j
        if found < len(idx):
            found += 1
        elif (nearest[-1], idx[-1]) < (d, row):
            continue
        slot = found - 1
        while slot > 0 and (d, row) < (nearest[slot - 1], idx[slot - 1]):
            nearest[slot], idx[slot] = nearest[slot - 1], idx[slot - 1]
            slot -= 1
        nearest[slot], idx[slot] = d, row


@kernel
def _select(product, axes, square, origin, k, coarse, idx):
    """The k nearest of every row, from products x_i . x_j (m, n) and |x_j|² (n,).

    With three channels ``product`` is the points (m, 3) instead, and ``axes`` (3, n)
    the candidates'. Distances are squared and lack |x_i|², which is the same for all
    candidates of a row. Candidates are split into groups, the columns of a table: the
    k-th smallest of their minima is an upper bound of the k-th distance that few
    candidates pass.
    """
    count, fine = len(square), 8 * coarse
    table = np.full((-(-count // fine), fine), np.inf, product.dtype)
    distance, values = table.reshape(-1)[:count], np.empty(count, product.dtype)
    fine_minima = np.empty((2, fine), product.dtype)
    coarse_minima = np.empty((2, coarse), product.dtype)
    groups, columns = np.empty(fine + 1, np.int32), np.empty(count + 1, np.int32)
    counts = np.empty(max(coarse, SHORT), np.int32)
    for i in range(len(product)):
        if axes.shape[1] > 0:
            _measure_point(product[i], axes, square, distance)
        else:
            _measure(product[i], square, distance)
        fine_min = _column_minima(table, fine_minima)
        coarse_min = _column_minima(fine_min.reshape(8, coarse), coarse_minima)
        bound = _kth_smallest(coarse_min, k, counts[:coarse])
        # Without branches, which would be mispredicted: everything is written to the
        # end of a list, whose length grows by 0 or 1.
        num_groups = 0
        for group in range(fine):
            groups[num_groups] = group
            num_groups += fine_min[group] <= bound
        num_columns = 0
        for g in range(num_groups):
            j = groups[g]
            while j < count:
                columns[num_columns] = j
                num_columns += distance[j] <= bound
                j += fine
        nearest = idx[i, :k]
        nearest[:] = origin  # stays where distances are not finite
        if num_columns <= SHORT:
            for c in range(num_columns):
                values[c] = distance[columns[c]]
            ranks = counts[:num_columns]
            _order(values[:num_columns], columns[:num_columns], origin, nearest, ranks)
        else:
            _insert(distance, columns[:num_columns], origin, nearest, values[:k])


def knn(x: torch.Tensor, batch: RaggedBatch, k: int) -> torch.Tensor:
    """(R, C) -> (R, k) int32 rows of the k nearest, in order; ties go to the first.

    A row that stands for several points takes as many of the k places.
    """
    result = np.empty((len(x), k), np.int32)
    offsets, squares = batch.offsets.numpy(), (x * x).sum(1).numpy()
    axes = [x.new_empty(3, 0)] * len(offsets)
    if x.shape[1] == 3:  # too few for BLAS to be fast
        axes = [x[start:end].T.contiguous() for start, end in pairwise(offsets)]

    def task(cloud: int, start: int, end: int) -> None:
        origin, stop = offsets[cloud], offsets[cloud + 1]
        width = min(k, stop - origin)  # duplicates fill the other places
        product = x[start:end]
        if x.shape[1] != 3:
            product = scratch(x.dtype, end - start, stop - origin)
            torch.mm(x[start:end], x[origin:stop].T, out=product)
        # So many groups that few of the nearest share one.
        coarse = 32 * (1 + width // 24)
        square = squares[origin:stop]
        arrays = (product.numpy(), axes[cloud].numpy(), square)
        _select(*arrays, origin, width, coarse, result[start:end])

    rows = min(max(ROWS, DISTANCES // batch.cloud_size), 4 * ROWS)
    run_tasks(task, row_tasks(offsets, rows))
    padding = np.arange(offsets[-1], len(x), dtype=np.int32)
    result[offsets[-1] :] = padding[:, None]
    if batch.merged:
        _repeat_duplicates(result, batch.counts.numpy(), offsets)
    return torch.from_numpy(result)


@kernel
def _repeat_duplicates(idx, counts, offsets):
    k = idx.shape[1]
    old = np.empty(k, idx.dtype)
    for cloud in range(len(offsets) - 1):
        width = min(k, offsets[cloud + 1] - offsets[cloud])
        for i in range(offsets[cloud], offsets[cloud + 1]):
            for slot in range(width):
                old[slot] = idx[i, slot]
            filled = 0
            for slot in range(width):
                for _ in range(int(counts[old[slot]])):
                    if filled < k:
                        idx[i, filled] = old[slot]
                        filled += 1


@kernel
def reverse_adjacency(idx, counts):
    """Edges by the row at which they end.

    Returns:
        degree (R,): edges that end at each row, weighted by the counts of their rows;
        begin (R + 1,) and source (R K,): rows whose edges end at j are
        ``source[begin[j] : begin[j + 1]]``, in ascending order.
    """
    rows, neighbours = idx.shape
    degree, begin = np.zeros(rows, counts.dtype), np.zeros(rows + 1, np.int64)
    for i in range(rows):
        for k in range(neighbours):
            degree[idx[i, k]] += counts[i]
            begin[idx[i, k] + 1] += 1
    for j in range(rows):
        begin[j + 1] += begin[j]
    cursor, source = begin[:-1].copy(), np.empty(rows * neighbours, np.int32)
    for i in range(rows):
        for k in range(neighbours):
            j = idx[i, k]
            source[cursor[j]] = i
            cursor[j] += 1
    return degree, begin, source
