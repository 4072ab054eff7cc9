"""What all readers share: opening a file, the error that names it, and PLY and PNG.

A file that is missing, damaged or of another kind raises a `DataError` that names it.
No reader opens a file for writing, and none leaves one open.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np
from PIL import Image, UnidentifiedImageError
from plyfile import PlyData

from utils.errors import UsageError

# Folders below --data_root, named as the published archives unpack.
SHAPENET, RENDERINGS, PACKED = "ShapeNet", "ShapeNetRendering", "ShapeNetPacked"
# In a data root while `datasets.from_meshes` is writing to it.
UNFINISHED = "from_meshes.unfinished"
MODELNET40 = "modelnet40_ply_hdf5_2048"
SCANOBJECTNN = "ScanObjectNN"
SHAPENETPART = "shapenet_part_seg_hdf5_data"
# What `data/download_data.sh --only` calls the data set in a folder.
ARCHIVES = {
    SHAPENET: "shapenet",
    RENDERINGS: "shapenet",
    MODELNET40: "modelnet40",
    SCANOBJECTNN: "scanobjectnn",
    "h5_files": "scanobjectnn",
    SHAPENETPART: "shapenetpart",
}
GENERATE = "python -m datasets.synthetic --out data/synthetic --shapes 480"


class DataError(UsageError):
    """A file or folder is missing or damaged: the message names it and the remedy.

    Attributes:
        path: the file or folder, where the error is about one.
        problem: what is wrong with it, without the path and the remedy.
    """

    def __init__(self, message: str, path: str = "", problem: str = "") -> None:
        super().__init__(message)
        self.path, self.problem = path, problem or message


def download(archive: str = "") -> str:
    """The command that fetches a data set, named as in `ARCHIVES`, or all of them."""
    return "bash data/download_data.sh" + (f" --only {archive}" if archive else "")


def refuse(path: str | os.PathLike, problem: str, remedy: str = "") -> NoReturn:
    """Raise the `DataError` that names `path`, the problem, and what to do."""
    name = os.fspath(path)
    raise DataError(f"{name}: {problem}{remedy}", name, problem) from None


def fail(path: str | os.PathLike, problem: str) -> NoReturn:
    """`refuse` with how to get the data set, which is known by its folder."""
    archives = [ARCHIVES[part] for part in Path(path).parts if part in ARCHIVES]
    refuse(
        path,
        problem,
        f". Real data: `{download(*archives[-1:])}`; synthetic data: `{GENERATE}`, "
        "then `--data_root data/synthetic`.",
    )


def check_num_points(
    path: str | os.PathLike, stored: int, num_points: int | None
) -> int:
    """How many of a file's points to take: all for None; a `DataError` if too few."""
    if num_points is not None and num_points > stored:
        refuse(
            path,
            f"stores {stored} points a shape, fewer than the {num_points} asked for; "
            f"use --num_points {stored} or less.",
        )
    return stored if num_points is None else num_points


def points_all_equal(points: np.ndarray) -> np.ndarray:
    """Which clouds (..., N, 3) are one point repeated N > 1 times: bool (...)."""
    equal = (points == points[..., :1, :]).all(axis=(-2, -1))
    return equal & (points.shape[-2] > 1)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically; create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)


@contextmanager
def open_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file open for reading; a `DataError` if missing, empty or not readable."""
    try:
        stream = open(path, "rb")
    except FileNotFoundError:
        fail(path, "file not found")
    except OSError as error:
        fail(path, f"cannot be read ({error.strerror})")
    with stream:
        if os.fstat(stream.fileno()).st_size == 0:
            fail(path, "the file is empty")
        yield stream


def read_ply(path: str | os.PathLike) -> np.ndarray:
    """The vertices of a PLY file, ASCII or binary: (N, 3) float32, N >= 1.

    Units and order are the file's. Other properties and elements are ignored.

    Raises:
        DataError: if the file is missing, empty, truncated or no PLY, if it lacks
            vertices or x, y or z, if a coordinate is not finite, or if all of several
            points are equal.
    """
    with open_file(path) as stream:
        try:
            # Mapped into memory: plyfile reads other streams value by value.
            vertex = PlyData.read(stream)["vertex"].data
            columns = [vertex[axis] for axis in "xyz"]
            # An overflow becomes an infinity, which is refused below.
            with np.errstate(over="ignore"):
                points = np.stack(columns, axis=1).astype(np.float32)
        except Exception as error:  # plyfile raises whatever the damage leads to
            fail(path, f"not a readable PLY file ({type(error).__name__}: {error})")
    if len(points) == 0:
        fail(path, "holds no vertices")
    bad = ~np.isfinite(points).all(axis=1)
    if bad.any():
        fail(path, f"vertex {bad.argmax()} has a non-finite coordinate")
    if points_all_equal(points):
        fail(path, f"all of its {len(points)} points are equal")
    return points


def read_image(path: str | os.PathLike) -> Image.Image:
    """A PNG file as 8-bit RGB, see :func:`decode_image`."""
    with open_file(path) as stream:
        return decode_image(stream.read(), path)


def decode_image(content: bytes, path: str | os.PathLike) -> Image.Image:
    """The bytes of a PNG as 8-bit RGB, of whatever size it has.

    Alpha is dropped, not composited: a transparent pixel keeps its stored colour.
    Grey and palette images are expanded, 16 bits are scaled to 8.

    Raises:
        DataError: naming `path`, if it is damaged, no PNG, or of more pixels than
            Pillow accepts.
    """
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if not image.mode.startswith("I"):
                return image.convert("RGB")
            # Pillow would clip 16-bit values at 255 instead of scaling them.
            grey = np.clip(np.asarray(image), 0, 65535) // 257
            return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    except UnidentifiedImageError:
        fail(path, "not a readable image (expected PNG)")
    except Exception as error:  # Pillow raises whatever the damage leads to
        fail(path, f"not a readable image ({error})")
