"""Both encoders as one module, so that one DDP wrapper covers the training step."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.dgcnn import projection_head
from models.fused.batch import Layout
from models.image import ImageEncoder, image_head

Pairs = list[tuple[Tensor, Tensor]]


class CrossPoint(nn.Module):
    """CrossPoint (Afham et al., CVPR 2022, figure 2): two views and V images.

    Args:
        point_encoder: (2B, 3, N) -> (projection (2B, D), feature). It also takes the
            argument ``layout`` where one is given.
        image_encoder: (B V, 3, H, W) -> projection (B V, D).

    Forward:
        view1 (B, 3, N), view2 (B, 3, N), images (B, 3, H, W) or (B, V, 3, H, W) -> z1,
        z2 (B, D) and z_image, (B, D) or (B, V, D). Both views are encoded as one batch,
        and so are all images, so that BatchNorm normalises them together. Without
        images (None) z_image is None: the image encoder is not run. ``layout`` is that
        of the distinct points of [view1; view2], which saves a synchronisation with the
        GPU, see :class:`models.dgcnn.DGCNN`.

    Attributes:
        two_streams: on a GPU, encode images on a second stream, beside the points.

    Raises:
        ValueError: if the inputs have different numbers of samples.
    """

    two_streams = False

    def __init__(self, point_encoder: nn.Module, image_encoder: nn.Module) -> None:
        super().__init__()
        self.point_encoder = point_encoder
        self.image_encoder = image_encoder

    def freeze_unused(self, imid_weight: float, cmid_weight: float) -> None:
        """Freeze what a loss of weight 0 leaves without gradient.

        DistributedDataParallel waits for the gradient of every other parameter.
        """
        self.image_encoder.requires_grad_(cmid_weight > 0)

    def encode_images(self, images: Tensor) -> Tensor:
        return self.image_encoder(images)

    def projections(self, _feature: Tensor, encodings: Tensor) -> Any:
        """What forward returns for the images: (B, D) or (B, V, D)."""
        return encodings

    def forward(
        self,
        view1: Tensor,
        view2: Tensor,
        images: Tensor | None,
        layout: Layout | None = None,
    ) -> tuple[Tensor, Tensor, Any]:
        inputs = [x for x in (view1, view2, images) if x is not None]
        if view1.shape != view2.shape or len(inputs[-1]) != len(view1):
            raise ValueError(
                "two views of equal shape and as many images are needed, got "
                + ", ".join(str(tuple(x.shape)) for x in inputs)
            )
        pixels = None if images is None else images.flatten(0, -4)  # (B V, 3, H, W)
        if pixels is not None and self.two_streams:
            encoded = on_second_stream(self.encode_images, pixels)
        kwargs = {} if layout is None else {"layout": layout}
        projection, feature = self.point_encoder(torch.cat([view1, view2]), **kwargs)
        z1, z2 = projection.chunk(2)
        if images is None or pixels is None:
            return z1, z2, None
        encodings = encoded() if self.two_streams else self.encode_images(pixels)
        encodings = encodings.unflatten(0, images.shape[:-3])  # (B, D) or (B, V, D)
        return z1, z2, self.projections(feature, encodings)


@functools.cache
def second_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def on_second_stream(
    function: Callable[[Tensor], Tensor], x: Tensor
) -> Callable[[], Tensor]:
    """Start ``function(x)`` on a second stream; call what it returns for the result.

    Autograd runs the backward pass of each operation on the stream of its forward pass.
    """
    first, second = torch.cuda.current_stream(x.device), second_stream(x.device)
    second.wait_stream(first)
    with torch.cuda.stream(second):
        output = function(x)
    x.record_stream(second)  # or its memory might be reused too early

    def result() -> Tensor:
        first.wait_stream(second)
        output.record_stream(first)
        return output

    return result


class ViewHeads(nn.Module):
    """Projection heads g_v of the cloud and h_v of the image, for each of V images.

    Args:
        point_dim, image_dim: widths of the features.
        hidden: width of the hidden layer of every g_v.
        dims: D_v, width of the output of g_v and h_v.

    Forward:
        f1, f2 (B, point_dim), the features of both clouds, r (B, V, image_dim), those
        of the images -> V pairs g_v(f), h_v(r_v), (B, D_v) each, where f is f1 for the
        first half of the images, rounded up, and f2 for the rest.
    """

    def __init__(
        self, point_dim: int, image_dim: int, hidden: int, dims: Sequence[int]
    ) -> None:
        super().__init__()
        self.point = nn.ModuleList(projection_head(point_dim, hidden, d) for d in dims)
        self.image = nn.ModuleList(image_head(image_dim, d) for d in dims)

    def forward(self, f1: Tensor, f2: Tensor, r: Tensor) -> Pairs:
        half = (len(self.point) + 1) // 2
        views = zip(self.point, self.image, r.unbind(dim=1), strict=True)
        return [
            (g(f1 if v < half else f2), h(r_v)) for v, (g, h, r_v) in enumerate(views)
        ]


class MultiView(CrossPoint):
    """Multi-view, after MM-Point (Yu and Song, AAAI 2024): a pair of heads per image.

    One ResNet sees all images. g_0, which projects both clouds for the intra-modal
    loss, is the point encoder's own head. docs/objectives.md says what is known of
    MM-Point and what is chosen here.

    Args:
        point_encoder: (2B, 3, N) -> (g_0's projection, feature (2B, feature_dim)).
        image_encoder: with ``features`` (B V, 3, H, W) -> (B V, feature_dim).
        hidden, dims: of :class:`ViewHeads`, which are the attribute ``heads``.

    Forward:
        As :class:`CrossPoint`, with the V pairs of projections of :class:`ViewHeads` in
        place of z_image.
    """

    def __init__(
        self,
        point_encoder: nn.Module,
        image_encoder: ImageEncoder,
        hidden: int,
        dims: Sequence[int],
    ) -> None:
        super().__init__(point_encoder, image_encoder)
        point_dim: Any = point_encoder.feature_dim
        self.heads = ViewHeads(point_dim, image_encoder.feature_dim, hidden, dims)

    def freeze_unused(self, imid_weight: float, cmid_weight: float) -> None:
        super().freeze_unused(imid_weight, cmid_weight)
        self.heads.requires_grad_(cmid_weight > 0)
        self.point_encoder.inv_head.requires_grad_(imid_weight > 0)

    def encode_images(self, images: Tensor) -> Tensor:
        image_encoder: Any = self.image_encoder
        return image_encoder.features(images)

    def projections(self, feature: Tensor, encodings: Tensor) -> Pairs:
        size = len(encodings), -1, encodings.shape[-1]
        return self.heads(*feature.chunk(2), encodings.reshape(size))  # (B, V, F)
