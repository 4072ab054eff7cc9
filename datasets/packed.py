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

Items are bit for bit those read from single files. If packing is interrupted, the same
command resumes it. The manifest is written last, so an incomplete folder is never read.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from PIL import Image
from tqdm import tqdm

from datasets import files
from datasets.files import PACKED, RENDERINGS, DataError, points_all_equal, write_whole
from datasets.shapenet_files import ShapeFiles, list_clouds, list_images

POINTS, IMAGES, INDEX = FILES = "points.f4", "pictures.u1", "index.npz"
MANIFEST, PROGRESS = "manifest.json", "progress.json"
VERSION = 1
KINDS = ("files", "decoded")
AT_ONCE = 1024  # shapes between two writes of the progress file


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


def pack(
    data_root: str | os.PathLike, pictures: str = "files", overwrite: bool = False
) -> Path:
    """Make ``ShapeNetPacked`` in `data_root`, or resume; return the packed folder.

    Args:
        data_root: the folder that holds ``ShapeNet`` and ``ShapeNetRendering``.
        pictures: ``files`` copies each image file (13 KB a rendering or less),
            ``decoded`` stores the pixels (55 KB), which saves decoding in training.
        overwrite: start from the first shape, even if a packed folder is complete.

    Raises:
        DataError: if a file is damaged, if the folder is complete already, or if the
            interrupted packing was of other shapes or with other `pictures`.
    """
    raw = ShapeFiles(data_root)
    raw.check_images()
    folder = Path(data_root) / PACKED
    if (folder / MANIFEST).is_file() and not overwrite:
        raise DataError(f"{folder} is complete; --overwrite packs it again")
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    if overwrite:
        (folder / PROGRESS).unlink(missing_ok=True)
    run = {"shapes": raw.shapes, "pictures": pictures}
    rows: list[list[Any]] = []  # of each shape: points, [(bytes, width, height), ...]
    if (folder / PROGRESS).is_file():
        state = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
        rows = state.pop("rows")
        if state != run:
            raise DataError(
                f"{folder} was started with different shapes or --pictures; "
                "--overwrite starts over"
            )
    left, total = range(len(rows), len(raw.shapes)), len(raw.shapes)
    # disable=None: no bar without a terminal
    bar = tqdm(left, "packing", total, initial=len(rows), unit="shape", disable=None)
    with open(folder / POINTS, "ab") as points, open(folder / IMAGES, "ab") as pixels:
        # Cut off what was written after the progress file.
        points.truncate(12 * sum(row[0] for row in rows))
        pixels.truncate(sum(view[0] for row in rows for view in row[1]))
        for index in bar:
            cloud = raw.cloud(index)
            points.write(cloud.astype("<f4").tobytes())
            views = []
            for view in range(raw.image_counts[index]):
                image = raw.image(index, view)  # damage is found in both forms
                content = (
                    image.tobytes()
                    if pictures == "decoded"
                    else raw.image_path(index, view).read_bytes()
                )
                pixels.write(content)
                views.append((len(content), *image.size))
            rows.append([len(cloud), views])
            if len(rows) % AT_ONCE == 0:
                for file in (points, pixels):
                    file.flush()
                    os.fsync(file.fileno())
                state = {**run, "rows": rows}
                write_whole(folder / PROGRESS, json.dumps(state).encode())
    _finish(folder, raw.shapes, rows, pictures)
    return folder


def _finish(folder: Path, shapes: list[str], rows: list, pictures: str) -> None:
    """Write the index and the manifest, and remove the progress file."""
    views = [view for row in rows for view in row[1]]

    def starts(lengths: list[int]) -> np.ndarray:
        return np.cumsum([0, *lengths], dtype=np.int64)

    np.savez(
        folder / INDEX,
        shapes=np.array(shapes),
        first_point=starts([row[0] for row in rows]),
        first_view=starts([len(row[1]) for row in rows]),
        first_byte=starts([view[0] for view in views]),
        size=np.array([view[1:] for view in views], np.int32).reshape(-1, 2),
    )
    manifest = {
        "version": VERSION,
        "pictures": pictures,
        "shapes": len(shapes),
        "views": len(views),
        "files": {
            path.name: {"bytes": path.stat().st_size, "sha256": checksum(path)}
            for path in (folder / name for name in FILES)
        },
    }
    write_whole(folder / MANIFEST, (json.dumps(manifest) + "\n").encode())
    (folder / PROGRESS).unlink(missing_ok=True)


def get_args_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data_root", default="data", help="(default: data)")
    text = "store image files as they are, or decoded: four times the space, less work "
    text += "per sample (default: files)"
    add("--pictures", choices=KINDS, default="files", help=text)
    add("--overwrite", action="store_true", help="pack again")
    add("--check", action="store_true", help="only compare checksums")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    args = get_args_parser().parse_args(argv)
    folder = Path(args.data_root) / PACKED
    try:
        if not args.check:
            pack(args.data_root, args.pictures, args.overwrite)
        packed = PackedShapes(folder)
        if args.check:
            packed.check_sums()
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    manifest = packed.manifest
    size = sum(file["bytes"] for file in manifest["files"].values()) / 2**20
    print(
        f"{folder}: {manifest['shapes']} shapes, {manifest['views']} pictures "
        f"({manifest['pictures']}), {size:.0f} MiB"
        + (", all checksums match" if args.check else "")
    )


if __name__ == "__main__":
    main()
