"""Write the packed form of ShapeNetRender, see `datasets.packed`.

If packing is interrupted, the same command resumes it. The manifest is written last, so
an incomplete folder is never read.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from datasets import packed
from datasets.files import PACKED, DataError, write_whole
from datasets.packed import (
    FILES,
    IMAGES,
    INDEX,
    KINDS,
    MANIFEST,
    POINTS,
    VERSION,
    PackedShapes,
    checksum,
)
from datasets.shapenet_files import ShapeFiles

PROGRESS = "progress.json"
AT_ONCE = 1024  # shapes between two writes of the progress file


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
    bar = tqdm(
        left,
        desc="packing",
        total=total,
        initial=len(rows),
        unit="shape",
        disable=None,
    )
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
        description=packed.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
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
        shapes = PackedShapes(folder)
        if args.check:
            shapes.check_sums()
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    manifest = shapes.manifest
    size = sum(file["bytes"] for file in manifest["files"].values()) / 2**20
    print(
        f"{folder}: {manifest['shapes']} shapes, {manifest['views']} pictures "
        f"({manifest['pictures']}), {size:.0f} MiB"
        + (", all checksums match" if args.check else "")
    )
