"""PNG: what is read, and what each kind of damage says."""

import numpy as np
from PIL import Image

from datasets.png import read_image
from tests.datasets.refusals import refused

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
PIXELS[0, 0] = (10, 200, 30, 0)  # invisible, but its colour is what counts


def read_pixels(path):
    image = read_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


def test_every_mode_becomes_rgb_and_alpha_is_dropped(tmp_path):
    grey = PIXELS[..., 0]
    repeated = np.repeat(grey[..., None], 3, axis=2)
    palette = Image.fromarray(PIXELS[..., :3]).quantize(8)
    palette.info["transparency"] = 0
    for name, image, expected in (
        ("rgba", PIXELS, PIXELS[..., :3]),
        ("rgb", PIXELS[..., :3], PIXELS[..., :3]),
        ("grey", grey, repeated),
        ("grey_alpha", PIXELS[..., [0, 3]], repeated),
        ("grey16", grey.astype(np.uint16) * 257, repeated),
        ("bits", grey > 99, 255 * (repeated > 99)),
        ("palette", palette, np.asarray(palette.convert("RGB"))),
    ):
        image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
        image.save(tmp_path / f"{name}.png")
        pixels = read_pixels(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(pixels, expected, err_msg=name)
    rounded = np.full((5, 7), 512, np.uint16)  # 512 / 257 is 1.99, 512 / 256 is 2
    Image.fromarray(rounded).save(tmp_path / "rounded.png")
    assert (read_pixels(tmp_path / "rounded.png") == 1).all()


def test_what_is_no_png_is_refused(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS[..., :3]).save(tmp_path / "jpeg", "JPEG")
    Image.fromarray(PIXELS).save(path)
    whole = path.read_bytes()
    for content, problem in (
        (b"<html>404</html>", "expected PNG"),
        ((tmp_path / "jpeg").read_bytes(), "expected PNG"),
        (whole[:-50], "truncated"),
    ):
        path.write_bytes(content)
        message = f"{path}: not a readable image"
        refused(lambda: read_image(path), message, problem)
