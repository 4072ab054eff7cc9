"""ModelNet40: files, names, points and shards."""

import h5py
import numpy as np
import pytest
import torch

from datasets.files import DataError
from datasets.labelled import MODELNET40_CLASSES as CLASS_NAMES
from datasets.labelled import ModelNet40

STORED = 16


def write(path, rows, labels=None, seed=0, flat=False, **extra):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 40, rows) if labels is None else np.asarray(labels)
    with h5py.File(path, "w") as file:
        file["data"] = rng.normal(size=(rows, STORED, 3)).astype(np.float32)
        file["label"] = labels.astype(np.uint8).reshape((-1,) if flat else (-1, 1))
        for key, value in extra.items():
            file[key] = value


@pytest.fixture
def root(tmp_path):
    """Three files of training shapes, written in another order than they are read."""
    folder = tmp_path / "modelnet40_ply_hdf5_2048"
    folder.mkdir()
    for i, rows in ((2, 3), (0, 5), (1, 4)):
        path = folder / f"ply_data_train{i}.h5"
        write(path, rows, seed=i, flat=i == 1, faceId=np.zeros(3))
    write(folder / "ply_data_test0.h5", 4, labels=[0, 39, 7, 7], seed=9)
    (folder / "shape_names.txt").write_text("\n".join(CLASS_NAMES) + "\n\n")
    lines = [f"data/modelnet40_ply_hdf5_2048/ply_data_train{i}.h5" for i in range(3)]
    (folder / "train_files.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def folder_of(root):
    return root / "modelnet40_ply_hdf5_2048"


def refused(root, *texts, split="train", **kwargs):
    with pytest.raises(DataError) as error:
        ModelNet40(root, split, **kwargs)
    message = str(error.value)
    for text in (*texts, "bash data/download_data.sh --only modelnet40`"):
        assert text in message, message


def test_published_names():
    assert len(CLASS_NAMES) == len(set(CLASS_NAMES)) == 40
    assert list(CLASS_NAMES) == sorted(CLASS_NAMES)


def test_whole_split(root):
    data = ModelNet40(root, "train")
    assert data.points.shape == (12, STORED, 3) and data.points.dtype == np.float32
    assert data.labels.shape == (12,) and data.labels.dtype == np.int64
    assert (len(data), data.total, data.start, data.num_classes) == (12, 12, 0, 40)
    assert data.class_names == list(CLASS_NAMES)
    row = 0
    for i in range(3):  # files in the order of their names
        with h5py.File(folder_of(root) / f"ply_data_train{i}.h5", "r") as file:
            for points, label in zip(file["data"][:], file["label"][:], strict=True):
                tensor, number = data[row]
                np.testing.assert_array_equal(tensor.numpy(), points.T)
                assert number == int(np.squeeze(label)) and isinstance(number, int)
                row += 1
    assert row == 12
    tensor, number = data[(3, 5)]
    assert torch.equal(tensor, data[5][0]) and number == data[5][1]
    tensor.zero_()  # what is handed out is a copy
    assert data.points[5].any() and data[5][0].is_contiguous()
    assert ModelNet40(root, "test").labels.tolist() == [0, 39, 7, 7]


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_shards_concatenate_to_the_whole(root, world):
    whole = ModelNet40(root, "train", num_points=8)
    shards = [ModelNet40(root, "train", 8, (rank, world)) for rank in range(world)]
    points = np.concatenate([shard.points for shard in shards])
    np.testing.assert_array_equal(points, whole.points)
    labels = np.concatenate([shard.labels for shard in shards])
    np.testing.assert_array_equal(labels, whole.labels)
    assert {shard.total for shard in shards} == {12}
    for shard in shards:
        assert shard.labels[0] == whole.labels[shard.start]
        assert len(shard) in (12 // world, 12 // world + 1)


def test_more_ranks_than_shapes(root):
    shards = [ModelNet40(root, "test", None, (rank, 6)) for rank in range(6)]
    assert sum(len(shard) for shard in shards) == 4
    assert all(shard.points.shape[1:] == (STORED, 3) for shard in shards)


def test_a_shard_does_not_read_the_points_of_others(root):
    with h5py.File(folder_of(root) / "ply_data_train2.h5", "a") as file:
        file["data"][2, 0, 0] = np.nan
    assert len(ModelNet40(root, "train", None, (0, 2))) == 6
    refused(root, "ply_data_train2.h5: key `data`, row 2", shard=(1, 2))


def test_the_first_points_are_taken(root):
    whole, some = ModelNet40(root, "train"), ModelNet40(root, "train", 5)
    np.testing.assert_array_equal(some.points, whole.points[:, :5])
    with pytest.raises(DataError) as error:
        ModelNet40(root, "train", num_points=17)
    message = str(error.value)
    for text in ("ply_data_train0.h5", "stores 16", "the 17", "--num_points 16"):
        assert text in message


def test_1024_points_stored(tmp_path):
    folder_of(tmp_path).mkdir()
    with h5py.File(folder_of(tmp_path) / "ply_data_test0.h5", "w") as file:
        file["data"] = np.arange(2 * 1024 * 3.0).reshape(2, 1024, 3)
        file["label"] = [1, 2]
    assert ModelNet40(tmp_path, "test").points.shape == (2, 1024, 3)
    assert ModelNet40(tmp_path, "test", 1024).points.shape == (2, 1024, 3)
    with pytest.raises(DataError, match=r"stores 1024 points a shape.*2048"):
        ModelNet40(tmp_path, "test", 2048)


def test_without_the_lists_of_names_and_files(root):
    (folder_of(root) / "shape_names.txt").unlink()
    (folder_of(root) / "train_files.txt").unlink()
    data = ModelNet40(root, "train")
    assert len(data) == 12 and data.class_names == list(CLASS_NAMES)
    # Labels beyond the published ones: numbers, the same in both splits and all ranks.
    write(folder_of(root) / "ply_data_test0.h5", 45, labels=range(45))
    for split, shard in (("train", (0, 1)), ("test", (0, 2)), ("test", (1, 2))):
        data = ModelNet40(root, split, shard=shard)
        assert data.class_names == [str(i) for i in range(45)]
    # One that leaves a gap is damaged.
    write(folder_of(root) / "ply_data_test0.h5", 4, labels=[3, 3, 200, 3])
    refused(root, str(folder_of(root)), "label 200", "0 .. 39", "shape_names.txt")


def test_other_names(root):
    names = folder_of(root) / "shape_names.txt"
    names.write_text("\n".join(f"class {i}" for i in range(50)))
    assert ModelNet40(root, "train").class_names[49] == "class 49"
    names.write_text("cube\nball\n")
    refused(root, "ply_data_test0.h5: key `label`, row 1", "0 .. 1", split="test")
    names.write_text("\n")
    refused(root, f"{names}: lists no class names")


def test_missing_folder(tmp_path):
    refused(tmp_path, f"{folder_of(tmp_path)}: folder not found")


def test_missing_files(root):
    (folder_of(root) / "ply_data_test0.h5").unlink()
    place = folder_of(root) / "ply_data_test*.h5"
    refused(root, f"{place}: no such file", split="test")


def test_a_file_that_the_list_names_is_missing(root):
    missing = folder_of(root) / "ply_data_train1.h5"
    missing.unlink()
    refused(root, f"{missing}: file not found", "train_files.txt names it")


def test_damage_is_named(root):
    path = folder_of(root) / "ply_data_train1.h5"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    refused(root, f"{path}: not a readable HDF5")
    path.write_bytes(b"")
    refused(root, f"{path}: the file is empty")
    write(path, 4, labels=[0, 1, 40, 2])
    refused(root, f"{path}: key `label`, row 2")
    with h5py.File(path, "w") as file:
        file["data"] = np.zeros((4, STORED, 3))
    refused(root, f"{path}: key `label` not found; keys present: data")


def test_an_unknown_split(root):
    with pytest.raises(ValueError, match="'val'"):
        ModelNet40(root, "val")
