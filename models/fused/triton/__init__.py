"""The fused form's kernels on a GPU, compiled by Triton on first use.

The functions are those of :mod:`models.fused.numba`, where they are documented. Sums
are added in a fixed order, never by atomic additions.
"""

from torch import mm as product

from models.fused.triton.edges import (
    edge_extremes,
    edge_gradients,
    edge_maximum,
)
from models.fused.triton.graph import knn
from models.fused.triton.norm import (
    activation_gradient,
    batch_affine,
    statistics_gradient,
)
from models.fused.triton.pool import column_sums, pool, pool_gradient
from models.fused.triton.two_layers import two_layer_extremes, two_layer_gradients

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
