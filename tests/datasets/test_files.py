"""What an error of a reader says, opening files, and equal points."""

import os
import pickle

import numpy as np
import pytest

from datasets.files import DataError, fail, how_to_get, points_all_equal
from datasets.hdf5 import Field, read_hdf5
from datasets.ply import read_ply
from datasets.png import read_picture
from tests.datasets.refusals import refused


def test_the_cure_names_both_commands():
    sentence = how_to_get("modelnet40")
    assert "bash data/download_data.sh --only modelnet40" in sentence
    assert "python -m datasets.synthetic --out data/synthetic --shapes 480" in sentence
    assert "--data_root data/synthetic" in sentence
    assert "--only" not in how_to_get()


def test_an_error_keeps_what_it_is_about():
    with pytest.raises(DataError) as error:
        fail("some/file", "is bad", "shapenet")
    again = pickle.loads(pickle.dumps(error.value))  # as another process gets it
    assert (again.path, again.problem) == ("some/file", "is bad")
    assert str(again).startswith("some/file: is bad. Real data: ")
    assert DataError("only a text").problem == "only a text"  # as a loader process does


def read_hdf5_labels(path, archive):
    return read_hdf5([path], {"label": Field("label")}, archive=archive)


READERS = [read_ply, read_picture, read_hdf5_labels]


@pytest.mark.parametrize("read", READERS)
def test_what_is_missing_empty_or_no_file(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for a writer
    (tmp_path / "empty").touch()
    for name, problem in (
        ("absent", "file not found"),
        ("empty", "the file is empty"),
        ("pipe", "not a regular file"),
        ("", "not a regular file"),
    ):
        refused(read, tmp_path / name, problem, archive="shapenet")


@pytest.mark.parametrize("read", [read_ply, read_picture])
def test_a_file_too_large_is_not_read(tmp_path, read):
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(1 << 40)  # no block of it is stored
    refused(read, tmp_path / "huge", "1099511627776 bytes", archive="shapenet")


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
