"""ShapeNetRender in a few large memory-mapped files, for fast reading.

    python -m datasets.packed --data_root data                  # images as they are
    python -m datasets.packed --data_root data --pictures decoded
    python -m datasets.packed --data_root data --check          # every checksum

Reading a shape from its own files opens and parses a PLY and a PNG for every item of
every epoch. Packing does that once, with all checks, and writes ``ShapeNetPacked/``:

    points.f4       x y z of every vertex of every shape, float32
    pictures.u1     the images' files as they are, or decoded, RGB as uint8
    index.npz       names of the shapes; where each cloud and image begins
    manifest.json   version, kind of images, sizes, counts, SHA-256 of each file

Items are bit for bit those read from single files. This file is the reader;
`datasets.prepare.pack` writes.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from PIL import Image

from datasets import files
from datasets.files import PACKED, RENDERINGS, points_all_equal
from datasets.shapenet_files import list_clouds, list_images

POINTS, IMAGES, INDEX = FILES = "points.f4", "pictures.u1", "index.npz"
MANIFEST = "manifest.json"
VERSION = 1
KINDS = ("files", "decoded")


def refuse(path: Path, problem: str) -> NoReturn:
    """Raise the `DataError` that names a packed folder or file, and the remedy."""
    root = path.parent if path.name == PACKED else path.parent.parent
    command = f"python -m datasets.packed --data_root {root} --overwrite"
    files.refuse(path, problem, f". Pack it again: {command}")


class PackedShapes:
    """Clouds and images of ``<data_root>/ShapeNetPacked``, mapped on first use.

    Attributes:
        shapes: "<synset>/<model>" of every shape, in the order of the raw data set.
        image_counts: number of images of every shape.
        manifest: as in `manifest.json`.

    Raises:
        DataError: if a file is missing or not of the size that the manifest gives, or
            if the manifest or the index is damaged.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        self.manifest = _read_manifest(self.folder / MANIFEST)
        for name in FILES:
            path, expected = self.folder / name, self.manifest["files"][name]["bytes"]
            if not path.is_file():
                refuse(path, "file not found")
            if path.stat().st_size != expected:
                refuse(path, f"has {path.stat().st_size} bytes instead of {expected}")
        # It points into the other two, which are too large for a checksum here.
        self.check_sums([INDEX])
        with np.load(self.folder / INDEX, allow_pickle=False) as index:
            self.shapes: list[str] = index["shapes"].tolist()
            self._first_point = index["first_point"]  # (S + 1,)
            self._first_image = index["first_view"]  # (S + 1,)
            self._first_byte = index["first_byte"]  # (V + 1,)
            self._size = index["size"]  # (V, 2) width, height
        self.image_counts = np.diff(self._first_image)

    def check_sums(self, names: Sequence[str] = FILES) -> None:
        """Raise a `DataError` that names the first file whose checksum differs."""
        for name in names:
            if checksum(self.folder / name) != self.manifest["files"][name]["sha256"]:
                refuse(self.folder / name, "is damaged: SHA-256 mismatch")

    def check_current(self) -> None:
        """Refuse packed data made from files other than those beside the folder.

        Only names are compared, so this takes as long as listing the folders. Single
        files may have been deleted to save space: what is absent is not compared.
        """
        root = self.folder.parent
        now = list_clouds(root)
        if not now:
            return
        packed = dict(zip(self.shapes, self.image_counts.tolist(), strict=True))
        differences = {
            "added": sorted(set(now) - packed.keys()),
            "removed": sorted(packed.keys() - set(now)),
        }
        if (root / RENDERINGS).is_dir():
            differences["with another number of images"] = [
                shape
                for shape in now
                if shape in packed and len(list_images(root, shape)) != packed[shape]
            ]
        changes = ", ".join(
            f"{len(shapes)} {change} ({shapes[0]}{', ...' if len(shapes) > 1 else ''})"
            for change, shapes in differences.items()
            if shapes
        )
        if changes:
            refuse(
                self.folder,
                f"shapes have changed since they were packed: {changes}. --no-packed "
                "reads the single files",
            )

    def __getstate__(self) -> dict[str, Any]:
        # A worker process maps the files itself.
        return {key: value for key, value in vars(self).items() if key != "_maps"}

    @cached_property
    def _maps(self) -> tuple[np.ndarray, np.ndarray]:
        """Points of all shapes (P, 3), and the bytes of all images."""
        points = np.memmap(self.folder / POINTS, np.float32, "r")
        images = np.memmap(self.folder / IMAGES, np.uint8, "r")
        # As plain arrays: a slice of a memmap takes ten times as long.
        return np.asarray(points).reshape(-1, 3), np.asarray(images)

    def where(self, index: int) -> str:
        """What an error about a shape's cloud names."""
        return f"{self.folder}, {self.shapes[index]}"

    def cloud(self, index: int) -> np.ndarray:
        """(N, 3) float32 of a shape: a view of the file, not to be written to.

        A `DataError` if a coordinate is not finite, or all points are equal.
        """
        start, end = self._first_point[index : index + 2]
        points = self._maps[0][start:end]
        finite = np.isfinite(points).all()
        if not finite or points_all_equal(points):
            problem = "equal points only" if finite else "a non-finite coordinate"
            refuse(self.folder / POINTS, f"{self.shapes[index]} has {problem}")
        return points

    def image(self, index: int, number: int) -> Image.Image:
        """An image of a shape as RGB; a `DataError` if it is damaged."""
        row = self._first_image[index] + number
        start, end = self._first_byte[row : row + 2]
        content = self._maps[1][start:end]
        if self.manifest["pictures"] == "decoded":
            width, height = self._size[row]
            return Image.fromarray(content.reshape(height, width, 3))
        location = f"{self.folder}/{IMAGES}, image {number} of {self.shapes[index]}"
        return files.decode_image(content.tobytes(), location)


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["version"]
    except FileNotFoundError:
        refuse(path, "file not found: packing did not finish")
    except (OSError, ValueError, KeyError, TypeError) as error:
        refuse(path, f"not a readable manifest ({error})")
    if version != VERSION:
        refuse(path, f"is of version {version}, this program reads {VERSION}")
    return manifest


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


if __name__ == "__main__":
    from datasets.prepare.pack import main

    main()
