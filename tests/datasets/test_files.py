"""The three file formats: what is read, and what each kind of damage says."""

import os
import re
import struct
import warnings
import zlib

import h5py
import numpy as np
import pytest
from PIL import Image

from datasets.files import (
    POINTS,
    DataError,
    Field,
    how_to_get,
    read_hdf5,
    read_picture,
    read_ply,
)

XYZ = np.array([[1, 2, 3], [-0.5, 0.25, 1e-3], [7, 8, 9]], dtype=np.float32)
CURE = "bash data/download_data.sh --only shapenet`"
LABEL = Field("label", 40)


def refused(read, path, *texts, cure=CURE, **kwargs):
    """The error that reading ends in names the file, the problem and the cure."""
    with pytest.raises(DataError) as error:
        read(path, **kwargs)
    message = str(error.value)
    for text in (str(path), cure, *texts):
        assert text in message, message
    return message


def open_files():
    return set(os.listdir("/proc/self/fd"))


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


# HDF5 --------------------------------------------------------------------------------


def write_hdf5(path, rows=5, points=6, seed=0, **replaced):
    rng = np.random.default_rng(seed)
    content = {
        "data": rng.normal(size=(rows, points, 3)).astype(np.float32),
        "label": rng.integers(0, 40, (rows, 1)).astype(np.uint8),
        "pid": rng.integers(0, 50, (rows, points)).astype(np.uint8),
        "normal": np.zeros((rows, 2, 2)),  # a key nobody asks for
    }
    content.update(replaced)
    with h5py.File(path, "w") as file:
        for key, value in content.items():
            if value is not None:
                file[key] = value
    return content


FIELDS = {"data": POINTS, "label": LABEL, "pid": Field("parts", 50)}


def read_one(path, fields=FIELDS, **kwargs):
    return read_hdf5([path], fields, **kwargs)


def test_read_hdf5_of_several_files_as_one(tmp_path):
    paths = [tmp_path / f"{i}.h5" for i in range(3)]
    parts = [write_hdf5(p, rows=4 + i, seed=i) for i, p in enumerate(paths)]
    for path in paths:
        path.chmod(0o444)
    before = open_files()
    arrays = read_hdf5(paths, FIELDS)
    assert open_files() == before
    assert set(arrays) == set(FIELDS)
    for key, array in arrays.items():
        whole = np.concatenate([part[key] for part in parts])
        np.testing.assert_array_equal(array, whole[:, 0] if key == "label" else whole)
    assert arrays["data"].dtype == np.float32 and arrays["data"].shape == (15, 6, 3)
    assert arrays["label"].dtype == np.int64 and arrays["label"].shape == (15,)
    assert arrays["pid"].dtype == np.int64 and arrays["pid"].shape == (15, 6)
    for rows in (range(0, 3), range(3, 11), range(4, 9), range(14, 15), range(7, 7)):
        some = read_hdf5(paths, FIELDS, rows, num_points=4)
        for key, array in arrays.items():
            expected = array[rows.start : rows.stop]
            expected = expected if key == "label" else expected[:, :4]
            np.testing.assert_array_equal(some[key], expected)


def test_read_hdf5_opens_for_reading_only(tmp_path, monkeypatch):
    write_hdf5(tmp_path / "a.h5")
    modes, original = [], h5py.File

    def opened(path, mode):
        modes.append(mode)
        return original(path, mode)

    monkeypatch.setattr(h5py, "File", opened)
    read_one(tmp_path / "a.h5")
    assert modes == ["r"]


def test_read_hdf5_reads_no_more_than_the_rows_asked_for(tmp_path):
    data = np.zeros((5, 6, 3), np.float32)
    data[0, 0, 0] = data[4, 0, 0] = data[2, 5, 2] = np.nan
    write_hdf5(tmp_path / "a.h5", data=data)
    kept = read_one(tmp_path / "a.h5", rows=range(1, 4), num_points=5)
    assert kept["data"].shape == (3, 5, 3)
    hdf5_refused(tmp_path / "a.h5", "row 2", rows=range(1, 4))


@pytest.mark.parametrize("dtype", ["f2", "f8", "i4", "u1", ">f4"])
def test_read_hdf5_of_other_number_types(tmp_path, dtype):
    values = np.arange(5 * 6 * 3).reshape(5, 6, 3).astype(dtype)
    labels = np.arange(5).astype(dtype)
    write_hdf5(tmp_path / "a.h5", data=values, label=labels)
    arrays = read_one(tmp_path / "a.h5")
    np.testing.assert_array_equal(arrays["data"], values)
    assert arrays["data"].dtype == np.dtype("=f4")
    assert arrays["label"].tolist() == [0, 1, 2, 3, 4]


def test_read_hdf5_of_compressed_constant_labels(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        zeros = np.zeros((200_000, 1), np.uint8)
        file.create_dataset("label", data=zeros, compression="gzip", compression_opts=9)
    assert len(read_one(tmp_path / "a.h5", {"label": LABEL})["label"]) == 200_000


def hdf5_refused(path, *texts, **kwargs):
    def read(path):
        return read_one(path, archive="modelnet40", **kwargs)

    return refused(read, path, *texts, cure="--only modelnet40`")


def test_read_hdf5_that_is_missing_empty_or_none(tmp_path):
    hdf5_refused(tmp_path / "a.h5", "file not found")
    (tmp_path / "a.h5").touch()
    hdf5_refused(tmp_path / "a.h5", "empty")
    (tmp_path / "a.h5").write_text("<html>404</html>")
    hdf5_refused(tmp_path / "a.h5", "not a readable HDF5 file")


def test_read_hdf5_cut_anywhere(tmp_path):
    write_hdf5(tmp_path / "a.h5")
    content = (tmp_path / "a.h5").read_bytes()
    for size in range(1, len(content), 97):
        (tmp_path / "cut.h5").write_bytes(content[:size])
        hdf5_refused(tmp_path / "cut.h5", "not a readable HDF5 file")


def test_read_hdf5_without_a_key(tmp_path):
    write_hdf5(tmp_path / "a.h5", pid=None)
    hdf5_refused(
        tmp_path / "a.h5", "key `pid` not found; keys present: data, label, normal"
    )
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_group("data")
    hdf5_refused(tmp_path / "b.h5", "key `data` not found")


@pytest.mark.parametrize(
    ("replaced", "problem"),
    [
        ({"data": np.zeros((5, 6, 2))}, "`data` holds float64 of shape (5, 6, 2)"),
        ({"data": np.zeros((5, 6))}, "expected numbers of shape (M, P, 3)"),
        ({"label": np.zeros((5, 2), int)}, "expected numbers of shape (M,) or (M, 1)"),
        ({"label": np.array([b"chair"] * 5)}, "`label` holds"),
        ({"pid": np.zeros((5, 6, 1), int)}, "expected numbers of shape (M, P)"),
        ({"label": np.zeros((4, 1), int)}, "shapes do not agree"),
        ({"data": np.zeros((6, 6, 3))}, "shapes do not agree"),
        ({"pid": np.zeros((5, 7), int)}, "shapes do not agree"),
        ({"label": np.array([0, 1, 40, 2, 3])}, "`label`, row 2 has a value"),
        ({"label": np.array([0, -1, 4, 2, 3])}, "`label`, row 1 has a value"),
        ({"label": np.array([0, 1, 4, 2.5, 3])}, "`label`, row 3 has a value"),
        ({"label": np.array([0, 1, 4, 2, np.nan])}, "`label`, row 4 has a value"),
        ({"pid": np.full((5, 6), 50)}, "`pid`, row 0 has a value"),
        ({"data": np.full((5, 6, 3), np.nan)}, "`data`, row 0 has a non-finite"),
        ({"data": np.full((5, 6, 3), 1e39)}, "`data`, row 0 has a non-finite"),
    ],
)
def test_read_hdf5_that_holds_something_else(tmp_path, replaced, problem):
    write_hdf5(tmp_path / "a.h5", **replaced)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hdf5_refused(tmp_path / "a.h5", problem)


def test_read_hdf5_of_a_shape_without_data_behind_it(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("data", (10**9, 2048, 3), "f4", chunks=(1, 2048, 3))
    hdf5_refused(tmp_path / "a.h5", "stores no such data", fields={"data": POINTS})


def test_read_hdf5_of_fewer_points_than_asked_for(tmp_path):
    write_hdf5(tmp_path / "a.h5")
    with pytest.raises(DataError) as error:
        read_one(tmp_path / "a.h5", num_points=7)
    pattern = r"a\.h5: stores 6 points a shape, fewer than the 7 .*--num_points 6"
    assert re.search(pattern, str(error.value))
    with pytest.raises(ValueError, match="--num_points must be at least 1"):
        read_one(tmp_path / "a.h5", num_points=0)


def test_read_hdf5_of_files_with_clouds_of_unlike_size(tmp_path):
    paths = [tmp_path / "a.h5", tmp_path / "b.h5"]
    write_hdf5(paths[0], points=6)
    write_hdf5(paths[1], points=8)
    with pytest.raises(DataError, match=r"unlike size: a\.h5 6, b\.h5 8"):
        read_hdf5(paths, FIELDS)
    assert read_hdf5(paths, FIELDS, num_points=6)["data"].shape == (10, 6, 3)


def test_read_hdf5_names_the_file_of_several_that_is_damaged(tmp_path):
    paths = [tmp_path / "a.h5", tmp_path / "b.h5"]
    write_hdf5(paths[0])
    write_hdf5(paths[1], label=np.array([0, 0, 99, 0, 0]))
    with pytest.raises(DataError, match=r"b\.h5: key `label`, row 2 "):
        read_hdf5(paths, FIELDS)
