"""ShapeNet clouds with rendered pictures: what CrossPoint is pre-trained on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from datasets.files import check_num_points, fail
from datasets.modelnet import as_channels
from datasets.packed import FOLDER as PACKED
from datasets.packed import MANIFEST, PackedShapes
from datasets.ply import read_ply
from datasets.png import read_picture
from datasets.sampler import Key, split_key
from datasets.transforms import (
    augment_picture,
    augment_points,
    jitter_pictures,
    picture_bytes,
)
from utils.parallel.seed import PICTURE, POINTS, generator

CLOUDS = "ShapeNet"
PICTURES = "ShapeNetRendering"
ARCHIVE = "shapenet"

PointTransform = Callable[[np.ndarray, np.random.Generator], np.ndarray]
ImageTransform = Callable[
    [Image.Image, np.random.Generator, int], torch.Tensor | tuple[torch.Tensor, ...]
]


def _scan(folder: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    """The entries of a folder by name, hidden ones left out; none if it is missing."""
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not entry.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(found, key=lambda entry: entry.name)


def _named(entries: list[os.DirEntry], ending: str) -> tuple[str, ...]:
    return tuple(e.name for e in entries if e.name.lower().endswith(ending))


def rendering(data_root: str | os.PathLike, shape: str) -> str:
    """The folder of a shape's pictures."""
    return os.path.join(data_root, PICTURES, shape, "rendering")


def list_shapes(
    data_root: str | os.PathLike,
) -> tuple[list[str], list[tuple[str, ...]]]:
    """The shapes that have a PLY, "<synset>/<model>", and their pictures' names.

    Raises:
        DataError: if a folder is missing, or there are no shapes.
    """
    clouds = Path(data_root) / CLOUDS
    for folder in (clouds, Path(data_root) / PICTURES):
        if not folder.is_dir():
            fail(folder, "folder not found", ARCHIVE)
    shapes, all_views = [], []
    # Nearly all shapes have the same picture names: keep one tuple for them all.
    shared: dict[tuple[str, ...], tuple[str, ...]] = {}
    for synset in _scan(clouds):
        for name in sorted(
            file[: -len(".ply")] for file in _named(_scan(synset.path), ".ply")
        ):
            shape = f"{synset.name}/{name}"
            views = _named(_scan(rendering(data_root, shape)), ".png")
            shapes.append(shape)
            all_views.append(shared.setdefault(views, views))
    if not shapes:
        fail(clouds / "<synset>" / "<model>.ply", "no such file", ARCHIVE)
    return shapes, all_views


class ShapeNetRender(Dataset):
    """Two augmented views of a cloud, and one rendered picture of the same shape.

    What an item holds is a function of (seed, epoch, index), whichever process or
    worker reads it and whatever was read before.

    Args:
        data_root: the folder that holds `ShapeNet` and `ShapeNetRendering`.
        num_points: the first so many vertices of every PLY; None for all.
        image_size: pixels of a picture's side.
        seed: of augmentations and of the choice of pictures.
        point_transform: (points (N, 3), rng) -> points (N, 3).
        image_transform: (RGB image, rng, image_size) -> (3, image_size, image_size),
            or a tuple that begins with it.
        packed: read ``ShapeNetPacked`` (:mod:`datasets.packed`) instead of a file for
            every cloud and picture; None: if it is there. The items are the same.

    Attributes:
        shapes: "<synset>/<model>" of every shape, sorted by synset, then model.
        packed: the packed data set, or None.

    Raises:
        DataError: at construction if a folder is missing, if there are no shapes, or
            if one has no pictures; on reading if a file is damaged or too small.
    """

    def __init__(
        self,
        data_root: str | os.PathLike,
        num_points: int | None = 2048,
        image_size: int = 224,
        seed: int = 0,
        point_transform: PointTransform = augment_points,
        image_transform: ImageTransform = augment_picture,
        packed: bool | None = None,
    ) -> None:
        if num_points is not None and num_points < 1:
            raise ValueError(f"--num_points must be at least 1, got {num_points}")
        self.clouds = Path(data_root) / CLOUDS
        self.renderings = Path(data_root) / PICTURES
        self.num_points, self.image_size, self.seed = num_points, image_size, seed
        self.point_transform, self.image_transform = point_transform, image_transform
        self.shapes: list[str] = []
        self._views: list[tuple[str, ...]] = []
        self.packed: PackedShapes | None = None
        folder = Path(data_root) / PACKED
        if packed or (packed is None and (folder / MANIFEST).is_file()):
            self.packed = PackedShapes(folder)
            self.shapes = self.packed.shapes
        else:
            self._index()

    def _index(self) -> None:
        self.shapes, self._views = list_shapes(self.clouds.parent)
        bare = [s for s, v in zip(self.shapes, self._views, strict=True) if not v]
        if bare:
            some = ", ".join(self._rendering(shape) for shape in bare[:3])
            fail(
                self.renderings,
                f"{len(bare)} of {len(self.shapes)} shapes have no picture (*.png), "
                f"looked for in {some}{', ...' if len(bare) > 3 else ''}",
                ARCHIVE,
            )

    def _rendering(self, shape: str) -> str:
        return rendering(self.clouds.parent, shape)

    def cloud_path(self, index: int) -> Path:
        """The PLY of a shape."""
        return self.clouds / f"{self.shapes[index]}.ply"

    def picture_paths(self, index: int) -> list[Path]:
        """The pictures of a shape, by name."""
        folder = Path(self._rendering(self.shapes[index]))
        return [folder / name for name in self._views[index]]

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, key: int | Key) -> tuple[torch.Tensor, ...]:
        """(view 1 (3, N), view 2 (3, N), picture (3, S, S)), all float32.

        An `image_transform` of another dtype gives it to the picture, and what else it
        gives comes after the picture.

        Args:
            key: (epoch, index), or an index for epoch 0.
        """
        epoch, index = split_key(key)
        if self.packed is None:
            where: str | Path = self.cloud_path(index)
            points = read_ply(where, ARCHIVE)
        else:
            where = f"{self.packed.folder}, {self.shapes[index]}"
            points = self.packed.cloud(index)
        points = points[: check_num_points(where, len(points), self.num_points)]
        views = [
            as_channels(
                self.point_transform(
                    points, generator(POINTS, self.seed, epoch, index, view)
                )
            )
            for view in (0, 1)
        ]
        rng = generator(PICTURE, self.seed, epoch, index)
        if self.packed is None:
            pictures = self.picture_paths(index)
            picture = read_picture(pictures[rng.integers(len(pictures))], ARCHIVE)
        else:
            view = int(rng.integers(self.packed.views[index]))
            picture = self.packed.picture(index, view)
        drawn = self.image_transform(picture, rng, self.image_size)
        return *views, *(drawn if isinstance(drawn, tuple) else (drawn,))

    def example(self, key: Key) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """An item to look at: what training on it sees, before normalisation.

        Args:
            key: (epoch, index).

        Returns:
            Both views (N, 3) and the picture (S, S, 3) uint8, for either of the image
            transforms that `picture_transform` chooses from.
        """
        view1, view2, picture, *changes = self[key]
        if changes:
            picture = jitter_pictures(picture[None], changes[0][None])[0]
        pixels = picture_bytes(picture).permute(1, 2, 0).numpy()
        return view1.T.numpy(), view2.T.numpy(), pixels
