"""kNN, EdgeConv and pooling on a GPU, by Triton: compiled for it on first use.

The functions are those of :mod:`models.fused.numba`, where they are described. Sums
over rows are added tile by tile in a fixed order; what many rows add to one (the
gradient of ``a``) comes in no fixed order and differs from run to run by rounding, as
PyTorch's own scatters do there.
"""

from torch.nn.functional import linear

from models.fused.triton.edges import (
    add_statistics,
    edge_extremes,
    edge_maximum,
    edge_slopes,
    to_extremes,
)
from models.fused.triton.graph import knn
from models.fused.triton.pool import column_sums, pool, pool_gradient, pool_sums
from models.fused.triton.two_layers import two_layer_extremes, two_layer_gradients

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
