"""ShapeNet clouds with rendered images: what CrossPoint is pre-trained on."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, default_collate

from datasets.files import PACKED, check_num_points, refuse
from datasets.packed import MANIFEST, PackedShapes
from datasets.sampler import Key, split_key
from datasets.shapenet_files import ShapeFiles, rendering
from datasets.transforms import (
    RawImage,
    as_channels,
    augment_image,
    augment_points,
    image_bytes,
    jitter_images,
)
from utils.parallel.seed import IMAGE, POINTS, generator

Images = RawImage | torch.Tensor
PointTransform = Callable[[np.ndarray, np.random.Generator], np.ndarray]
ImageTransform = Callable[[Image.Image, np.random.Generator, int], Images]


class ShapeNetRender(Dataset):
    """Two augmented views of a cloud, and rendered images of the same shape.

    An item is a function of (seed, epoch, index), whichever process or worker reads it
    and whatever was read before.

    Args:
        data_root: the folder that holds `ShapeNet` and `ShapeNetRendering`.
        num_points: take the first `num_points` of each PLY; None for all.
        image_size: height and width of an image in pixels.
        seed: for the augmentations and the choice of images.
        point_transform: (points (N, 3), rng) -> points (N, 3).
        image_transform: (RGB image, rng, image_size) -> `RawImage`, whose jitter the
            training loop applies by `jitter_images`, or a finished float tensor
            (3, image_size, image_size), which `jitter_images` leaves as it is. A
            sequence of V transforms makes V different images of each item, one by each
            transform; the first is that of V = 1.
        packed: read ``ShapeNetPacked`` (:mod:`datasets.packed`) instead of a file for
            every cloud and image; None: if it exists. Items are the same.

    Attributes:
        source: what reads clouds and images: `ShapeFiles` or `PackedShapes`.
        shapes: "<synset>/<model>" of every shape, sorted by synset, then model.
        hint: a sentence on how to make reading faster; "" for packed data.

    Raises:
        DataError: at construction if a folder is missing, if there are no shapes, if
            one has fewer images than V, or if the packed data are of other shapes than
            the folders hold; on reading if a file is damaged or has too few points.
    """

    def __init__(
        self,
        data_root: str | os.PathLike,
        num_points: int | None = 2048,
        image_size: int = 224,
        seed: int = 0,
        point_transform: PointTransform = augment_points,
        image_transform: ImageTransform | Sequence[ImageTransform] = augment_image,
        packed: bool | None = None,
    ) -> None:
        if num_points is not None and num_points < 1:
            raise ValueError(f"num_points {num_points} is below 1 (--num_points)")
        self.num_points, self.image_size, self.seed = num_points, image_size, seed
        self.point_transform = point_transform
        if not isinstance(image_transform, Sequence):
            image_transform = [image_transform]
        self.image_transforms = image_transform
        folder = Path(data_root) / PACKED
        self.packed = (folder / MANIFEST).is_file() if packed is None else packed
        self.source: ShapeFiles | PackedShapes
        if self.packed:
            self.source, self.hint = PackedShapes(folder), ""
            self.source.check_current()
        else:
            self.source = ShapeFiles(data_root)
            self.source.check_images()
            self.hint = (
                f"reading single files from {data_root}; packed data are read several "
                f"times as fast: python -m datasets.packed --data_root {data_root}"
            )
        self.shapes = self.source.shapes
        needed, counts = len(self.image_transforms), self.source.image_counts
        bad = np.flatnonzero(counts < needed)
        if len(bad):
            refuse(
                rendering(data_root, self.shapes[bad[0]]),
                f"{counts[bad[0]]} images, fewer than --num_images {needed}, as for "
                f"{len(bad)} of {len(counts)} shapes; use --num_images {counts.min()} "
                "or add images",
            )

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, key: int | Key) -> tuple[torch.Tensor, torch.Tensor, Images]:
        """(view 1 (3, N) float32, view 2 (3, N) float32, images) of an (epoch, index).

        images: a `RawImage` (pixels (3, S, S) uint8, jitter (7,)) or a (3, S, S)
        tensor; with V > 1 images a leading V.
        """
        epoch, index = split_key(key)
        points = self.source.cloud(index)
        location = self.source.where(index)
        points = points[: check_num_points(location, len(points), self.num_points)]
        streams = (generator(POINTS, self.seed, epoch, index, view) for view in (0, 1))
        view1, view2 = (as_channels(self.point_transform(points, s)) for s in streams)
        remaining = list(range(self.source.image_counts[index]))
        images = []
        for number, transform in enumerate(self.image_transforms):
            # Each image has its own stream: asking for more leaves the first unchanged.
            extra_key = (number,) if number else ()
            rng = generator(IMAGE, self.seed, epoch, index, *extra_key)
            chosen = remaining.pop(int(rng.integers(len(remaining))))
            image = self.source.image(index, chosen)
            images.append(transform(image, rng, self.image_size))
        return view1, view2, images[0] if len(images) == 1 else default_collate(images)

    def example(self, key: Key) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """An item to look at: both augmented views (N, 3), and the jittered image.

        The image is (S, S, 3) uint8, V images side by side (S, V S, 3).
        """
        view1, view2, images = self[key]
        (jittered,) = jitter_images(default_collate([images]))  # ([V,] 3, S, S)
        pixels = image_bytes(jittered).movedim(-3, -1)  # (..., S, S, 3)
        pixels = torch.cat(list(pixels), dim=1) if pixels.dim() == 4 else pixels
        return view1.T.numpy(), view2.T.numpy(), pixels.numpy()
