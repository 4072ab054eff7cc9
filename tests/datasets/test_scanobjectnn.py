"""ScanObjectNN: its layouts and variants."""

import h5py
import numpy as np
import pytest

from datasets.files import DataError
from datasets.labelled import SCANOBJECTNN_CLASSES as CLASS_NAMES
from datasets.labelled import ScanObjectNN

LAYOUTS = [
    ("obj_bg", "ScanObjectNN/main_split/{short}.h5"),
    ("obj_bg", "ScanObjectNN/{short}.h5"),
    ("obj_bg", "ScanObjectNN/main_split/{long}_objectdataset.h5"),
    ("obj_bg", "ScanObjectNN/h5_files/main_split/{long}_objectdataset.h5"),
    ("obj_bg", "h5_files/main_split/{long}_objectdataset.h5"),
    ("obj_only", "ScanObjectNN/main_split_nobg/{long}_objectdataset.h5"),
    ("obj_only", "ScanObjectNN/h5_files/main_split_nobg/{long}_objectdataset.h5"),
    (
        "pb_t50_rs",
        "ScanObjectNN/main_split/{long}_objectdataset_augmentedrot_scale75.h5",
    ),
    (
        "pb_t50_rs",
        "ScanObjectNN/h5_files/main_split/{long}_objectdataset_augmentedrot_scale75.h5",
    ),
]


def write(path, labels, value=0.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = np.arange(len(labels) * 8 * 3, dtype=np.float32).reshape(-1, 8, 3)
        file["data"] = data + np.float32(value)
        file["label"] = np.asarray(labels)
        file["mask"] = np.zeros((len(labels), 8), int)


def write_layout(root, layout, value=0.0):
    for short, long, labels in (
        ("train", "training", [0, 14, 3, 7, 7]),
        ("test", "test", [5, 6]),
    ):
        write(root / layout.format(short=short, long=long), labels, value)


@pytest.mark.parametrize(("variant", "layout"), LAYOUTS)
def test_every_layout(tmp_path, variant, layout):
    write_layout(tmp_path, layout)
    data = ScanObjectNN(tmp_path, "train", variant)
    assert data.labels.tolist() == [0, 14, 3, 7, 7]
    assert data.points.shape == (5, 8, 3) and data.points.dtype == np.float32
    assert data.class_names == list(CLASS_NAMES) and data.num_classes == 15
    assert ScanObjectNN(tmp_path, "test", variant).labels.tolist() == [5, 6]
    tensor, label = data[(2, 1)]
    np.testing.assert_array_equal(tensor.numpy(), data.points[1].T)
    assert label == 14
    for other in {"obj_bg", "obj_only", "pb_t50_rs"} - {variant}:
        with pytest.raises(DataError, match=other):
            ScanObjectNN(tmp_path, "train", other)


def test_variants_side_by_side_are_not_mixed_up(tmp_path):
    for value, (variant, layout) in enumerate(LAYOUTS[2::3]):
        write_layout(tmp_path, layout, 100.0 * value)
        assert ScanObjectNN(tmp_path, "test", variant).points[0, 0, 0] == 100 * value
    assert ScanObjectNN(tmp_path, "test").points[0, 0, 0] == 0


@pytest.mark.parametrize("world", [1, 2, 3])
def test_shards_and_points(tmp_path, world):
    write_layout(tmp_path, LAYOUTS[0][1])
    whole = ScanObjectNN(tmp_path, "train", num_points=4)
    assert whole.points.shape == (5, 4, 3)
    shards = [
        ScanObjectNN(tmp_path, "train", num_points=4, shard=(rank, world))
        for rank in range(world)
    ]
    points = np.concatenate([shard.points for shard in shards])
    np.testing.assert_array_equal(points, whole.points)
    assert all(shard.total == 5 for shard in shards)
    with pytest.raises(DataError, match=r"train\.h5: stores 8 .* --num_points 8"):
        ScanObjectNN(tmp_path, "train", num_points=9)


def test_more_classes_than_published(tmp_path):
    folder = tmp_path / "ScanObjectNN" / "main_split"
    write(folder / "train.h5", range(16))
    write(folder / "test.h5", [0, 1])
    for split in ("train", "test"):
        data = ScanObjectNN(tmp_path, split)
        assert data.class_names == [str(i) for i in range(16)]
    (folder / "shape_names.txt").write_text("\n".join("abcdefghijklmnop"))
    assert ScanObjectNN(tmp_path, "test").class_names == list("abcdefghijklmnop")


def test_missing_files_are_named_with_all_places_looked_at(tmp_path):
    with pytest.raises(DataError) as error:
        ScanObjectNN(tmp_path, "test")
    message = str(error.value)
    for layout in (layout for variant, layout in LAYOUTS if variant == "obj_bg"):
        assert str(tmp_path / layout.format(short="test", long="test")) in message
    assert "bash data/download_data.sh --only scanobjectnn`" in message
    assert "python -m datasets.synthetic --out data/synthetic" in message


def test_damage_is_named(tmp_path):
    write_layout(tmp_path, LAYOUTS[0][1])
    path = tmp_path / "ScanObjectNN/main_split/train.h5"
    path.write_bytes(path.read_bytes()[:700])
    for split in ("train", "test"):  # the names are looked up in both
        with pytest.raises(DataError) as error:
            ScanObjectNN(tmp_path, split)
        assert f"{path}: not a readable HDF5" in str(error.value)


def test_unknown_split_and_variant(tmp_path):
    with pytest.raises(ValueError, match="'val'"):
        ScanObjectNN(tmp_path, "val")
    with pytest.raises(ValueError, match=r"--variant is one of obj_bg.*'bg'"):
        ScanObjectNN(tmp_path, "train", "bg")
