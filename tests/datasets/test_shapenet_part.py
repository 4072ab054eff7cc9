"""ShapeNetPart: splits, parts, categories, order of the points."""

from functools import partial

import h5py
import numpy as np
import pytest
import torch

from datasets.files import DataError
from datasets.shapenet_part import (
    CATEGORIES,
    FIRST_PART,
    NUM_PARTS,
    PARTS_PER_CATEGORY,
    ShapeNetPart,
)
from datasets.transforms import shuffle_points
from tests.datasets import helpers
from tests.datasets.helpers import check_shards, write_h5

STORED = 12


def write(path, labels, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.asarray(labels)
    first = np.asarray(FIRST_PART)[labels][:, None]
    count = np.asarray(PARTS_PER_CATEGORY)[labels][:, None]
    points = rng.normal(size=(len(labels), STORED, 3)).astype(np.float32)
    parts = (first + rng.integers(0, 60, (len(labels), STORED)) % count).astype("u1")
    write_h5(path, data=points, label=labels.astype("u1")[:, None], pid=parts)


@pytest.fixture
def root(tmp_path):
    folder = folder_of(tmp_path)
    write(folder / "ply_data_train0.h5", range(16), seed=0)
    write(folder / "ply_data_train1.h5", [4, 4, 0, 15, 4], seed=1)
    write(folder / "ply_data_val0.h5", [4, 1, 2], seed=2)
    write(folder / "ply_data_test0.h5", [0, 4, 15, 4], seed=3)
    return tmp_path


def folder_of(root):
    return root / "shapenet_part_seg_hdf5_data"


def test_constants():
    assert len(CATEGORIES) == len(PARTS_PER_CATEGORY) == 16 and NUM_PARTS == 50
    # As published: chair 12 to 15, motorbike 30 to 35, table 47 to 49.
    ranges = zip(CATEGORIES, FIRST_PART, PARTS_PER_CATEGORY, strict=True)
    published = {("airplane", 0, 4), ("chair", 12, 4), ("motorbike", 30, 6)}
    assert {*published, ("table", 47, 3)} <= set(ranges)


def test_splits(root):
    sizes = {"train": 21, "val": 3, "trainval": 24, "test": 4}
    sets = {split: ShapeNetPart(root, split) for split in sizes}
    assert {split: len(data) for split, data in sets.items()} == sizes
    both = np.concatenate([sets["train"].points, sets["val"].points])
    np.testing.assert_array_equal(sets["trainval"].points, both)
    data = sets["test"]
    assert data.points.shape == (4, STORED, 3) and data.points.dtype == np.float32
    assert data.labels.tolist() == [0, 4, 15, 4] and data.labels.dtype == np.int64
    assert data.parts.shape == (4, STORED) and data.parts.dtype == np.int64
    assert data.class_names == list(CATEGORIES)
    points, category, parts = data[(1, 2)]
    np.testing.assert_array_equal(points.numpy(), data.points[2].T)
    np.testing.assert_array_equal(parts.numpy(), data.parts[2])
    assert category == 15 and parts.dtype == torch.int64
    with h5py.File(folder_of(root) / "ply_data_test0.h5", "r") as file:
        np.testing.assert_array_equal(data.parts, file["pid"][:])
    assert ShapeNetPart(root, "test", num_points=5).parts.shape == (4, 5)


@pytest.mark.parametrize(("class_choice", "world"), [(None, 2), ("chair", 3)])
def test_shards_concatenate_to_the_complete_split(root, world, class_choice):
    read = partial(ShapeNetPart, root, "trainval", 6, class_choice=class_choice)
    check_shards(lambda shard: read(shard=shard), world, "points", "labels", "parts")


def test_one_category(root):
    everything = ShapeNetPart(root, "trainval")
    chairs = ShapeNetPart(root, "trainval", class_choice="chair")
    assert chairs.total == len(chairs) == 5 and set(chairs.labels) == {4}
    chosen = everything.labels == 4
    np.testing.assert_array_equal(chairs.points, everything.points[chosen])
    np.testing.assert_array_equal(chairs.parts, everything.parts[chosen])
    with pytest.raises(ValueError, match=r"'stool' is not .* airplane.*--class_choice"):
        ShapeNetPart(root, "train", class_choice="stool")
    with pytest.raises(DataError, match="no mug in its test split"):
        ShapeNetPart(root, "test", class_choice="mug")


def test_points_are_shuffled_by_seed_epoch_and_row(root):
    stored = ShapeNetPart(root, "train")
    data = ShapeNetPart(root, "train", transform=shuffle_points, seed=2)
    points, category, parts = data[(1, 4)]
    order = (points.T[:, None] == torch.tensor(stored.points[4])).all(2).int().argmax(1)
    assert order.unique().tolist() == [*range(STORED)]
    assert parts.tolist() == stored.parts[4][order].tolist()
    assert not torch.equal(points, stored[4][0]) and category == stored[4][1]
    assert torch.equal(points, data[(1, 4)][0])
    for key in ((0, 4), (2, 4)):
        assert not torch.equal(points, data[key][0])
    # A row is shuffled alike whether its shard or the whole set was read.
    shard = ShapeNetPart(root, "train", None, (1, 3), transform=shuffle_points, seed=2)
    row = shard.start + 2
    assert torch.equal(shard[(1, 2)][0], data[(1, row)][0])


def refused(root, *texts, split="train", **kwargs):
    read = partial(ShapeNetPart, root, split, **kwargs)
    helpers.refused(read, *texts, only="shapenetpart")


@pytest.mark.parametrize("part", [11, 16])
def test_a_part_of_another_category_is_refused(root, part):
    path = folder_of(root) / "ply_data_train1.h5"
    with h5py.File(path, "a") as file:
        file["pid"][1, 7] = part  # of a chair, which has 12 to 15
    text = f"{path}: row 1 has a part that does not belong to its category"
    refused(root, text)
    refused(root, text, shard=(2, 3))


def test_damage_is_named(root):
    path = folder_of(root) / "ply_data_val0.h5"
    with h5py.File(path, "a") as file:
        file["label"][2] = 16
    refused(root, f"{path}: key `label`, row 2", split="trainval")
    with h5py.File(path, "a") as file:
        del file["pid"]
        file["label"][2] = 0
    refused(root, f"{path}: key `pid` not found", split="val")
    path.unlink()
    place = folder_of(root) / "ply_data_val*.h5"
    refused(root, f"{place}: no such file", split="trainval")
    listed = folder_of(root) / "train_hdf5_file_list.txt"
    listed.write_text("ply_data_train0.h5\nply_data_train7.h5\n")
    refused(root, f"{folder_of(root) / 'ply_data_train7.h5'}: file not found")
    refused(root / "nowhere", f"{folder_of(root / 'nowhere')}: folder not found")
    with pytest.raises(DataError, match=r"stores 12 .* --num_points 12"):
        ShapeNetPart(root, "test", num_points=13)
    with pytest.raises(ValueError, match="'all'"):
        ShapeNetPart(root, "all")
