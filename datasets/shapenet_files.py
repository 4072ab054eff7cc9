"""ShapeNetRender as it is unpacked: a PLY and a folder of PNG for every shape."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.files import (
    RENDERINGS,
    SHAPENET,
    UNFINISHED,
    DataError,
    fail,
    read_image,
    read_ply,
    refuse,
)


def _list(folder: str | os.PathLike, ending: str = "") -> tuple[str, ...]:
    """Names in a folder, sorted, hidden ones left out; none if it is missing."""
    try:
        names = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return ()
    return tuple(x for x in names if x.lower().endswith(ending) and x[0] != ".")


def list_clouds(data_root: str | os.PathLike) -> list[str]:
    """ "<synset>/<model>" of every PLY, sorted by synset, then model."""
    folder = Path(data_root, SHAPENET)
    return [
        f"{synset}/{model}"
        for synset in _list(folder)
        for model in sorted(name[:-4] for name in _list(folder / synset, ".ply"))
    ]


def rendering(data_root: str | os.PathLike, shape: str) -> Path:
    """The folder of a shape's images."""
    return Path(data_root, RENDERINGS, shape, "rendering")


def list_images(data_root: str | os.PathLike, shape: str) -> tuple[str, ...]:
    """File names of a shape's images, sorted."""
    return _list(rendering(data_root, shape), ".png")


class ShapeFiles:
    """Reads clouds and images from single files below `data_root`.

    `datasets.packed.PackedShapes` has the same attributes and methods.

    Attributes:
        shapes: "<synset>/<model>" of every shape that has a cloud.
        image_counts: (S,) number of images of each.

    Raises:
        DataError: if a folder is missing, empty, or still being written.
    """

    def __init__(self, data_root: str | os.PathLike) -> None:
        self.root = Path(data_root)
        if (self.root / UNFINISHED).is_file():
            refuse(
                self.root,
                "datasets.from_meshes has not finished writing it; rerun the same "
                "command to resume",
            )
        for name in (SHAPENET, RENDERINGS):
            if not (self.root / name).is_dir():
                fail(self.root / name, "folder not found")
        self.shapes = list_clouds(self.root)
        if not self.shapes:
            fail(self.root / SHAPENET / "<synset>" / "<model>.ply", "no such file")
        # Nearly all shapes have the same file names: they share one tuple.
        shared: dict[tuple[str, ...], tuple[str, ...]] = {}
        listed = (list_images(self.root, shape) for shape in self.shapes)
        self._names = [shared.setdefault(names, names) for names in listed]
        self.image_counts = np.array([len(names) for names in self._names])

    def check_images(self) -> None:
        """Raise a `DataError` that names shapes without images."""
        bare = np.flatnonzero(self.image_counts == 0)
        if len(bare):
            folders = (rendering(self.root, self.shapes[i]) for i in bare[:3])
            some = ", ".join(map(str, folders))
            fail(
                self.root / RENDERINGS,
                f"{len(bare)} of {len(self.shapes)} shapes have no image (*.png), "
                f"looked for in {some}{', ...' if len(bare) > 3 else ''}",
            )

    def cloud_path(self, index: int) -> Path:
        return self.root / SHAPENET / f"{self.shapes[index]}.ply"

    def image_path(self, index: int, number: int) -> Path:
        return rendering(self.root, self.shapes[index]) / self._names[index][number]

    def where(self, index: int) -> str:
        """What an error about a shape's cloud names."""
        return str(self.cloud_path(index))

    def cloud(self, index: int) -> np.ndarray:
        """(N, 3) float32 of a shape; a `DataError` if missing or damaged."""
        return read_ply(self.cloud_path(index))

    def image(self, index: int, number: int) -> Image.Image:
        """An image of a shape as RGB; a `DataError` if missing or damaged."""
        try:
            return read_image(self.image_path(index, number))
        except DataError as error:
            command = f"python -m datasets.verify --data_root {self.root} --set_aside"
            text = f"{error} To train without damaged images: `{command}`"
            raise DataError(text, error.path, error.problem) from None
