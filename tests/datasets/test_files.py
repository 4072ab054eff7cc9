"""What an error of a reader says, missing and empty files, and equal points."""

import pickle

import numpy as np
import pytest

from datasets.files import DataError, fail, points_all_equal
from datasets.hdf5 import Field, read_hdf5
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
def test_an_error_names_the_file_the_problem_and_the_cure(path, only):
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
    return read_hdf5([path], {"label": Field("label")})


@pytest.mark.parametrize("read", [read_ply, read_image, read_labels])
def test_what_is_missing_empty_or_no_file(tmp_path, read):
    (tmp_path / "empty").touch()
    for name, problem in (
        ("absent", "file not found"),
        ("empty", "the file is empty"),
        ("", "cannot be read (Is a directory)"),
    ):
        path = tmp_path / name
        refused(lambda path=path: read(path), f"{path}: {problem}")


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
