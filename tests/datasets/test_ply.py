"""PLY: what is read, and what each kind of damage says."""

import struct
import warnings

import numpy as np
import pytest

from datasets.ply import read_ply
from tests.datasets.refusals import refused

XYZ = np.array([[1, 2, 3], [-0.5, 0.25, 1e-3], [7, 8, 9]], dtype=np.float32)
KINDS = ["ascii", "binary_little_endian", "binary_big_endian"]


def ply_header(kind, real):
    lines = ["ply", f"format {kind} 1.0", "comment made by hand"]
    lines += ["element camera 2", "property int id", "property double focal"]
    lines += ["element vertex 3", f"property {real} x", "property uchar red"]
    lines += [f"property {real} z", f"property {real} y", "property short quality"]
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
    path.write_bytes(ply_header(kind, real) + body)


@pytest.mark.parametrize("real", ["float", "double"])
@pytest.mark.parametrize("kind", KINDS)
def test_read_ply(tmp_path, kind, real):
    write_ply(tmp_path / "a.ply", kind, real)
    points = read_ply(tmp_path / "a.ply")
    np.testing.assert_array_equal(points, XYZ)
    assert points.dtype == np.float32 and points.flags.writeable
    points[:] = 0  # the file is not mapped into what is returned
    np.testing.assert_array_equal(read_ply(tmp_path / "a.ply"), XYZ)


HEADER = "ply\nformat {}\nelement vertex {}\n" + "".join(
    f"property float {axis}\n" for axis in "xyz"
)
ASCII, BINARY = "ascii 1.0", "binary_little_endian 1.0"


def text(count, body="", kind=ASCII):
    return HEADER.format(kind, count) + "end_header\n" + body


def test_read_ply_with_dos_line_ends_and_no_last_one(tmp_path):
    content = text(1, "1 2 3").replace("\n", "\r\n").encode()
    (tmp_path / "a.ply").write_bytes(content)
    np.testing.assert_array_equal(read_ply(tmp_path / "a.ply"), [[1, 2, 3]])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("solid stl\n", "not a readable PLY"),
        ("ply\nformat ascii 1.0\nelement vertex 1\n", "not a readable PLY"),
        (text("many"), "not a readable PLY"),
        ("ply\nformat ascii 1.0\nelement face 0\nend_header\n", "vertex"),
        (text(1, "1 2 3\n").replace("y\n", "w\n"), "not a readable PLY"),
        (text(0), "holds no vertices"),
        (text(3, "1 2 3\n" * 3), "3 points are equal"),
        (text(4, "1 2 3\n" * 3), "early end-of-file"),
        (text(10**12, "1 2 3\n" * 3), "not a readable"),
        (text(10**12, "1" * 99, BINARY), "early"),
        (text(1, "2 1 1 2 3\n").replace("float x", "list uchar float x"), "readable"),
        (text(3, "1 2 3\n1 2 4\n1 2 nan\n"), "vertex 2 has a non-finite"),
        (text(3, "1 2 3\n1 inf 3\n1 2 4\n"), "vertex 1 has a non-finite"),
        (text(1, "1e39 2 3\n").replace("float", "double"), "vertex 0 has a non-finite"),
    ],
)
def test_read_ply_that_is_damaged_or_lacks_something(tmp_path, content, problem):
    path = tmp_path / "a.ply"
    path.write_text(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        refused(lambda: read_ply(path), f"{path}: ", problem)
