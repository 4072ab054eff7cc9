"""PLY and PNG files: what is read, what each kind of damage says, and equal points."""

import os
import pickle
import struct
import warnings
from functools import partial

import numpy as np
import pytest
from PIL import Image

from datasets.files import DataError, fail, points_all_equal, read_image, read_ply
from datasets.hdf5 import read_hdf5
from tests.datasets.helpers import ply, refused, write_h5


@pytest.mark.parametrize(
    ("path", "only"),
    [
        ("data/ShapeNet/02/x.ply", "shapenet"),
        ("data/ShapeNetRendering", "shapenet"),
        ("data/modelnet40_ply_hdf5_2048/x.h5", "modelnet40"),
        ("ShapeNet/ScanObjectNN/train.h5", "scanobjectnn"),
        ("data/h5_files/main_split/x.h5", "scanobjectnn"),
        ("data/shapenet_part_seg_hdf5_data", "shapenetpart"),
        ("data/mine/x.ply", ""),
    ],
)
def test_an_error_names_the_file_the_problem_and_the_remedy(path, only):
    problem = f"{path}: is bad. Real data: "
    generate = "`python -m datasets.synthetic --out data/synthetic --shapes 480`"
    refused(lambda: fail(path, "is bad"), problem, generate, only=only)


def test_an_error_keeps_what_it_is_about():
    with pytest.raises(DataError) as error:
        fail("some/file", "is bad")
    again = pickle.loads(pickle.dumps(error.value))  # as another process gets it
    assert (again.path, again.problem) == ("some/file", "is bad")
    assert str(again) == str(error.value)
    assert DataError("only a text").problem == "only a text"  # as a loader process does


def read_labels(path):
    return read_hdf5([path], {"label": 9})


READERS = [read_ply, read_image, read_labels]


@pytest.mark.parametrize("read", READERS)
def test_what_is_missing_empty_or_no_file(tmp_path, read):
    (tmp_path / "empty").touch()
    for name, problem in (
        ("absent", "file not found"),
        ("empty", "the file is empty"),
        ("", "cannot be read (Is a directory)"),
    ):
        path = tmp_path / name
        refused(partial(read, path), f"{path}: {problem}")


def test_files_are_closed_whether_they_are_good_or_damaged(tmp_path):
    before = set(os.listdir("/proc/self/fd"))
    path = tmp_path / "file"
    Image.new("RGB", (2, 2)).save(path, "PNG")
    read_image(path)
    path.write_text(ply(1, "1 2 3\n"))
    read_ply(path)
    write_h5(path, label=[0, 1])
    read_labels(path)
    path.write_bytes(path.read_bytes()[:-9])
    for read in READERS:
        refused(partial(read, path), f"{path}: not a readable")
    assert set(os.listdir("/proc/self/fd")) == before


def test_points_all_equal():
    clouds = np.random.default_rng(0).normal(size=(5, 7, 3)).astype(np.float32)
    clouds[1] = clouds[1, 0]
    clouds[3] = clouds[3, 0]
    clouds[3, 4, 2] += 1  # neither the first nor the last
    clouds[4, -1] = clouds[4, 0]
    assert points_all_equal(clouds).tolist() == [False, True, False, False, False]
    assert points_all_equal(clouds[1]) and not points_all_equal(clouds[0])
    assert not points_all_equal(clouds[1, :1])  # one point is no damage
    assert points_all_equal(clouds[:0]).shape == (0,)


# PLY

XYZ = np.array([[1, 2, 3], [-0.5, 0.25, 1e-3], [7, 8, 9]], dtype=np.float32)


def write_ply(path, kind, real):
    """XYZ among other elements and properties, by hand, with y and z swapped around."""
    lines = ["ply", f"format {kind} 1.0", "comment made by hand"]
    lines += ["element camera 2", "property int id", "property double focal"]
    lines += ["element vertex 3", f"property {real} x", "property uchar red"]
    lines += [f"property {real} z", f"property {real} y", "property short quality"]
    lines += ["element face 2", "property list uchar int vertex_indices", "end_header"]
    body = b""
    if kind == "ascii":
        lines += ["1 35.5", "2 50.0"]
        lines += [f"{x:.9g} 200 {z:.9g} {y:.9g} -5" for x, y, z in XYZ]
        lines += ["3 0 1 2", "4 0 1 2 0"]
    else:
        order, code = "<" if "little" in kind else ">", real[0]
        body += struct.pack(f"{order}idid", 1, 35.5, 2, 50.0)
        for x, y, z in XYZ:
            body += struct.pack(f"{order}{code}B{code}{code}h", x, 200, z, y, -5)
        body += struct.pack(f"{order}B3iB4i", 3, 0, 1, 2, 4, 0, 1, 2, 0)
    path.write_bytes(("\n".join(lines) + "\n").encode() + body)


@pytest.mark.parametrize("real", ["float", "double"])
@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_read_ply(tmp_path, kind, real):
    write_ply(tmp_path / "a.ply", kind, real)
    points = read_ply(tmp_path / "a.ply")
    np.testing.assert_array_equal(points, XYZ)
    assert points.dtype == np.float32 and points.flags.writeable
    points[:] = 0  # the file is not mapped into what is returned
    np.testing.assert_array_equal(read_ply(tmp_path / "a.ply"), XYZ)


def test_read_ply_with_dos_line_ends_and_no_last_one(tmp_path):
    (tmp_path / "a.ply").write_text(ply(1, "1 2 3"), newline="\r\n")
    np.testing.assert_array_equal(read_ply(tmp_path / "a.ply"), [[1, 2, 3]])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("solid stl\n", "not a readable PLY"),
        ("ply\nformat ascii 1.0\nelement vertex 1\n", "not a readable PLY"),
        (ply("many"), "not a readable PLY"),
        ("ply\nformat ascii 1.0\nelement face 0\nend_header\n", "vertex"),
        (ply(1, "1 2 3\n").replace("y\n", "w\n"), "not a readable PLY"),
        (ply(0), "holds no vertices"),
        (ply(3, "1 2 3\n" * 3), "3 points are equal"),
        (ply(4, "1 2 3\n" * 3), "early end-of-file"),
        (ply(10**12, "1 2 3\n" * 3), "not a readable"),
        (ply(10**12, "1" * 99, "binary_little_endian"), "early"),
        (ply(1, "2 1 1 2 3\n").replace("float x", "list uchar float x"), "readable"),
        (ply(3, "1 2 3\n1 2 4\n1 2 nan\n"), "vertex 2 has a non-finite"),
        (ply(3, "1 2 3\n1 inf 3\n1 2 4\n"), "vertex 1 has a non-finite"),
        (ply(1, "1e39 2 3\n").replace("float", "double"), "vertex 0 has a non-finite"),
    ],
)
def test_read_ply_that_is_damaged_or_lacks_something(tmp_path, content, problem):
    path = tmp_path / "a.ply"
    path.write_text(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        refused(lambda: read_ply(path), f"{path}: ", problem)


# PNG

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
PIXELS[0, 0] = (10, 200, 30, 0)  # invisible, but its colour is what counts


def test_every_mode_becomes_rgb_and_alpha_is_dropped(tmp_path):
    rgb, grey = PIXELS[..., :3], PIXELS[..., 0]
    repeated = np.repeat(grey[..., None], 3, axis=2)
    palette = Image.fromarray(rgb).quantize(8)
    palette.info["transparency"] = 0
    rounded = np.full((5, 7), 512, np.uint16)  # 512 / 257 is 1.99, 512 / 256 is 2
    for name, image, expected in (
        ("rgba", PIXELS, rgb),
        ("rgb", rgb, rgb),
        ("grey", grey, repeated),
        ("grey_alpha", PIXELS[..., [0, 3]], repeated),
        ("grey16", grey.astype(np.uint16) * 257, repeated),
        ("grey16 rounded", rounded, np.ones_like(repeated)),
        ("bits", grey > 99, 255 * (repeated > 99)),
        ("palette", palette, np.asarray(palette.convert("RGB"))),
    ):
        image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
        image.save(tmp_path / f"{name}.png")
        actual = read_image(tmp_path / f"{name}.png")
        assert actual.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(actual), expected, err_msg=name)


def test_what_is_no_png_is_refused(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS[..., :3]).save(tmp_path / "jpeg", "JPEG")
    Image.fromarray(PIXELS).save(path)
    for content, problem in (
        (b"<html>404</html>", "expected PNG"),
        ((tmp_path / "jpeg").read_bytes(), "expected PNG"),
        (path.read_bytes()[:-50], "truncated"),
    ):
        path.write_bytes(content)
        message = f"{path}: not a readable image"
        refused(lambda: read_image(path), message, problem)
