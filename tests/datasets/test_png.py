"""PNG: what is read, and what each kind of damage says."""

import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from datasets.files import DataError
from datasets.png import read_picture
from tests.datasets.refusals import open_files, refused

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
PIXELS[0, 0] = (10, 200, 30, 0)  # invisible, but its colour is what counts


def read_pixels(path):
    before = open_files()
    image = read_picture(path)
    assert open_files() == before
    assert image.mode == "RGB"
    return np.asarray(image)


def test_read_picture_drops_alpha_and_does_not_composite(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "rgba.png")
    Image.fromarray(PIXELS[..., :3]).save(tmp_path / "rgb.png")
    for name in ("rgba.png", "rgb.png"):
        np.testing.assert_array_equal(read_pixels(tmp_path / name), PIXELS[..., :3])


def test_read_picture_of_other_modes(tmp_path):
    grey = PIXELS[..., 0]
    repeated = np.repeat(grey[..., None], 3, axis=2)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(PIXELS[..., [0, 3]]).save(tmp_path / "grey_alpha.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "grey16.png")
    for name in ("grey", "grey_alpha", "grey16"):
        np.testing.assert_array_equal(read_pixels(tmp_path / f"{name}.png"), repeated)
    palette = Image.fromarray(PIXELS[..., :3]).quantize(8)
    palette.save(tmp_path / "palette.png", transparency=0)
    np.testing.assert_array_equal(
        read_pixels(tmp_path / "palette.png"), np.asarray(palette.convert("RGB"))
    )
    Image.fromarray(grey > 99).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(
        read_pixels(tmp_path / "bits.png"), 255 * (repeated > 99)
    )


def picture_refused(path, *texts):
    return refused(read_picture, path, *texts, archive="shapenet")


def test_read_picture_that_is_missing_empty_or_none(tmp_path):
    picture_refused(tmp_path / "00.png", "file not found")
    (tmp_path / "00.png").touch()
    picture_refused(tmp_path / "00.png", "empty")
    (tmp_path / "00.png").write_text("<html>404</html>")
    picture_refused(tmp_path / "00.png", "not a readable picture", "unknown format")


def test_read_picture_cut_anywhere(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    pixels_end = content.index(b"IEND") - 8  # all pixels and their checksum
    for size in range(1, pixels_end):
        (tmp_path / "cut.png").write_bytes(content[:size])
        try:
            # What is behind the last pixel may be missing, but never a pixel.
            whole = read_pixels(tmp_path / "cut.png")
        except DataError:
            picture_refused(tmp_path / "cut.png", "not a readable picture")
        else:
            np.testing.assert_array_equal(whole, PIXELS[..., :3])
            assert size > pixels_end - 8


@pytest.mark.parametrize("side", [9000, 30_000, 2**31 - 1])
def test_read_picture_of_absurd_dimensions(tmp_path, side):
    def chunk(name, data):
        checksum = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    content += chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        picture_refused(tmp_path / "bomb.png", "not a readable picture", "pixels")
