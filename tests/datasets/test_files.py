"""PLY and PNG: what is read, and what each kind of damage says."""

import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from datasets.files import DataError, how_to_get, read_picture, read_ply
from tests.datasets.refusals import open_files, refused

XYZ = np.array([[1, 2, 3], [-0.5, 0.25, 1e-3], [7, 8, 9]], dtype=np.float32)


def test_the_cure_names_both_commands():
    sentence = how_to_get("modelnet40")
    assert "bash data/download_data.sh --only modelnet40" in sentence
    assert "python -m datasets.synthetic --out data/synthetic --shapes 480" in sentence
    assert "--data_root data/synthetic" in sentence
    assert "--only" not in how_to_get()


# PLY ---------------------------------------------------------------------------------


def ply_header(kind, count=3, extra_element=True, real="float", comment="made by hand"):
    lines = ["ply", f"format {kind} 1.0", f"comment {comment}"]
    if extra_element:
        lines += ["element camera 2", "property int id", "property double focal"]
    lines += [f"element vertex {count}", f"property {real} x", "property uchar red"]
    lines += [f"property {real} z", f"property {real} y", "property short quality"]
    if extra_element:
        lines += ["element face 2", "property list uchar int vertex_indices"]
    return ("\n".join([*lines, "end_header"]) + "\n").encode()


def write_ply(path, kind, real="float"):
    """XYZ among other elements and properties, by hand, with y and z swapped around."""
    body = b""
    if kind == "ascii":
        lines = ["1 35.5", "2 50.0"]
        lines += [f"{x:.9g} 200 {z:.9g} {y:.9g} -5" for x, y, z in XYZ]
        lines += ["3 0 1 2", "4 0 1 2 0"]
        body = ("\n".join(lines) + "\n").encode()
    else:
        order, code = "<" if "little" in kind else ">", "f" if real == "float" else "d"
        body += struct.pack(f"{order}idid", 1, 35.5, 2, 50.0)
        for x, y, z in XYZ:
            body += struct.pack(f"{order}{code}B{code}{code}h", x, 200, z, y, -5)
        body += struct.pack(f"{order}B3iB4i", 3, 0, 1, 2, 4, 0, 1, 2, 0)
    path.write_bytes(ply_header(kind, real=real) + body)


@pytest.mark.parametrize("real", ["float", "double"])
@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_read_ply(tmp_path, kind, real):
    write_ply(tmp_path / "a.ply", kind, real)
    before = open_files()
    points = read_ply(tmp_path / "a.ply")
    assert open_files() == before
    np.testing.assert_array_equal(points, XYZ)
    assert points.dtype == np.float32 and points.flags.writeable
    points[:] = 0  # the file is not mapped into what is returned
    np.testing.assert_array_equal(read_ply(tmp_path / "a.ply"), XYZ)


def test_read_ply_with_dos_line_ends_and_no_last_one(tmp_path):
    text = ply_header("ascii", 1, extra_element=False).replace(b"\n", b"\r\n")
    (tmp_path / "a.ply").write_bytes(text + b"1 0 2 3 0")
    np.testing.assert_array_equal(read_ply(tmp_path / "a.ply"), [[1, 3, 2]])


def ply_refused(path, *texts):
    return refused(read_ply, path, *texts, archive="shapenet")


def test_read_ply_that_is_missing_or_empty(tmp_path):
    ply_refused(tmp_path / "a.ply", "file not found")
    (tmp_path / "a.ply").touch()
    ply_refused(tmp_path / "a.ply", "empty")
    (tmp_path / "b.ply").mkdir()
    ply_refused(tmp_path / "b.ply", "cannot be read")


@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_read_ply_cut_anywhere(tmp_path, kind):
    write_ply(tmp_path / "whole.ply", kind)
    content = (tmp_path / "whole.ply").read_bytes()
    cut = tmp_path / "cut.ply"
    # From an ASCII file the end of the last number can go unseen: cut off a line more.
    for size in range(1, len(content) - (10 if kind == "ascii" else 0)):
        cut.write_bytes(content[:size])
        ply_refused(cut, "not a readable PLY file")


@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian"])
@pytest.mark.parametrize("count", [10**12, 10**30, 4])
def test_read_ply_whose_header_claims_more_than_there_is(tmp_path, kind, count):
    body = b"1 0 2 3 0\n" * 3 if kind == "ascii" else bytes(15 * 3)
    path = tmp_path / "a.ply"
    path.write_bytes(ply_header(kind, count, extra_element=False) + body)
    texts = ["truncated", "claims"] if count > 4 or kind != "ascii" else []
    ply_refused(path, *texts)


def test_read_ply_with_a_huge_count_in_another_element(tmp_path):
    for properties in ([], ["property uchar a"], ["property list uchar int a"]):
        lines = ["ply", "format binary_little_endian 1.0", "element vertex 1"]
        lines += ["property float x", "property float y", "property float z"]
        lines += ["element other 1000000000000", *properties, "end_header", ""]
        (tmp_path / "a.ply").write_bytes("\n".join(lines).encode() + bytes(12))
        ply_refused(tmp_path / "a.ply", "truncated")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"solid stl\n", "no complete PLY header"),
        (b"ply\nformat ascii 1.0\nelement vertex 1\n", "no complete PLY header"),
        (b"ply\nformat ascii 1.0\nelement vertex -1\nend_header\n", "element line"),
        (b"ply\nformat ascii 1.0\nelement vertex many\nend_header\n", "many"),
        (b"ply\nformat ascii 1.0\nelement face 0\nend_header\n", "no element `vertex`"),
        (
            b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\n"
            b"property float w\nend_header\n1 2\n",
            "vertices lack y, z",
        ),
        (
            b"ply\nformat ascii 1.0\nelement vertex 0\nproperty float x\n"
            b"property float y\nproperty float z\nend_header\n",
            "no vertices",
        ),
        (
            b"ply\nformat ascii 1.0\nelement vertex 1\nproperty list uchar float x\n"
            b"property float y\nproperty float z\nend_header\n2 1 1 2 3\n",
            "not a readable PLY",
        ),
    ],
)
def test_read_ply_that_is_not_one_or_lacks_something(tmp_path, content, problem):
    (tmp_path / "a.ply").write_bytes(content)
    ply_refused(tmp_path / "a.ply", problem)


@pytest.mark.parametrize("bad", ["nan", "inf", "1e39"])
def test_read_ply_with_a_non_finite_coordinate(tmp_path, bad):
    header = ply_header("ascii", 3, extra_element=False, real="double")
    body = f"1 0 2 3 0\n1 0 2 3 0\n1 0 2 {bad} 0\n"
    (tmp_path / "a.ply").write_bytes(header + body.encode())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ply_refused(tmp_path / "a.ply", "vertex 2", "non-finite")


# Pictures ----------------------------------------------------------------------------

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
