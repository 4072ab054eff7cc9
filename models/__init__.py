"""The networks and their losses.

Read ``crosspoint.py`` (both encoders as one module), ``dgcnn.py``, ``partseg.py`` or
``pointnet.py`` (point encoders), ``image.py`` and ``losses.py``. ``edgeconv.py`` and
``knn.py`` define the layer of the point encoders; ``fused/`` computes the same faster.
``dropout.py`` has masks that do not depend on the number of processes. This package may
import ``utils.parallel`` and nothing else of the project; ``export.py``, which is a
command, also ``utils.errors`` and ``utils.run``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # command lines read the names below without loading PyTorch
    from torch import nn

ENCODERS = ("dgcnn", "dgcnn_seg", "pointnet")
CLASSIFIERS = ("dgcnn", "pointnet")  # those with a classification head
BACKBONES = ("resnet50", "resnet34", "resnet18")


def point_encoder(
    name: str, k: int, emb_dims: int, edgeconv: str = "auto", distinct: bool = True
) -> nn.Module:
    """The point encoder of pre-training, with its projection head.

    Args:
        name: ``dgcnn``, ``dgcnn_seg`` (part segmentation) or ``pointnet``.
        k: neighbours of each point in the kNN graph, of which PointNet has none.
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
    from models.pointnet import PointNet

    if name not in ENCODERS:
        raise ValueError(f"--model {name!r} is not one of {', '.join(ENCODERS)}")
    if name == "pointnet":
        return PointNet(emb_dims, edgeconv=edgeconv, distinct=distinct)
    network = {"dgcnn": DGCNN, "dgcnn_seg": DGCNNPartSeg}[name]
    return network(k=k, emb_dims=emb_dims, edgeconv=edgeconv, distinct=distinct)


def trained_network(
    model: str,
    k: int,
    emb_dims: int,
    head: str = "projection",
    outputs: int | None = None,
    edgeconv: str = "auto",
    dropout: float = 0.5,
) -> nn.Module:
    """The network that a weight file is of, with its head.

    Args:
        model, k, emb_dims, edgeconv: as of :func:`point_encoder`.
        head: ``projection`` (pre-training), ``classifier``, ``linear`` (a linear probe)
            or ``parts``.
        outputs: classes or parts, unless the head is a projection.
        dropout: probability in a classification head.

    Returns:
        A module with ``features``, see :func:`point_encoder`, and for another head than
        a projection ``forward`` as in ``models.dgcnn`` and ``models.partseg``.

    Raises:
        ValueError: for another name, or one that has no such head.
    """
    from models.dgcnn import DGCNN
    from models.partseg import DGCNNPartSeg
    from models.pointnet import PointNet

    if head in ("classifier", "linear"):
        if model not in CLASSIFIERS:
            raise ValueError(
                f"--model {model} has no classification head; "
                f"{' and '.join(CLASSIFIERS)} have one"
            )
        size, linear = (emb_dims, outputs, dropout, edgeconv), head == "linear"
        if model == "pointnet":
            return PointNet(*size, linear_head=linear)
        if model == "dgcnn":
            return DGCNN(k, *size, linear_head=linear)
        raise ValueError(f"--model {model}: build its classifier in trained_network")
    if head == "parts":
        return DGCNNPartSeg(k, emb_dims, outputs, edgeconv=edgeconv)
    return point_encoder(model, k, emb_dims, edgeconv)
