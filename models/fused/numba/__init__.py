"""The fused form's kernels on the CPU, compiled by Numba on first use.

``tasks.py`` says how kernels are compiled and run on threads, then ``graph.py``,
``products.py``, ``edges.py``, ``two_layers.py``, ``norm.py`` and ``pool.py`` follow a
cloud through the encoder. Partial sums are added in the order of the tasks, so results
are bit-identical for any number of threads.
"""

from models.fused.numba.edges import (
    edge_extremes,
    edge_gradients,
    edge_maximum,
)
from models.fused.numba.graph import knn
from models.fused.numba.norm import (
    activation_gradient,
    batch_affine,
    statistics_gradient,
)
from models.fused.numba.pool import column_sums, pool, pool_gradient
from models.fused.numba.products import product
from models.fused.numba.two_layers import two_layer_extremes, two_layer_gradients

__all__ = [
    "activation_gradient",
    "batch_affine",
    "column_sums",
    "edge_extremes",
    "edge_gradients",
    "edge_maximum",
    "knn",
    "pool",
    "pool_gradient",
    "product",
    "statistics_gradient",
    "two_layer_extremes",
    "two_layer_gradients",
]
