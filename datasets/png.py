"""Images in PNG files."""

from __future__ import annotations

import io
import os

import numpy as np
from PIL import Image, UnidentifiedImageError

from datasets.files import fail, open_file


def read_image(path: str | os.PathLike) -> Image.Image:
    """An image as 8-bit RGB, see :func:`decode_image`.

    Raises:
        DataError: if the file is missing, empty, damaged, or no PNG.
    """
    with open_file(path) as stream:
        return decode_image(stream.read(), path)


def decode_image(content: bytes, path: str | os.PathLike) -> Image.Image:
    """An image as 8-bit RGB, of whatever size it has.

    Alpha is dropped, not composited: a transparent pixel keeps its stored colour.
    Grey and palette images are expanded, 16 bits are scaled to 8.

    Args:
        content: the bytes of the file.
        path: what an error names.

    Raises:
        DataError: if it is damaged, no PNG, or of more pixels than Pillow accepts.
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
