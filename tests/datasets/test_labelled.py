"""ModelNet40 and ScanObjectNN: files, layouts, class names, points and shards."""

from functools import partial

import h5py
import numpy as np
import pytest
import torch

from datasets.labelled import (
    MODELNET40_CLASSES,
    SCANOBJECTNN_CLASSES,
    VARIANTS,
    ModelNet40,
    ScanObjectNN,
    labelled_share,
)
from tests.datasets import helpers
from tests.datasets.helpers import check_shards, write_h5

STORED = 16
LONG = "{long}_objectdataset.h5"
HARD = "{long}_objectdataset_augmentedrot_scale75.h5"
LAYOUTS = [
    ("obj_bg", "ScanObjectNN/main_split/{short}.h5"),
    ("obj_bg", "ScanObjectNN/{short}.h5"),
    ("obj_bg", f"ScanObjectNN/main_split/{LONG}"),
    ("obj_bg", f"ScanObjectNN/h5_files/main_split/{LONG}"),
    ("obj_bg", f"h5_files/main_split/{LONG}"),
    ("obj_only", f"ScanObjectNN/main_split_nobg/{LONG}"),
    ("obj_only", f"ScanObjectNN/h5_files/main_split_nobg/{LONG}"),
    ("pb_t50_rs", f"ScanObjectNN/main_split/{HARD}"),
    ("pb_t50_rs", f"ScanObjectNN/h5_files/main_split/{HARD}"),
]


def write(path, labels, seed=0, flat=False):
    labels = np.asarray(labels, np.uint8)
    points = np.random.default_rng(seed).normal(size=(len(labels), STORED, 3))
    label, mask = labels if flat else labels[:, None], np.zeros(len(labels))
    write_h5(path, data=points.astype("f4"), label=label, mask=mask)  # mask: not read


def write_layout(root, layout, seed=0):
    train, test = [0, 14, 3, 7, 7], [5, 6]
    write(root / layout.format(short="train", long="training"), train, seed)
    write(root / layout.format(short="test", long="test"), test, seed)


@pytest.fixture
def root(tmp_path):
    """Three files of training shapes, written in another order than they are read."""
    folder = folder_of(tmp_path)
    labels = np.random.default_rng(0).integers(0, 40, 12)
    for i, rows in ((2, slice(9, 12)), (0, slice(5)), (1, slice(5, 9))):
        write(folder / f"ply_data_train{i}.h5", labels[rows], seed=i, flat=i == 1)
    write(folder / "ply_data_test0.h5", [0, 39, 7, 7], seed=9)
    (folder / "shape_names.txt").write_text("\n".join(MODELNET40_CLASSES) + "\n\n")
    lines = [f"data/modelnet40_ply_hdf5_2048/ply_data_train{i}.h5" for i in range(3)]
    (folder / "train_files.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def folder_of(root):
    return root / "modelnet40_ply_hdf5_2048"


def refused(root, *texts, split="train", data=ModelNet40, **kwargs):
    only = "modelnet40" if data is ModelNet40 else "scanobjectnn"
    helpers.refused(lambda: data(root, split, **kwargs), *texts, only=only)


def test_published_names():
    for names, count in ((MODELNET40_CLASSES, 40), (SCANOBJECTNN_CLASSES, 15)):
        assert len(names) == len(set(names)) == count
    assert list(MODELNET40_CLASSES) == sorted(MODELNET40_CLASSES)


def test_a_complete_split(root):
    data = ModelNet40(root, "train")
    assert data.points.shape == (12, STORED, 3) and data.points.dtype == np.float32
    assert (len(data), data.total, data.start, data.num_classes) == (12, 12, 0, 40)
    assert data.class_names == list(MODELNET40_CLASSES)
    row = 0
    for i in range(3):  # files in the order of their names
        with h5py.File(folder_of(root) / f"ply_data_train{i}.h5", "r") as file:
            for points, label in zip(file["data"][:], file["label"][:], strict=True):
                tensor, number = data[row]
                np.testing.assert_array_equal(tensor.numpy(), points.T)
                assert number == int(np.squeeze(label)) and isinstance(number, int)
                row += 1
    tensor, number = data[(3, 5)]
    assert torch.equal(tensor, data[5][0]) and number == data[5][1]
    tensor.zero_()  # a copy is returned
    assert data.points[5].any() and data[5][0].is_contiguous()
    assert ModelNet40(root, "test").labels.tolist() == [0, 39, 7, 7]


@pytest.mark.parametrize(("split", "world"), [("train", 5), ("test", 6)])
def test_shards_concatenate_to_the_complete_split(root, split, world):
    check_shards(partial(ModelNet40, root, split, 8), world, "points", "labels")
    first = ModelNet40(root, split).points[:, :8]
    np.testing.assert_array_equal(ModelNet40(root, split, 8).points, first)


def test_a_shard_does_not_read_the_points_of_others(root):
    with h5py.File(folder_of(root) / "ply_data_train2.h5", "a") as file:
        file["data"][2, 0, 0] = np.nan
    assert len(ModelNet40(root, "train", None, (0, 2))) == 6
    refused(root, "ply_data_train2.h5: key `data`, row 2", shard=(1, 2))


def test_class_names_come_from_the_list_or_the_labels(root):
    folder = folder_of(root)
    names, test = folder / "shape_names.txt", folder / "ply_data_test0.h5"
    names.write_text("\n".join(f"class {i}" for i in range(50)))
    assert ModelNet40(root, "train").class_names[49] == "class 49"
    names.write_text("cube\nball\n")
    refused(root, "ply_data_test0.h5: key `label`, row 1", "0 .. 1", split="test")
    names.write_text("\n")
    refused(root, f"{names}: lists no class names")
    names.unlink()
    (folder / "train_files.txt").unlink()
    data = ModelNet40(root, "train")
    assert len(data) == 12 and data.class_names == list(MODELNET40_CLASSES)
    # Labels beyond the published ones: numbers, the same in both splits and all ranks.
    write(test, range(45))
    for split, shard in (("train", (0, 1)), ("test", (1, 2))):
        data = ModelNet40(root, split, shard=shard)
        assert data.class_names == [str(i) for i in range(45)]
    # One that leaves a gap is damaged.
    write(test, [3, 3, 200, 3])
    refused(root, folder, "label 200", "0 .. 39", "shape_names.txt")


def test_what_is_missing_or_damaged_is_named(root):
    folder = folder_of(root)
    refused(root / "x", f"{folder_of(root / 'x')}: folder not found")
    (folder / "ply_data_test0.h5").unlink()
    refused(root, f"{folder / 'ply_data_test*.h5'}: no such file", split="test")
    path = folder / "ply_data_train1.h5"
    write(path, [0, 1, 40, 2])
    refused(root, f"{path}: key `label`, row 2")
    path.unlink()
    refused(root, f"{path}: file not found", "train_files.txt names it")
    for data in (ModelNet40, ScanObjectNN):
        with pytest.raises(ValueError, match="'val'"):
            data(root, "val")
    with pytest.raises(ValueError, match=r"variant 'bg' is not one of obj_bg"):
        ScanObjectNN(root, "train", "bg")


@pytest.mark.parametrize(("variant", "layout"), LAYOUTS)
def test_every_layout_of_scanobjectnn(tmp_path, variant, layout):
    write_layout(tmp_path, layout)
    data = ScanObjectNN(tmp_path, "train", variant)
    assert data.labels.tolist() == [0, 14, 3, 7, 7] and data[(2, 1)][1] == 14
    assert data.class_names == list(SCANOBJECTNN_CLASSES) and data.num_classes == 15
    assert ScanObjectNN(tmp_path, "test", variant).labels.tolist() == [5, 6]
    shard = ScanObjectNN(tmp_path, "train", variant, 4, shard=(1, 2))
    assert shard.total == 5
    np.testing.assert_array_equal(shard.points, data.points[shard.start :, :4])
    for other in VARIANTS.keys() - {variant}:
        refused(tmp_path, other, data=ScanObjectNN, variant=other)
    path = tmp_path / layout.format(short="train", long="training")
    path.write_bytes(path.read_bytes()[:700])
    for split in ("train", "test"):  # labels of both are read for the class names
        text = f"{path}: not a readable HDF5"
        refused(tmp_path, text, split=split, data=ScanObjectNN, variant=variant)


@pytest.mark.parametrize("layouts", [LAYOUTS[2::3], LAYOUTS])
def test_variants_are_not_mixed_up_and_the_first_layout_is_read(tmp_path, layouts):
    for seed, (_, layout) in enumerate(layouts):
        write_layout(tmp_path, layout, seed)
    variants = [variant for variant, _ in layouts]
    for variant in VARIANTS:
        actual = ScanObjectNN(tmp_path, "test", variant).points[0, 0]
        random = np.random.default_rng(variants.index(variant))
        np.testing.assert_array_equal(actual, random.normal(size=3).astype("f4"))


def test_more_scans_than_the_published_classes(tmp_path):
    folder = tmp_path / "ScanObjectNN" / "main_split"
    write(folder / "train.h5", range(16))
    write(folder / "test.h5", [0, 1])
    for split in ("train", "test"):
        names = ScanObjectNN(tmp_path, split).class_names
        assert names == [str(i) for i in range(16)]
    (folder / "shape_names.txt").write_text("\n".join("abcdefghijklmnop"))
    assert ScanObjectNN(tmp_path, "test").class_names == list("abcdefghijklmnop")


def test_missing_scans_are_named_with_all_places_looked_at(tmp_path):
    layouts = [layout for variant, layout in LAYOUTS if variant == "obj_bg"]
    places = [tmp_path / x.format(short="test", long="test") for x in layouts]
    refused(tmp_path, *places, split="test", data=ScanObjectNN)


def test_label_shares_are_stratified_and_seeded():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 3], [100, 37, 2]))

    def counts(rows):
        return np.bincount(labels[rows], minlength=4).tolist()

    tenth = labelled_share(labels, 0.1, 1)
    assert counts(tenth) == [10, 4, 0, 1]
    assert counts(labelled_share(labels, 0.001, 1)) == [1, 1, 0, 1]
    assert len(np.unique(tenth)) == len(tenth)
    assert np.array_equal(tenth, labelled_share(labels, 0.1, 1))
    assert not np.array_equal(tenth, labelled_share(labels, 0.1, 2))
    assert set(tenth) < set(labelled_share(labels, 0.2, 1))
    assert np.array_equal(labelled_share(labels, 1.0, 1), np.arange(139))
