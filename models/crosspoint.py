"""Both encoders as one module, so that one DDP wrapper covers the training step."""

from __future__ import annotations

import functools
from collections.abc import Callable

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

    Attributes:
        two_streams: on a GPU, encode images on a second stream, beside the points.

    Raises:
        ValueError: if the three inputs have different numbers of samples.
    """

    two_streams = False

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
        z_image: Callable[[], Tensor] = functools.partial(self.image_encoder, images)
        if self.two_streams:
            z_image = on_second_stream(self.image_encoder, images)
        known = {} if layout is None else {"layout": layout}
        projection, _ = self.point_encoder(torch.cat([view1, view2]), **known)
        z1, z2 = projection.chunk(2)
        return z1, z2, z_image()


@functools.cache
def second_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def on_second_stream(
    function: Callable[[Tensor], Tensor], x: Tensor
) -> Callable[[], Tensor]:
    """Start ``function(x)`` on a second stream; what is returned gives its result.

    Autograd runs the backward pass of each operation on the stream of its forward pass.
    """
    first, second = torch.cuda.current_stream(x.device), second_stream(x.device)
    second.wait_stream(first)
    with torch.cuda.stream(second):
        found = function(x)
    x.record_stream(second)  # or its memory might be reused too early

    def result() -> Tensor:
        first.wait_stream(second)
        found.record_stream(first)
        return found

    return result
