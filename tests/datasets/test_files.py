"""What an error of a reader says, missing and empty files, and equal points."""

import os
import pickle

import h5py
import numpy as np
import pytest
from PIL import Image

from datasets.files import DataError, fail, points_all_equal
from datasets.hdf5 import read_hdf5
from datasets.ply import read_ply
from datasets.png import read_image
from tests.datasets.refusals import refused


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
        refused(lambda path=path: read(path), f"{path}: {problem}")


def test_files_are_closed_whether_they_are_good_or_damaged(tmp_path):
    before = set(os.listdir("/proc/self/fd"))
    path = tmp_path / "file"
    Image.new("RGB", (2, 2)).save(path, "PNG")
    read_image(path)
    path.write_text(
        "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\n"
        "property float y\nproperty float z\nend_header\n1 2 3\n"
    )
    read_ply(path)
    with h5py.File(path, "w") as file:
        file["label"] = [0, 1]
    read_labels(path)
    path.write_bytes(path.read_bytes()[:-9])
    for read in READERS:
        refused(lambda read=read: read(path), f"{path}: not a readable")
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
