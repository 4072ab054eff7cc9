"""Both encoders as one module, so that one DDP wrapper covers the training step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.fused.batch import Layout


class CrossPoint(nn.Module):
    """CrossPoint (Afham et al., CVPR 2022, figure 2): two views and one image.

    Args:
        point_encoder: (2B, 3, N) -> (projection (2B, D), feature). It also takes the
            argument ``layout`` where one is given.
        image_encoder: (B, 3, H, W) -> projection (B, D).

    Forward:
        view1 (B, 3, N), view2 (B, 3, N), images (B, 3, H, W) -> z1, z2, z_image, each
        (B, D). Both views are encoded as one batch, so that BatchNorm normalises them
        together. ``layout`` is that of the distinct points of [view1; view2], with
        which a GPU's host does not wait, see :class:`models.dgcnn.DGCNN`.

    Raises:
        ValueError: if the three inputs have different numbers of samples.
    """

    def __init__(self, point_encoder: nn.Module, image_encoder: nn.Module) -> None:
        super().__init__()
        self.point_encoder = point_encoder
        self.image_encoder = image_encoder

    def forward(
        self,
        view1: Tensor,
        view2: Tensor,
        images: Tensor,
        layout: Layout | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        if view1.shape != view2.shape or len(view1) != len(images):
            raise ValueError(
                "two views of equal shape and as many images are needed, got "
                f"{tuple(view1.shape)}, {tuple(view2.shape)}, {tuple(images.shape)}"
            )
        known = {} if layout is None else {"layout": layout}
        projection, _ = self.point_encoder(torch.cat([view1, view2]), **known)
        z1, z2 = projection.chunk(2)
        return z1, z2, self.image_encoder(images)
