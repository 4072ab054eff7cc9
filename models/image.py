"""The image encoder: a torchvision ResNet and a projection head."""

import torch
import torchvision
from torch import Tensor, nn

from models import BACKBONES
from models.dgcnn import PROJECTION_DIM


def image_head(in_features: int, out_features: int = PROJECTION_DIM) -> nn.Sequential:
    """The MLP that projects a ResNet's feature for the contrastive loss."""
    return nn.Sequential(
        nn.Linear(in_features, 512, bias=False),
        nn.BatchNorm1d(512),
        nn.ReLU(),
        nn.Linear(512, out_features, bias=False),
    )


class ImageEncoder(nn.Module):
    """ResNet without its classifier, then Linear, BatchNorm, ReLU, Linear.

    ``features(images)`` is the ResNet's part of it, (B, feature_dim).

    Args:
        backbone: ``resnet18``, ``resnet34`` or ``resnet50``.
        weights: a torchvision weight name such as ``IMAGENET1K_V2`` (downloaded by
            torchvision), or None for random weights, as in the paper.
        head: False leaves the projection head out: ``features`` alone can be called.

    Forward:
        images (B, 3, H, W), normalised as for ImageNet -> projection (B, 256).

    Raises:
        ValueError: for another backbone, and in forward for another shape.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        weights: str | None = None,
        head: bool = True,
    ) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            names = ", ".join(BACKBONES)
            raise ValueError(f"backbone {backbone!r} is not one of {names}")
        self.resnet = torchvision.models.get_model(backbone, weights=weights)
        self.feature_dim = self.resnet.fc.in_features
        self.resnet.fc = nn.Identity()
        if head:
            self.inv_head = image_head(self.feature_dim)

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, feature_dim)."""
        if images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(
                f"images must be (B, 3, H, W), got shape {tuple(images.shape)}"
            )
        return torch.flatten(self.resnet(images), 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.inv_head(self.features(images))
