"""ShapeNetRender in a few large files: packed once, then mapped into memory.

    python -m datasets.packed --data_root data                  # pictures as they are
    python -m datasets.packed --data_root data --pictures decoded
    python -m datasets.packed --data_root data --check          # every checksum

Reading a shape from its own files opens and parses a PLY and a PNG for every item of
every epoch. Packing does that once, with all checks, and writes ``ShapeNetPacked/``:

    points.f4       x y z of every vertex of every shape, float32
    pictures.u1     the pictures' files as they are, or decoded, RGB as uint8
    index.npz       names of the shapes; where each cloud and picture begins
    manifest.json   version, kind of pictures, sizes, counts, SHA-256 of each file

Items are equal to those read from single files, bit for bit. Packing that was
interrupted goes on where it was; the manifest is written last, so that a half-packed
folder is never read.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from PIL import Image
from tqdm import tqdm

from datasets.files import DataError, points_all_equal
from datasets.ply import read_ply
from datasets.png import decode_picture, read_picture

FOLDER = "ShapeNetPacked"
POINTS, PICTURES, INDEX = "points.f4", "pictures.u1", "index.npz"
MANIFEST, PROGRESS = "manifest.json", "progress.json"
VERSION = 1
KINDS = ("files", "decoded")
AT_ONCE = 1024  # shapes between two notes of how far packing has come


def _refuse(path: Path, problem: str) -> NoReturn:
    """Raise the `DataError` that names a packed folder's file, and how to mend it."""
    again = f"python -m datasets.packed --data_root {path.parent.parent} --overwrite"
    message = f"{path}: {problem}. Pack it again: {again}"
    raise DataError(message, str(path), problem) from None


class PackedShapes:
    """Clouds and pictures of a packed folder, mapped into memory on first use.

    Args:
        folder: ``<data_root>/ShapeNetPacked``.

    Attributes:
        shapes: "<synset>/<model>" of every shape, in the order of the raw data set.
        views: number of pictures of every shape.

    Raises:
        DataError: if a file is missing or not of the size that the manifest gives, or
            if the index is damaged.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        for name in (POINTS, PICTURES, INDEX):
            path, wanted = self.folder / name, self.manifest["files"][name]["bytes"]
            if not path.is_file():
                _refuse(path, "file not found")
            if path.stat().st_size != wanted:
                _refuse(
                    path,
                    f"has {path.stat().st_size} bytes instead of {wanted}",
                )
        path = self.folder / INDEX
        # It points into the other two, which are too large to be summed up here.
        if checksum(path) != self.manifest["files"][INDEX]["sha256"]:
            _refuse(path, "is damaged: another SHA-256")
        with np.load(path, allow_pickle=False) as index:
            self.shapes: list[str] = index["shapes"].tolist()
            self._first_point = index["first_point"]  # (S + 1,)
            self._first_view = index["first_view"]  # (S + 1,)
            self._first_byte = index["first_byte"]  # (V + 1,)
            self._size = index["size"]  # (V, 2) width, height
        self.views = np.diff(self._first_view)
        self._maps: tuple[np.ndarray, np.ndarray] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": None}  # a worker process maps them itself

    def _mapped(self) -> tuple[np.ndarray, np.ndarray]:
        if self._maps is None:
            # As plain arrays: a slice of a memmap takes ten times as long.
            points = np.asarray(np.memmap(self.folder / POINTS, np.float32, "r"))
            pictures = np.asarray(np.memmap(self.folder / PICTURES, np.uint8, "r"))
            self._maps = points.reshape(-1, 3), pictures
        return self._maps

    def cloud(self, index: int) -> np.ndarray:
        """(N, 3) float32 of a shape: a view of the file, not to be written to.

        Raises:
            DataError: if a coordinate is not finite, or all points are equal.
        """
        start, end = self._first_point[index : index + 2]
        points = self._mapped()[0][start:end]
        finite = np.isfinite(points).all()
        if not finite or points_all_equal(points):
            problem = "equal points only" if finite else "a non-finite coordinate"
            _refuse(self.folder / POINTS, f"{self.shapes[index]} has {problem}")
        return points

    def picture(self, index: int, view: int) -> Image.Image:
        """A picture of a shape as RGB.

        Raises:
            DataError: if it is damaged.
        """
        number = self._first_view[index] + view
        start, end = self._first_byte[number : number + 2]
        content = self._mapped()[1][start:end]
        if self.manifest["pictures"] == "decoded":
            width, height = self._size[number]
            return Image.fromarray(content.reshape(height, width, 3))
        where = f"{self.folder}/{PICTURES}, picture {view} of {self.shapes[index]}"
        return decode_picture(content.tobytes(), where)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a packed folder.

    Raises:
        DataError: if it is missing, damaged, or of another version.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["version"]
        if version == VERSION:  # what is taken for granted from here on
            files = [manifest["files"][name] for name in (POINTS, PICTURES, INDEX)]
            [(int(file["bytes"]), str(file["sha256"])) for file in files]
            if manifest["pictures"] not in KINDS:
                raise ValueError(f"pictures are {manifest['pictures']!r}")
    except FileNotFoundError:
        _refuse(path, "file not found: packing has not ended")
    except (OSError, ValueError, KeyError, TypeError) as error:
        _refuse(path, f"not a readable manifest ({error})")
    if version != VERSION:
        _refuse(path, f"is of version {version}, this program reads {VERSION}")
    return manifest


def pack(
    data_root: str | os.PathLike,
    pictures: str = "files",
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Pack ``ShapeNet`` and ``ShapeNetRendering``, or go on with it.

    Args:
        data_root: the folder that holds both; ``ShapeNetPacked`` is made in it.
        pictures: ``files`` keeps each as it is (13 KB a rendering or less), ``decoded``
            stores its pixels (55 KB), which saves decoding it for every item.
        overwrite: start anew, even where a packed folder is complete.
        progress: whether a bar is drawn.

    Returns:
        the packed folder.

    Raises:
        DataError: if a file is damaged, or the folder is complete already, or was begun
            from other shapes or with other pictures.
    """
    from datasets.shapenet_render import ShapeNetRender

    raw = ShapeNetRender(data_root, None, packed=False)
    folder = Path(data_root) / FOLDER
    if (folder / MANIFEST).is_file() and not overwrite:
        raise DataError(f"{folder} is complete; --overwrite packs it again")
    folder.mkdir(exist_ok=True)
    for name in (MANIFEST, *((PROGRESS,) if overwrite else ())):
        (folder / name).unlink(missing_ok=True)
    digest = hashlib.sha256("\n".join(raw.shapes).encode()).hexdigest()
    state: dict[str, Any] = {
        "shapes": digest,
        "pictures": pictures,
        "done": 0,
        "rows": [],
    }
    if (folder / PROGRESS).is_file():
        found = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
        if any(found[name] != state[name] for name in ("shapes", "pictures")):
            raise DataError(
                f"{folder} was begun from other shapes or with other --pictures; "
                "--overwrite starts anew"
            )
        state = found
    rows: list[list[Any]] = state["rows"]  # of each shape: points, then its pictures
    sizes = [12 * sum(row[0] for row in rows)]
    sizes.append(sum(view[0] for row in rows for view in row[1]))
    bar = tqdm(
        total=len(raw),
        initial=len(rows),
        desc="packing",
        unit="shape",
        disable=not (progress and sys.stderr.isatty()),
    )
    with (
        open(folder / POINTS, "r+b" if rows else "wb") as points,
        open(folder / PICTURES, "r+b" if rows else "wb") as pixels,
    ):
        for file, size in zip((points, pixels), sizes, strict=True):
            file.truncate(size)  # what was written after the last note
            file.seek(size)
        for index in range(len(rows), len(raw)):
            cloud = read_ply(raw.cloud_path(index))
            points.write(cloud.astype("<f4").tobytes())
            views = []
            for path in raw.picture_paths(index):
                image = read_picture(path)  # also where the file is kept: it is checked
                content = (
                    image.tobytes() if pictures == "decoded" else path.read_bytes()
                )
                pixels.write(content)
                views.append((len(content), *image.size))
            rows.append([len(cloud), views])
            bar.update()
            if len(rows) % AT_ONCE == 0:
                for file in (points, pixels):
                    file.flush()
                    os.fsync(file.fileno())
                _write_json(folder / PROGRESS, state)
    bar.close()
    _finish(folder, raw.shapes, rows, pictures)
    return folder


def _write_json(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_suffix(".partial")
    temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _finish(folder: Path, shapes: list[str], rows: list, pictures: str) -> None:
    """Index, checksums and manifest; then the notes of the way are not needed."""
    views = [view for row in rows for view in row[1]]

    def starts(lengths: list[int]) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])

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
            name: {
                "bytes": (folder / name).stat().st_size,
                "sha256": checksum(folder / name),
            }
            for name in (POINTS, PICTURES, INDEX)
        },
    }
    _write_json(folder / MANIFEST, manifest)
    (folder / PROGRESS).unlink(missing_ok=True)


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def check(folder: Path) -> None:
    """Compare every checksum with the manifest's.

    Raises:
        DataError: naming the first file that differs.
    """
    for name, wanted in PackedShapes(folder).manifest["files"].items():
        if checksum(folder / name) != wanted["sha256"]:
            _refuse(folder / name, "is damaged: another SHA-256")


def get_args_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_root", default="data", help="(default: data)")
    parser.add_argument(
        "--pictures",
        choices=KINDS,
        default="files",
        help="as they are, or their pixels: four times the space, less work an item "
        "(default: files)",
    )
    parser.add_argument("--overwrite", action="store_true", help="pack it again")
    parser.add_argument("--check", action="store_true", help="only check what is there")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    args = get_args_parser().parse_args(argv)
    folder = Path(args.data_root) / FOLDER
    try:
        if args.check:
            check(folder)
        else:
            folder = pack(args.data_root, args.pictures, args.overwrite)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    found = read_manifest(folder)
    size = sum(file["bytes"] for file in found["files"].values()) / 2**20
    print(
        f"{folder}: {found['shapes']} shapes, {found['views']} pictures "
        f"({found['pictures']}), {size:.0f} MiB"
        + (", all checksums as they were written" if args.check else "")
    )


if __name__ == "__main__":
    main()
