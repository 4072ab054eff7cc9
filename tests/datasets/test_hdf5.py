"""HDF5: what is read, and what each kind of damage says."""

import warnings

import h5py
import numpy as np
import pytest

from datasets.files import DataError
from datasets.hdf5 import read_hdf5
from tests.datasets.helpers import refused, write_h5


def write_hdf5(path, rows=5, points=6, seed=0, **replaced):
    rng = np.random.default_rng(seed)
    content = {
        "data": rng.normal(size=(rows, points, 3)).astype(np.float32),
        "label": rng.integers(0, 40, (rows, 1)).astype(np.uint8),
        "pid": rng.integers(0, 50, (rows, points)).astype(np.uint8),
        "normal": np.zeros((rows, 2, 2)),  # a key nobody asks for
    }
    content = {k: v for k, v in (content | replaced).items() if v is not None}
    write_h5(path, **content)
    return content


FIELDS = {"data": None, "label": 40, "pid": 50}


def read_one(path, fields=FIELDS, **kwargs):
    return read_hdf5([path], fields, **kwargs)


def test_read_hdf5_of_several_files_as_one(tmp_path):
    paths = [tmp_path / f"{i}.h5" for i in range(3)]
    parts = [write_hdf5(p, rows=4 + i, seed=i) for i, p in enumerate(paths)]
    arrays = read_hdf5(paths, FIELDS)
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


def test_read_hdf5_reads_no_more_than_the_rows_asked_for(tmp_path):
    data = np.arange(90, dtype=np.float32).reshape(5, 6, 3)
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


def hdf5_refused(path, *texts, **kwargs):
    refused(lambda: read_one(path, **kwargs), f"{path}: ", *texts)


def test_read_hdf5_cut_anywhere_or_no_hdf5(tmp_path):
    path = tmp_path / "a.h5"
    write_hdf5(path)
    content = path.read_bytes()
    cut = [content[:size] for size in range(1, len(content), 499)]
    for case in (*cut, b"<html>404</html>"):
        path.write_bytes(case)
        hdf5_refused(path, "not a readable HDF5 file")


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
        ({"data": np.full((5, 6, 3), 2.0)}, "row 0: all of its points are equal"),
        ({"data": np.zeros((5, 0, 3))}, "which holds nothing"),
        ({"data": np.zeros((0, 6, 3))}, "which holds nothing"),
        ({"label": np.full(5, 2**64 - 1, np.uint64)}, "`label`, row 0 has a value"),
        ({"label": np.full(5, 1e30)}, "`label`, row 0 has a value"),
        ({"label": h5py.Empty("f4")}, "`label` holds float32 of shape ()"),
        ({"data": np.zeros((5, 6, 3), "c8")}, "`data` holds complex64"),
        ({"pid": None}, "key `pid` not found; keys present: data, label, normal"),
        ({"data": None, "data/x": 1}, "key `data` not found"),  # a group
    ],
)
def test_read_hdf5_that_holds_something_else(tmp_path, replaced, problem):
    write_hdf5(tmp_path / "a.h5", **replaced)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hdf5_refused(tmp_path / "a.h5", problem)


def test_read_hdf5_of_fewer_points_than_asked_for(tmp_path):
    write_hdf5(tmp_path / "a.h5")
    problem = r"a\.h5: stores 6 points a shape, fewer than the 7 .*--num_points 6"
    with pytest.raises(DataError, match=problem):
        read_one(tmp_path / "a.h5", num_points=7)
    with pytest.raises(ValueError, match=r"num_points 0 is below 1 \(--num_points\)"):
        read_one(tmp_path / "a.h5", num_points=0)


def test_read_hdf5_of_several_files_that_do_not_agree(tmp_path):
    paths = [tmp_path / "a.h5", tmp_path / "b.h5"]
    write_hdf5(paths[0], points=6)
    write_hdf5(paths[1], points=8)
    with pytest.raises(DataError, match=r"different sizes: a\.h5 6, b\.h5 8"):
        read_hdf5(paths, FIELDS)
    assert read_hdf5(paths, FIELDS, num_points=6)["data"].shape == (10, 6, 3)
