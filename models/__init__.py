"""The networks and their losses.

Read ``crosspoint.py`` (both encoders as one module), ``dgcnn.py`` or ``partseg.py``
(point encoders), ``image.py`` and ``losses.py``. ``edgeconv.py`` and ``knn.py`` define
the layer of the point encoders; ``fused/`` computes the same faster. ``dropout.py`` has
masks that do not depend on the number of processes. This package may import
``utils.parallel`` and nothing else of the project.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # command lines read the names below without loading PyTorch
    from torch import nn

ENCODERS = ("dgcnn", "dgcnn_seg")
BACKBONES = ("resnet50", "resnet34", "resnet18")


def point_encoder(
    name: str, k: int, emb_dims: int, edgeconv: str = "auto", distinct: bool = True
) -> nn.Module:
    """The point encoder of pre-training, with its projection head.

    Args:
        name: ``dgcnn`` (classification) or ``dgcnn_seg`` (part segmentation).
        k: neighbours of each point in the kNN graph.
        emb_dims: width of the embedding.
        edgeconv: form of the point operations, ``auto``, ``fused`` or ``plain``.
        distinct: merge duplicate points, in the fused form.

    Returns:
        A module with ``forward(points (B, 3, N)) -> (projection, feature)``,
        ``features(points) -> feature`` and ``feature_dim``.

    Raises:
        ValueError: for another name.
    """
    from models.dgcnn import DGCNN
    from models.partseg import DGCNNPartSeg

    if name not in ENCODERS:
        raise ValueError(f"--model {name!r} is not one of {', '.join(ENCODERS)}")
    network = {"dgcnn": DGCNN, "dgcnn_seg": DGCNNPartSeg}[name]
    return network(k=k, emb_dims=emb_dims, edgeconv=edgeconv, distinct=distinct)
