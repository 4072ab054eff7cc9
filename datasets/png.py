"""Images in PNG files."""

from __future__ import annotations

import io
import os

import numpy as np
from PIL import Image, UnidentifiedImageError

from datasets.files import fail, open_file

# A rendering has 137x137 pixels; an image this large is a mistake.
MAX_PIXELS = 1 << 24
MAX_BYTES = 8 * MAX_PIXELS + (1 << 20)  # 16-bit RGBA that does not compress


def read_picture(path: str | os.PathLike, archive: str | None = None) -> Image.Image:
    """An image as 8-bit RGB, see :func:`decode_picture`.

    Raises:
        DataError: if the file is missing, empty, damaged, no PNG, or has more than
            `MAX_PIXELS` pixels.
    """
    with open_file(path, archive, MAX_BYTES) as stream:
        return decode_picture(stream.read(), path, archive)


def decode_picture(
    content: bytes, path: str | os.PathLike, archive: str | None = None
) -> Image.Image:
    """An image as 8-bit RGB, of whatever size it has.

    Alpha is dropped, not composited: a transparent pixel keeps its stored colour.
    Grey and palette images are expanded, 16 bits are scaled to 8.

    Args:
        content: the bytes of the file.
        path: what an error names.
        archive: as of `datasets.files.fail`.

    Raises:
        DataError: if it is damaged, no PNG, or has more than `MAX_PIXELS` pixels.
    """
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise ValueError(f"{opened.width}x{opened.height} pixels are too many")
            opened.load()
            image: Image.Image = opened
            if image.mode.startswith("I"):
                # Pillow would clip 16-bit values at 255 instead of scaling them.
                grey = np.clip(np.asarray(image), 0, 65535) // 257
                image = Image.fromarray(grey.astype(np.uint8))
            return image.convert("RGB")
    except UnidentifiedImageError:
        fail(path, "not a readable picture (expected PNG)", archive)
    except (OSError, SyntaxError, ValueError, EOFError, IndexError) as error:
        fail(path, f"not a readable picture ({error})", archive)
    except Image.DecompressionBombError as error:
        fail(path, f"not a readable picture ({error})", archive)
