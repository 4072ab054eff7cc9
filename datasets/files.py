"""Clouds as PLY and pictures as PNG, read strictly, and what all readers share.

A file that is missing, damaged or not what it should be ends in a `DataError` that
names it; no reader opens a file for writing, and none leaves one open.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, NoReturn

import numpy as np
from PIL import Image
from plyfile import PlyData, PlyParseError

# A rendering has 137x137 pixels; a picture this large is a mistake or an attack.
MAX_PIXELS = 1 << 26
MAX_PLY_HEADER = 1 << 20

_PLY_TYPE_SIZES = {
    **dict.fromkeys(("char", "uchar", "int8", "uint8"), 1),
    **dict.fromkeys(("short", "ushort", "int16", "uint16"), 2),
    **dict.fromkeys(("int", "uint", "int32", "uint32", "float", "float32"), 4),
    **dict.fromkeys(("double", "float64"), 8),
}


class DataError(Exception):
    """A file or folder is missing or damaged: the message names it and the cure"""


def how_to_get(archive: str | None = None) -> str:
    """The sentence that says which commands fetch or generate the data.

    Args:
        archive: the name ``data/download_data.sh --only`` knows the data set by
            (modelnet40, shapenet, scanobjectnn, shapenetpart); None for all of them.
    """
    only = f" --only {archive}" if archive else ""
    return (
        f"Real data: `bash data/download_data.sh{only}`; synthetic data: "
        "`python -m datasets.synthetic --out data/synthetic --shapes 480`, then "
        "`--data_root data/synthetic`."
    )


def fail(path: str | os.PathLike, problem: str, archive: str | None = None) -> NoReturn:
    """Raise the `DataError` that names `path`, the problem, and how to get the data."""
    raise DataError(f"{os.fspath(path)}: {problem}. {how_to_get(archive)}") from None


def check_num_points(
    path: str | os.PathLike, stored: int, num_points: int | None
) -> int:
    """How many points to take of a file's `stored`: `num_points`, or all for None.

    Raises:
        DataError: if the file holds fewer than asked for.
    """
    if num_points is None:
        return stored
    if num_points > stored:
        raise DataError(
            f"{os.fspath(path)}: stores {stored} points a shape, fewer than the "
            f"{num_points} asked for; use --num_points {stored} or less."
        )
    return num_points


@contextmanager
def open_file(path: str | os.PathLike, archive: str | None) -> Iterator[BinaryIO]:
    """A file open for reading, known to exist and to hold something."""
    try:
        stream = open(path, "rb")
    except FileNotFoundError:
        fail(path, "file not found", archive)
    except OSError as error:
        fail(path, f"cannot be read ({error.strerror})", archive)
    with stream:
        if os.fstat(stream.fileno()).st_size == 0:
            fail(path, "the file is empty", archive)
        yield stream


def _least_ply_size(header: str) -> int:
    """The fewest bytes that can follow a PLY header, by its counts and properties.

    Raises:
        ValueError: if a line cannot be understood.
    """
    ascii_format, count, row, total = False, 0, 0, 0
    for line in header.splitlines():
        words = line.split()
        if words[:1] == ["format"]:
            ascii_format = words[1:2] == ["ascii"]
        elif words[:1] == ["element"]:
            # A row without properties still costs plyfile a step: count it a byte.
            total += count * max(row, 1)
            count, row = int(words[2]) if len(words) == 3 else -1, 0
            if count < 0:
                raise ValueError(f"unreadable element line {line.strip()!r}")
        elif words[:1] == ["property"] and len(words) > 2:
            size_of = words[2] if words[1] == "list" else words[1]
            row += 2 if ascii_format else _PLY_TYPE_SIZES.get(size_of, 1)
    total += count * max(row, 1)
    return total - ascii_format  # the last line may lack its end


def _check_ply_header(stream: BinaryIO) -> bool:
    """Refuse counts that the file's size cannot back, before anything is allocated.

    Returns whether the file is ASCII; the stream stands at its beginning again.
    """
    head = stream.read(MAX_PLY_HEADER)
    end = re.search(rb"(?:^|[\r\n])end_header[ \t]*(?:\r\n|\r|\n|$)", head)
    if not head.startswith(b"ply") or end is None:
        raise ValueError("no complete PLY header")
    left = os.fstat(stream.fileno()).st_size - end.end()
    needed = _least_ply_size(head[: end.end()].decode("ascii"))
    if needed > left:
        raise ValueError(
            f"the header claims at least {needed} bytes of data, {left} follow it: "
            "the file is truncated"
        )
    stream.seek(0)
    return re.search(rb"[\r\n]format[ \t]+ascii", head[: end.end()]) is not None


def read_ply(path: str | os.PathLike, archive: str | None = None) -> np.ndarray:
    """The vertices of a PLY file, ASCII or binary of either byte order.

    Other vertex properties and other elements are ignored.

    Returns:
        (N, 3) float32, N >= 1, in the file's units and order.

    Raises:
        DataError: if the file is missing, empty, truncated, no PLY, without vertices or
            without x, y and z, or if a coordinate is not finite.
    """
    with open_file(path, archive) as stream:
        try:
            if _check_ply_header(stream):
                # plyfile would wrap the file itself for text and leave that open.
                ply = PlyData.read(io.BytesIO(stream.read()))
            else:
                ply = PlyData.read(stream)  # memory-mapped: fast for vertices
            vertex = {element.name: element for element in ply.elements}.get("vertex")
            if vertex is None:
                raise ValueError("no element `vertex`")
            missing = [a for a in "xyz" if a not in (vertex.data.dtype.names or ())]
            if missing:
                raise ValueError(f"vertices lack {', '.join(missing)}")
            # An overflow becomes an infinity, which is refused below.
            with np.errstate(over="ignore"):
                points = np.stack(
                    [np.asarray(vertex.data[a], dtype=np.float32) for a in "xyz"], 1
                )
        except (PlyParseError, ValueError, TypeError, IndexError) as error:
            fail(path, f"not a readable PLY file: {error}", archive)
    if len(points) == 0:
        fail(path, "holds no vertices", archive)
    bad = ~np.isfinite(points).all(axis=1)
    if bad.any():
        fail(path, f"vertex {bad.argmax()} has a non-finite coordinate", archive)
    return points


def read_picture(path: str | os.PathLike, archive: str | None = None) -> Image.Image:
    """A picture as 8-bit RGB, see :func:`decode_picture`.

    Raises:
        DataError: if the file is missing, empty, truncated, no picture, or has more
            than `MAX_PIXELS` pixels.
    """
    with open_file(path, archive) as stream:
        return decode_picture(stream, path, archive)


def decode_picture(
    stream: BinaryIO, path: str | os.PathLike, archive: str | None = None
) -> Image.Image:
    """A picture as 8-bit RGB, of whatever size it has.

    Alpha is dropped, not composited: a transparent pixel keeps its stored colour.
    Grey and palette pictures are expanded, 16-bit grey is scaled to 8 bits.

    Args:
        stream: the bytes of the file.
        path: what an error names.
        archive: as of :func:`fail`.

    Raises:
        DataError: if it is truncated, no picture, or has more than `MAX_PIXELS` pixels.
    """
    try:
        with Image.open(stream) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ValueError(f"{width}x{height} pixels are too many")
            image.load()
            if image.mode == "F":
                raise ValueError("floating-point pixels have no known range")
            if image.mode.startswith("I"):
                # Pillow would clip 16-bit values at 255 instead of scaling them.
                grey = np.clip(np.asarray(image), 0, 65535) // 257
                image = Image.fromarray(grey.astype(np.uint8))
            return image.convert("RGB")
    except (
        *(OSError, SyntaxError, ValueError, EOFError, IndexError),
        *(Image.DecompressionBombError, Image.DecompressionBombWarning),
    ) as error:
        # Pillow's message names the stream object; the path is named by `fail`.
        reason = "unknown format" if "cannot identify" in str(error) else error
        fail(path, f"not a readable picture ({reason})", archive)
