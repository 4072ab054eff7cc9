"""PointNet (Qi et al., CVPR 2017) without its transforms: a point encoder."""

from torch import Tensor, nn

from models.dgcnn import HeadedEncoder, check_points
from models.edgeconv import cloud_batch
from models.fused.batch import Layout


class PointNet(HeadedEncoder):
    """The same MLP on every point, then the maximum over the points.

    Widths are 3-64-64-64-128-E, each layer without bias, with BatchNorm and ReLU. There
    is no T-Net: CrossPoint's authors name the PointNet of DGCNN's PyTorch code as
    theirs, which has none (docs/objectives.md). The heads are those of DGCNN.

    Args:
        emb_dims: E, width of the last layer and of the feature.
        num_classes, dropout, linear_head: see
            :meth:`models.dgcnn.HeadedEncoder.add_head`.
        edgeconv: form of the point operations, ``auto``, ``fused`` or ``plain``.
        distinct: compute duplicate points once, in the fused form.

    Forward:
        points (B, 3, N) -> (projection (B, 256), feature (B, E)), or logits
        (B, num_classes). Any B >= 1 in eval mode, B >= 2 in training.

    Raises:
        ValueError: in forward, if the points have another shape.
    """

    def __init__(
        self,
        emb_dims: int = 1024,
        num_classes: int | None = None,
        dropout: float = 0.5,
        edgeconv: str = "auto",
        distinct: bool = True,
        linear_head: bool = False,
    ) -> None:
        super().__init__()
        self.edgeconv, self.distinct = edgeconv, distinct
        self.feature_dim = emb_dims
        self.conv1 = mlp_layer(3, 64)
        self.conv2 = mlp_layer(64, 64)
        self.conv3 = mlp_layer(64, 64)
        self.conv4 = mlp_layer(64, 128)
        self.conv5 = mlp_layer(128, emb_dims)
        self.add_head(emb_dims, num_classes, dropout, linear_head)

    def features(self, points: Tensor, layout: Layout | None = None) -> Tensor:
        """(B, 3, N) -> (B, E), the input of the SVM and few-shot evaluation."""
        check_points(points, k=1)
        clouds = cloud_batch(points, 1, self.edgeconv, self.distinct, layout)
        x = clouds.points
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = clouds.point_layer(x, layer)  # 64, 64, 64, 128 channels
        maximum, _ = clouds.pool(x, self.conv5)
        return maximum


def mlp_layer(in_channels: int, out_channels: int) -> nn.Sequential:
    """A 1x1 convolution on points without bias, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv1d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm1d(out_channels),
        nn.ReLU(),
    )
