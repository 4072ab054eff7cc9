"""DGCNN (Wang et al., TOG 2019): the point encoder and its classification head."""

import torch
from torch import Tensor, nn

from models.dropout import GlobalBatchDropout
from models.edgeconv import SLOPE, cloud_batch, edge_layer
from models.fused.batch import Layout

PROJECTION_DIM = 256


def check_points(points: Tensor, k: int) -> None:
    """Raise a ValueError unless ``points`` is (B, 3, N) with N >= k."""
    if points.dim() != 3 or points.shape[1] != 3:
        raise ValueError(
            f"points must be (B, 3, N), got shape {tuple(points.shape)}; "
            "clouds stored as (B, N, 3) need .transpose(1, 2)"
        )
    if points.shape[2] < k:
        raise ValueError(
            f"a graph of k = {k} neighbours needs at least {k} points, "
            f"got N = {points.shape[2]} (--k, --num_points)"
        )


def point_layer(in_channels: int, out_channels: int) -> nn.Sequential:
    """A 1x1 convolution on points without bias, BatchNorm, LeakyReLU."""
    return nn.Sequential(
        nn.Conv1d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm1d(out_channels),
        nn.LeakyReLU(SLOPE),
    )


def projection_head(
    in_features: int, hidden: int, out_features: int = PROJECTION_DIM
) -> nn.Sequential:
    """The MLP that projects a feature for the contrastive loss."""
    return nn.Sequential(
        nn.Linear(in_features, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, out_features),
    )


class HeadedEncoder(nn.Module):
    """A point encoder with a projection head or a classification head on its feature.

    A subclass has ``features(points (B, 3, N)) -> (B, F)`` and calls :meth:`add_head`
    after its own layers.

    Forward:
        points (B, 3, N) -> (projection (B, 256), feature (B, F)), or logits
        (B, num_classes). Any B >= 1 in eval mode, B >= 2 in training.
    """

    feature_dim: int  # F

    def add_head(
        self,
        hidden: int,
        num_classes: int | None = None,
        dropout: float = 0.5,
        linear_head: bool = False,
    ) -> None:
        """Add the head under the published code's names.

        Args:
            hidden: width of the projection head's hidden layer.
            num_classes: None for the projection head of pre-training, otherwise the
                number of outputs of the classification head.
            dropout: probability in the classification head.
            linear_head: one linear layer, for a linear probe, instead of the
                classification head of three.
        """
        self.num_classes, self.linear_head = num_classes, linear_head
        if num_classes is None:
            self.inv_head = projection_head(self.feature_dim, hidden)
        elif linear_head:
            self.linear = nn.Linear(self.feature_dim, num_classes)
        else:
            self.linear1 = nn.Linear(self.feature_dim, 512, bias=False)
            self.bn6 = nn.BatchNorm1d(512)
            self.linear2 = nn.Linear(512, 256)
            self.bn7 = nn.BatchNorm1d(256)
            self.linear3 = nn.Linear(256, num_classes)
            self.act = nn.LeakyReLU(SLOPE)
            self.dropout = GlobalBatchDropout(dropout)

    def features(self, points: Tensor, layout: Layout | None = None) -> Tensor:
        """(B, 3, N) -> (B, F), the input of the SVM and few-shot evaluation."""
        raise NotImplementedError

    def forward(
        self, points: Tensor, layout: Layout | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        feature = self.features(points, layout)
        if self.num_classes is None:
            return self.inv_head(feature), feature
        if self.linear_head:
            return self.linear(feature)
        x = self.dropout(self.act(self.bn6(self.linear1(feature))))
        x = self.dropout(self.act(self.bn7(self.linear2(x))))
        return self.linear3(x)


class DGCNN(HeadedEncoder):
    """Four EdgeConv layers, outputs concatenated, max- and average-pooling.

    Modules carry the published code's names; ``bn1`` to ``bn5`` are second names of the
    BatchNorms inside ``conv1`` to ``conv5``.

    Args:
        k: neighbours of each point in every kNN graph.
        emb_dims: E, width of the embedding before pooling.
        num_classes: None for pre-training (projection head), otherwise the number of
            outputs of the classification head.
        linear_head: one linear layer, for a linear probe, instead of the published head
            of three.
        dropout: probability in the classification head.
        edgeconv: form of the point operations, ``auto``, ``fused`` or ``plain``.
        distinct: merge duplicate points, in the fused form.

    Forward:
        points (B, 3, N), N >= k -> (projection (B, 256), feature (B, 2E)), or logits
        (B, num_classes). Any B >= 1 in eval mode, B >= 2 in training. On a GPU this
        synchronises to read the number of distinct points, unless their layout
        (:func:`models.fused.batch.distinct_points`) is given.

    Raises:
        ValueError: in forward, if the points have another shape or N < k.
    """

    def __init__(
        self,
        k: int = 15,
        emb_dims: int = 1024,
        num_classes: int | None = None,
        dropout: float = 0.5,
        edgeconv: str = "auto",
        distinct: bool = True,
        linear_head: bool = False,
    ) -> None:
        super().__init__()
        self.k, self.edgeconv, self.distinct = k, edgeconv, distinct
        self.feature_dim = 2 * emb_dims
        self.conv1 = edge_layer(2 * 3, 64)
        self.conv2 = edge_layer(2 * 64, 64)
        self.conv3 = edge_layer(2 * 64, 128)
        self.conv4 = edge_layer(2 * 128, 256)
        self.conv5 = point_layer(64 + 64 + 128 + 256, emb_dims)
        self.bn1, self.bn2, self.bn3 = self.conv1[1], self.conv2[1], self.conv3[1]
        self.bn4, self.bn5 = self.conv4[1], self.conv5[1]
        self.add_head(emb_dims, num_classes, dropout, linear_head)

    def features(self, points: Tensor, layout: Layout | None = None) -> Tensor:
        """(B, 3, N) -> (B, 2E), the input of the SVM and few-shot evaluation."""
        check_points(points, self.k)
        clouds = cloud_batch(points, self.k, self.edgeconv, self.distinct, layout)
        x1 = clouds.edge_conv(clouds.points, self.conv1)  # 64 channels
        x2 = clouds.edge_conv(x1, self.conv2)  # 64
        x3 = clouds.edge_conv(x2, self.conv3)  # 128
        x4 = clouds.edge_conv(x3, self.conv4)  # 256
        maximum, mean = clouds.pool(clouds.join(x1, x2, x3, x4), self.conv5)
        return torch.cat([maximum, mean], dim=1)
