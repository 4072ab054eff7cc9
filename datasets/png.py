"""Pictures as PNG files, read strictly and in bounded memory."""

from __future__ import annotations

import io
import os
import struct
import zlib

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from datasets.files import fail, read_bytes

# A rendering has 137x137 pixels; a picture this large is a mistake or an attack.
MAX_PIXELS = 1 << 24
MAX_BYTES = 8 * MAX_PIXELS + (1 << 20)  # 16-bit RGBA that does not compress
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read_picture(path: str | os.PathLike, archive: str | None = None) -> Image.Image:
    """A picture as 8-bit RGB, see :func:`decode_picture`.

    Raises:
        DataError: if the file is missing, empty, damaged, no PNG, or has more than
            `MAX_PIXELS` pixels.
    """
    return decode_picture(read_bytes(path, archive, MAX_BYTES), path, archive)


def decode_picture(
    content: bytes, path: str | os.PathLike, archive: str | None = None
) -> Image.Image:
    """A picture as 8-bit RGB, of whatever size it has.

    Alpha is dropped, not composited: a transparent pixel keeps its stored colour.
    Grey and palette pictures are expanded, 16 bits are scaled to 8.

    Args:
        content: the bytes of the file.
        path: what an error names.
        archive: as of `datasets.files.fail`.

    Raises:
        DataError: if it is truncated, no PNG, has more than `MAX_PIXELS` pixels, or if
            a part of it does not fit its checksum.
    """
    try:
        _check_chunks(content)
        # By its class: what another format's bytes would start is not wanted here.
        with PngImageFile(io.BytesIO(content)) as opened:
            opened.load()
            image: Image.Image = opened
            if image.mode.startswith("I"):
                # Pillow would clip 16-bit values at 255 instead of scaling them.
                grey = np.clip(np.asarray(image), 0, 65535) // 257
                image = Image.fromarray(grey.astype(np.uint8))
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, EOFError, IndexError) as error:
        fail(path, f"not a readable picture ({error})", archive)


def _check_chunks(content: bytes) -> None:
    """Refuse a PNG that is cut off, altered, or of absurd dimensions.

    Pillow checks neither the checksums of the pixels' chunks nor that the end is there.
    """
    if not content.startswith(SIGNATURE):
        raise ValueError("unknown format, expected PNG")
    at, kind, view = len(SIGNATURE), b"", memoryview(content)
    while kind != b"IEND":
        length = int.from_bytes(content[at : at + 4], "big")
        kind, end = content[at + 4 : at + 8], at + 12 + length
        if end > len(content):
            raise ValueError("the file is truncated")
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(
            view[end - 4 : end], "big"
        ):
            raise ValueError(f"chunk {kind!r} does not fit its checksum")
        if at == len(SIGNATURE):
            if kind != b"IHDR" or length != 13:
                raise ValueError("does not begin with its dimensions")
            width, height = struct.unpack_from(">II", content, at + 8)
            if width * height > MAX_PIXELS:
                raise ValueError(f"{width}x{height} pixels are too many")
        at = end
