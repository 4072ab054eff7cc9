"""The part-segmentation DGCNN (Wang et al., TOG 2019, figure 3) and its transformer."""

import torch
from torch import Tensor, nn

from models.dgcnn import check_points, point_layer, projection_head
from models.dropout import GlobalBatchDropout
from models.edgeconv import SLOPE, Clouds, cloud_batch, edge_layer
from models.fused.batch import Layout

NUM_CATEGORIES = 16


class SpatialTransformer(nn.Module):
    """Predicts a 3x3 matrix that aligns a cloud, initialised to the identity.

    Forward: clouds -> (B, 3, 3); points as rows are multiplied by it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = edge_layer(2 * 3, 64)
        self.conv2 = edge_layer(64, 128)
        self.conv3 = point_layer(128, 1024)
        self.bn1, self.bn2 = self.conv1[1], self.conv2[1]
        self.linear1 = nn.Linear(1024, 512, bias=False)
        self.bn3 = nn.BatchNorm1d(512)
        self.linear2 = nn.Linear(512, 256, bias=False)
        self.bn4 = nn.BatchNorm1d(256)
        self.transform = nn.Linear(256, 9)
        self.act = nn.LeakyReLU(SLOPE)
        nn.init.zeros_(self.transform.weight)
        with torch.no_grad():
            self.transform.bias.copy_(torch.eye(3).flatten())

    def forward(self, clouds: Clouds) -> Tensor:
        x = clouds.edge_conv(clouds.points, self.conv1, self.conv2)  # 128 channels
        x, _ = clouds.pool(x, self.conv3)  # (B, 1024)
        x = self.act(self.bn3(self.linear1(x)))
        x = self.act(self.bn4(self.linear2(x)))
        return self.transform(x).view(-1, 3, 3)


class DGCNNPartSeg(nn.Module):
    """Spatial transformer, three EdgeConv blocks, projection or per-point head.

    Modules carry the published code's names; ``bn{n}`` is a second name of the
    BatchNorm inside ``conv{n}``.

    Args:
        k: neighbours of each point in every kNN graph.
        emb_dims: E, width of the global feature.
        num_parts: None for pre-training (projection head), otherwise the number of
            part labels over all categories.
        dropout: probability in the segmentation head.
        edgeconv: form of the point operations, ``auto``, ``fused`` or ``plain``.
        distinct: merge duplicate points in pre-training, in the fused form.

    Forward:
        points (B, 3, N) -> (projection (B, 256), feature (B, E)); with ``num_parts``
        forward(points, category one-hot (B, 16)) -> logits (B, num_parts, N). In
        pre-training also with the layout of the distinct points, see
        :class:`models.dgcnn.DGCNN`.

    Raises:
        ValueError: in forward, if points or categories have another shape or N < k.
    """

    def __init__(
        self,
        k: int = 40,
        emb_dims: int = 1024,
        num_parts: int | None = None,
        dropout: float = 0.5,
        edgeconv: str = "auto",
        distinct: bool = True,
    ) -> None:
        super().__init__()
        self.k, self.edgeconv, self.distinct = k, edgeconv, distinct
        self.num_parts = num_parts
        self.feature_dim = emb_dims
        self.transform_net = SpatialTransformer()
        self.conv1 = edge_layer(2 * 3, 64)
        self.conv2 = edge_layer(64, 64)
        self.conv3 = edge_layer(2 * 64, 64)
        self.conv4 = edge_layer(64, 64)
        self.conv5 = edge_layer(2 * 64, 64)
        self.conv6 = point_layer(3 * 64, emb_dims)
        self.bn1, self.bn2, self.bn3 = self.conv1[1], self.conv2[1], self.conv3[1]
        self.bn4, self.bn5, self.bn6 = self.conv4[1], self.conv5[1], self.conv6[1]
        if num_parts is None:
            self.inv_head = projection_head(emb_dims, emb_dims)
        else:
            self.conv7 = point_layer(NUM_CATEGORIES, 64)
            self.conv8 = point_layer(emb_dims + 64 + 3 * 64, 256)
            self.conv9 = point_layer(256, 256)
            self.conv10 = point_layer(256, 128)
            self.bn7, self.bn8 = self.conv7[1], self.conv8[1]
            self.bn9, self.bn10 = self.conv9[1], self.conv10[1]
            self.conv11 = nn.Conv1d(128, num_parts, 1, bias=False)
            self.dropout = GlobalBatchDropout(dropout)

    def _encode(
        self, points: Tensor, layout: Layout | None = None
    ) -> tuple[Clouds, Tensor, Tensor]:
        """(B, 3, N) -> the batch, its local features (192 channels) and the global
        feature (B, E)."""
        check_points(points, self.k)
        distinct = self.distinct and self.num_parts is None
        clouds = cloud_batch(points, self.k, self.edgeconv, distinct, layout)
        aligned = clouds.transform(self.transform_net(clouds))
        x1 = clouds.edge_conv(aligned, self.conv1, self.conv2)  # 64 channels
        x2 = clouds.edge_conv(x1, self.conv3, self.conv4)  # 64
        x3 = clouds.edge_conv(x2, self.conv5)  # 64
        local = clouds.join(x1, x2, x3)
        feature, _ = clouds.pool(local, self.conv6)
        return clouds, local, feature

    def features(self, points: Tensor, layout: Layout | None = None) -> Tensor:
        """(B, 3, N) -> (B, E), the input of the SVM and few-shot evaluation."""
        return self._encode(points, layout)[2]

    def forward(
        self,
        points: Tensor,
        category: Tensor | None = None,
        layout: Layout | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        if self.num_parts is None:
            feature = self.features(points, layout)
            return self.inv_head(feature), feature
        if category is None or category.shape != (len(points), NUM_CATEGORIES):
            got = None if category is None else tuple(category.shape)
            raise ValueError(
                f"category must be one-hot ({len(points)}, {NUM_CATEGORIES}), got {got}"
            )
        clouds, local, feature = self._encode(points)
        label = self.conv7(category.to(points.dtype).unsqueeze(2))  # (B, 64, 1)
        shared = torch.cat([feature.unsqueeze(2), label], dim=1)  # (B, E + 64, 1)
        shared = shared.expand(-1, -1, points.shape[2])
        local = clouds.per_point(local)  # (B, 192, N)
        x = self.conv8(torch.cat([shared, local], dim=1))  # (B, 256, N)
        x = self.conv9(self.dropout(x))
        x = self.conv10(self.dropout(x))
        return self.conv11(x)
