"""PLY: what is read, and what each kind of damage says."""

import struct
import warnings

import numpy as np
import pytest
from plyfile import PlyData

from datasets.ply import read_ply
from tests.datasets.refusals import open_files, refused

XYZ = np.array([[1, 2, 3], [-0.5, 0.25, 1e-3], [7, 8, 9]], dtype=np.float32)


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
        (b"ply\nformat ascii 1.0\nelement vertex -1\nend_header\n", "header line"),
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


@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian"])
def test_read_ply_whose_points_are_all_equal(tmp_path, kind):
    header = ply_header(kind, 3, extra_element=False)
    row = b"1 0 2 3 0\n" if kind == "ascii" else struct.pack("<fBffh", 1, 0, 2, 3, 0)
    (tmp_path / "a.ply").write_bytes(header + row * 3)
    ply_refused(tmp_path / "a.ply", "all of its 3 points are equal")


def test_read_ply_without_vertices_in_binary(tmp_path):
    header = ply_header("binary_big_endian", 0, extra_element=False)
    (tmp_path / "a.ply").write_bytes(header)
    ply_refused(tmp_path / "a.ply", "holds no vertices")


def test_read_ply_with_lists_before_the_vertices(tmp_path):
    lines = ["ply", "format binary_little_endian 1.0", "element strip 2"]
    lines += ["property uchar a", "property list ushort int ids", "element vertex 2"]
    lines += [f"property float {axis}" for axis in "xyz"]
    header = ("\n".join([*lines, "end_header"]) + "\n").encode()
    body = struct.pack("<BHBHii", 7, 0, 7, 2, -5, 5) + struct.pack("<6f", *range(6))
    path = tmp_path / "a.ply"
    path.write_bytes(header + body)
    np.testing.assert_array_equal(read_ply(path), [[0, 1, 2], [3, 4, 5]])
    for size in range(len(body)):
        path.write_bytes(header + body[:size])
        ply_refused(path, "truncated")


@pytest.mark.parametrize("length", ["uint", "int"])
def test_read_ply_of_a_list_that_claims_more_than_there_is(tmp_path, length):
    lines = ["ply", "format binary_little_endian 1.0", "element vertex 1"]
    lines += [f"property float {axis}" for axis in "xyz"]
    lines += ["element face 1", f"property list {length} double a", "end_header", ""]
    content = "\n".join(lines).encode() + bytes(12)
    for claim in (2**31 - 1, 2**32 - 1):
        (tmp_path / "a.ply").write_bytes(content + claim.to_bytes(4, "little"))
        ply_refused(tmp_path / "a.ply", "not a readable PLY")


@pytest.mark.parametrize("line", ["property float x", "property float y 1", "what"])
def test_read_ply_with_a_header_line_too_many(tmp_path, line):
    lines = ["ply", "format ascii 1.0", "element vertex 1"]
    lines += [*(f"property float {axis}" for axis in "xyz"), line, "end_header"]
    (tmp_path / "a.ply").write_text("\n".join([*lines, "1 2 3 4"]))
    ply_refused(tmp_path / "a.ply", "header")


def test_read_ply_as_plyfile_does(synthetic_root):
    paths = sorted(synthetic_root.glob("ShapeNet/*/*.ply"))
    for path in paths:
        vertex = PlyData.read(path)["vertex"]
        expected = np.stack([vertex[axis] for axis in "xyz"], 1)
        np.testing.assert_array_equal(read_ply(path), expected)
    assert {path.read_bytes()[11:12] for path in paths} == {b"a", b"b"}  # both kinds
