"""kNN, EdgeConv and pooling on the CPU, compiled by Numba: no compiler is needed.

The plain form in :mod:`models.edgeconv` is what these kernels are tested against. Sums
over tasks are added in the order of the tasks, so that the number of threads does not
change a bit of them; products of matrices are a library's.
"""

from models.fused.numba.edges import (
    add_statistics,
    edge_extremes,
    edge_maximum,
    edge_slopes,
    to_extremes,
)
from models.fused.numba.graph import knn
from models.fused.numba.pool import column_sums, pool, pool_gradient, pool_sums
from models.fused.numba.products import linear
from models.fused.numba.two_layers import two_layer_extremes, two_layer_gradients

__all__ = [
    "add_statistics",
    "column_sums",
    "edge_extremes",
    "edge_maximum",
    "edge_slopes",
    "knn",
    "linear",
    "pool",
    "pool_gradient",
    "pool_sums",
    "to_extremes",
    "two_layer_extremes",
    "two_layer_gradients",
]
