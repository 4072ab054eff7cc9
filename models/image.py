"""The image encoder: a torchvision ResNet and a projection head."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor, nn

from models import BACKBONES
from models.dgcnn import PROJECTION_DIM


class ImageEncoder(nn.Module):
    """ResNet without its classifier, then Linear, BatchNorm, ReLU, Linear.

    Args:
        backbone: ``resnet18``, ``resnet34`` or ``resnet50``.
        weights: a torchvision weight name such as ``IMAGENET1K_V2`` (downloaded by
            torchvision), or None for random weights, as in the paper.

    Forward:
        images (B, 3, H, W), normalised as for ImageNet -> projection (B, 256).

    Raises:
        ValueError: for another backbone, and in forward for another shape.
    """

    def __init__(self, backbone: str = "resnet50", weights: str | None = None) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"backbone {backbone!r} is not one of {BACKBONES}")
        self.resnet = torchvision.models.get_model(backbone, weights=weights)
        width = self.resnet.fc.in_features
        self.resnet.fc = nn.Identity()
        self.inv_head = nn.Sequential(
            nn.Linear(width, 512, bias=False),
            nn.BatchNorm1d(512),
            nn.ReLU(),
            nn.Linear(512, PROJECTION_DIM, bias=False),
        )

    def forward(self, images: Tensor) -> Tensor:
        if images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(
                f"images must be (B, 3, H, W), got shape {tuple(images.shape)}"
            )
        return self.inv_head(torch.flatten(self.resnet(images), 1))
